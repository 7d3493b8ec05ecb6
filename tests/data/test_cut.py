"""Tiles of large images hold the very pixels and, for each object, what a hand that draws it on the tile would draw."""
import gzip
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

import train
from data import raster
from data.check.overlap import CROP
from data.coco import load_coco
from data.cut import main
from data.tiling import Tiling
from errors import run
from tests import standin


class LargeSet:
    """Images of noise, with or without objects; `cut` runs the command on them."""

    def __init__(self, root: Path):
        self.root = root
        self.content = {"info": {"year": 2020}, "categories": [{"id": 4, "name": "ship"}, {"id": 9, "name": "crane"}],
                        "images": [], "annotations": []}

    def image(self, name: str, width: int, height: int) -> np.ndarray:
        """Add an image; returns its pixels, of which JPEG makes others."""
        identity = 10 * len(self.content["images"]) + 7
        pixels = np.random.default_rng(identity).integers(0, 256, (height, width, 3)).astype(np.uint8)
        path = self.root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), pixels)
        self.content["images"].append({"id": identity, "file_name": name, "width": width, "height": height, "license": 3})
        return pixels

    def object(self, *box: float, image: int = 0, **fields: object) -> None:
        """Add x, y, width, height."""
        self.content["annotations"].append({
            "id": 50 + len(self.content["annotations"]), "image_id": self.content["images"][image]["id"], "category_id": 9,
            "bbox": list(box), "area": 1.5, "iscrowd": 0, **fields})

    def write(self, name: str = "train.json", **changes: object) -> Path:
        path = self.root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(self.content | changes))
        return path

    def arguments(self, *options: str, names: tuple[str, ...] = ("train.json",), output: str = "cut") -> list[str]:
        return ["--annotations", *(str(self.root / n) for n in names), "--images", str(self.root / "images"), "--output",
                str(self.root / output), "--tile", "100", "--overlap", "40", *options]

    def cut(self, *options: str, **how: object) -> dict:
        """Write and cut; returns the content of the new train.json."""
        self.write()
        assert main(self.arguments(*options, **how)) == 0
        return json.loads((self.root / "cut/annotations/train.json").read_text())

    def pixels(self, name: str) -> np.ndarray:
        return cv2.imread(str(self.root / "cut/images" / name))


@pytest.fixture
def large(tmp_path: Path) -> LargeSet:
    return LargeSet(tmp_path)


def boxes(content: dict) -> dict[str, list[tuple[list[float], int]]]:
    """Boxes and iscrowd by file name."""
    names = {i["id"]: i["file_name"] for i in content["images"]}
    found = {name: [] for name in names.values()}
    for entry in content["annotations"]:
        assert entry["area"] == pytest.approx(entry["bbox"][2] * entry["bbox"][3])
        found[names[entry["image_id"]]].append((entry["bbox"], entry["iscrowd"]))
    return found


def test_where_tiles_lie_by_hand() -> None:
    """For data.cut as for --tile: both ask data/tiling.py."""
    grid = Tiling(100, 40).grid(230, 80)
    assert (grid.xs.tolist(), grid.ys.tolist(), grid.width, grid.height) == ([0, 60, 120, 130], [0], 100, 80)


@pytest.mark.parametrize("by_rows", [False, True])
def test_every_pixel_of_a_tile_is_the_sources(large: LargeSet, monkeypatch: pytest.MonkeyPatch, by_rows: bool) -> None:
    if by_rows:
        standin.install(monkeypatch)
        monkeypatch.setattr(raster, "WHOLE", 1000)
    wide, low = large.image("a.png", 230, 170), large.image("b.tif", 150, 60)
    with raster.open_scene(large.root / "images/b.tif") as scene:
        assert isinstance(scene, raster.RowScene) == by_rows
    content = large.cut()
    expected = {f"a__{x}_{y}.png": wide[y : y + 100, x : x + 100] for x in (0, 60, 120, 130) for y in (0, 60, 70)}
    expected |= {f"b__{x}_0.png": low[:, x : x + 100] for x in (0, 50)}
    assert {f.name for f in (large.root / "cut/images").iterdir()} == set(expected)
    assert [i["file_name"] for i in content["images"]][:5] == [
        "a__0_0.png", "a__60_0.png", "a__120_0.png", "a__130_0.png", "a__0_60.png"]
    for image in content["images"]:
        pixels = expected[image["file_name"]]
        assert np.array_equal(large.pixels(image["file_name"]), pixels)
        assert (image["height"], image["width"]) == pixels.shape[:2] and CROP.fullmatch(Path(image["file_name"]).stem)
    shown = np.zeros((170, 230), bool)
    for x, y in ((x, y) for x in (0, 60, 120, 130) for y in (0, 60, 70)):
        shown[y : y + 100, x : x + 100] = True
    assert shown.all()


