"""Failures of the machine that torch reports in a page of text, in one line that names the keys to change."""
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from engine.config import Config
from errors import InputError, MachineError

# What torch's messages hold, in lower case. An error of our code in a worker ("Caught ... in DataLoader worker process 0"), and
# a kernel that asks for more of a GPU's shared memory than it has, are others, and pass with their traceback.
SHARED_MEMORY = ("killed by signal: bus error", "workers are out of shared memory", "unable to write to file </torch",
                 "unable to open shared memory object </torch", "unable to allocate shared memory(shm) for file </torch")
KILLED_WORKER = ("dataloader worker (pid",)
GPU_MEMORY = ("cuda error: out of memory", "cublas_status_alloc_failed", "cudnn_status_alloc_failed")   # beside the allocator
LOST_RANK = ("connection closed by peer", "connection reset by peer", "broken pipe", "connectfull", "socket timeout",
             "nccl error", "ncclremoteerror", "watchdog", "timed out waiting", "heartbeat monitor")


@contextmanager
def in_one_line(
    config: Config, world_size: int = 1, training: bool = True, side: int | None = None, single: bool = False
) -> Iterator[None]:
    """Turn what torch raises when memory or a process is gone into one line; other errors pass.

    Args:
        side: of what the network sees, pixels; None: train.image_size.
        single: it sees one image at a time, whatever eval.batch_size.
    """
    try:
        yield
    except RuntimeError as error:
        line = explain(error, config, world_size, training, side or config.train.image_size, single)
        if line is None:
            raise
        raise line from error


def explain(
    error: RuntimeError, config: Config, world_size: int, training: bool, side: int, single: bool
) -> InputError | MachineError | None:
    """What to tell the user; None for an error that is none of these."""
    train, text = config.train, str(error).lower()
    if isinstance(error, torch.OutOfMemoryError) or any(sign in text for sign in GPU_MEMORY):
        if single:
            return InputError(f"train.image_size: an image of {side} px does not fit the GPU's memory. Lower train.image_size, "
                              "or use train.device=cpu.")
        asked = text.partition("tried to allocate ")[2].partition(". ")[0].upper()
        key, count = ("train", train.batch_size // world_size) if training else ("eval", config.eval.batch_size)
        line = (f"{key}.batch_size: {count} images of {side} px do not fit the GPU's memory"
                f"{f' (asked for {asked} more)' if asked else ''}. Lower {key}.batch_size")
        if training:
            line += (" or train.image_size, or use train.amp=bf16; gradients are accumulated to train.nominal_batch, so that "
                     "the recipe stays as it is")
        return InputError(f"{line}.")
    if any(sign in text for sign in SHARED_MEMORY):
        return InputError(
            f"train.workers: the {train.workers} loader processes of each rank ran out of shared memory (/dev/shm), 64 MB in "
            "many containers. Start the container with --shm-size=16g or --ipc=host, or use train.workers=0."
        )
    if any(sign in text for sign in KILLED_WORKER):
        return InputError(
            f"train.workers: a loader process was ended from outside ({str(error).splitlines()[0][:150]}). Where the system "
            "ran out of memory, lower train.workers; go on with --resume."
        )
    if world_size > 1 and any(sign in text for sign in LOST_RANK):
        go_on = "; the same command with --resume goes on from the last checkpoint" if training else ""
        return MachineError("a process of this run was lost, and the others cannot go on without it. Its own message tells "
                            f"why{go_on}.")
    return None
