"""A whole epoch of the real trainer with its loader: images a second, and where the device waits.

    python -m benchmarks.epoch --config configs/tinyrs4/yolo11n.toml data.root=DIR data.cache=ram train.amp=bf16

The first epoch warms up (files, kernels, torch.compile), the second is measured; both are of the configuration's training
set with its augmentation, and nothing is validated or kept. Printed: the time that the trainer waits for a batch; on a GPU
also how long the device has nothing to do between two steps, from events on its own clock; the rest of the epoch it works on a
step.
"""
import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.child import machine
from data import Batch
from engine import config as configs
from engine.distributed import Ranks
from engine.log import peak_memory
from engine.signals import StopRequest
from engine.trainer import Trainer
from errors import run


class Watched:
    """A loader that notes what is waited for between two batches."""

    def __init__(self, loader: object, device: torch.device):
        self.loader, self.device = loader, device
        self.batch_sampler = loader.batch_sampler
        self.waited, self.gaps, self.started, self.ended = 0.0, [], 0.0, 0.0

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        self.waited, self.gaps = 0.0, []
        batches = iter(self.loader)
        batch = next(batches)       # workers start: not what every batch waits for
        self.started = time.perf_counter()
        try:
            while batch is not None:
                yield batch
                done, before = self._event(), time.perf_counter()
                batch = next(batches, None)
                self.waited += time.perf_counter() - before
                self.gaps.append((done, self._event()))
        finally:                    # the trainer leaves after its last step, which has waited for the device
            self.ended = time.perf_counter()

    def _event(self) -> torch.cuda.Event | None:
        if self.device.type != "cuda":
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def idle(self) -> float:
        """Seconds that the device had finished a step and the next batch had not come."""
        torch.cuda.synchronize(self.device)
        return sum(done.elapsed_time(begun) for done, begun in self.gaps) / 1000


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="TOML file, such as configs/aitod/yolo11m.toml")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that differ from the file")
    options = parser.parse_intermixed_args(arguments)
    config = configs.load(options.config, [*options.overrides, "train.epochs=2", "train.close_mosaic=0", "data.val="])
    with StopRequest() as stop, tempfile.TemporaryDirectory() as folder:
        ranks = Ranks(config.train.device)
        trainer = Trainer(config, Path(folder), ranks, stop)
        watched = trainer.data.train_loader = Watched(trainer.data.train_loader, ranks.device)
        code = trainer.fit()
    train = config.train
    seconds = watched.ended - watched.started
    images = len(watched) * train.batch_size
    print(f"{machine(ranks.device.type)}; {train.workers} workers, data.cache={config.data.cache}, "
          f"train.amp={train.amp}, {train.image_size} px, batch {train.batch_size}")
    print(f"{images} images in {seconds:.1f} s: {images / seconds:.1f} images/s; peak memory "
          f"{' '.join(map(str, peak_memory(ranks.device).values()))} GiB")
    print(f"waited for a batch: {watched.waited:.2f} s, {watched.waited / seconds:.1%} of the epoch")
    if ranks.device.type == "cuda":
        idle = watched.idle()
        print(f"device without work between steps: {idle:.2f} s; on a step for {1 - idle / seconds:.1%} of the epoch")
    ranks.close()
    return code


if __name__ == "__main__":
    run(main)
