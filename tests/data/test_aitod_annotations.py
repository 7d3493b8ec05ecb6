"""AI-TOD's annotation files: known by what they hold or are called, refused when they are something else, counted."""
import json

import pytest

from data import aitod_layout as layout
from data.aitod_annotations import counts_table, gather, read_lists
from errors import InputError


def test_an_annotation_file_is_never_replaced(parts, coco):
    assert parts.run() == 0
    parts.annotation("test").write_text(json.dumps(coco(parts.CROPS["test"], boxes=1)))
    assert "aitod_test_v1.json: is there already, with other content" in parts.refused()


BAD_FILES = {
    "absent": (lambda coco: None, "cannot be read .No such file"),
    "not JSON": (lambda coco: b"{", "is not JSON"),
    "binary": (lambda coco: b"\xff\xfe\x81", "is not JSON"),
    "a list": (lambda coco: [1], "not a COCO annotation file"),
    "no size": (lambda coco: coco([]) | {"images": [{"id": 1, "file_name": "a.png"}]}, "not a COCO annotation file"),
    "an endless size": (lambda coco: coco([]) | {"images": [{"file_name": "a.png", "width": float("inf"), "height": 800}]},
                        "not a COCO annotation file"),
    "other classes": (lambda coco: coco(["a.png"], classes=["plane", "ship"]),
                      "has the classes plane, ship, not just AI-TOD's eight"),
    "a stray category": (lambda coco: coco(["a.png"]) | {"annotations": [{"id": 1, "image_id": 0, "category_id": 9}]},
                         "annotation of category 9"),
    "another size": (lambda coco: coco([]) | {"images": [{"id": 0, "file_name": "a.png", "width": 1024, "height": 800}]},
                     "image 'a.png' measures 1024 x 800 px, where AI-TOD's have 800 x 800"),
    "a way out": (lambda coco: coco(["../a.png"]), "'../a.png', which names no file in the image folder"),
    "a NUL in a name": (lambda coco: coco(["a\0.png"]), r"'a\\x00.png', which names no file in the image folder"),
    "without xView": (lambda coco: coco([f"{k:04x}d.png" for k in range(1869)], boxes=-1869),
                      "1,869 images without xView alone"),
    "no split": (lambda coco: coco(["a.png"]), "neither its images nor its name tell which split"),
}


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_annotation_file_is_named(parts, coco, content, message):
    path = parts.root / "annotations/odd.json"
    content = content(coco)
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(InputError, match=message) as caught:
        parts.run("--annotations", str(path))
    assert "odd.json" in str(caught.value) and "\n" not in str(caught.value)
    assert parts.run() == 0                     # in a folder it is passed over


def test_a_damaged_file_of_a_split_is_not_passed_over_in_a_folder(parts):
    path = parts.annotation("train")
    path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")        # as a Mac's archives have beside each file
    path.write_bytes(path.read_bytes()[:200])
    assert f"{path}: is not JSON" in parts.refused()
    assert not parts.output.exists()


def test_two_files_for_one_split_must_be_equal(parts, coco):
    twin = parts.root / "annotations/small_train_v1_1.0.json"
    twin.write_bytes(parts.annotation("train").read_bytes())
    assert parts.run() == 0
    twin.write_text(json.dumps(coco(parts.CROPS["train"])))
    assert "are both AI-TOD train, and differ" in parts.refused()


