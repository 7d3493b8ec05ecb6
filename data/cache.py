"""Pictures decoded once, in one file of bytes that all workers and ranks map into memory.

`disk` keeps the file for later runs. `ram` holds it in /dev/shm, and its memory is free again when the run ends, however it
ends. What a file holds stands in its name, a hash of the listing (paths, sizes and times of the image files): a changed image
makes another file. A file appears under its name when it is complete, and one process at a time fills one.
"""
import errno
import fcntl
import hashlib
import json
import mmap
import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from data.source import Source
from errors import InputError

SHARED_MEMORY = Path("/dev/shm")
SPARE = 1 << 30                 # bytes of shared memory that are left to the workers' batches
OURS = re.compile(r"[0-9a-f]{32}\.(pixels|partial)")


class PixelCache:
    """The pictures of a source, mapped from a file.

    Args:
        path: the file, complete.
        file: the same, open for reading.
        shapes: (I, 2) int64, height and width of each image.
        offsets: (I,) int64, where its bytes begin.
    """

    def __init__(self, path: Path, file: FileIO, shapes: np.ndarray, offsets: np.ndarray):
        self.path, self.shapes, self.offsets = path, shapes, offsets
        self._file = file       # open as long as the cache: see __getstate__
        self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)

    def image(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 BGR, read-only."""
        (height, width), begin = self.shapes[index].tolist(), int(self.offsets[index])
        size = 3 * height * width
        # All of it at once: left to itself the kernel reads a large file page by page when the accesses look random.
        aligned = begin - begin % mmap.PAGESIZE
        self._map.madvise(mmap.MADV_WILLNEED, aligned, begin + size - aligned)
        return np.frombuffer(self._map, np.uint8, size, begin).reshape(height, width, 3)

    def drop_name(self) -> None:
        """Remove the file, whose bytes remain for whoever has it open."""
        self.path.unlink(missing_ok=True)

    def __getstate__(self) -> dict:
        """For workers that are not forked. The file may have lost its name, but this process has it open."""
        alias = Path(f"/proc/{os.getpid()}/fd/{self._file.fileno()}")
        return {"path": alias if alias.exists() else self.path, "shapes": self.shapes, "offsets": self.offsets}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["path"], FileIO(state["path"]), state["shapes"], state["offsets"])


def open_cache(source: Source, kind: str, root: Path, folder: Path, listing: Path, quiet: bool = False) -> PixelCache:
    """The cache of a source's pictures, filled now if there is none.

    Args:
        kind: "disk" or "ram". For "ram" call `drop_name` once every process that shares the cache has opened it.
        root: the data set's folder; moved as a whole, it keeps its cache.
        folder: of the files, for "disk".
        listing: the annotation file; the cache of what it listed before is removed.
        quiet: do not say that another process is waited for.
    Raises:
        InputError: the folder cannot be used or is too small, or an image cannot be read.
    """
    if kind == "ram":
        folder = SHARED_MEMORY / f"rs-tinynet-{os.getuid()}"
        if not SHARED_MEMORY.is_dir():
            raise InputError(f"data.cache: ram needs {SHARED_MEMORY}, which this system lacks. Use data.cache=disk.")
    name, offsets, size = _layout(source, root)
    shapes = np.array([(r.height, r.width) for r in source.images], dtype=np.int64)
    path = folder / f"{name}.pixels"
    try:
        with _locked(folder, quiet):
            if kind == "disk":
                _remove_superseded(folder, os.path.relpath(listing.resolve(), folder.resolve()), name)
            else:
                _remove_orphans(folder)
            file = _open_complete(path, size)
            if file is None:
                path.unlink(missing_ok=True)
                _check_space(kind, folder, size, len(source))
                _fill(path, source.image, offsets, size, kind)
                file = _open_complete(path, size)
            fcntl.flock(file, fcntl.LOCK_SH)        # in use: see _remove_orphans
    except OSError as error:
        file = None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):     # of someone else: perhaps it may be read
            with suppress(OSError):
                file = _open_complete(path, size)
        if file is None:
            where = f"{folder}, which cannot be used ({error.strerror})"
            raise InputError(f"data.cache: {kind} keeps decoded images in {where}. {_way_out(kind)}") from None
    return PixelCache(path, file, shapes, offsets)


def _layout(source: Source, root: Path) -> tuple[str, np.ndarray, int]:
    """The name of a source's file, where each image begins in it (I,), and its size in bytes.

    Images lie in the order of their paths: annotation files that list the same images, as AI-TOD's versions do, share one.
    """
    entries = []
    for record in source.images:
        try:
            status = os.stat(record.path)
        except OSError as error:
            raise InputError(f"{record.path}: cannot be read ({error.strerror}). Restore the file.") from None
        relative = os.path.relpath(record.path, root)
        entries.append((relative, status.st_size, status.st_mtime_ns, record.width, record.height))
    order = sorted(range(len(entries)), key=entries.__getitem__)
    # Another version of OpenCV may decode to other pixels.
    digest = hashlib.sha256(repr((1, cv2.__version__, [entries[k] for k in order])).encode()).hexdigest()
    sizes = np.array([3 * entries[k][3] * entries[k][4] for k in order], dtype=np.int64)
    offsets = np.empty(len(order), dtype=np.int64)
    offsets[order] = np.cumsum(sizes) - sizes
    return digest[:32], offsets, int(sizes.sum())


def _open_complete(path: Path, size: int) -> FileIO | None:
    """The file; None when it is absent or not of that size."""
    with suppress(FileNotFoundError, NotADirectoryError):
        file = FileIO(path)
        if os.fstat(file.fileno()).st_size == size:
            return file
        file.close()
    return None


@contextmanager
def _locked(folder: Path, quiet: bool) -> Iterator[None]:
    """Alone among all processes that use the folder. The lock goes with the process, so a killed one leaves none."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not quiet:
                print(f"waiting for another process that fills {folder}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_superseded(folder: Path, listing: str, name: str) -> None:
    """Note which file a listing uses now, and remove those that no listing uses, and what killed processes left."""
    index = folder / "index.json"
    used = {}
    with suppress(OSError, ValueError):
        used = json.loads(index.read_text())
    used = {**used, listing: name} if isinstance(used, dict) else {listing: name}
    beside = folder / "index.json.new"
    beside.write_text(json.dumps(used, indent=1))
    os.replace(beside, index)
    for path in _our_files(folder):
        if path.suffix == ".partial" or path.stem not in used.values():
            path.unlink(missing_ok=True)


def _remove_orphans(folder: Path) -> None:
    """Remove what runs left that were killed before they could drop the name: what nobody has locked."""
    for path in _our_files(folder):
        with FileIO(path) as file, suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _our_files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if OURS.fullmatch(path.name)]


def _check_space(kind: str, folder: Path, size: int, count: int) -> None:
    """Refuse to begin what cannot end."""
    free = shutil.disk_usage(folder).free
    if kind == "ram":
        free = max(min(free, _available_memory()) - SPARE, 0)
    if size > free:
        raise InputError(f"data.cache: {kind} needs {_gigabytes(size)} for {count:,} decoded images, but {folder} has "
                         f"{_gigabytes(free)} free. {_way_out(kind)}")


def _available_memory() -> float:
    """Bytes that programs can still get; infinite where the system does not tell."""
    with suppress(OSError, IndexError, ValueError):
        return int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) * 1024
    return float("inf")


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB"