def test_boxes_are_clipped_and_small_parts_become_crowds(large: LargeSet) -> None:
    """160 x 100 px are tiles at 0 and 60."""
    large.image("a.png", 160, 100)
    large.object(10, 20, 30, 10)                    # in the first alone
    large.object(90, 5, 20, 10)                     # exactly half in the first, whole in the second
    large.object(50, 40, 30, 10.5)                  # whole in the first, two thirds in the second
    large.object(92, 60, 20, 10)                    # 8 of 20 in the first
    large.object(150, 90, 40, 40)                   # 10 x 10 of it lie in the image, whole in the second
    large.object(0, 70, 160, 2, iscrowd=1)          # a crowd remains one, whatever its share
    large.object(200, 5, 4, 4)                      # outside
    large.object(30, 5, 0, 4)                       # without area
    assert boxes(large.cut()) == {
        "a__0_0.png": [([10, 20, 30, 10], 0), ([90, 5, 10, 10], 0), ([50, 40, 30, 10.5], 0), ([92, 60, 8, 10], 1),
                       ([0, 70, 100, 2], 1)],
        "a__60_0.png": [([30, 5, 20, 10], 0), ([0, 40, 20, 10.5], 0), ([32, 60, 20, 10], 0), ([90, 90, 10, 10], 0),
                        ([0, 70, 100, 2], 1)]}


@pytest.mark.parametrize("keep, marks", [("0", [0, 0]), ("0.1", [0, 0]), ("0.11", [1, 0]), ("0.95", [1, 1])])
def test_keep_is_the_share_from_which_an_object_belongs(large: LargeSet, keep: str, marks: list[int]) -> None:
    large.image("a.png", 160, 100)
    large.object(58.3, 20.7, 44.1, 10.3, category_id=4)         # 41.7 of 44.1 are 0.946, 42.4 are 0.961
    large.object(98.1, 20, 19, 7)                               # 1.9 of 19 in the first
    found = boxes(large.cut("--keep", keep))
    assert found["a__0_0.png"] == [([58.3, 20.7, 41.7, 10.3], marks[1]), ([98.1, 20, 1.9, 7], marks[0])]
    assert found["a__60_0.png"] == [([0, 20.7, 42.4, 10.3], 0), ([38.1, 20, 19, 7], 0)]


def test_an_object_that_fits_into_the_overlap_is_whole_in_a_tile(large: LargeSet) -> None:
    rng = np.random.default_rng(3)
    large.image("a.png", 407, 283)
    for number in range(200):
        w, h = rng.uniform(1, 40, 2).round(2).tolist()
        large.object(*(rng.uniform(0, (407 - w, 283 - h)).round(2).tolist()), w, h, number=number)
    content = large.cut()
    corners = {i["id"]: [int(v) for v in Path(i["file_name"]).stem.split("__")[1].split("_")] for i in content["images"]}
    whole = set()
    for entry in content["annotations"]:
        x, y = corners[entry["image_id"]]
        source = large.content["annotations"][entry["number"]]["bbox"]
        back = [entry["bbox"][0] + x, entry["bbox"][1] + y, *entry["bbox"][2:]]
        if back == pytest.approx(source, abs=1e-5):
            assert entry["iscrowd"] == 0
            whole.add(entry["number"])
    assert whole == set(range(200))