FAMILIES = {        # names under which the files are passed on, and what they are
    "aitod_train": (1, "train"), "aitod_trainval": (1, "trainval"), "aitod_test": (1, "test"), "aitod_val_v1": (1, "val"),
    "small_trainval_v1_1.0": (1, "trainval"), "small_test_v1_1.0": (1, "test"), "small_trainval_v2_2.0": (2, "trainval"),
    "small_test_v2_2.0": (2, "test"), "small_train_v2_1.0": (2, "train"), "small_val_v2_1.0": (2, "val"),
    "aitod_trainval_v1_1.0": (1, "trainval"), "aitod_training_v1.0": (1, "train"), "aitod_validation_v1.0": (1, "val"),
    "aitodv2_train": (2, "train"), "aitodv2_trainval": (2, "trainval"), "aitodv2_test": (2, "test"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_families_of_names_are_known(tmp_path, name, coco):
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(coco(["1__0_0.png"])))
    (found,), notes = gather([path], {})
    assert (found.version, found.split) == FAMILIES[name] and not notes


def test_a_complete_file_is_known_by_what_it_holds(tmp_path, monkeypatch, coco):
    """All names are wrong, or say nothing; the numbers are small ones in the place of the published."""
    monkeypatch.setattr(layout, "IMAGES", {"train": 60, "val": 20, "trainval": 80, "test": 80})
    monkeypatch.setattr(layout, "BOXES", {split: (200,) * 8 for split in layout.SPLITS})
    for split, wrong in (("train", "aitod_test"), ("val", "x"), ("trainval", "aitod_train_v2"), ("test", "y")):
        parts = [split] if split != "trainval" else ["train", "val"]
        names = [f"{name}.png" for part in parts for name in layout.WITNESSES[part]]
        names += [f"{k:04x}d.png" for k in range(layout.IMAGES[split] - len(names))]
        content = coco(names, boxes=-len(names))
        path = tmp_path / f"{wrong}.json"
        for boxes, version, remarks in ((1601, 1, {"aitod_test": 1, "aitod_train_v2": 2}),
                                        (1714, 2, {"aitod_test": 1, "aitod_train_v2": 1})):
            content["annotations"] = [{"category_id": 1}] * boxes
            path.write_text(json.dumps(content))
            (found,), notes = gather([path], {})
            assert (found.version, found.split) == (version, split)
            assert len(notes) == remarks.get(wrong, 0)


def test_the_official_lists_tell_the_split(parts):
    folder = parts.root / "aitod_xview"
    folder.mkdir()
    for split in ("train", "val", "test"):
        (folder / f"aitod_xview_{split}.txt").write_text(str(parts.CROPS[split]))          # a Python list in one line
        parts.annotation(split).rename(parts.root / f"annotations/{'abc'[len(split) % 3]}.json")
    (folder / "xview_class_labels.txt").write_text("11:Fixed-wing Aircraft")
    assert parts.run("--lists", str(folder)) == 0
    assert {p.name for p in (parts.output / "annotations").iterdir()} == {
        f"aitod_{split}_v1.json" for split in ("train", "val", "trainval", "test")}
    assert read_lists([folder])["trainval"] == set(parts.CROPS["train"] + parts.CROPS["val"])
    for bad, told in ((parts.root, "holds no aitod_xview_"), (folder / "aitod_xview_all.txt", "cannot be read"),
                      (folder / "xview_class_labels.txt", "train, val, trainval or test")):
        assert told in parts.refused("--lists", str(bad))


def test_trainval_is_made_of_train_and_val_where_it_is_missing(parts):
    assert parts.run() == 0
    train, val, both = (json.loads((parts.output / "annotations" / f"aitod_{s}_v1.json").read_text())
                        for s in ("train", "val", "trainval"))
    name = {i["id"]: i["file_name"] for i in both["images"]}
    assert len(name) == len(both["images"]) == 8 and list(name.values()) == [
        i["file_name"] for part in (train, val) for i in part["images"]]
    assert len({a["id"] for a in both["annotations"]}) == len(train["annotations"]) + len(val["annotations"])
    apart = [({i["id"]: i["file_name"] for i in part["images"]}[a["image_id"]], a["bbox"], a["category_id"])
             for part in (train, val) for a in part["annotations"]]
    assert [(name[a["image_id"]], a["bbox"], a["category_id"]) for a in both["annotations"]] == apart
    del val["annotations"][0]["id"]
    parts.annotation("val").write_text(json.dumps(val))
    parts.output = parts.root / "third"
    assert "without a number for id" in parts.refused()
    parts.annotation("trainval").write_text(json.dumps(both, indent=2))         # a published one is taken as it is
    assert parts.run(output=parts.root / "second") == 0
    kept = parts.root / "second/annotations/aitod_trainval_v1.json"
    assert kept.read_bytes() == parts.annotation("trainval").read_bytes()


def test_both_versions_share_the_images(parts, capsys, coco):
    assert parts.run() == 0
    images = {p: p.stat().st_mtime_ns for p in (parts.output / "images").iterdir()}
    for split in ("trainval", "test"):
        names = parts.names(*(("train", "val") if split == "trainval" else ("test",)))
        (parts.root / f"small_{split}_v2_2.0.json").write_text(json.dumps(coco(names, boxes=5)))
    capsys.readouterr()
    assert parts.run("--annotations", *(str(parts.root / f"small_{s}_v2_2.0.json") for s in ("trainval", "test"))) == 0
    assert {p: p.stat().st_mtime_ns for p in (parts.output / "images").iterdir()} == images
    assert {p.name for p in (parts.output / "annotations").iterdir()} == {
        f"aitod_{s}_v1.json" for s in ("train", "val", "trainval", "test")} | {"aitodv2_trainval.json", "aitodv2_test.json"}
    said = capsys.readouterr().out
    assert "configs/aitod_v2/rs_tinynet_m.toml data.root=" in said
    assert "for configs/aitod_v2/rs_tinynet_m_dev.toml the annotations of train, val are missing" in said
    boxes = sum(5 + k for k in range(8)) + sum(5 + k for k in range(4))
    assert f"752,746 boxes together; here {boxes}." in said


def test_counts_stand_beside_the_published_ones(parts):
    files, _ = gather([parts.root / "annotations"], {})
    lines = counts_table(1, files).splitlines()
    rows = {line[:14].strip(): line[14:].split() for line in lines}
    assert rows["AI-TOD"][::2] == ["train", "val", "trainval", "test"]
    assert rows["images"] == ["6", "11,214*", "2", "2,804*", "8", "14,018*", "4", "14,018*"]
    # Images of a split hold 3, 4, 5 ... boxes, whose classes count up from airplane.
    assert rows["airplane"] == ["6", "623*", "2", "170*", "8", "793*", "4", "745*"]
    assert rows["wind-mill"] == ["1", "176*", "0", "67*", "1", "243*", "0", "290*"]
    assert rows["boxes"] == ["33", "282,589*", "7", "70,426*", "40", "353,015*", "18", "347,630*"]
    equal = files[0]._replace(images=("",) * 11_214, boxes=layout.BOXES["train"])
    assert "*" not in counts_table(1, [equal])


def test_the_published_numbers_agree_with_each_other():
    """Totals as AI-TOD's paper, its issue 15 and the copies of its lists give them."""
    totals = {split: sum(counts) for split, counts in layout.BOXES.items()}
    assert totals == {"train": 282_589, "val": 70_426, "trainval": 353_015, "test": 347_630}
    assert [a + b for a, b in zip(layout.BOXES["train"], layout.BOXES["val"], strict=True)] == list(layout.BOXES["trainval"])
    assert sum(layout.FIRST_BOXES.values()) == 700_621
    for numbers in (layout.IMAGES, layout.CROPS):
        assert numbers["train"] + numbers["val"] == numbers["trainval"]
    assert layout.IMAGES["trainval"] + layout.IMAGES["test"] == 28_036
    assert all(layout.crop_of(f"{name}.png") for names in layout.WITNESSES.values() for name in names)
    assert len(set(sum(layout.WITNESSES.values(), ()))) == 24


def test_crops_begin_every_600_px_and_the_last_one_ends_at_the_border():
    assert layout.crop_starts(3819) == [0, 600, 1200, 1800, 2400, 3000, 3019]       # 1815__3000_1200, 1815__3019_600
    assert layout.crop_starts(3018) == [0, 600, 1200, 1800, 2218, 2400]             # 871__600_2400 crosses the border
    assert layout.crop_starts(1400) == [0, 600] and layout.crop_starts(2000) == [0, 600, 1200]
    assert layout.crop_starts(800) == layout.crop_starts(500) == [0]
    assert layout.crop_starts(801) == [0, 1]


@pytest.mark.parametrize(("name", "crop"), [
    ("1815__3019_600.png", ("1815", 3019, 600)), ("trainval/7__0_0.png", ("7", 0, 0)), ("00123__0_0.png", None),
    ("P0019__1.0__600___1200.png", None), ("7__0_0.jpg", None), ("7_0_0.png", None), ("3b444d792.png", None),
])
def test_a_crop_is_told_by_its_name(name, crop):
    assert layout.crop_of(name) == crop
