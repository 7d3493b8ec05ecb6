"""A soak: one small run is killed at random moments until it is through, again and again; it must end with the same weights.

    python -m benchmarks.faults                  # at least 50 kills, half of them in runs of two ranks: about 20 minutes
    python -m benchmarks.faults --kills 4        # a taste

A kill is SIGKILL to one rank, SIGKILL to all processes of the run, or SIGTERM to the run (under torchrun to its agent), at a
moment drawn at random after training has begun: in a step, while a checkpoint is written, in a validation. The model has
ARB, loader processes are at work, and last.pt is written after every step. Then the same command is given with --resume. The
final last.pt must equal, in weights, average, optimizer and position, that of a run which nobody disturbed.
"""
import argparse
import collections
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from data.synthetic import main as draw_scenes
from engine import checkpoint

ROOT = Path(__file__).parents[1]
CONFIG = """
[data]
root = "{root}"
train = "annotations/train.json"
val = "annotations/val.json"

[model]
scale = "n"
arb = true

[assigner]
min_box_side = 16

[train]
epochs = 4
batch_size = 4
nominal_batch = 8
image_size = 96
warmup_epochs = 1
close_mosaic = 1
ema_updates = 5
workers = 1
device = "cpu"
save_minutes = 1e-9
"""
DECISIVE = ("model", "ema", "ema_updates", "optimizer", "position", "best", "generators", "sums")
KINDS = ("SIGKILL to a rank", "SIGKILL to all", "SIGTERM")


class Run:
    """A run that can be started again and again.

    Args:
        ranks: 1: train.py alone; 2: under torchrun.
    """

    def __init__(self, config: Path, folder: Path, ranks: int):
        self.config, self.folder, self.ranks = config, folder, ranks

    def start(self) -> subprocess.Popen:
        """Start, or go on."""
        launcher = []
        if self.ranks > 1:
            with socket.socket() as s:
                s.bind(("127.0.0.1", 0))
                port = s.getsockname()[1]
            launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={self.ranks}", f"--master-port={port}"]
        command = [sys.executable, *launcher, "train.py", "--config", str(self.config), "--output", str(self.folder),
                   "--resume"]
        with open(f"{self.folder}.txt", "a") as log:
            return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True,
                                    env={**os.environ, "OMP_NUM_THREADS": "1"})

    def last(self) -> dict:
        """The content of last.pt; empty without it."""
        return checkpoint.load(self.folder / "last.pt") if (self.folder / "last.pt").exists() else {}

    def kill(self, process: subprocess.Popen, kind: str, rng: random.Random) -> None:
        """Do it, and wait until no process of the run is left."""
        everyone = [process.pid, *_descendants(process.pid)]
        if kind == "SIGTERM":
            process.send_signal(signal.SIGTERM)
        elif kind == "SIGKILL to all":
            for number in everyone:
                _send(number, signal.SIGKILL)
        else:
            ranks = _children(process.pid)[: self.ranks] if self.ranks > 1 else [process.pid]
            _send(rng.choice(ranks), signal.SIGKILL)
        process.wait(60)
        deadline = time.monotonic() + 60
        while any(Path(f"/proc/{number}").exists() for number in everyone):
            if time.monotonic() > deadline:
                raise SystemExit(f"{kind}: processes of the run are left over")
            time.sleep(0.05)


def _send(number: int, name: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(number, name)


def _children(number: int) -> list[int]:
    try:
        return [int(n) for n in Path(f"/proc/{number}/task/{number}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _descendants(number: int) -> list[int]:
    return [n for child in _children(number) for n in (child, *_descendants(child))]


def moment(run: Run) -> str:
    """What was under way when the run was killed, by what it left."""
    if list(run.folder.glob(".*.tmp")):
        return "checkpoint"
    position = run.last().get("position")
    if position is None:
        return "before the first checkpoint"
    return "step" if position["ended"] or position["batch"] % 4 else "validation"      # 16 images: four batches an epoch


def disturb(run: Run, rng: random.Random, budget: int) -> tuple[collections.Counter, collections.Counter]:
    """Run to the end with at most `budget` kills; what kinds they were, and in what."""
    kinds, moments = collections.Counter(), collections.Counter()
    while True:
        log = Path(f"{run.folder}.txt")
        written = log.stat().st_size if log.exists() else 0
        process = run.start()
        while process.poll() is None and b"output " not in log.read_bytes()[written:]:
            time.sleep(0.02)
        if kinds.total() < budget:
            time.sleep(rng.uniform(0, 3))
        if kinds.total() == budget or process.poll() is not None:
            if process.wait(300):
                raise SystemExit(f"the run failed: see {log}")
            return kinds, moments
        kind = rng.choice(KINDS)
        run.kill(process, kind, rng)
        kinds[kind] += 1
        moments[moment(run)] += 1


def same(a: object, b: object) -> bool:
    """Two trees of plain values and tensors are equal, bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def main() -> None:
    """Soak."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="at least so many (default: 50)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder, removed after success)")
    options = parser.parse_args()
    folder, rng = options.folder or Path(tempfile.mkdtemp(prefix="faults-")), random.Random(options.seed)
    draw_scenes(["--output", str(folder / "scenes"), "--train", "16", "--val", "16", "--test", "1", "--size", "128"])
    config = folder / "soak.toml"
    config.write_text(CONFIG.format(root=folder / "scenes"))

    kills, started = collections.Counter(), time.monotonic()
    kinds, moments = collections.Counter(), collections.Counter()
    whole = {}
    for ranks in (1, 2):
        whole[ranks] = Run(config, folder / f"whole {ranks}", ranks)
        if whole[ranks].start().wait():
            raise SystemExit(f"the undisturbed run failed: see {whole[ranks].folder}.txt")
    number = 0
    while kills.total() < options.kills:
        ranks = 1 if kills[1] < kills[2] else 2         # at least half of them with two
        run = Run(config, folder / f"disturbed {number}", ranks)
        number += 1
        these, there = disturb(run, rng, budget=12)
        kills[ranks] += these.total()
        kinds, moments = kinds + these, moments + there
        expected, found = whole[ranks].last(), run.last()
        differing = [key for key in DECISIVE if not same(expected[key], found[key])]
        outcome = f"differs in {', '.join(differing)}" if differing else "the same bits"
        print(f"{ranks} rank(s), {these.total():>2} kills: {outcome}", flush=True)
        if differing:
            raise SystemExit(f"compare {run.folder} with {whole[ranks].folder}")
        shutil.rmtree(run.folder)

    print(f"\n{kills.total()} kills in {number} runs ({kills[1]} with one rank, {kills[2]} with two), "
          f"{(time.monotonic() - started) / 60:.0f} min; every run ended with the weights of the undisturbed one")
    for title, counts in (("by", kinds), ("during", moments)):
        print(f"{title}: {', '.join(f'{what} {count}' for what, count in counts.most_common())}")
    if not options.folder:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