def _way_out(kind: str) -> str:
    if kind == "ram":
        return "Use data.cache=disk or data.cache=none, or give the container more (docker run --shm-size)."
    return "Set data.cache_dir to a folder on another disk, or use data.cache=none."


def _fill(path: Path, read: Callable[[int], np.ndarray], offsets: np.ndarray, size: int, kind: str) -> None:
    """Decode all images into the file, with all processors; it gets its name when the last one is on the disk."""
    partial = path.with_suffix(".partial")
    file = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    pool = ThreadPoolExecutor(_processors())            # decoding, as writing, leaves Python's lock to the others

    def write(index: int) -> None:
        data, at = memoryview(np.ascontiguousarray(read(index))).cast("B"), int(offsets[index])
        while data:
            written = os.pwrite(file, data, at)
            data, at = data[written:], at + written

    print(f"decoding {len(offsets):,} images into {path} ({_gigabytes(size)})", flush=True)
    try:
        os.truncate(file, size)
        for _ in tqdm(pool.map(write, range(len(offsets))), desc="decode", total=len(offsets), unit="img", leave=False,
                      disable=None):
            pass
        os.fsync(file)
        os.replace(partial, path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise InputError(f"data.cache: {kind} needs {_gigabytes(size)} for {len(offsets):,} decoded images, but {path.parent} "
                         f"cannot take them ({error.strerror}). {_way_out(kind)}") from None
    finally:
        pool.shutdown(cancel_futures=True)
        partial.unlink(missing_ok=True)
        os.close(file)


def _processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
