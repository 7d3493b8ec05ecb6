"""Train rows with one budget and several seeds, and put what they reach and what they cost side by side.

    python -m benchmarks.accuracy --data DIR --rows yolo11n yolo11n_p2 rs_tinynet_n --seeds 0 1 train.epochs=25
    python -m benchmarks.accuracy --data DIR --rows yolo11n ultralytics:yolo11n --peer-python PEERS/bin/python train.epochs=25

A row is a file of --configs (default: configs/tinyrs4), with settings of its own behind commas, as in
yolo11n,assigner.min_box_side=0. Settings at the end hold for all. `ultralytics:yolo11n` is the peer's yolo11n with the image
size, batch, epochs, SGD and seed of our file of that name, scored by our evaluator; its environment is made by
`python3 -m venv PEERS && PEERS/bin/pip install ultralytics`.

Every run lies in --folder (default: runs/accuracy). The same command goes on where it was stopped, and trains only what is
missing: use another folder for another budget. Figures are those on test of the weights that were best on val; with several
seeds their mean and standard deviation. Where the images say which categories were labelled on them, as tinyrs4's do,
"lab." is AP without detections of other categories: an object that nobody labelled is then no false alarm.
"""
import argparse
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.child import machine
from engine import config as configs
from errors import InputError, run
from eval.coco import AITOD, evaluate
from eval.files import DetectionArrays, read_detections

ROOT = Path(__file__).parents[1]
PEER = Path(__file__).with_name("accuracy_run.py")
FIGURES = ("AP", "AP50", "AP75", "AP_vt", "AP_t", "AP_s", "AP_m")


@dataclass(frozen=True)
class Run:
    """One training of one row."""

    row: str
    seed: int
    folder: Path
    config: Path
    settings: tuple[str, ...]       # of the call, then of the row, then the seed

    @property
    def metrics(self) -> Path:
        return self.folder / "test/metrics.json"

    @property
    def peer(self) -> bool:
        return self.row.startswith("ultralytics:")


def plan(rows: list[str], seeds: list[int], folder: Path, folder_of_configs: Path, settings: list[str]) -> list[Run]:
    """The runs, seed by seed, so that a table of all rows stands early. Raises InputError for a row without its file."""
    runs = []
    for seed in seeds:
        for row in rows:
            name, *own = row.removeprefix("ultralytics:").split(",")
            config = folder_of_configs / f"{name}.toml"
            all_settings = (*settings, *own, f"train.seed={seed}")
            configs.load(str(config), list(all_settings))
            runs.append(Run(row, seed, folder / re.sub(r"[^\w.+=-]+", "_", f"{row}_seed{seed}"), config, all_settings))
    return runs


def carry_out(job: Run, peer_python: str | None) -> None:
    """Train and test, unless that is done. What is said goes to the run's log.txt."""
    if job.metrics.exists():
        return
    job.folder.mkdir(parents=True, exist_ok=True)
    train, detections = job.folder / "train", job.folder / "test/detections.json"
    if job.peer:
        config = configs.load(str(job.config), list(job.settings))
        case = {"model": job.row.removeprefix("ultralytics:").split(",")[0], "seed": job.seed, "data": config.data.root,
                "splits": {split: getattr(config.data, split) for split in ("train", "val", "test")},
                "images": config.data.images, "folder": str(job.folder), "epochs": config.train.epochs,
                "batch": config.train.batch_size, "nominal_batch": config.train.nominal_batch, "side": config.train.image_size,
                "lr": config.train.lr, "close_mosaic": config.train.close_mosaic, "workers": config.train.workers,
                "warmup_epochs": config.train.warmup_epochs, "amp": config.train.amp, "conf": config.eval.conf,
                "nms": config.eval.nms, "max_det": config.eval.max_det}
        truth = Path(config.data.root) / config.data.test
        commands = [[peer_python, str(PEER), json.dumps(case)],
                    [sys.executable, "test.py", "--ground-truth", str(truth), "--detections", str(detections),
                     "--output", str(job.folder / "test")]]
    else:
        commands = [[sys.executable, "train.py", "--config", str(job.config), "--output", str(train), "--resume",
                     *job.settings],
                    [sys.executable, "test.py", "--checkpoint", str(train / "best.pt"), "--output", str(job.folder / "test")]]
    with open(job.folder / "log.txt", "a") as log:
        for command in commands:
            code = subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=False).returncode
            if code:
                raise InputError(f"{job.row}, seed {job.seed}: ended with code {code}. See {log.name}; the same command "
                                 "goes on.")


