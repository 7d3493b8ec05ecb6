"""A small set for data.check, clean until a test spoils it."""
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.check.__main__ import main
from tests.data.aitod_parts import coco_function, parts  # noqa: F401  fixtures

CONFIG = """
[data]
root = "{root}"
train = "train.json"
val = "val.json"
test = "test.json"
[train]
image_size = 64
"""


class CleanSet:
    """Noise of 64 x 64 px with three boxes an image in three splits; spoilers change `content` and the files."""

    NAMES = ("alpha", "beta", "gamma")
    SPLITS = {"train": 6, "val": 3, "test": 3}
    BOXES = ([2, 3, 16, 16], [40, 3, 18, 16], [20.5, 40, 16, 20])       # of each image, one of a class

    def __init__(self, root: Path):
        self.root, self.content = root, {}
        for split in self.SPLITS:
            path = root / f"{split}.json"
            self.content[split] = json.loads(path.read_text()) if path.exists() else self.make(split)
        self.write()

    def make(self, split: str) -> dict:
        rng = np.random.default_rng(list(self.SPLITS).index(split))
        content = {"images": [], "annotations": [], "categories": [{"id": k + 1, "name": n} for k, n in enumerate(self.NAMES)]}
        for k in range(self.SPLITS[split]):
            name = f"{split}/{k}.png"
            self.picture(name, rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
            content["images"].append({"id": k + 1, "file_name": name, "width": 64, "height": 64})
            for label, box in enumerate(self.BOXES):
                content["annotations"].append({"id": 3 * k + label + 1, "image_id": k + 1, "category_id": label + 1,
                                               "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
        return content

    def picture(self, name: str, pixels: np.ndarray) -> None:
        (self.root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(self.root / "images" / name), pixels)

    def write(self) -> None:
        for split, content in self.content.items():
            (self.root / f"{split}.json").write_text(json.dumps(content))
        (self.root / "set.toml").write_text(CONFIG.format(root=self.root))

    def image(self, k: int, split: str = "train") -> dict:
        return self.content[split]["images"][k]

    def entry(self, k: int, split: str = "train") -> dict:
        return self.content[split]["annotations"][k]

    def add(self, split: str = "train", **fields) -> dict:
        """Another annotation, of image 2 unless said otherwise."""
        entry = {"id": 900, "image_id": 2, "category_id": 1, "bbox": [24, 20, 16, 16], "area": 256, "iscrowd": 0, **fields}
        if "area" not in fields and type(entry["bbox"]) is list:
            entry["area"] = entry["bbox"][2] * entry["bbox"][3]
        self.content[split]["annotations"].append(entry)
        return entry

    def remove(self, split: str, **fields) -> None:
        """All annotations with these fields."""
        entries = self.content[split]["annotations"]
        entries[:] = [e for e in entries if any(e[key] != value for key, value in fields.items())]

    def copy(self, source: str, target: str) -> None:
        shutil.copy(self.root / "images" / source, self.root / "images" / target)

    def cut(self, name: str, size: int) -> None:
        path = self.root / "images" / name
        path.write_bytes(path.read_bytes()[:size])


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return CleanSet(tmp_path_factory.mktemp("clean") / "set").root


@pytest.fixture
def clean(original, tmp_path) -> CleanSet:
    shutil.copytree(original, tmp_path / "set")
    return CleanSet(tmp_path / "set")


@pytest.fixture
def check() -> Callable[..., tuple[int, dict]]:
    """A run of data.check on root/set.toml: exit code and content of the JSON file."""
    def run(root: Path, *arguments: str) -> tuple[int, dict]:
        code = main(["--config", str(root / "set.toml"), "--json", str(root / "found.json"), "--workers", "1", *arguments])
        return code, json.loads((root / "found.json").read_text())
    return run
