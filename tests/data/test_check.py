"""data.check: every planted defect is found, exactly it, with its count and culprit; what train.py refuses is never passed."""
import gzip
import json
import re
import shutil

import cv2
import numpy as np
import pytest

from data.check.__main__ import main
from data.check.kinds import KINDS
from engine import config as configs
from engine.checking import refusal
from errors import InputError

NAMES = ("alpha", "beta", "gamma")
SPLITS = ("train", "val", "test")


def counts(found: dict) -> dict:
    return {f["kind"]: f["counts"] for f in found["findings"]}


def test_a_clean_set_is_clean(clean, check, capsys):
    code, found = check(clean.root)
    page = capsys.readouterr().out
    assert code == found["exit_code"] == 0 and found["findings"] == []
    assert "Nothing is wrong." in page and "12 image files were decoded" in page and "Exit code 0" in page
    assert [found["splits"][s]["images"] for s in SPLITS] == [6, 3, 3]
    assert found["splits"]["train"]["by_class"] == {"alpha": 6, "beta": 6, "gamma": 6}


def test_annotations_in_gzip_are_read(clean, check):
    (clean.root / "val.json").write_bytes(gzip.compress((clean.root / "val.json").read_bytes()))
    assert check(clean.root)[0] == 0


def rename(split, k, name):
    def change(s):
        old = s.image(k, split)["file_name"]
        (s.root / "images" / old).rename(s.root / "images" / name)
        s.image(k, split)["file_name"] = name
    return change


def spoil_all(*changes):
    return lambda s: [change(s) for change in changes]


def class_everywhere(s):
    for split in SPLITS:
        s.content[split]["categories"].append({"id": 9, "name": "delta"})


def large(s):
    s.picture("train/3.png", np.random.default_rng(9).integers(0, 255, (128, 64, 3), dtype=np.uint8))
    s.image(3)["height"] = 128
    for k in (9, 10, 11):
        s.entry(k)["bbox"][2:] = [20, 20]
        s.entry(k)["area"] = 400


