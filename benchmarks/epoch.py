"""A whole epoch of the real trainer with its loader: images a second, and where the device waits.

    python -m benchmarks.epoch --config configs/tinyrs4/yolo11n.toml data.root=DIR data.cache=ram train.amp=bf16

The first epoch warms up (files, workers, kernels, torch.compile), the second is measured, from the request for its first batch
to the end of its last step; all are of the configuration's training set with its augmentation, and nothing is validated or
kept. Printed: the time that the trainer waits for a batch; on a GPU also how long the device has nothing to do between two
steps, from events on its own clock, and from a third epoch, some steps of which are traced, the share of the time in which a
kernel runs. Tracing slows the host: the true share is the higher one, if anything. An epoch should have many times more
batches than the workers fetch ahead, two each.
"""
import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.child import machine
from benchmarks.floor import wait
from data import Batch
from engine import config as configs
from engine.distributed import Ranks
from engine.memory import peak_memory
from engine.signals import StopRequest
from engine.trainer import Trainer
from errors import run

TRACED = range(5, 15)       # batches of the third epoch


class Watched:
    """A loader that notes what is waited for, and in its third epoch what the device does."""

    def __init__(self, loader: object, device: torch.device):
        self.loader, self.device = loader, device
        self.batch_sampler = loader.batch_sampler
        self.epoch = 0
        self.waited, self.gaps, self.seconds, self.busy = 0.0, [], 0.0, None

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        self.epoch += 1
        return self._watched() if self.epoch == 2 else self._traced() if self.epoch == 3 else iter(self.loader)

    def _watched(self) -> Iterator[Batch]:
        started = time.perf_counter()
        batches = iter(self.loader)
        try:
            while True:
                done, before = self._event(), time.perf_counter()
                batch = next(batches, None)
                self.waited += time.perf_counter() - before
                if batch is None:
                    break
                self.gaps.append((done, self._event()))
                yield batch
        finally:                    # the trainer leaves after its last step, which has waited for the device
            self.seconds = time.perf_counter() - started

    def _traced(self) -> Iterator[Batch]:
        trace = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
        started = 0.0
        for number, batch in enumerate(self.loader):
            if number == TRACED.start:
                wait(self.device)
                trace.start()
                started = time.perf_counter()
            if number == TRACED.stop:
                wait(self.device)
                seconds = time.perf_counter() - started
                trace.stop()
                kernels = sum(event.self_device_time_total for event in trace.key_averages()) / 1e6
                self.busy = kernels / seconds
            yield batch

    def _event(self) -> torch.cuda.Event | None:
        if self.device.type != "cuda":
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def idle(self) -> float:
        """Seconds that the device had finished a step and the next batch had not come."""
        wait(self.device)
        return sum(done.elapsed_time(begun) for done, begun in self.gaps) / 1000


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="TOML file, such as configs/aitod/yolo11m.toml")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that differ from the file")
    options = parser.parse_intermixed_args(arguments)
    config = configs.load(options.config, [*options.overrides, "train.close_mosaic=0", "data.val="])
    epochs = 3 if config.train.device != "cpu" and torch.cuda.is_available() else 2
    config = replace(config, train=replace(config.train, epochs=epochs))
    with StopRequest() as stop, tempfile.TemporaryDirectory() as folder:
        ranks = Ranks(config.train.device)
        trainer = Trainer(config, Path(folder), ranks, stop)
        watched = trainer.data.train_loader = Watched(trainer.data.train_loader, ranks.device)
        code = trainer.fit()
    train, seconds = config.train, watched.seconds
    images = len(watched) * train.batch_size
    print(f"{machine(ranks.device.type)}; {train.workers} workers, data.cache={config.data.cache}, "
          f"train.amp={train.amp}, {train.image_size} px, batch {train.batch_size}")
    print(f"{images} images in {seconds:.1f} s: {images / seconds:.1f} images/s; peak memory "
          f"{' '.join(map(str, peak_memory(ranks.device).values()))} GiB")
    print(f"waited for a batch: {watched.waited:.2f} s, {watched.waited / seconds:.1%} of the epoch")
    if ranks.device.type == "cuda":
        idle = watched.idle()
        print(f"device without work between steps: {idle:.2f} s; on a step for {1 - idle / seconds:.1%} of the epoch")
        busy = f"{watched.busy:.1%} of the time" if watched.busy else f"not traced: an epoch needs {TRACED.stop + 1} batches"
        print(f"a kernel runs: {busy}")
    ranks.close()
    return code


if __name__ == "__main__":
    run(main)
