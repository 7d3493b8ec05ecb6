"""Train rows with one budget and several seeds, and put what they reach and what they cost side by side.

    python -m benchmarks.accuracy train.epochs=25 --data DIR --rows yolo11n yolo11n_p2 rs_tinynet_n --seeds 0 1
    python -m benchmarks.accuracy train.epochs=25 --data DIR --rows yolo11n ultralytics:yolo11n --peer-python PEERS/bin/python

A row is a file of --configs (default: configs/tinyrs4), with settings of its own behind commas, as in
yolo11n,assigner.min_box_side=0. Settings in front hold for all. `ultralytics:yolo11n` is the peer's yolo11n with what our file
of that name says and it can be told (benchmarks/accuracy_peer.py), scored by our evaluator; its environment is made by
`python3 -m venv PEERS && PEERS/bin/pip install ultralytics`.

Every run lies in --folder (default: runs/accuracy). The same command goes on where it was stopped, and trains only what is
missing; a run of another budget there is refused. Figures are those on test of the weights that were best on val; with
several seeds their mean and standard deviation. Where the images say which categories were labelled on them, as tinyrs4's
do, "lab." is AP without detections of other categories: an object that nobody labelled is then no false alarm.

Images a second are those of training alone, hours those of training and validation; both hold if nothing else ran.
"""
import argparse
import json
import os
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks import accuracy_peer
from benchmarks.child import machine
from engine import config as configs
from engine.config import Config
from engine.resume import check_same_config
from engine.signals import EXIT_STOPPED
from errors import InputError, run
from eval.files import DetectionArrays, read_detections
from eval.scoring import HEADLINES, score

ROOT = Path(__file__).parents[1]


class Interrupted(Exception):
    """A training was asked to stop."""


@dataclass(frozen=True)
class Run:
    """One training of one row."""

    row: str
    seed: int
    folder: Path
    file: Path                      # of our config
    settings: tuple[str, ...]       # of the call, then of the row, then the seed

    @property
    def config(self) -> Config:
        return configs.load(str(self.file), list(self.settings))

    @property
    def metrics(self) -> Path:
        return self.folder / "test/metrics.json"

    @property
    def peer(self) -> bool:
        return self.row.startswith("ultralytics:")

    @property
    def name(self) -> str:
        return f"{self.row}, seed {self.seed}"


def plan(rows: list[str], seeds: list[int], folder: Path, folder_of_configs: Path, settings: list[str]) -> list[Run]:
    """The runs, seed by seed, so that a table of all rows stands early.

    Raises:
        InputError: a row has no file, cannot be trained as it says, or has been trained in the folder with other settings.
    """
    runs = []
    for seed in seeds:
        for row in rows:
            name, *own = row.removeprefix("ultralytics:").split(",")
            job = Run(row, seed, folder / re.sub(r"[^\w.+=-]+", "_", f"{row}_seed{seed}"), folder_of_configs / f"{name}.toml",
                      (*settings, *own, f"train.seed={seed}"))
            config = job.config
            if not config.data.test.endswith(".json"):
                raise InputError(f"data.test: {config.data.test or 'nothing'} is no COCO JSON file, which a row is scored on.")
            if job.peer:
                accuracy_peer.check(row, name, own, config)
            if (job.folder / "config.json").exists():
                saved = json.loads((job.folder / "config.json").read_text())
                check_same_config(saved, config.to_dict(), job.folder / "config.json")
                if saved["train"]["max_steps"] != config.train.max_steps:       # to train.py a pause, here a budget
                    raise InputError(f"{job.folder}: was begun with train.max_steps={saved['train']['max_steps']}. Give the "
                                     "same, or name another --folder.")
            runs.append(job)
    return runs


def carry_out(job: Run, peer_python: str | None) -> None:
    """Train and test, unless that is done. What is said goes to the run's log.txt.

    Raises:
        Interrupted: the training was asked to stop.
        InputError: it failed.
    """
    if job.metrics.exists():
        return
    job.folder.mkdir(parents=True, exist_ok=True)
    config = job.config
    (job.folder / "config.json").write_text(json.dumps(config.to_dict(), indent=1))
    train, test = job.folder / "train", job.folder / "test"
    if job.peer:
        truth = Path(config.data.root) / config.data.test
        commands = [accuracy_peer.command(peer_python, job.row, config, job.folder),
                    [sys.executable, "test.py", "--ground-truth", str(truth), "--detections", str(test / "detections.json"),
                     "--protocol", config.eval.protocol, "--output", str(test)]]
    else:
        commands = [[sys.executable, "train.py", "--config", str(job.file), "--output", str(train), "--resume", *job.settings],
                    [sys.executable, "test.py", "--checkpoint", str(train / "best.pt"), "--output", str(test)]]
    with open(job.folder / "log.txt", "a") as log:
        for command in commands:
            code = subprocess.run(
                command, cwd=ROOT, stdout=log, stderr=log, check=False, env=accuracy_peer.ENVIRONMENT
            ).returncode
            if code in (EXIT_STOPPED, -signal.SIGINT, -signal.SIGTERM):
                raise Interrupted
            if code:
                raise InputError(f"{job.name}: ended with code {code}. See {log.name}; the same command goes on.")


def cost(job: Run) -> dict[str, float]:
    """Parameters, GFLOPs, images a second in training, and hours with validation."""
    if job.peer:
        return json.loads((job.folder / "cost.json").read_text())
    manifest = json.loads((job.folder / "train/manifest.json").read_text())
    lines = [json.loads(line) for line in (job.folder / "train/log.jsonl").read_text().splitlines()]
    return {"parameters": manifest["parameters"], "gflops": manifest["gflops"],
            "images_per_second": float(np.median([line["images_per_second"] for line in lines])),
            "hours": sum(line["seconds"] + line.get("validation_seconds", 0) for line in lines) / 3600}


