"""Generated scenes: the same for the same seed, AI-TOD's sizes, boxes on visible objects, a set that is whole or absent."""
import json

import cv2
import numpy as np
import pytest

from data import synthetic
from data.coco import load_coco
from data.sprites import NAMES
from errors import InputError


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """48 + 4 + 4 scenes with the default settings."""
    root = tmp_path_factory.mktemp("scenes") / "set"
    assert synthetic.generate(root, train=48, val=4, test=4)
    return root


def content(root, split="train"):
    return json.loads((root / "annotations" / f"{split}.json").read_text())


def test_the_annotations_are_what_coco_wants(scenes):
    source = load_coco(scenes / "annotations" / "train.json", scenes / "images", training=True)
    assert source.class_names == NAMES == (
        "airplane", "bridge", "storage-tank", "ship", "swimming-pool", "vehicle", "person", "wind-mill")
    assert source.category_ids == tuple(range(1, 9))
    assert not source.changes                                       # nothing to clip, nothing empty
    entries = content(scenes)["annotations"]
    assert [e["id"] for e in entries] == list(range(1, len(entries) + 1))
    assert all(e["area"] == e["bbox"][2] * e["bbox"][3] for e in entries)


def test_sizes_and_classes_are_aitods(scenes):
    entries = content(scenes)["annotations"]
    side = np.sqrt([e["area"] for e in entries])
    assert np.median(side) < 14
    assert 10 < side.mean() < 15
    assert 0.7 < (side < 16).mean() < 0.92
    counts = np.bincount([e["category_id"] for e in entries], minlength=9)[1:]
    assert counts.min() >= 10
    assert counts.argmax() == NAMES.index("vehicle")
    assert np.bincount([e["image_id"] for e in entries]).max() > 60


def test_a_picture_depends_on_seed_split_and_number_alone(scenes, tmp_path):
    synthetic.generate(tmp_path / "fewer", train=3, val=1, test=1, workers=1)
    for name in ("train/00002.png", "val/00000.png"):
        assert (tmp_path / "fewer" / "images" / name).read_bytes() == (scenes / "images" / name).read_bytes()
    some = [a["bbox"] for a in content(scenes)["annotations"] if a["image_id"] <= 3]
    assert [a["bbox"] for a in content(tmp_path / "fewer")["annotations"]] == some
    synthetic.generate(tmp_path / "other", train=1, val=1, test=1, seed=1, workers=1)
    name = "train/00000.png"
    assert (tmp_path / "other" / "images" / name).read_bytes() != (scenes / "images" / name).read_bytes()


def test_objects_stand_out_from_what_surrounds_them(scenes):
    """A box whose object had been painted over, or drawn elsewhere, would look like its surroundings."""
    labels = content(scenes)
    contrast = []
    for entry in labels["annotations"]:
        image = cv2.imread(str(scenes / "images" / labels["images"][entry["image_id"] - 1]["file_name"])).astype(float)
        x1, y1, w, h = entry["bbox"]
        x1, y1, x2, y2 = int(x1), int(y1), int(np.ceil(x1 + w)), int(np.ceil(y1 + h))
        inside = image[y1:y2, x1:x2].reshape(-1, 3)
        around = image[max(y1 - 3, 0) : y2 + 3, max(x1 - 3, 0) : x2 + 3].reshape(-1, 3)
        contrast.append(np.abs(inside - np.median(around, 0)).max(1).max())
    assert np.mean(np.array(contrast) > 25) > 0.97


def test_the_same_again_does_nothing_and_other_arguments_are_refused(scenes, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in scenes.rglob("*")}
    assert not synthetic.generate(scenes, train=48, val=4, test=4)
    with pytest.raises(InputError, match="holds something else"):
        synthetic.generate(scenes, train=48, val=4, test=4, seed=5)
    assert {p: p.stat().st_mtime_ns for p in scenes.rglob("*")} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not lose me")
    with pytest.raises(InputError, match="holds something else"):
        synthetic.generate(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_an_interrupted_run_leaves_no_half_set(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr(synthetic, "_coco", full_disk)
    with pytest.raises(OSError, match="no space"):
        synthetic.generate(tmp_path / "set", train=1, val=0, test=0, workers=1)
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_the_sizes(tmp_path, capsys):
    assert synthetic.main(["--output", str(tmp_path / "set"), "--train", "4", "--val", "1", "--test", "1"]) == 0
    assert "median" in capsys.readouterr().out
    with pytest.raises(InputError, match="--size: 32 is too small"):
        synthetic.main(["--output", str(tmp_path / "x"), "--size", "32"])
