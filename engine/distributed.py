"""One process or many: what torchrun's environment says, and the few collectives that training needs.

With one process every method does nothing or returns its argument, so that callers have one path.
"""
import gc
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # before there is a group: see Ranks.close
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from engine.memory import keep_freed_memory
from errors import InputError

T = TypeVar("T")
IMAGES_FOR_BATCHNORM = 8
WAIT_FOR_GRADIENTS = timedelta(minutes=30)      # as torch.compile, with its minutes, is not ready on all ranks at once
WAIT_FOR_RANK_0 = timedelta(hours=2)


class Ranks:
    """This process among its peers; at the end of a `with` it leaves them.

    Args:
        device: auto, cpu or cuda.

    Attributes:
        rank, world_size: this process's number and how many there are.
        device: where this process computes.
        is_main: True on rank 0, which logs and writes files.
    """

    def __init__(self, device: str):
        if device == "cuda" and not torch.cuda.is_available():
            raise InputError("train.device: cuda was asked for, but torch sees no CUDA device. Use train.device=cpu.")
        on_cuda = device != "cpu" and torch.cuda.is_available()
        self.rank = int(os.environ.get("RANK", 0))
        self.world_size = int(os.environ.get("WORLD_SIZE", 1))
        local_rank = int(os.environ.get("LOCAL_RANK", 0))
        if on_cuda and local_rank >= torch.cuda.device_count():
            raise InputError(
                f"torchrun: process {local_rank} of this machine has no GPU of its own, as there are "
                f"{torch.cuda.device_count()}. Lower --nproc-per-node."
            )
        self.device = torch.device("cuda", local_rank) if on_cuda else torch.device("cpu")
        self.is_main = self.rank == 0
        self._patient = None
        if on_cuda:
            torch.cuda.set_device(self.device)
        else:
            keep_freed_memory()
        if self.world_size > 1:
            # Gradients go by NCCL; flags, detections and checkpoints by gloo, so that they neither stop nor fill the GPU.
            # Rank 0 computes the metrics of a large test set while the others wait, in a group of its own: nobody stands
            # so long in a reduction of gradients unless a peer is gone, which NCCL may not notice.
            dist.init_process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo", timeout=WAIT_FOR_GRADIENTS,
                                    store=_own_store(WAIT_FOR_RANK_0), rank=self.rank, world_size=self.world_size)
            self._patient = dist.new_group(backend="gloo", timeout=WAIT_FOR_RANK_0)

    def lacks_bf16(self) -> bool:
        """Whether this is a GPU without bfloat16 in its tensor cores: older than Ampere. torch emulates it there."""
        return self.device.type == "cuda" and torch.cuda.get_device_capability(self.device) < (8, 0)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The module to call in training: gradients are averaged over the ranks during backward."""
        if self.world_size == 1:
            return model
        ids = [self.device.index] if self.device.type == "cuda" else None
        parallel = DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)
        # Buffers are BatchNorm's statistics, which training does not read; validation and checkpoints take rank 0's.
        parallel.broadcast_buffers = False
        return parallel

    def synchronize_batchnorm(self, model: nn.Module, mode: str, batch_size: int, compiled: bool = False) -> None:
        """Let BatchNorm take its statistics over all ranks, in place.

        Args:
            mode: on, off, or auto: on GPUs with fewer than IMAGES_FOR_BATCHNORM each.
            batch_size: images over all ranks.
            compiled: torch.compile is to follow; it stops at every such layer, and is refused.
        """
        if self.world_size == 1 or mode == "off":
            return
        if self.device.type == "cpu":
            if mode == "on":
                raise InputError("train.sync_batchnorm: on needs GPUs. Use auto or off on a CPU.")
        elif mode == "on" or batch_size // self.world_size < IMAGES_FOR_BATCHNORM:
            if compiled:
                raise InputError(
                    "train.compile: gains nothing with BatchNorm synchronised over GPUs, at which it stops. Use "
                    f"train.sync_batchnorm=off; with auto, {IMAGES_FOR_BATCHNORM} images on each GPU do (train.batch_size)."
                )
            nn.SyncBatchNorm.convert_sync_batchnorm(model)

    def all_sum(self, x: Tensor) -> Tensor:
        """The sum of a tensor over all ranks."""
        if self.world_size > 1:
            dist.all_reduce(x)
        return x

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether any rank raises it; every rank gets the same answers."""
        return [number > 0 for number in self.all_max(*flags)]

    def all_max(self, *numbers: int) -> list[int]:
        """The largest of each number over all ranks."""
        if self.world_size == 1:
            return list(numbers)
        largest = torch.tensor(numbers, dtype=torch.int64)
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self._patient)
        return largest.tolist()

    def from_main(self, make: Callable[[], T]) -> T:
        """What `make()` returns on rank 0, on every rank: only rank 0's machine need hold the files.

        An InputError of rank 0 ends all ranks; rank 0 alone reports it.
        """
        if self.world_size == 1:
            return make()
        made, error = None, None
        if self.is_main:
            try:
                made = make()
            except InputError as caught:
                error = caught
        message = [made, error is not None]
        dist.broadcast_object_list(message, 0, group=self._patient)
        if error:
            raise error
        if message[1]:
            sys.exit(2)
        return message[0]

    def wait(self) -> None:
        """Until every rank is here."""
        self.any(False)

    def gather(self, value: object) -> list[object] | None:
        """Every rank's value, in the order of the ranks, on rank 0; None elsewhere."""
        if self.world_size == 1:
            return [value]
        values = [None] * self.world_size if self.is_main else None
        dist.gather_object(value, values, group=self._patient)
        return values

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Give every rank the buffers of rank 0's model."""
        if self.world_size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Leave the group, unless an exception passes: see stands_in_group."""
        if error is None:
            self.close()

    def close(self) -> None:
        """Leave the group, and end its threads. All ranks do.

        A thread of gloo that lets go of a tensor while the interpreter ends brings the process down (SIGABRT, after a run
        that went well). They end with the group, once nothing refers to it: neither a DistributedDataParallel, nor the
        default arguments of torch.distributed.nn.functional, which are the group that exists when it is imported.
        """
        if self.world_size > 1 and dist.is_initialized():
            self._patient = None
            gc.collect()
            dist.destroy_process_group()


def stands_in_group() -> bool:
    """Whether an exception took this process out of `with Ranks(...)` while it has peers: then it must end at once.

    On GPUs, leaving the group waits for what the others have begun, and they wait for this rank: all would stand still until
    a timeout, with nothing said. Python's own clean-up leaves it, too. The others learn of the end by a closed connection, or
    from torchrun.
    """
    return dist.is_initialized()


def _own_store(timeout: timedelta) -> dist.Store:
    """The launcher's store, by which ranks find each other, without what earlier attempts of torchrun left in it.

    torchrun keeps the store when it starts its ranks again: a rank that came before rank 0 would take the address of the
    rank 0 that died, and fail.
    """
    store, _, _ = next(rendezvous("env://", timeout=timeout))
    if os.environ.get("GROUP_WORLD_SIZE", "1") == "1":      # of several machines each counts its own restarts
        store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    return dist.PrefixStore("default_pg", store)
