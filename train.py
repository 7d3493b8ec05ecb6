"""Train a detector.

One CPU or GPU:          python train.py --config configs/tinyrs4/yolo11n.toml data.root=DIR
Eight GPUs:              torchrun --nproc-per-node 8 train.py --config configs/aitod/yolo11m.toml data.root=DIR
Two machines of eight:   torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:PORT train.py ...
From YOLO11's weights:   --weights yolo11m.pt, as Ultralytics publishes it, or a best.pt of another run
Go on after a stop:      the same command with --resume; torchrun --max-restarts N does so by itself when a process is lost
Change a setting:        section.key=value at the end, such as train.batch_size=32 (the batch is over all GPUs)

Writes into --output (runs/<config name>): manifest.json, log.jsonl, tensorboard/, pictures/, last.pt (to resume) and
best.pt (for test.py and predict.py). Exit code 0: done; 1: a machine or process
failed; 2: the input is wrong; 3: stopped by a signal and saved.
"""
import argparse
import os
from pathlib import Path

from engine import config as configs
from engine.distributed import Ranks, stands_in_group
from engine.failures import in_one_line
from engine.signals import EXIT_STOPPED, Stopped, StopRequest
from engine.trainer import Trainer
from errors import run


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and train; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="TOML file, such as configs/demo.toml")
    parser.add_argument("--output", type=Path, help="folder of the run (default: runs/<config name>)")
    parser.add_argument("--resume", action="store_true", help="go on from last.pt in the folder, if there is one")
    parser.add_argument("--weights", type=Path, help="best.pt or Ultralytics' yolo11m.pt to start from, as far as layers fit")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that differ from the file")
    options = parser.parse_intermixed_args(arguments)

    config = configs.load(options.config, options.overrides)
    folder = options.output or Path("runs") / Path(options.config).stem
    resume = options.resume or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"     # torchrun --max-restarts
    with StopRequest() as stop:
        try:
            with in_one_line(config, int(os.environ.get("WORLD_SIZE", "1"))), Ranks(config.train.device) as ranks:
                return Trainer(config, folder, ranks, stop, resume, options.weights).fit()
        except Stopped:
            print(f"stopped by {stop.name} before the first step")
            return EXIT_STOPPED


if __name__ == "__main__":
    run(main, stands_in_group)