def test_fields_that_hold_are_kept_and_places_are_not(large: LargeSet) -> None:
    large.image("a.png", 160, 100)
    large.object(70, 5, 20, 10, segmentation=[[70, 5, 90, 5, 90, 15]], keypoints=[71, 6, 2], num_keypoints=1, difficult=1,
                 attributes={"night": True})
    content = large.cut()
    assert content["info"] == {"year": 2020} and content["categories"] == large.content["categories"]
    assert content["images"][1] == {"id": 2, "file_name": "a__60_0.png", "width": 100, "height": 100, "license": 3}
    assert content["annotations"][1] == {"id": 2, "image_id": 2, "category_id": 9, "bbox": [10, 5, 20, 10], "area": 200,
                                         "iscrowd": 0, "difficult": 1, "attributes": {"night": True}}


def test_small_images_stay_as_they_are_and_equal_names_apart(large: LargeSet) -> None:
    names = ("one/x.jpg", "two/x.png", "two/x.jpg", "two/X-2.png", "x__0_0.png")
    for name in names:
        large.image(name, 100, 64)
    large.image("three/x.png", 160, 64)
    for k in range(6):
        large.object(10 + k, 5, 20, 10, image=k)
    content = large.cut()
    made = [i["file_name"] for i in content["images"]]
    assert made == ["x__0_0.jpg", "x-2__0_0.png", "x-3__0_0.jpg", "X-2-2__0_0.png", "x__0_0__0_0.png", "x-4__0_0.png",
                    "x-4__60_0.png"]
    for name, copy in zip(names, made, strict=False):
        assert (large.root / "images" / name).read_bytes() == (large.root / "cut/images" / copy).read_bytes()
    assert [b[0][0][0] for b in list(boxes(content).values())[:6]] == [10, 11, 12, 13, 14, 15]


def test_files_share_what_they_both_list_and_empty_tiles_can_go(large: LargeSet, capsys: pytest.CaptureFixture) -> None:
    large.image("a.png", 160, 100)
    large.image("b.png", 160, 100)
    large.image("c.png", 50, 50)
    large.object(3, 5, 20, 10)                              # a at 0
    large.object(92, 5, 20, 10, image=1)                    # b at 60; at 0 a part
    first, second = large.content["annotations"]
    large.write("val.json", images=large.content["images"][:2], annotations=[{**first, "bbox": [120, 5, 20, 10]}, second])
    content = large.cut("--drop-empty", names=("train.json", "val.json"))
    assert list(boxes(content)) == ["a__0_0.png", "b__60_0.png"]
    assert list(boxes(json.loads((large.root / "cut/annotations/val.json").read_text()))) == ["a__60_0.png", "b__60_0.png"]
    assert {f.name for f in (large.root / "cut/images").iterdir()} == {"a__0_0.png", "a__60_0.png", "b__60_0.png"}
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("train.json: 3 images, 2 objects -> 2 tiles, 2 boxes") and out[1].startswith("val.json: 2 images")


def test_annotations_in_gzip_are_cut_alike(large: LargeSet) -> None:
    large.image("a.png", 160, 100)
    large.object(3, 5, 20, 10)
    content = large.cut()
    (large.root / "train.json.gz").write_bytes(gzip.compress((large.root / "train.json").read_bytes()))
    assert main(large.arguments(names=("train.json.gz",), output="packed")) == 0
    assert [path.name for path in (large.root / "packed/annotations").iterdir()] == ["train.json"]
    assert json.loads((large.root / "packed/annotations/train.json").read_text()) == content


def test_the_counts(large: LargeSet, capsys: pytest.CaptureFixture) -> None:
    large.image("a.png", 160, 100)                          # tiles at 0 and 60
    large.image("b.png", 160, 100)
    large.object(10, 20, 30, 10)                            # one box
    large.object(70, 20, 10, 10)                            # two boxes
    large.object(50, 40, 15, 10)                            # one box, and 5 of 15 left out
    large.object(50, 60, 20, 10)                            # two boxes, one of them cut to the half
    large.object(0, 80, 160, 10, category_id=4)             # 100 of 160 in each: two boxes, cut
    large.object(0, 95, 5, 0)                               # flat
    large.object(7, 90, 90, 8, iscrowd=1)                   # no object
    large.cut()
    assert capsys.readouterr().out == (
        "train.json: 2 images, 6 objects -> 4 tiles, 8 boxes, 3 of them cut, 1 smaller part(s) left out; 2 tile(s) without an "
        "object; 1 object(s) without area or outside their image\n")
    assert main(large.arguments("--keep", "0.7", "--drop-empty", output="other")) == 0
    assert capsys.readouterr().out.startswith(
        "train.json: 2 images, 6 objects -> 2 tiles, 5 boxes, 0 of them cut, 4 smaller part(s) left out; 2 tile(s) without an "
        "object, left out; 1 object(s) without area or outside their image; 1 object(s) in no tile, as none shows 0.7 of them")


