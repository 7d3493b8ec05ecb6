"""The C library's allocator, set for large tensors on the CPU."""
import ctypes
import sys

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
