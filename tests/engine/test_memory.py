"""Memory that tensors freed serves the next ones."""
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILL_TWELVE_BLOCKS_TEN_TIMES = """
import ctypes
import resource
{before}
c = ctypes.CDLL(None)
c.malloc.restype = ctypes.c_void_p
faults = []
for _ in range(10):
    blocks = [c.malloc(20 * 2**20) for _ in range(12)]
    for block in blocks:
        c.memset(ctypes.c_void_p(block), 1, 20 * 2**20)
    for block in blocks:
        c.free(ctypes.c_void_p(block))
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[4])
"""
PAGES_OF_A_BLOCK = 20 * 2**20 // 4096


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_the_pages_of_freed_blocks_are_used_again() -> None:
    def fresh_pages(before: str) -> int:
        code = FILL_TWELVE_BLOCKS_TEN_TIMES.format(before=before)
        return int(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout)

    assert fresh_pages("from engine.distributed import Ranks; Ranks('cpu')") < PAGES_OF_A_BLOCK
    assert fresh_pages("") > 5 * PAGES_OF_A_BLOCK            # else the setting is of no use any more