# name: (kinds and counts, first culprit of the first kind, spoiler, arguments)
SPOILED = {
    "no file": ({"annotation_file": {"val": 1}}, {"detail": "val.json: No such file"}, lambda s: s.content.pop("val")),
    "a file that is no JSON": (
        {"annotation_file": {"val": 1}}, {"detail": "not JSON"}, lambda s: s.content.update(val="}{")),
    "a file of another kind": (
        {"annotation_file": {"val": 1}}, {"detail": "not a COCO file"}, lambda s: s.content["val"].pop("images")),
    "no image listed": (
        {"annotation_file": {"test": 1}}, {"detail": "lists no image"}, lambda s: s.content["test"].update(images=[])),
    "no category declared": (
        {"annotation_file": {"val": 1}}, {"detail": "declares no category"}, lambda s: s.content["val"].update(categories=[])),
    "an entry that is none": (
        {"broken_entry": {"train": 1}}, {"annotation": "annotation number 19"},
        lambda s: s.content["train"]["annotations"].append("x")),
    "an image without a name": (
        {"broken_entry": {"test": 1}, "unknown_image": {"test": 3}}, {"detail": "image {'id': 1"},
        lambda s: s.image(0, "test").pop("file_name")),
    "an image id twice": (
        {"image_id_twice": {"train": 1}, "image_missing": {"train": 1}, "image_empty": {"train": 1}},
        {"image": "more.png", "detail": "id 3"},
        lambda s: s.content["train"]["images"].append({**s.image(2), "file_name": "more.png"})),
    "an annotation id twice": (
        {"annotation_id_twice": {"test": 1}}, {"annotation": "annotation 1"}, lambda s: s.add("test", id=1)),
    "a category twice": (
        {"category_twice": {"train": 1}}, {"detail": "9 beta"},
        lambda s: s.content["train"]["categories"].append({"id": 9, "name": "beta"})),
    "an image that is not listed": (
        {"unknown_image": {"train": 1}}, {"annotation": "annotation 900", "detail": "image 77"}, lambda s: s.add(image_id=77)),
    "a category that is not declared": (
        {"unknown_category": {"val": 1}}, {"image": "val/1.png", "detail": "category 77"},
        lambda s: s.add("val", category_id=77)),
    "missing images": (
        {"image_missing": {"train": 2, "test": 1}}, {"split": "train", "image": "train/1.png"},
        lambda s: [(s.root / "images" / n).unlink() for n in ("train/1.png", "train/4.png", "test/0.png")]),
    "an image cut short": (
        {"image_unreadable": {"val": 1}}, {"image": "val/2.png", "detail": "cut short"}, lambda s: s.cut("val/2.png", 3000)),
    "an empty image file": (
        {"image_unreadable": {"train": 1}}, {"image": "train/2.png"}, lambda s: s.cut("train/2.png", 0)),
    "another size": (
        {"image_size": {"train": 1}}, {"image": "train/5.png", "detail": "is 64 x 64, annotated as 64 x 65"},
        lambda s: s.image(5).update(height=65)),
    "an impossible size": (
        {"size_invalid": {"train": 1}}, {"image": "train/5.png", "detail": "64 x 0"}, lambda s: s.image(5).update(height=0)),
    "a name that climbs out": (
        {"name_escapes": {"train": 1}}, {"image": "../images/train/0.png"},
        lambda s: s.image(0).update(file_name="../images/train/0.png")),
    "a file under two ids": (
        {"file_twice": {"train": 1}}, {"image": "train/0.png", "detail": "id 70"},
        lambda s: (s.content["train"]["images"].append({**s.image(0), "id": 70}), s.add(image_id=70))),
    "the same pixels in another file": (
        {"image_duplicate": {"train": 1}}, {"image": "train/4.png", "detail": "as train/1.png"},
        lambda s: s.picture("train/4.png", cv2.imread(str(s.root / "images/train/1.png")))),
    "a blank image": (
        {"image_blank": {"train": 1}}, {"image": "train/2.png"},
        lambda s: s.picture("train/2.png", np.full((64, 64, 3), 9, np.uint8))),
    "11 bits in a file of 16": (
        {"image_dark": {"train": 1}}, {"image": "train/2.png"},
        lambda s: s.picture("train/2.png", np.random.default_rng(9).integers(0, 2048, (64, 64, 3), dtype=np.uint16))),
    "an image larger than the input": ({"image_shrunk": {"train": 1}}, {"image": "train/3.png", "detail": "64 x 128"}, large),
    "an image without objects": (
        {"image_empty": {"val": 1}}, {"image": "val/0.png"}, lambda s: s.remove("val", image_id=1)),
    "a box of three numbers": (
        {"box_invalid": {"train": 1}}, {"annotation": "annotation 4", "detail": "[1, 2, 3]"},
        lambda s: s.entry(3).update(bbox=[1, 2, 3])),
    "a box with NaN": (
        {"box_invalid": {"test": 1}}, {"detail": "nan"}, lambda s: s.entry(3, "test").update(bbox=[1, float("nan"), 9, 9])),
    "a box of negative size": (
        {"box_negative": {"train": 1}}, {"detail": "[9, 9, 20, -3]"}, lambda s: s.entry(3).update(bbox=[9, 9, 20, -3])),
    "a box of zero width": (
        {"box_zero": {"train": 1}}, {"image": "train/1.png", "detail": "9, 9, 0 x 20"}, lambda s: s.add(bbox=[9, 9, 0, 20])),
    "a box outside": (
        {"box_outside": {"val": 1}}, {"detail": "70, 9, 20 x 20"}, lambda s: s.add("val", bbox=[70, 9, 20, 20])),
    "boxes partly outside": (
        {"box_partly_outside": {"train": 2}}, {"detail": "50, 20, 20 x 20"},
        lambda s: (s.add(bbox=[50, 20, 20, 20]), s.add(bbox=[-2, 30, 20, 20], id=901),
                   s.add(bbox=[50, 48, 14.05, 16], id=902))),               # the last one by rounding only
    "a thin box": (
        {"box_small": {"train": 1}}, {"detail": "19, 30, 1.9 x 20"}, lambda s: s.add(bbox=[19, 30, 1.9, 20])),
    "boxes twice": (
        {"box_duplicate": {"train": 2}}, {"annotation": "annotation 900", "detail": "as annotation 4"},
        lambda s: (s.add(bbox=s.BOXES[0]), s.add(bbox=s.BOXES[0], id=901), s.add(bbox=s.BOXES[0], category_id=2, id=902))),
    "a crowd": ({"not_learned": {"train": 1}}, {"annotation": "annotation 2"}, lambda s: s.entry(1).update(iscrowd=1)),
    "a negative area": ({"area_invalid": {"test": 1}}, {"detail": "-5"}, lambda s: s.entry(1, "test").update(area=-5)),
    "an area that is not that of the box": (
        {"area_differs": {"test": 1}}, {"detail": "9 instead of 256"}, lambda s: s.entry(0, "test").update(area=9)),
    "an area that is none": (
        {"refused": {"test": 1}}, {"detail": "area"}, lambda s: s.entry(0, "test").update(area="large")),
    "an object between the cells": (
        {"no_cell": {"train": 1}}, {"annotation": "annotation 900"}, lambda s: s.add(bbox=[8.5, 8.5, 3, 3])),
    "a class by another name": (
        {"class_unknown": {"test": 1}, "class_not_learned": {"test": 1}, "class_untested": {"test": 1}},
        {"detail": "gamma, like gama"}, lambda s: s.content["test"]["categories"][2].update(name="gama")),
    "a class that training lacks": (
        {"class_not_learned": {"val": 1}}, {"detail": "delta: 1 objects"},
        lambda s: (s.content["val"]["categories"].append({"id": 9, "name": "delta"}), s.add("val", category_id=9))),
    "a class without a training object": (
        {"class_untrained": {"val": 1, "test": 1}}, {"detail": "beta: 3 objects"}, lambda s: s.remove("train", category_id=2)),
    "a class without a test object": (
        {"class_untested": {"test": 1}}, {"detail": "beta: 6 objects"}, lambda s: s.remove("test", category_id=2)),
    "a class without objects": ({"class_empty": {"all": 1}}, {"detail": "delta"}, class_everywhere),
    "no object to train on": (
        {"no_usable_box": {"train": 1}, "class_untrained": {"val": 3, "test": 3}, "image_empty": {"train": 6}},
        {"detail": "train.json"}, lambda s: s.content["train"].update(annotations=[])),
    "a file in two splits": (
        {"overlap_file": {"train/test": 1}}, {"image": "train/3.png"},
        lambda s: s.image(1, "test").update(file_name="train/3.png")),
    "the same pixels in two splits": (
        {"overlap_pixels": {"train/val": 1}}, {"image": "val/1.png", "detail": "as train/3.png"},
        lambda s: s.copy("train/3.png", "val/1.png")),
    # of the test crop at (30, 0) the training crop at (0, 0) shows x below 34: of its boxes the centres at x 10 and 28.5
    "crops of one scene": (
        {"overlap_scene": {"train/test": 2}}, {"image": "7__30_0.png", "detail": "2 of 3 boxes"},
        spoil_all(rename("train", 0, "7__0_0.png"), rename("test", 0, "7__30_0.png"), rename("test", 1, "8__30_0.png"),
                  rename("test", 2, "7__0_64.png"))),
    "more objects than detections": (
        {"over_max_det": {"val": 3, "test": 3}}, {"image": "val/0.png", "detail": "3 objects"}, lambda s: None,
        "eval.max_det=2"),
    "more objects of a class than count": (
        {"over_class_limit": {"test": 1}}, {"image": "test/1.png", "detail": "2 of alpha"}, lambda s: s.add("test"),
        "eval.limits=1"),
}


