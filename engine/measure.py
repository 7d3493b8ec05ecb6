"""How long a training step takes on this machine: a few real steps of each config, by the trainer itself.

    python -m engine.measure --config A.toml --config B.toml --result FILE [section.key=value ...]       or by torchrun

Writes {"A.toml": seconds a batch, ...} into FILE. engine.reproduce calls it as a process of its own, so that nothing of it
stays in the GPU's memory. Images are read and augmented as in training, without a cache. On a CPU steps of as many images
are taken as have the pixels of one of 800 x 800, and multiplied: time there follows the pixels, and a whole batch may not fit.
"""
import argparse
import contextlib
import gc
import io
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from engine import config as configs
from engine.config import Config
from engine.distributed import Ranks, stands_in_group
from engine.failures import in_one_line
from engine.files import write_json
from engine.signals import EXIT_STOPPED, Stopped, StopRequest
from engine.trainer import Trainer
from errors import run

PIXELS_ON_CPU = 800 * 800
PREFETCHED = 2      # batches that each loader process holds ready, torch's default: their steps say nothing of the loader


class _Enough(BaseException):
    """The steps are taken."""


class TimedTrainer(Trainer):
    """A trainer that takes the time of some steps, and ends.

    Attributes:
        seconds_a_batch: once `fit` has raised _Enough.
    """

    def time_steps(self, skipped: int, counted: int) -> None:
        """Let `skipped` batches pass and take the time of the `counted` ones that follow."""
        self.skipped, self.counted, self.begun = skipped, counted, None

    def _optimizer_step(self, *arguments: object) -> tuple[bool, bool]:
        outcome = super()._optimizer_step(*arguments)           # has waited for the GPU to tell whether numbers are finite
        step, now = self.position.step, time.perf_counter()
        if self.begun is None:
            self.begun = (step, now) if step >= self.skipped else None
        elif step - self.begun[0] >= self.counted:
            self.seconds_a_batch = (now - self.begun[1]) / (step - self.begun[0])
            raise _Enough
        return outcome

    def _end_epoch(self) -> None:
        """The next one, with nothing validated or written: a small set has fewer batches than are to be timed."""
        self.position.epoch, self.position.batch = self.position.epoch + 1, 0


def measure(config: Config, ranks: Ranks, stop: StopRequest) -> float:
    """Seconds that one batch of all ranks takes, the same on every rank but for what clocks differ in."""
    train = config.train
    on_gpu = ranks.device.type == "cuda"
    skipped, counted = (3 + PREFETCHED * train.workers, 10) if on_gpu else (1, 3)
    factor = 1.0
    if not on_gpu:
        share = max(1, min(train.batch_size // ranks.world_size, PIXELS_ON_CPU // train.image_size**2)) * ranks.world_size
        factor = train.batch_size / share
        train = replace(train, batch_size=share, nominal_batch=share, workers=0)
    train = replace(train, epochs=max(train.epochs, skipped + 5 * counted), max_steps=0, save_minutes=0)
    config = replace(config, train=train, data=replace(config.data, cache="none"))
    with tempfile.TemporaryDirectory(prefix="measure.") as folder, contextlib.redirect_stdout(io.StringIO()):
        trainer = TimedTrainer(config, Path(folder), ranks, stop)
        trainer.time_steps(skipped, counted)
        with contextlib.suppress(_Enough):
            trainer.fit()
    return trainer.seconds_a_batch * factor


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and measure; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m engine.measure", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", action="append", required=True, help="TOML file; may be given again")
    parser.add_argument("--result", type=Path, required=True, help="JSON file to write")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    options = parser.parse_intermixed_args(arguments)
    files, overrides = options.config, options.overrides
    found = [configs.load(file, overrides) for file in files]
    with StopRequest() as stop:
        try:
            with in_one_line(found[0], int(os.environ.get("WORLD_SIZE", "1"))), Ranks(found[0].train.device) as ranks:
                seconds = {}
                for file, config in zip(files, found, strict=True):
                    seconds[file] = measure(config, ranks, stop)
                    gc.collect()        # trainers hold circles, which would keep their share of the GPU's memory
            if ranks.is_main:
                write_json(options.result, seconds)
            return 0
        except Stopped:
            return EXIT_STOPPED


if __name__ == "__main__":
    run(main, stands_in_group)
