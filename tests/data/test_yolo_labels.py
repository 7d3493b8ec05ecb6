"""YOLO's label files become the boxes that they describe, in either layout, and what they cannot mean is refused."""
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

import train
from data.check.__main__ import main as check
from data.yolo_labels import main
from errors import run

CUSTOM = str(Path(__file__).parents[2] / "configs/custom.toml")
NAMES = ("ship", "vehicle")


def write(root: Path, image: str, label: str | None, text: str = "", *, width: int = 200, height: int = 100) -> None:
    """An image of noise, and its label file."""
    path = root / image
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(image)).integers(0, 256, (height, width, 3))
    cv2.imwrite(str(path), noise.astype(np.uint8))
    if label:
        path = root / label
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def convert(root: Path, *options: str) -> dict:
    """Run the command; returns the content of the files by their names."""
    assert main(["--root", str(root), "--names", *NAMES, *options]) == 0
    return {file.stem: json.loads(file.read_text()) for file in (root / "annotations").glob("*")}


def test_boxes_are_those_of_the_shares(tmp_path):
    """200 x 100 px: (0.5, 0.5) is (100, 50); sides 0.1 and 0.2 are 20 and 20. An outline has the box around its corners."""
    text = "1 0.5 0.5 0.1 0.2\n\n0 0.1 0.1 0.3 0.1 0.2 0.5\n0 0.25 0.5 0.5 0.75 0.75 0.5 0.5 0.25\n"
    write(tmp_path, "images/train/sub/a.png", "labels/train/sub/a.txt", text)
    content = convert(tmp_path)["train"]
    assert content["categories"] == [{"id": 1, "name": "ship"}, {"id": 2, "name": "vehicle"}]
    assert content["images"] == [{"id": 1, "file_name": "train/sub/a.png", "width": 200, "height": 100}]
    assert [a["category_id"] for a in content["annotations"]] == [2, 1, 1]
    boxes = [a["bbox"] for a in content["annotations"]]
    np.testing.assert_allclose(boxes, [(90, 40, 20, 20), (20, 10, 40, 40), (50, 25, 100, 50)])
    assert [a["area"] for a in content["annotations"]] == [400, 1600, 5000]


@pytest.mark.parametrize("pattern", ["images/{0}/{1}.jpg labels/{0}/{1}.txt", "{0}/images/{1}.jpg {0}/labels/{1}.txt"])
def test_both_layouts_and_background(tmp_path, pattern, capsys):
    for split in ("train", "valid", "test"):
        for name, text in (("a", "0 0.5 0.5 0.1 0.1"), ("b", "")):
            write(tmp_path, *pattern.format(split, name).split(), text)
    image, label = pattern.format("train", "bare").split()
    write(tmp_path, image, None)
    (tmp_path / label).with_name("stranger.txt").write_text("0 0.5 0.5 0.1 0.1")
    (tmp_path / label).with_name("classes.txt").write_text("ship")
    content = convert(tmp_path)
    assert {name: (len(c["images"]), len(c["annotations"])) for name, c in content.items()} == {
        "train": (3, 1), "val": (2, 1), "test": (2, 1)}
    printed = capsys.readouterr().out
    assert "1 images without a label file; 1 label files without an image, such as" in printed and "stranger.txt" in printed
    settings = printed.splitlines()[-1].split("--config configs/custom.toml ")[1].split()
    capsys.readouterr()
    check(["--config", CUSTOM, *settings])
    assert "stops" not in capsys.readouterr().out


def test_the_printed_settings_train(tmp_path, capsys):
    write(tmp_path, "train/images/a.png", "train/labels/a.txt", "0 0.5 0.5 0.2 0.2\n1 0.2 0.2 0.1 0.1")
    elsewhere = tmp_path / "elsewhere"
    assert main(["--root", str(tmp_path), "--names", *NAMES, "--output", str(elsewhere)]) == 0
    settings = capsys.readouterr().out.splitlines()[-1].split("--config configs/custom.toml ")[1].split()
    files = [f"data.train={elsewhere}/train.json", "data.val=", "data.test="]
    assert settings == [f"data.root={tmp_path}", "data.images=.", *files]
    quick = ["train.epochs=1", "train.image_size=64", "train.batch_size=1", "train.nominal_batch=1", "train.workers=0",
             "train.amp=off", "model.mdca=false", "model.arb=false", "model.pfdh=false"]
    assert train.main(["--config", CUSTOM, "--output", str(tmp_path / "run"), *settings, *quick]) == 0


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("0 0.5 0.5 0.1", "line 1: has 4 numbers. Give class, x, y, width and height"),
        ("0 0.5 0.5 0.1 0.1 0.9", "line 1: has 6 numbers"),
        ("0 0.5 0.5 0.1 0.1\nship 0.5 0.5 0.1 0.1", "line 2: 'ship 0.5 0.5 0.1 0.1' are not numbers"),
        ("2 0.5 0.5 0.1 0.1", "line 1: is of class 2, but --names gives 2, numbered from 0"),
        ("0.5 0.5 0.5 0.1 0.1", "line 1: is of class 0.5"),
        ("0 90 40 20 20", "shares of the image's sides, from 0 to 1. Divide pixels by them"),
        ("0 nan 0.5 0.1 0.1", "shares of the image's sides"),
        ("0 0.5 0.5 -0.1 0.1", "shares of the image's sides"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, text, complaint, capsys):
    write(tmp_path, "images/train/a.png", "labels/train/a.txt", text)
    with pytest.raises(SystemExit) as left:
        run(lambda: main(["--root", str(tmp_path), "--names", *NAMES]))
    assert left.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"{tmp_path}/labels/train/a.txt: line " in error and complaint in error
    assert not (tmp_path / "annotations").exists()


def test_endings_in_capitals_links_and_an_empty_split(tmp_path):
    write(tmp_path, "images/train/A.JPG", "labels/train/A.TXT", "1 0.5 0.5 0.1 0.1")
    (tmp_path / "images/train/self").symlink_to(tmp_path / "images/train")
    (tmp_path / "images/test").mkdir()
    content = convert(tmp_path / "labels/..")
    assert {name: (len(c["images"]), len(c["annotations"])) for name, c in content.items()} == {"train": (1, 1)}


def test_folders_that_cannot_be_meant(tmp_path, capsys):
    def complaint(*options: str) -> str:
        with pytest.raises(SystemExit) as left:
            run(lambda: main(["--root", str(tmp_path), "--names", *NAMES, *options]))
        assert left.value.code == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    assert "holds neither images/train" in complaint()
    write(tmp_path, "images/train/a.png", None)
    assert "none of the 1 images in" in complaint() and "labels/train" in complaint()
    write(tmp_path, "images/train/a.png", "labels/train/a.txt")
    write(tmp_path, "images/val/a.png", None)
    write(tmp_path, "images/valid/a.png", None)
    assert "are both there. Move one away: val is one of them" in complaint()
    (tmp_path / "images/valid/a.png").unlink()
    assert "a name stands there twice" in complaint("--names", "ship", "ship")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/train.json").write_text("mine")
    assert "annotations is there already" in complaint()
    assert (tmp_path / "annotations/train.json").read_text() == "mine"