def cost(job: Run) -> dict[str, float]:
    """Parameters, GFLOPs, images a second in training, and hours with validation."""
    if job.peer:
        return json.loads((job.folder / "cost.json").read_text())
    manifest = json.loads((job.folder / "train/manifest.json").read_text())
    lines = [json.loads(line) for line in (job.folder / "train/log.jsonl").read_text().splitlines()]
    return {"parameters": manifest["parameters"], "gflops": manifest["gflops"],
            "images_per_second": float(np.median([line["images_per_second"] for line in lines])),
            "hours": sum(line["seconds"] for line in lines) / 3600}


def labelled_ap(job: Run) -> float:
    """AP without detections of categories that were not labelled on their image; NaN where the images do not tell."""
    config = configs.load(str(job.config), list(job.settings))
    path = Path(config.data.root) / config.data.test
    if path.suffix != ".json":
        return float("nan")
    truth = json.loads(path.read_bytes())
    if not all("labelled_categories" in image for image in truth["images"]):
        return float("nan")
    id_of = {category["name"]: category["id"] for category in truth["categories"]}
    pairs = {(image["id"], id_of[name]) for image in truth["images"] for name in image["labelled_categories"]}
    found = read_detections(job.folder / "test/detections.json", truth)
    kept = np.array([pair in pairs for pair in zip(found.image_ids.tolist(), found.category_ids.tolist(), strict=True)], bool)
    arrays = DetectionArrays(found.image_ids[kept], found.category_ids[kept], found.boxes[kept], found.scores[kept])
    return evaluate(truth, arrays, AITOD)["AP"]


def spread(values: list[float]) -> str:
    """Percent: the mean, and from two values on their standard deviation."""
    if np.isnan(values).any():
        return "–"
    mean = f"{100 * np.mean(values):.1f}"
    return f"{mean} ± {100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else mean


def table(runs: list[Run]) -> str:
    """Markdown: a line for each row that has a finished run."""
    lines = ["| row | seeds | " + " | ".join(FIGURES) + " | lab. | parameters | GFLOPs | img/s | hours |",
             "|---|---:|" + "---:|" * (len(FIGURES) + 5)]
    for row in dict.fromkeys(job.row for job in runs):
        done = [job for job in runs if job.row == row and job.metrics.exists()]
        if not done:
            continue
        metrics = [json.loads(job.metrics.read_text()) for job in done]
        costs = [cost(job) for job in done]
        figures = [spread([m[name] for m in metrics]) for name in FIGURES] + [spread([labelled_ap(job) for job in done])]
        speed, hours = (np.mean([c[name] for c in costs]) for name in ("images_per_second", "hours"))
        lines.append(f"| {row} | {len(done)} | {' | '.join(figures)} | {costs[0]['parameters']:,.0f} | "
                     f"{costs[0]['gflops']:.1f} | {speed:.1f} | {hours:.2f} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the set (data.root)")
    parser.add_argument("--rows", nargs="+", default=["yolo11n", "rs_tinynet_n", "yolo11n_p2"], metavar="ROW")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--configs", type=Path, default=ROOT / "configs/tinyrs4")
    parser.add_argument("--folder", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--jobs", type=int, default=1, help="runs at once (default: 1); on a large GPU three or four")
    parser.add_argument("--peer-python", help="interpreter that has ultralytics")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings for all rows")
    options = parser.parse_intermixed_args()
    settings = [f"data.root={os.path.abspath(options.data)}", *options.overrides]
    runs = plan(options.rows, options.seeds, options.folder.resolve(), options.configs, settings)
    if any(job.peer for job in runs) and not options.peer_python:
        raise InputError("--peer-python: an ultralytics row needs it. Name the interpreter of an environment with ultralytics.")
    with ThreadPoolExecutor(options.jobs) as pool:
        results = {f"{job.row}, seed {job.seed}": pool.submit(carry_out, job, options.peer_python) for job in runs}
        for job_name, job in results.items():
            job.result()
            print(f"{job_name} is done", flush=True)
    device = configs.load(str(runs[0].config), settings).train.device
    print(f"{machine('cuda' if device != 'cpu' and torch.cuda.is_available() else 'cpu')}; {' '.join(options.overrides)}")
    print(table(runs))
    return 0


if __name__ == "__main__":
    run(main)