def spoil(clean, case) -> tuple[str, ...]:
    case[2](clean)
    (clean.root / "val.json").unlink()
    clean.write()
    if clean.content.get("val") == "}{":
        (clean.root / "val.json").write_text("}{")
    return case[3:]


@pytest.mark.parametrize("name", SPOILED)
def test_a_planted_defect_is_found_and_nothing_else(clean, check, name, capsys):
    expected, culprit, *_ = SPOILED[name]
    code, found = check(clean.root, *spoil(clean, SPOILED[name]))
    assert counts(found) == expected
    finding = next(f for f in found["findings"] if f["kind"] == next(iter(expected)))
    for key, text in culprit.items():
        assert text in finding["culprits"][0][key]
    assert code == found["exit_code"] == int(any(KINDS[kind].level != "note" for kind in expected))
    page = capsys.readouterr().out
    for f in found["findings"]:
        assert f"{f['level']:<6} {f['title']}: " in page and f["effect"] and f["remedy"]
    lines = page.splitlines()
    assert len(lines) < 66 and all(len(line) <= 120 for line in lines if str(clean.root) not in line)


@pytest.mark.parametrize("name", SPOILED)
def test_what_stops_is_what_train_and_test_refuse(clean, name):
    """Images are the exception: they are opened when their turn comes."""
    arguments = spoil(clean, SPOILED[name])
    config = configs.load(clean.root / "set.toml", list(arguments))
    refused = {split for split in SPLITS if refusal(config, split, () if split == "train" else NAMES)}
    opened_later = {"image_unreadable", "image_size", "no_usable_box"}
    expected = {split for kind, by_split in SPOILED[name][0].items() for split in by_split
                if KINDS[kind].level == "stops" and kind not in opened_later}
    assert refused == expected