BAD = {
    "small tile": (["--tile", "16"], "--tile: 16 is too small"),
    "overlap": (["--overlap", "100"], "--overlap: 100 is outside 0..99, as --tile is 100"),
    "share": (["--keep", "nan"], "--keep: nan is outside 0..1"),
    "no file": (["--annotations", "nowhere.json"], "--annotations: nowhere.json does not exist. Name a COCO JSON file."),
    "no folder": (["--images", "nowhere"], "--images: nowhere is not a folder. Name a folder."),
    "damaged": ([], "b.png: cannot be decoded"),
    "other size": ([], "c.png: is 120 x 100 px, but its annotations say 121 x 100"),
    "one name": ([], "--annotations: 2 files would become train.json"),
    "no object": (["--drop-empty"], "--drop-empty: no tile of"),
    "occupied": ([], "cut exists and is not an empty folder"),
    "impossible": ([], "cut cannot be made (Not a directory)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(large: LargeSet, capsys: pytest.CaptureFixture, case: str) -> None:
    for name in "abc":
        large.image(f"{name}.png", 120, 100)
    names = ("train.json",)
    if case != "no object":
        large.object(3, 5, 20, 10)
    if case == "damaged":
        path = large.root / "images/b.png"
        path.write_bytes(path.read_bytes()[:40])
    elif case == "other size":
        large.content["images"][2]["width"] = 121
    elif case == "one name":
        large.write("deep/train.json")
        names = ("train.json", "deep/train.json")
    elif case == "occupied":
        large.write("cut/thesis.txt")
    large.write()
    options, words = BAD[case]
    if case == "impossible":
        options = ["--output", str(large.root / "train.json/cut")]
    before = sorted(large.root.rglob("*"))
    with pytest.raises(SystemExit) as caught:
        run(lambda: main(large.arguments(*options, names=names)))
    error = [line for line in capsys.readouterr().err.splitlines() if line and not line.startswith("tiles:")]
    assert caught.value.code == 2 and len(error) == 1 and words in error[0], error
    assert sorted(large.root.rglob("*")) == before


def test_a_full_disk_leaves_nothing(large: LargeSet, monkeypatch: pytest.MonkeyPatch) -> None:
    large.image("a.png", 160, 100)
    large.write()

    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="no space"):
        main(large.arguments())
    assert sorted(f.name for f in large.root.iterdir()) == ["images", "train.json"]


def test_train_learns_from_the_tiles_and_not_from_the_parts(large: LargeSet, tmp_path: Path) -> None:
    large.image("a.png", 230, 170)
    large.object(92, 60, 20, 10)
    content = large.cut()
    marks = [e["iscrowd"] for e in content["annotations"]]
    source = load_coco(large.root / "cut/annotations/train.json", large.root / "cut/images", training=True)
    assert len(source.boxes) == marks.count(0) and source.changes == {"crowds left out": marks.count(1)} and marks.count(1)
    config = tmp_path / "tiny.toml"
    config.write_text('[data]\ntrain = "annotations/train.json"\n[model]\nscale = "n"\n[train]\nimage_size = 64\n'
                      'batch_size = 4\nnominal_batch = 4\nworkers = 0\ndevice = "cpu"\nepochs = 1\nmax_steps = 1\n')
    assert train.main(["--config", str(config), "--output", str(tmp_path / "run"), f"data.root={large.root / 'cut'}"]) == 0
    assert (tmp_path / "run/last.pt").exists()
