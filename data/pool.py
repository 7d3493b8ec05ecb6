"""Memory in which batches cross from workers to the training process, used again and again.

By default torch asks for fresh shared memory with every batch; where its pages are slow to come by, as on virtual machines,
that costs half as much as the augmentation. Also /dev/shm, which containers often keep small, is not needed.
"""
import itertools
import math
import mmap
import os
import weakref

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

SLOTS = 3               # batches for each worker: two that wait for the training process, one that it holds
_numbers = itertools.count()
_pools: "weakref.WeakValueDictionary[int, BatchPool]" = weakref.WeakValueDictionary()


class BatchPool:
    """Slots of anonymous shared memory, made before the workers are forked.

    A worker takes a free one of its own and fills it. The training process gets a tensor over the same memory; when the last
    reference to it is gone the slot is free. Where all are taken, or in a worker that was not forked, batches go torch's way.

    Args:
        size: bytes of the largest batch; they are taken from the system when they are first written to.
    """

    def __init__(self, workers: int, size: int):
        self.number = next(_numbers)
        self._owner = os.getpid()
        self._memory = [mmap.mmap(-1, size) for _ in range(workers * SLOTS)]
        self._taken = mmap.mmap(-1, workers * SLOTS)        # a byte for each: set by its worker, cleared by the owner
        _pools[self.number] = self

    def empty(self, shape: tuple[int, ...]) -> "Tensor | Lent":
        """uint8, not set: in a worker that has a free slot a loan to be returned in the place of a tensor."""
        worker = get_worker_info()
        if worker is not None:
            for slot in range(worker.id * SLOTS, (worker.id + 1) * SLOTS):
                if not self._taken[slot]:
                    self._taken[slot] = 1
                    return Lent(self, slot, shape)
        return torch.empty(shape, dtype=torch.uint8)

    def array(self, slot: int, shape: tuple[int, ...]) -> np.ndarray:
        """A slot's memory."""
        return np.frombuffer(self._memory[slot], np.uint8, math.prod(shape)).reshape(shape)

    def release(self, slot: int) -> None:
        """The owner needs a slot no longer."""
        if os.getpid() == self._owner:      # not a process that was forked from it and ends
            self._taken[slot] = 0

    def __reduce__(self) -> tuple:
        """None in a process that was not forked: it has not this memory."""
        return type(None), ()


class Lent:
    """A batch's images in a slot. Sent to the training process, it arrives as a tensor."""

    def __init__(self, pool: BatchPool, slot: int, shape: tuple[int, ...]):
        self.pool, self.slot, self.shape = pool, slot, shape
        self.tensor = torch.from_numpy(pool.array(slot, shape))

    def __reduce__(self) -> tuple:
        return _receive, (self.pool.number, self.slot, self.shape)


def _receive(number: int, slot: int, shape: tuple[int, ...]) -> Tensor:
    """The tensor of a loan, in the process that owns the pool."""
    pool = _pools[number]
    array = pool.array(slot, shape)
    weakref.finalize(array, pool.release, slot).atexit = False
    return torch.from_numpy(array)
