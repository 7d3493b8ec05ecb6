"""Samples, the order they come in, and the loaders.

Every random draw of sample i in epoch e comes from default_rng((seed, e, i)), of one that fills up the last batch from
default_rng((seed, e, i, copy)): the same pictures whatever the number of workers or ranks, and an interrupted epoch goes on
where it stopped. The epoch travels with the index, so that workers which live through all epochs need not be told.
"""
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from data.batch import Batch, ImageMeta, Sample, collate, join
from data.mosaic import compose
from data.pool import BatchPool, Lent
from data.source import Source
from data.transforms import AugmentConfig, fitted_planes, jitter_colours, letterbox_shape
from errors import InputError


class TrainDataset(Dataset):
    """Augmented samples, by (epoch, index, side): square samples of `side` pixels. By (epoch, index, side, copy), copy above 1,
    others of the same image in the same epoch.

    Args:
        mosaic_epochs: mosaic is used in epochs below this.
        pool: memory for batches that cross from workers.
    """

    def __init__(
        self, source: Source, augment: AugmentConfig, seed: int, mosaic_epochs: int, pool: BatchPool | None = None
    ):
        self.source = source
        self.pool = pool
        self.augment = augment
        self.seed = seed
        self.mosaic_epochs = mosaic_epochs
        self._canvas = np.empty((0, 0, 3), np.uint8)        # kept, as fresh memory costs more than drawing into it

    def __getitem__(self, key: tuple[int, ...]) -> Sample:
        """One sample."""
        return self._draw(key, torch.empty((3, key[2], key[2]), dtype=torch.uint8))

    def __getitems__(self, keys: list[tuple[int, ...]]) -> Batch:
        """A batch of one side. Each sample is drawn where the batch keeps it."""
        shape = len(keys), 3, keys[0][2], keys[0][2]
        images = self.pool.empty(shape) if self.pool else torch.empty(shape, dtype=torch.uint8)
        planes = images.tensor if isinstance(images, Lent) else images
        return join(images, [self._draw(key, image) for key, image in zip(keys, planes, strict=True)])

    def _draw(self, key: tuple[int, ...], image: torch.Tensor) -> Sample:
        """The sample whose image is, and is drawn into, a tensor (3, s, s)."""
        epoch, index, side, *copy = key
        rng = np.random.default_rng((self.seed, epoch, index, *copy))
        chosen = [index]
        if rng.random() < self.augment.mosaic and epoch < self.mosaic_epochs:
            chosen += rng.integers(len(self.source), size=3).tolist()
        pictures = [(self.source.image(k), *self.source.objects(k)) for k in chosen]
        if len(self._canvas) != side:
            self._canvas = np.empty((side, side, 3), np.uint8)
        boxes, labels = compose(self._canvas, pictures, rng, self.augment)
        jitter_colours(self._canvas, image.numpy(), rng, self.augment)
        record = self.source.images[index]
        meta = ImageMeta(record.id, record.path, record.width, record.height, (1.0, 1.0))
        return Sample(image, torch.from_numpy(boxes), torch.from_numpy(labels), meta)


class EvalDataset(Dataset):
    """Samples as they are, fitted to the network's input; each image is padded on its own.

    Args:
        chosen: images of the source; None: all.
    """

    def __init__(self, source: Source, image_size: int, chosen: Sequence[int] | None = None):
        self.source = source
        self.image_size = image_size
        self.chosen = range(len(source)) if chosen is None else chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, place: int) -> Sample:
        """The sample of one image; boxes in network pixels."""
        index = self.chosen[place]
        record = self.source.images[index]
        planes, scale = fitted_planes(self.source.image(index), self.image_size)
        boxes, labels = self.source.objects(index)
        boxes = boxes * np.array((*scale, *scale), dtype=np.float64)
        meta = ImageMeta(record.id, record.path, record.width, record.height, scale)
        return Sample(torch.from_numpy(planes), torch.from_numpy(boxes.astype(np.float32)), torch.from_numpy(labels), meta)


