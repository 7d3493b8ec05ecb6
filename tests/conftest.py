"""Fixtures for all tests: a small COCO set on disk, and the real images where they are at hand."""
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

torch.set_num_threads(min(2, os.cpu_count() or 1))


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


@pytest.fixture(scope="session")
def real_set() -> Path:
    """tinyrs4_416: 622 real aerial images. RS_TINYNET_DATA names the folder that holds it."""
    folder = Path(os.environ.get("RS_TINYNET_DATA", Path(__file__).parents[2] / "shared" / "data")) / "tinyrs4_416"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there; set RS_TINYNET_DATA to the folder that holds tinyrs4_416")
    return folder
