"""The C library's allocator, set for large tensors on the CPU, and how much memory a process held."""
import ctypes
import resource
import sys
from pathlib import Path

import torch

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3         # malloc.h


def keep_freed_memory() -> None:
    """Let memory that tensors free stay with the process; without glibc nothing happens.

    glibc gives the end of its heap back to the kernel as soon as some tens of megabytes are free there. The next tensors then
    get fresh pages, which the kernel fills with zeros first: up to a quarter of a training step (docs/performance.md). Blocks
    of more than 32 MB remain mappings of their own: in the heap they would save some time more, and cost memory at the peak.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(MMAP_THRESHOLD, 32 * 2**20)     # set, as it falls to 128 KB once the other is
        mallopt(TRIM_THRESHOLD, -1)


def peak_memory(device: torch.device) -> dict[str, float]:
    """The most memory in GiB that this process held so far, and on the GPU its tensors."""
    try:        # getrusage would count what the process that started this one held
        kilobytes = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    peak = {"peak_memory_gib": round(kilobytes / 2**20, 3)}
    if device.type == "cuda":
        peak["peak_gpu_gib"] = round(torch.cuda.max_memory_allocated(device) / 2**30, 3)
    return peak
