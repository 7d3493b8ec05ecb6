"""Files and folders of results."""
import json
import os
from pathlib import Path

from errors import InputError


def make_folder(path: Path) -> None:
    """Make a folder for results, unless it is there. Raises InputError where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output: {path} cannot be a folder ({error.strerror}). Name another one.") from None
    if not os.access(path, os.W_OK):
        raise InputError(f"--output: nothing may be written into {path}. Name another folder.")


def write_json(path: Path, content: dict) -> None:
    """Write JSON for people to read, replacing the file in one step."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Put a text in the place of a file in one step: a kill, a full disk or a power cut leaves the old one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
