"""A made-up xView and the rest of AI-TOD, for the tests of data.prepare_aitod."""
import json
import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from data import aitod_layout as layout
from data import prepare_aitod
from errors import InputError

# Sides with and without a crop across the border, a multiple of the stride, exactly one crop, less than one.
SIZES = {"7": (2000, 1900), "12": (1400, 800), "305": (500, 700)}          # width, height
CROPS = {
    "train": ["7__0_0.png", "7__600_1200.png", "7__1200_1100.png", "12__600_0.png"],
    "val": ["7__1200_600.png"],
    "test": ["12__0_0.png", "305__0_0.png", "7__0_1100.png"],
}
OTHERS = {"train": ["3b444d792.png", "P0019__1.0__600___1200.png"], "val": ["00123__0_0.png"], "test": ["99_00_d_07__0_0.png"]}


def write_tiff(path: Path, rgb: np.ndarray) -> None:
    """A plain TIFF: three bands of 8 bits, no compression, strips of 64 rows behind the directory."""
    height, width, bands = rgb.shape
    strips = [rgb[k : k + 64].tobytes() for k in range(0, height, 64)]
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, None), (259, 3, 1, 1), (262, 3, 1, 2),
               (273, 4, len(strips), None), (277, 3, 1, bands), (278, 4, 1, 64), (279, 4, len(strips), None)]
    at = 8 + 2 + 12 * len(entries) + 4
    start = at + 6 + 8 * len(strips)
    offsets = start + np.cumsum([0, *map(len, strips[:-1])])
    places = {258: at, 273: at + 6, 279: at + 6 + 4 * len(strips)}
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    for tag, kind, count, value in entries:
        inline = struct.pack("<HH", value, 0) if kind == 3 and value is not None else struct.pack("<I", value or places[tag])
        head += struct.pack("<HHI", tag, kind, count) + inline
    tables = struct.pack(f"<I3H{len(strips)}I{len(strips)}I", 0, 8, 8, 8, *offsets, *map(len, strips))
    path.write_bytes(head + tables + b"".join(strips))


def scene_pixels(width: int, height: int, seed: int) -> np.ndarray:
    """(H, W, 3) RGB that differs everywhere, and from red to blue."""
    y, x = np.mgrid[:height, :width].astype(np.uint32)
    return np.stack([x * 7 + y + seed, x + y * 5 + x * y // 97, y * 3 + 100 + seed * x], 2).astype(np.uint8) | 1


def coco(names: list[str], boxes: int = 3, classes: tuple[str, ...] = layout.CLASSES) -> dict:
    """An annotation file; image k holds k + `boxes` objects."""
    content = {"images": [], "annotations": [], "categories": [{"id": k, "name": n} for k, n in enumerate(classes, 1)]}
    for k, name in enumerate(names):
        content["images"].append({"id": k, "file_name": name, "width": 800, "height": 800})
        for n in range(k + boxes):
            content["annotations"].append({"id": len(content["annotations"]) + 1, "image_id": k, "category_id": 1 + n % 8,
                                           "bbox": [10 * n, 5, 6, 7], "area": 42, "iscrowd": 0})
    return content


class Parts:
    """xView, AI-TOD_wo_xview and annotation files in folders of their own."""

    CROPS, OTHERS, ALL_CROPS = CROPS, OTHERS, [name for names in CROPS.values() for name in names]
    write_tiff, scene_pixels = staticmethod(write_tiff), staticmethod(scene_pixels)

    def __init__(self, root: Path):
        self.root, self.output = root, root / "out"
        (root / "xView/train_images").mkdir(parents=True)
        self.scenes = {n: scene_pixels(*size, seed=int(n)) for n, size in SIZES.items()}
        for number, rgb in self.scenes.items():
            write_tiff(self.tiff(number), rgb)
        (root / "annotations").mkdir()
        for split in CROPS:
            folder = root / "wo_xview/images" / split           # as the tool's guide says
            folder.mkdir(parents=True)
            for k, name in enumerate(OTHERS[split]):
                cv2.imwrite(str(folder / name), np.full((800, 800, 3), 40 + 30 * k, np.uint8))
            # An odd layout, which a rewritten file would lose.
            text = json.dumps(coco(CROPS[split] + OTHERS[split]), indent=1).replace("\n", "\r\n") + "\n\n"
            self.annotation(split).write_bytes(text.encode())

    def tiff(self, number: str) -> Path:
        return self.root / f"xView/train_images/{number}.tif"

    def annotation(self, split: str) -> Path:
        return self.root / f"annotations/aitod_{split}_v1.json"

    def run(self, *more: str, output: Path | None = None, **without: bool) -> int:
        """The command; `aitod=False` leaves an option out."""
        options = {"xview": self.root / "xView", "aitod": self.root / "wo_xview", "annotations": self.root / "annotations",
                   "output": output or self.output, "workers": 2}
        given = [text for key, value in options.items() if without.get(key, True) for text in (f"--{key}", str(value))]
        return prepare_aitod.main([*given, *more])

    def refused(self, *more: str, **without: bool) -> str:
        """The one line that the command refuses with."""
        with pytest.raises(InputError) as caught:
            self.run(*more, **without)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def expected(self, name: str) -> np.ndarray:
        """A crop's RGB by slicing, black beyond the border."""
        number, _, place = name.removesuffix(".png").partition("__")
        x, y = map(int, place.split("_"))
        pixels = np.zeros((800, 800, 3), np.uint8)
        inside = self.scenes[number][y : y + 800, x : x + 800]
        pixels[: len(inside), : len(inside[0])] = inside
        return pixels

    def names(self, *splits: str) -> list[str]:
        """All images of these splits."""
        return [name for split in splits for name in CROPS[split] + OTHERS[split]]


@pytest.fixture(scope="session", name="coco")
def coco_function() -> Callable[..., dict]:
    """The function that makes up an annotation file."""
    return coco


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    """Three scenes with eight crops, four other images, annotation files of train, val and test."""
    return Parts(tmp_path)
