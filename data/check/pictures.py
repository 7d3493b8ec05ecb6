"""Look at every image file once, in parallel: can it be decoded, how large is it, which others show the same?"""
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
from tqdm import tqdm

from data.pixels import image_size, is_nearly_black, read_image
from errors import InputError

WORTH_A_PROCESS = 64        # images; a process takes seconds to start
T = TypeVar("T")


class Look(NamedTuple):
    """What an image file holds."""

    width: int = 0          # pixels; 0: it cannot be read
    height: int = 0
    digest: str = ""        # equal for equal pixels (fast: for equal bytes); "": not taken, or nothing but one colour
    blank: bool = False     # of a single colour
    dark: bool = False      # not so, but nearly black everywhere
    problem: str = ""       # why it cannot be read


def look_at(paths: list[str], fast: bool = False, workers: int | None = None) -> dict[str, Look]:
    """Look at image files, each once.

    Args:
        fast: read only their headers, as far as they are JPEG or PNG. Equal files are found by size and bytes.
        workers: processes; None: one for each core, as far as there is work for them.
    """
    paths = list(dict.fromkeys(paths))
    workers = workers or min(os.cpu_count() or 1, 1 + len(paths) // WORTH_A_PROCESS)
    look = partial(_look, fast=fast)
    with tqdm(total=len(paths), desc="images", unit="", disable=None) as bar:
        looks = {}
        for path, seen in zip(paths, _map(look, paths, workers), strict=True):
            looks[path] = seen
            bar.update()
    if fast:
        size_of = {path: os.path.getsize(path) for path, seen in looks.items() if seen.width}
        times = Counter(size_of.values())
        alike = [path for path, size in size_of.items() if times[size] > 1]
        for path, digest in zip(alike, _map(_bytes_digest, alike, workers), strict=True):
            looks[path] = looks[path]._replace(digest=digest)
    return looks


def _map(function: Callable[[str], T], paths: list[str], workers: int) -> Iterator[T]:
    """function of each path, in order, by some processes or in this one."""
    if workers == 1 or len(paths) < 2:
        yield from map(function, paths)
        return
    # Not forked: OpenCV's and torch's threads do not survive a fork. An executor, as a Pool would wait for ever for a process
    # that the system ended for its memory.
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        try:
            yield from pool.map(function, paths, chunksize=8)
        except BrokenProcessPool:
            raise InputError("--workers: a process that reads images was ended, perhaps out of memory. Use fewer.") from None


def _look(path: str, fast: bool) -> Look:
    try:
        if fast:
            return Look(*image_size(path))
        image = read_image(path)
    except InputError as error:
        return Look(problem=str(error).removeprefix(f"{path}: "))
    height, width = image.shape[:2]
    if (image == image[0, 0]).all():
        return Look(width, height, blank=True)
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(image)
    return Look(width, height, digest.hexdigest(), dark=is_nearly_black(image))


def _bytes_digest(path: str) -> str:
    return hashlib.blake2b(Path(path).read_bytes(), digest_size=16).hexdigest()