class TrainSampler(Sampler):
    """This rank's batches of an epoch, as lists of (epoch, index, side), with a fourth number for an image that comes again.

    The permutation of an epoch is the same on all ranks, and so is the side of a batch; of each global batch a rank takes
    its contiguous share. The last batch is filled from the start of the permutation, so that every batch is full and none
    depends on the number of ranks.

    Args:
        batch_size: images over all ranks.
        image_size: side of the samples, pixels.
        multi_scale: the side of each batch is one of the multiples of 32 that lie within this share of image_size.
    """

    def __init__(
        self, count: int, batch_size: int, seed: int, image_size: int, multi_scale: float = 0.0, rank: int = 0,
        world_size: int = 1,
    ):
        if batch_size % world_size:
            raise InputError(
                f"train.batch_size: {batch_size} images cannot be shared equally by {world_size} processes. "
                f"Use {batch_size // world_size * world_size or world_size}."
            )
        self.count, self.batch_size, self.seed, self.rank, self.world_size = count, batch_size, seed, rank, world_size
        self.image_size, self.multi_scale = image_size, multi_scale
        self.epoch = self.start = 0

    def set_position(self, epoch: int, batch: int) -> None:
        """Begin the next iteration at a batch of an epoch."""
        self.epoch, self.start = epoch, batch

    @property
    def batches_per_epoch(self) -> int:
        """Batches in a whole epoch, wherever the next iteration begins."""
        return -(-self.count // self.batch_size)

    def __len__(self) -> int:
        return self.batches_per_epoch

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        # NumPy fills seeds up with zeros: this is also the stream of the epoch's sample 0, whose draws are of another kind.
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
        order = np.resize(order, len(self) * self.batch_size)
        share = self.batch_size // self.world_size
        for batch in range(self.start, len(self)):
            begin = batch * self.batch_size + self.rank * share
            side = self._side(batch)
            places = range(begin, begin + share)
            # Copies count from 2 on: a 0 would be the image's first draws, and a 1 is for sides.
            yield [(self.epoch, int(order[k]), side, *([1 + k // self.count] if k >= self.count else [])) for k in places]

    def sides(self) -> range:
        """The sides that a batch can have, pixels."""
        low, high = (self.image_size * (1 + share) / 32 for share in (-self.multi_scale, self.multi_scale))
        return range(32 * max(math.ceil(low - 1e-9), 1), 32 * math.floor(high + 1e-9) + 1, 32)     # limits are inside

    def _side(self, batch: int) -> int:
        """Of all samples of a batch, on all ranks."""
        # The 1 at the end keeps this apart from the draws of the sample with the batch's number.
        return int(np.random.default_rng((self.seed, self.epoch, batch, 1)).choice(self.sides()))


class EvalSampler(Sampler):
    """This rank's batches of a data set. Only images of one padded shape share one: no result depends on neighbours.

    Args:
        shapes: (height, width) of each image as the network sees it.
        batch_size: images, per rank.
    """

    def __init__(self, shapes: list[tuple[int, int]], batch_size: int, rank: int = 0, world_size: int = 1):
        by_shape: dict[tuple[int, int], list[int]] = {}
        for index, shape in enumerate(shapes):
            by_shape.setdefault(shape, []).append(index)
        batches = []
        for shape in sorted(by_shape):
            same = by_shape[shape]
            batches += [same[k : k + batch_size] for k in range(0, len(same), batch_size)]
        self.batches = batches[rank::world_size]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def train_loader(
    source: Source, image_size: int, batch_size: int, augment: AugmentConfig, seed: int, mosaic_epochs: int,
    workers: int, rank: int = 0, world_size: int = 1, pin_memory: bool = False,
) -> DataLoader:
    """Batches of augmented samples; `.batch_sampler.set_position` says which come next."""
    sampler = TrainSampler(len(source), batch_size, seed, image_size, augment.multi_scale, rank, world_size)
    largest = 3 * max(sampler.sides()) ** 2 * batch_size // world_size
    dataset = TrainDataset(source, augment, seed, mosaic_epochs, BatchPool(workers, largest) if workers else None)
    return _loader(dataset, sampler, unchanged, workers, pin_memory)


def statistics_loader(
    source: Source, image_size: int, batch_size: int, augment: AugmentConfig, seed: int, count: int, workers: int,
    rank: int = 0, world_size: int = 1, pin_memory: bool = False,
) -> DataLoader:
    """Batches of augmented samples without mosaic, of `count` images (at most all) drawn by the seed: each iteration the same.

    Args:
        batch_size: images, per rank.
    """
    order = np.random.default_rng(seed).permutation(len(source))[:count]
    keys = [(0, int(k), image_size) for k in order]
    batches = [keys[k : k + batch_size] for k in range(0, len(keys), batch_size)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches.pop()       # one image tells little of a spread, and nothing where a level has a single cell
    pool = BatchPool(workers, 3 * image_size**2 * batch_size) if workers else None
    return _loader(TrainDataset(source, augment, seed, 0, pool), batches[rank::world_size], unchanged, workers, pin_memory)


def eval_loader(
    source: Source, image_size: int, batch_size: int, workers: int, rank: int = 0, world_size: int = 1,
    pin_memory: bool = False, chosen: Sequence[int] | None = None,
) -> DataLoader:
    """Batches of every image once, over all ranks; or of the chosen ones."""
    dataset = EvalDataset(source, image_size, chosen)
    records = [source.images[index] for index in dataset.chosen]
    shapes = [letterbox_shape(r.width, r.height, image_size) for r in records]
    return _loader(dataset, EvalSampler(shapes, batch_size, rank, world_size), collate, workers, pin_memory)


def unchanged(batch: Batch) -> Batch:
    """What joins the samples of a data set that joins them itself."""
    return batch


class _Loader(DataLoader):
    """A DataLoader whose InputError is one line, from a worker as from this process."""

    def __iter__(self) -> Iterator[Batch]:
        try:
            yield from super().__iter__()
        except InputError as error:     # torch puts a worker's traceback before the message, all in one text
            raise InputError(str(error).rpartition("InputError: ")[2].strip()) from None


def _loader(dataset: Dataset, sampler: Sampler | list, join_samples: Callable, workers: int, pin_memory: bool) -> DataLoader:
    return _Loader(
        dataset, batch_sampler=sampler, num_workers=workers, collate_fn=join_samples, pin_memory=pin_memory,
        worker_init_fn=_start_worker, persistent_workers=workers > 0,
        # Python's default until 3.13. Started otherwise, workers share no memory, and have threads that SIGTERM ends.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        generator=torch.Generator(),    # its own: else each iteration would draw from the generator that a checkpoint keeps
    )


def _start_worker(worker: int) -> None:
    """One thread, as workers share the cores; and deaf to the signals that ask the run to stop.

    Ctrl-C and schedulers signal the whole process group. The training process decides what happens then, and still
    needs its batches to reach the next optimizer step.
    """
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):      # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_parent, daemon=True).start()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _obey_parent() -> None:
    """End the worker on SIGTERM from its parent, and from no one else.

    At its exit Python sends SIGTERM to its children and waits for them: a worker that ignored it would keep a run that
    crashed from ever ending.
    """
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
