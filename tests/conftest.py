"""Fixtures for all tests: a small COCO set on disk, and the real images where they are at hand."""
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

torch.set_num_threads(min(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`-m gpu` without a GPU skips instead of failing."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


class TinySet:
    """A COCO set of grey pictures with coloured rectangles: class k is painted in COLOURS[k]."""

    COLOURS = ((0, 0, 255), (0, 255, 0), (255, 0, 0))       # BGR
    NAMES = ("alpha", "beta", "gamma")
    IDS = (2, 5, 9)                                         # neither dense nor from 0

    def __init__(self, root: Path, count: int = 12, size: tuple[int, int] = (96, 64), seed: int = 0):
        self.root = root
        (root / "images").mkdir(parents=True)
        rng = np.random.default_rng(seed)
        content = {"images": [], "annotations": [], "categories": [
            {"id": i, "name": n} for i, n in zip(self.IDS, self.NAMES, strict=True)]}
        for k in range(count):
            width, height = size if k % 3 else size[::-1]
            picture = np.full((height, width, 3), 90, np.uint8) + rng.integers(0, 20, (height, width, 3), dtype=np.uint8)
            name = f"{k:03d}.png"
            content["images"].append({"id": 100 + k, "file_name": name, "width": width, "height": height})
            for cell in rng.permutation(6)[: 0 if k == 4 else rng.integers(1, 5)]:         # image 4 holds nothing
                label = int(rng.integers(3))
                w, h = (int(v) for v in rng.integers(9, 16, 2))
                x = int(cell % 3) * (width // 3) + int(rng.integers(0, width // 3 - w))
                y = int(cell // 3) * (height // 2) + int(rng.integers(0, height // 2 - h))
                picture[y : y + h, x : x + w] = self.COLOURS[label]
                content["annotations"].append({
                    "id": len(content["annotations"]) + 1, "image_id": 100 + k, "category_id": self.IDS[label],
                    "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0})
            cv2.imwrite(str(root / "images" / name), picture)
        self.content = content
        self.write()

    def write(self, content: dict | None = None, name: str = "train.json") -> Path:
        """Write an annotation file; returns its path."""
        path = self.root / name
        path.write_text(json.dumps(content or self.content))
        return path

    @property
    def images(self) -> Path:
        return self.root / "images"


@pytest.fixture
def tiny_set(tmp_path: Path) -> TinySet:
    """Twelve pictures of 96 x 64 or 64 x 96 px, three classes, one picture without objects."""
    return TinySet(tmp_path / "tiny")


@pytest.fixture(scope="session")
def shared_tiny_set(tmp_path_factory: pytest.TempPathFactory) -> TinySet:
    """The same for all tests, which leave it as it is."""
    return TinySet(tmp_path_factory.mktemp("shared") / "tiny")


class TinyVoc:
    """The same set as VOC: `root` holds Annotations, ImageSets/Main/{train,val,test}.txt and JPEGImages."""

    SPLITS = {"train": range(8), "val": range(8, 10), "test": range(10, 12)}

    def __init__(self, tiny: TinySet):
        self.root, self.content = tiny.root, tiny.content
        (self.root / "images").rename(self.root / "JPEGImages")
        (self.root / "Annotations").mkdir()
        (self.root / "ImageSets/Main").mkdir(parents=True)
        self.names = [Path(i["file_name"]).stem for i in self.content["images"]]
        for k in range(len(self.names)):
            self.write(k, self.xml(k))
        for split, members in self.SPLITS.items():
            self.list(split, [self.names[k] for k in members])

    def objects(self, k: int) -> list[tuple[str, int, int, int, int]]:
        """Class and x, y, width, height of the objects of image k."""
        image, name = self.content["images"][k]["id"], dict(zip(TinySet.IDS, TinySet.NAMES, strict=True))
        return [(name[a["category_id"]], *a["bbox"]) for a in self.content["annotations"] if a["image_id"] == image]

    def xml(self, k: int) -> str:
        """Image k as DIOR writes it: pixels are counted from 1, both corners belong to the box."""
        image = self.content["images"][k]
        objects = "".join(
            f"<object><name>{name}</name><pose>Unspecified</pose><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
            f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>" for name, x, y, w, h in self.objects(k)
        )
        return (f"<annotation><filename>{image['file_name']}</filename><size><width>{image['width']}</width><height>"
                f"{image['height']}</height><depth>3</depth></size><segmented>0</segmented>{objects}</annotation>")

    def write(self, k: int, text: str) -> Path:
        """Write the XML file of image k."""
        path = self.root / f"Annotations/{self.names[k]}.xml"
        path.write_text(text)
        return path

    def list(self, split: str, names: list[str]) -> Path:
        """Write a list of images."""
        path = self.root / f"ImageSets/Main/{split}.txt"
        path.write_text("\n".join(names) + "\n")
        return path


@pytest.fixture
def tiny_voc(tiny_set: TinySet) -> TinyVoc:
    """tiny_set as VOC, in the place of tiny_set."""
    return TinyVoc(tiny_set)


def shared_set(name: str) -> Path:
    """A folder of real images, or a skipped test. RS_TINYNET_DATA names the folder that holds them all."""
    folder = Path(os.environ.get("RS_TINYNET_DATA", Path(__file__).parents[2] / "shared" / "data")) / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there; set RS_TINYNET_DATA to the folder that holds {name}")
    return folder


@pytest.fixture(scope="session")
def real_set() -> Path:
    """tinyrs4_416: 622 real aerial images as COCO."""
    return shared_set("tinyrs4_416")


@pytest.fixture(scope="session")
def real_voc() -> Path:
    """tinyrs4: the same images at their own size, as COCO and, in the folder voc, as DIOR has its annotations."""
    return shared_set("tinyrs4")
