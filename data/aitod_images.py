"""AI-TOD's images: crops cut from xView's scenes, and the rest linked from where it was unpacked.

A file appears under its name when it is whole: it is written beside, synced and renamed. What cannot be made of a damaged
source is told, and does not keep the others from being made.

The work is done in threads: OpenCV decodes and encodes without Python's lock, and with threads nothing outlives a killed run.
"""
import os
import shutil
import threading
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from data.aitod_layout import SIDE, Crop, crop_starts
from errors import InputError

HEAD = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + 2 * SIDE.to_bytes(4, "big")          # how a PNG of 800 x 800 px begins
IEND = b"\0\0\0\0IEND\xaeB`\x82"            # and ends
SETTINGS = [cv2.IMWRITE_PNG_COMPRESSION, 1]     # a fifth smaller than OpenCV's default, 46 ms a crop instead of 28


class Scene(NamedTuple):
    """Crops of one scene, and the files that they become."""

    source: Path
    crops: list[tuple[Crop, Path]]

    def make(self, workshop: Path, natural: bool) -> list[str]:
        """Cut the crops, from pixels that are decoded once; returns what went wrong.

        Args:
            workshop: a folder for unfinished files, on the file system of the crops.
            natural: write true colours. Otherwise red and blue change places, as in AI-TOD: its tool reads RGB, but writes
                with OpenCV, which takes that for BGR.
        Raises:
            InputError: a crop cannot be written.
        """
        try:
            scene = read_scene(self.source)
        except InputError as error:
            return [str(error)]
        height, width = scene.shape[:2]
        troubles = []
        for crop, target in self.crops:
            if crop.x not in crop_starts(width) or crop.y not in crop_starts(height):
                troubles.append(f"{self.source}: is {width} x {height} px, so that it has no crop at {crop.x}, {crop.y} "
                                f"({target.name}). Restore the scene as xView has it")
                continue
            pixels = cut(scene, crop)
            if not pixels.any():        # AI-TOD's tool makes no such crop
                troubles.append(f"{self.source}: is black from {crop.x}, {crop.y} on ({target.name}), so that it must be "
                                "damaged. Unpack it again")
                continue
            _, png = cv2.imencode(".png", pixels if natural else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), SETTINGS)
            write_whole(target, png, workshop)
        return troubles

    def __len__(self) -> int:
        return len(self.crops)


class Picture(NamedTuple):
    """An image to be taken over as it is: the places where it was found, and its new name."""

    sources: list[Path]
    target: Path


class Pictures(NamedTuple):
    """Some images to be taken over."""

    pictures: list[Picture]

    def make(self, workshop: Path, natural: bool) -> list[str]:
        """Link each to the first of its sources that is whole, or copy that where links are not possible; see Scene.make."""
        troubles = []
        for sources, target in self.pictures:
            source = next((s for s in sources if is_whole(s)), None)
            if source is None:
                troubles.append(f"{sources[0]}: is no whole PNG of {SIDE} x {SIDE} px. Unpack it again")
            else:
                _take(source, target, workshop)
        return troubles

    def __len__(self) -> int:
        return len(self.pictures)


def cut(scene: np.ndarray, crop: Crop) -> np.ndarray:
    """Pixels of a crop, black beyond the border: (H, W, 3) -> (800, 800, 3) uint8."""
    inside = scene[crop.y : crop.y + SIDE, crop.x : crop.x + SIDE]
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[: inside.shape[0], : inside.shape[1]] = inside
    return pixels


def read_scene(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 BGR of a TIFF with three bands of 8 bits, unchanged. Anything else is an InputError."""
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Restore the file") from None
    try:
        scene = cv2.imdecode(content, cv2.IMREAD_UNCHANGED) if len(content) else None
    except cv2.error as error:
        way_out = "Unpack it again"
        if "MAX_IMAGE" in error.err:
            way_out = "Set the environment variable OPENCV_IO_MAX_IMAGE_PIXELS to more than its pixels"
        raise InputError(f"{path}: OpenCV refuses it ({' '.join(error.err.split())}). {way_out}") from None
    if scene is None:
        raise InputError(f"{path}: is no whole TIFF. Unpack it again")
    if scene.dtype != np.uint8 or scene.ndim != 3 or scene.shape[2] != 3:
        bands = 1 if scene.ndim == 2 else scene.shape[2]
        raise InputError(f"{path}: has {bands} band(s) of {scene.dtype}, not three of uint8. Take xView's own file")
    return scene


def is_whole(path: Path) -> bool:
    """Whether a file is a PNG of 800 x 800 px, by its beginning and its end: so tells one that is cut short or empty."""
    try:
        with open(path, "rb") as file:
            head = file.read(len(HEAD))
            file.seek(-len(IEND), os.SEEK_END)
            return head == HEAD and file.read() == IEND
    except OSError:         # absent, or too short to seek in
        return False


def write_whole(path: Path, content: bytes | np.ndarray, workshop: Path) -> None:
    """Write a file that is whole or absent under its name, whatever happens meanwhile."""
    beside = _beside(workshop)
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise _unwritable(path, error, beside) from None


def _take(source: Path, target: Path, workshop: Path) -> None:
    beside = _beside(workshop)
    source = source.resolve()       # os.link would link to a symbolic link
    try:
        try:
            os.link(source, beside)
        except OSError:             # another file system, or one without links
            shutil.copyfile(source, beside)
            with open(beside, "rb") as file:
                os.fsync(file.fileno())
        os.replace(beside, target)
    except OSError as error:
        raise _unwritable(target, error, beside) from None


def _beside(workshop: Path) -> Path:
    """A name in the workshop that no other thread uses."""
    return workshop / str(threading.get_ident())


def _unwritable(path: Path, error: OSError, beside: Path) -> InputError:
    beside.unlink(missing_ok=True)
    return InputError(f"{path}: cannot be written ({error.strerror}). Mend that and start the same command again: what is done "
                      "stays.")