def labelled_ap(job: Run) -> float:
    """AP without detections of categories that were not labelled on their image; NaN where the images do not tell."""
    config = job.config
    truth = json.loads((Path(config.data.root) / config.data.test).read_bytes())
    if not all("labelled_categories" in image for image in truth["images"]):
        return float("nan")
    id_of = {category["name"]: category["id"] for category in truth["categories"]}
    pairs = {(image["id"], id_of[name]) for image in truth["images"] for name in image["labelled_categories"]}
    found = read_detections(job.folder / "test/detections.json", truth)
    kept = np.array([pair in pairs for pair in zip(found.image_ids.tolist(), found.category_ids.tolist(), strict=True)], bool)
    arrays = DetectionArrays(found.image_ids[kept], found.category_ids[kept], found.boxes[kept], found.scores[kept])
    return score(truth, arrays, config.eval.scoring()).metrics[HEADLINES[config.eval.protocol][0]]


def spread(values: list[float]) -> str:
    """Percent: the mean, and from two values on their standard deviation; a dash where a value is none (NaN or -1)."""
    if not all(value >= 0 for value in values):
        return "–"
    mean = f"{100 * np.mean(values):.1f}"
    return f"{mean} ± {100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else mean


def table(runs: list[Run]) -> str:
    """Markdown: a line for each row that has a finished run. Empty before there is one."""
    finished = [job for job in runs if job.metrics.exists()]
    if not finished:
        return ""
    names = [name for name in json.loads(finished[0].metrics.read_text()) if name.startswith("AP")]
    lines = ["| row | seeds | " + " | ".join(names) + " | lab. | parameters | GFLOPs | img/s | hours |",
             "|---|---:|" + "---:|" * (len(names) + 5)]
    for row in dict.fromkeys(job.row for job in finished):
        done = [job for job in finished if job.row == row]
        metrics = [json.loads(job.metrics.read_text()) for job in done]
        costs = [cost(job) for job in done]
        figures = [spread([m[name] for m in metrics]) for name in names] + [spread([labelled_ap(job) for job in done])]
        speed, hours = (np.mean([c[name] for c in costs]) for name in ("images_per_second", "hours"))
        lines.append(f"| {row} | {len(done)} | {' | '.join(figures)} | {costs[0]['parameters']:,.0f} | "
                     f"{costs[0]['gflops']:.1f} | {speed:.1f} | {hours:.2f} |")
    return "\n".join(lines)


def revisions(runs: list[Run]) -> list[str]:
    """The commits of our code that the finished runs were begun with."""
    manifests = [job.folder / "train/manifest.json" for job in runs if job.metrics.exists() and not job.peer]
    return sorted({json.loads(path.read_text())["versions"]["code"] for path in manifests})


def carry_out_all(runs: list[Run], peer_python: str | None, at_once: int) -> int:
    """Every run; one that fails leaves the others alone, one that is interrupted ends them. Returns how many failed.

    Raises:
        KeyboardInterrupt: a run was interrupted, as by Ctrl-C, which reaches the trainings too: they save and end.
    """
    failed = 0
    interrupted = threading.Event()     # in the threads, as one may be free for the next run before this one has woken up

    def begin(job: Run) -> None:
        if interrupted.is_set():
            raise Interrupted
        try:
            carry_out(job, peer_python)
        except Interrupted:
            interrupted.set()
            raise

    pool = ThreadPoolExecutor(at_once)
    try:
        jobs = {pool.submit(begin, job): job for job in runs}
        for future in as_completed(jobs):
            try:
                future.result()
                print(f"{jobs[future].name}: done", flush=True)
            except InputError as error:
                failed += 1
                print(error, file=sys.stderr, flush=True)
    except Interrupted:
        raise KeyboardInterrupt from None
    finally:
        interrupted.set()
        pool.shutdown(wait=False, cancel_futures=True)
    return failed


def arguments() -> argparse.ArgumentParser:
    """What the command line takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="section.key=value", help="settings for all rows")
    parser.add_argument("--data", required=True, help="folder of the set (data.root)")
    parser.add_argument("--rows", nargs="+", default=["yolo11n", "rs_tinynet_n", "yolo11n_p2"], metavar="ROW")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--configs", type=Path, default=ROOT / "configs/tinyrs4")
    parser.add_argument("--folder", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--jobs", type=int, default=1, help="runs at once (default: 1); on a large GPU three or four")
    parser.add_argument("--peer-python", help="interpreter that has ultralytics")
    return parser


def main() -> int:
    options = arguments().parse_intermixed_args()
    settings = [f"data.root={os.path.abspath(options.data)}", *options.settings]
    runs = plan(options.rows, options.seeds, options.folder.resolve(), options.configs, settings)
    if any(job.peer for job in runs) and not options.peer_python:
        raise InputError("--peer-python: an ultralytics row needs it. Name the interpreter of an environment with ultralytics.")
    failed = carry_out_all(runs, options.peer_python, options.jobs)
    device = runs[0].config.train.device
    print(f"{machine('cuda' if device != 'cpu' and torch.cuda.is_available() else 'cpu')}; "
          f"code {', '.join(revisions(runs)) or 'none'}; {' '.join(options.settings)}")
    print(table(runs))
    return 2 if failed else 0


if __name__ == "__main__":
    run(main)
