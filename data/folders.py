"""Folders that appear when they are complete, and what lies in one."""
import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from errors import InputError


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder`, which takes its place at the end; where an error ends it, nothing is left behind.

    A link stays, and what it points to appears. A mount point, as a container's volume is one, stays too: the work is done
    within it, on its disk, and at the end its parts move up.

    Args:
        folder: absolute; not there, or empty.
    Raises:
        InputError: it cannot be made.
    """
    folder = folder.resolve()
    is_mount = os.path.ismount(folder)
    beside = (folder if is_mount else folder.parent) / f".{folder.name}.{os.getpid()}.tmp"
    try:
        beside.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"--output: {folder} cannot be made ({error.strerror}). Name another folder.") from None
    try:
        yield beside
        try:
            os.replace(beside, folder)          # in the place of an empty folder, too
        except OSError as error:
            if not is_mount and error.errno != errno.EBUSY:     # busy: a mount within one file system, which ismount misses
                raise
            for part in sorted(beside.iterdir()):
                shutil.move(part, folder / part.name)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def walk(folder: Path) -> Iterator[Path]:
    """All files below a folder, in no order. Links to folders are followed, each folder once: one may lead above itself."""
    seen = set()
    for base, within, names in os.walk(folder, followlinks=True):
        here = Path(base).resolve()
        if here in seen:
            within.clear()
            continue
        seen.add(here)
        yield from (Path(base, name) for name in names)