def test_enough_kinds_are_planted():
    planted = {kind for expected, *_ in (*SPOILED.values(), *SPOILED_VOC.values()) for kind in expected}
    assert planted == set(KINDS)


def test_all_defects_at_once_are_all_found(clean, check):
    """Those that leave the rest of the set readable and do not hide each other."""
    names = ["an annotation id twice", "a box outside", "boxes twice", "an image cut short", "a category that is not declared",
             "another size", "a blank image", "the same pixels in another file", "a class without a test object",
             "a box of negative size", "missing images", "crops of one scene"]
    for name in names:
        if name != "missing images":
            SPOILED[name][2](clean)
    (clean.root / "images/train/1.png").unlink()            # others of its images have moved
    clean.write()
    code, found = check(clean.root)
    kinds = set(counts(found))
    assert code == 1 and {next(iter(SPOILED[name][0])) for name in names} <= kinds | {"image_duplicate"}


ODD = (None, True, -1, 0, 1e300, float("nan"), float("inf"), "", "x", [], {}, [1, 2], [[]], 10**400, 10**300, "../a.png",
       "train/0.png")


def places_in(node, path=()):
    """Paths of all values in nested lists and dicts."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places_in(value, (*path, key))


@pytest.mark.parametrize("seed", range(8))
def test_no_damage_stops_the_check_nor_passes_it_when_it_is_refused(clean, check, seed):
    rng = np.random.default_rng(seed)
    sound = json.dumps(clean.content)
    for _ in range(8):
        clean.content = json.loads(sound)
        for _ in range(rng.integers(1, 4)):
            everywhere = list(places_in(clean.content))
            *path, last = everywhere[rng.integers(3, len(everywhere))]
            node = clean.content
            for step in path:
                node = node[step]
            if rng.random() < 0.2:
                del node[last]
            else:
                node[last] = ODD[rng.integers(len(ODD))]
        clean.write()
        code, found = check(clean.root)
        config = configs.load(clean.root / "set.toml")
        classes = ()
        for split in SPLITS:
            if refusal(config, split, classes):
                assert code == 1, split
            classes = NAMES


@pytest.fixture
def voc(tiny_voc):
    (tiny_voc.root / "set.toml").write_text(
        f'[data]\nroot = "{tiny_voc.root}"\ntrain = "ImageSets/Main/train.txt"\nval = "ImageSets/Main/val.txt"\n'
        'test = "ImageSets/Main/test.txt"\nimages = "JPEGImages"\nclasses = ["alpha", "beta", "gamma"]\n'
        "[train]\nimage_size = 96\n")
    return tiny_voc


def thing(name="alpha", box=(1, 1, 20, 25), extra=""):
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name>{extra}<bndbox>{corners}</bndbox></object>"


def with_thing(**options):
    return lambda v: v.write(0, v.xml(0).replace("</annotation>", thing(**options) + "</annotation>"))


SPOILED_VOC = {
    "no list": ({"annotation_file": {"train": 1}}, {"detail": "train.txt"},
                lambda v: (v.root / "ImageSets/Main/train.txt").unlink()),
    "an empty list": ({"annotation_file": {"val": 1}}, {"detail": "lists no image"}, lambda v: v.list("val", [])),
    "a name twice": ({"name_twice": {"train": 2}}, {"image": "000", "detail": "3 times"},
                     lambda v: v.list("train", [*v.names[:8], "000", "000.png"])),
    "a name that climbs out": ({"name_escapes": {"train": 1}}, {"image": "../x"},
                               lambda v: v.list("train", [*v.names[:8], "../x"])),
    "no XML": ({"xml_missing": {"train": 1}}, {"image": "003"}, lambda v: (v.root / "Annotations/003.xml").unlink()),
    "broken XML": ({"xml_unreadable": {"train": 1}}, {"image": "003", "detail": "not XML"},
                   lambda v: v.write(3, "<annotation><size>")),
    "no image": ({"image_missing": {"train": 1}}, {"image": "003"}, lambda v: (v.root / "JPEGImages/003.png").unlink()),
    "two images of one name": (
        {"image_ambiguous": {"train": 1}}, {"image": "003", "detail": "again/003.png"},
        lambda v: ((v.root / "JPEGImages/again").mkdir(),
                   shutil.copy(v.root / "JPEGImages/003.png", v.root / "JPEGImages/again/003.png"))),
    "an unknown class": ({"unknown_category": {"train": 1}}, {"image": "000", "detail": "'gama'"}, with_thing(name="gama")),
    "an object without a name": ({"broken_entry": {"train": 1}}, {"detail": "no name"}, with_thing(name=" ")),
    "a difficult object": ({"not_learned": {"train": 1}}, {"image": "000"}, with_thing(extra="<difficult>1</difficult>")),
    "reversed corners": ({"box_negative": {"train": 1}}, {"detail": "9, 1, 5, 20"}, with_thing(box=(9, 1, 5, 20))),
    "no number": ({"box_invalid": {"train": 1}}, {"detail": "9, top, 15, 20"}, with_thing(box=(9, "top", 15, 20))),
    "a box outside": ({"box_outside": {"train": 1}}, {"detail": "109, 0, 16 x 20"}, with_thing(box=(110, 1, 125, 20))),
    "a negative size": ({"size_invalid": {"train": 1}}, {"detail": "'-64' x '96'"},
                        lambda v: v.write(0, v.xml(0).replace("<width>", "<width>-"))),
}


@pytest.mark.parametrize("seed", range(4))
def test_no_damage_to_xml_stops_the_check_nor_passes_it_when_it_is_refused(voc, check, seed):
    rng = np.random.default_rng(seed)
    texts = [voc.xml(k) for k in range(12)]
    for _ in range(8):
        for k in rng.integers(12, size=2).tolist():
            parts = re.split(r"(<[^>]*>|[^<>]+)", texts[k])
            parts[rng.integers(len(parts))] = str(ODD[rng.integers(len(ODD))])
            voc.write(k, "".join(parts))
        code, _ = check(voc.root)
        config = configs.load(voc.root / "set.toml")
        assert code == 1 or not any(refusal(config, split, NAMES) for split in SPLITS)
        for k, text in enumerate(texts):
            voc.write(k, text)


@pytest.mark.parametrize("name", SPOILED_VOC)
def test_a_defect_of_a_voc_set_is_found_and_nothing_else(voc, check, name):
    _, before = check(voc.root)
    assert all(KINDS[kind].level == "note" for kind in counts(before))
    expected, culprit, change = SPOILED_VOC[name]
    change(voc)
    code, found = check(voc.root)
    assert {k: v for k, v in counts(found).items() if v != counts(before).get(k)} == expected
    finding = next(f for f in found["findings"] if f["kind"] == next(iter(expected)))
    for key, text in culprit.items():
        assert text in finding["culprits"][0][key]
    assert code == int(any(KINDS[kind].level != "note" for kind in expected))
    config = configs.load(voc.root / "set.toml")
    refused = {split for split in SPLITS if refusal(config, split, NAMES)}
    assert refused == {s for kind, by_split in expected.items() for s in by_split if KINDS[kind].level == "stops"}


def test_a_size_that_the_xml_lacks_is_taken_from_the_image(voc, check):
    outside = thing(box=(110, 1, 125, 20)) + "</annotation>"
    voc.write(0, re.sub("<size>.*</size>", "", voc.xml(0)).replace("</annotation>", outside))
    assert counts(check(voc.root)[1])["box_outside"] == {"train": 1}


def test_bad_arguments_are_named(clean, tmp_path):
    for arguments, message in (
        (["--splits", "train,tests"], "--splits: 'tests' is not one of train, val, test"),
        (["data.root=/nowhere"], "data.root: /nowhere is not a folder"),
        (["data.train=", "data.val=", "data.test="], "data.train: is not set"),
        (["--splits", "val", "data.val="], "data.val: is not set"),
        (["--workers", "0"], "--workers: 0 is too small"),
        (["--json", str(tmp_path)], "--json: .* cannot be written"),
        (["data.roots=1"], "unknown key 'data.roots'"),
    ):
        with pytest.raises(InputError, match=message):
            main(["--config", str(clean.root / "set.toml"), *arguments])
