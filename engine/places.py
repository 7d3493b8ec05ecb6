"""Where results go: looked at before the work, as after hours of it what was found would be lost."""
import os
from collections.abc import Iterable
from pathlib import Path

from errors import InputError


def check_targets(targets: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Nothing is written yet, and folders that are missing are not made.

    Args:
        targets: files that may be written.
        inputs: files that are read, and must be left as they are.
    Raises:
        InputError: a target is one of the inputs, by whatever path or link, or cannot be written.
    """
    kept = {_identity(path) for path in inputs} - {None}
    for folder in dict.fromkeys(target.parent for target in targets):
        _check_folder(folder)
    for target in targets:
        identity = _identity(target)
        if identity is None:
            continue
        if identity in kept:
            raise InputError(f"--output: {target} would be written over, and it is an image to be read. Name another folder.")
        if target.is_dir():
            raise InputError(f"--output: {target} is a folder, where a file is to be written. Name another --output.")
        if not os.access(target, os.W_OK):
            raise InputError(f"--output: {target} may not be written. Name another --output.")


def _identity(path: Path) -> tuple[int, int] | None:
    """The same for all names of one file; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _check_folder(folder: Path) -> None:
    """Raises InputError unless a folder is there and can be written into, or can be made."""
    there = next(path for path in (folder, *folder.parents, Path(".")) if path.exists())
    if not there.is_dir():
        raise InputError(f"--output: {there} is a file, where a folder is needed. Name another --output.")
    if not os.access(there, os.W_OK):
        raise InputError(f"--output: nothing may be written into {there}. Name another --output.")
