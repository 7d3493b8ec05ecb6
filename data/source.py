"""Images and their objects in flat arrays: what every reader of annotations makes, and what the loaders read.

What cannot be learned (boxes outside the image, without area, objects that the set itself calls unfit) is left out in
training, and counted. Objects for testing are never changed.
"""
import hashlib
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.pixels import read_image
from data.raster import Scene, open_scene
from errors import InputError

FARTHEST = 1e9      # pixels; a coordinate beyond this is a mistake, and would not survive float32


class ImageRecord(NamedTuple):
    """One image of a data set."""

    id: int
    path: str
    width: int          # pixels
    height: int


@dataclass
class Source:
    """Images and their objects. Label k means category_ids[k], named class_names[k].

    Objects of image i are rows offsets[i] to offsets[i + 1] of `boxes` and `labels`.
    """

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: list[ImageRecord]
    boxes: np.ndarray           # (N, 4) float32, xyxy pixels
    labels: np.ndarray          # (N,) int64
    offsets: np.ndarray         # (I + 1,) int64
    changes: Counter = field(default_factory=Counter)      # what was done to annotations that cannot be learned
    note: str = ""              # where the images are listed, if not where the configuration says
    decoded: Callable[[int], np.ndarray] | None = None      # where `image` takes pixels from, if not from the files

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 BGR, perhaps read-only."""
        if self.decoded:
            return self.decoded(index)
        record = self.images[index]
        image = read_image(record.path)
        _check_size(record, image.shape[1], image.shape[0])
        return image

    def scene(self, index: int) -> Scene:
        """The image for use in a `with`, its rows one after the other where it is too large for memory."""
        record = self.images[index]
        scene = open_scene(record.path)
        _check_size(record, scene.width, scene.height)
        return scene

    def objects(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (n, 4) float32 and labels (n,) int64 of one image."""
        rows = slice(self.offsets[index], self.offsets[index + 1])
        return self.boxes[rows], self.labels[rows]

    def fingerprint(self) -> str:
        """The same for the same images and objects, wherever they lie."""
        digest = hashlib.sha256(repr([(r.id, r.width, r.height) for r in self.images]).encode())
        for array in (self.boxes, self.labels, self.offsets):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def summary(self) -> str:
        """One line: how many images, boxes and classes, and what was changed."""
        line = f"{len(self):,} images, {len(self.boxes):,} boxes, {len(self.class_names)} classes"
        empty = int((np.diff(self.offsets) == 0).sum())
        if empty:
            line += f", {empty:,} images without a box"
        for what, count in self.changes.items():
            line += f"; {count:,} {what}"
        return line + (f"; {self.note}" if self.note else "")


def _check_size(record: ImageRecord, width: int, height: int) -> None:
    if (width, height) != (record.width, record.height):
        raise InputError(
            f"{record.path}: is {width} x {height} px, but its annotations say {record.width} x {record.height}. Replace the "
            "file or mend its width and height in the annotations."
        )


def assemble(
    class_names: tuple[str, ...], category_ids: tuple[int, ...], images: list[ImageRecord], image: np.ndarray,
    label: np.ndarray, box: np.ndarray, unfit: tuple[str, np.ndarray], training: bool, note: str = "",
) -> Source:
    """Sort N objects by image and, in training, leave out what cannot be learned and clip the rest to its image.

    Args:
        image: (N,) int64 into images.
        label: (N,) int64 into class_names; below 0: of a class that is not wanted.
        box: (N, 4) float64, xyxy pixels.
        unfit: (N,) bool, objects that are not for training, and what to call them ("crowds").
    """
    changes = Counter()
    keep = label >= 0
    if training:
        size = np.array([(r.width, r.height) for r in images], dtype=np.float64).reshape(-1, 2)[image]
        clipped = np.clip(box, 0, np.concatenate((size, size), 1))
        solid = ((box[:, 2:] - box[:, :2]) > 0).all(1)
        visible = ((clipped[:, 2:] - clipped[:, :2]) > 0).all(1)
        name, out = unfit
        reasons = {
            f"{name} left out": keep & out,
            "boxes of zero size left out": keep & ~out & ~solid,
            "boxes outside their image left out": keep & ~out & solid & ~visible,
            "boxes clipped to their image": keep & ~out & solid & visible & (clipped != box).any(1),
        }
        changes.update({what: int(mask.sum()) for what, mask in reasons.items() if mask.any()})
        keep &= ~out & solid & visible
        box = clipped
    order = np.flatnonzero(keep)
    order = order[np.argsort(image[order], kind="stable")]
    offsets = np.concatenate(([0], np.cumsum(np.bincount(image[order], minlength=len(images)))))
    return Source(
        class_names, category_ids, images, box[order].astype(np.float32), label[order], offsets, changes, note
    )


def files_below(folder: Path, key: str) -> list[str]:
    """Paths of all files in a folder and its subfolders: one scan instead of a look at each file.

    Args:
        key: the configuration key or the option that named the folder, for messages.
    """
    if not folder.is_dir():
        relative = ", relative to data.root" if key.startswith("data.") else ""
        raise InputError(f"{key}: {folder} is not a folder. Name a folder{relative}.")
    walk = os.walk(folder, followlinks=True)
    files = [os.path.normpath(os.path.join(base, name)) for base, _, names in walk for name in names]
    if not files:
        raise InputError(f"{key}: {folder} is empty. Unpack the data set there, or name another folder.")
    return files
