"""Folders that appear when they are complete."""
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from errors import InputError


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder`, which takes its place at the end; where an error ends it, nothing is left behind.

    Args:
        folder: absolute; not there, or empty.
    Raises:
        InputError: it cannot be made.
    """
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        beside.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"--output: {folder} cannot be made ({error.strerror}). Name another folder.") from None
    try:
        yield beside
        if folder.exists():
            folder.rmdir()
        os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
