"""data.check on files that lie elsewhere or go by other names, without decoding, as a command, and on the real sets."""
import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.check.pictures import look_at
from data.check.places import family

ROOT = Path(__file__).parents[2]

# The names in use for AI-TOD's annotation files, by who uses them.
FAMILIES = {
    "the makers": ("aitod_{}.json", 1, ("train", "val", "trainval", "test")),
    "the mirrors": ("aitod_{}_v1.json", 1, ("train", "val", "trainval", "test")),
    "mmdet-aitod": ("small_{}_v1_1.0.json", 1, ("trainval", "test")),
    "mmdet-aitod, second version": ("small_{}_v2_2.0.json", 2, ("trainval", "test")),
    "mmdet-aitod, second version of train": ("small_{}_v2_1.0.json", 2, ("train", "val")),
    "DNTR": ("aitod_{}_v1_1.0.json", 1, ("trainval", "test")),
    "NWD": ("aitod_{}_v1.0.json", 1, ("training", "validation")),
    "DQ-DETR": ("aitodv2_{}.json", 2, ("train", "val", "trainval", "test")),
}


@pytest.mark.parametrize("users", FAMILIES)
def test_aitod_s_file_names_are_known(users):
    pattern, version, splits = FAMILIES[users]
    for split in splits:
        assert family(pattern.format(split)) == (version, {"training": "train", "validation": "val"}.get(split, split))
    for name in ("train.json", "aitod_dev.json", "aitod_train_v3.json", "aitod_train_v1.json.bak", "my_aitod_train.json"):
        assert family(name) is None


@pytest.mark.parametrize("users", FAMILIES)
def test_a_file_of_another_family_is_named_and_read(clean, check, users):
    pattern, version, splits = FAMILIES[users]
    (clean.root / "complete").mkdir()
    (clean.root / "train.json").rename(clean.root / "complete" / pattern.format(splits[0]))
    part = family(pattern.format(splits[0]))[1]
    wanted = f"aitod_{part}_v{version}.json"
    code, found = check(clean.root, f"data.train={wanted}")
    if wanted == pattern.format(splits[0]):                     # only the folder differs
        assert "complete/" in found["findings"][0]["remedy"]
    finding, = found["findings"]
    assert code == 1 and finding["kind"] == "annotation_file" and finding["counts"] == {"train": 1}
    assert f"data.train=complete/{pattern.format(splits[0])} is there" in finding["remedy"]
    assert found["splits"]["train"]["boxes"] == 18              # and all else was checked
    code, found = check(clean.root, f"data.train=complete/{pattern.format(splits[0])}")
    assert (code, found["findings"]) == (0, [])


def test_another_version_or_split_is_not_read_instead(clean, check):
    (clean.root / "train.json").rename(clean.root / "small_trainval_v2_2.0.json")
    for wanted in ("annotations/aitod_trainval_v1.json", "aitodv2_train.json"):
        code, found = check(clean.root, f"data.train={wanted}")
        assert code == 1 and "train" not in found["splits"] and "is there" not in found["findings"][0]["remedy"]


def test_a_near_name_is_proposed(clean, check):
    _, found = check(clean.root, "data.val=annotations/vall.json")
    assert "Did you mean data.val=val.json?" in found["findings"][0]["remedy"]


def test_another_splits_file_is_not_proposed(clean, check):
    """To test on the images of training would be worse than not to test."""
    (clean.root / "test.json").rename(clean.root / "evaluation.json")
    for wanted in ("trai.json", "vali.json", "evaluatio.json"):
        _, found = check(clean.root, f"data.test={wanted}")
        remedy = next(f["remedy"] for f in found["findings"] if f["kind"] == "annotation_file")
        assert "may be left empty (data.test=)." in remedy and "train.json" not in remedy and "val.json" not in remedy
    assert remedy.endswith("Did you mean data.test=evaluation.json?")




def flat(clean):
    """Names without folders, as AI-TOD has them."""
    for split, content in clean.content.items():
        for image in content["images"]:
            image["file_name"] = image["file_name"].replace("/", "_")
            (clean.root / "flat" / split).mkdir(parents=True, exist_ok=True)
            shutil.copy(clean.root / "images" / image["file_name"].replace("_", "/"),
                        clean.root / "flat" / split / image["file_name"])
    shutil.rmtree(clean.root / "images")
    clean.write()


def test_images_in_a_folder_for_each_split_have_to_be_gathered(clean, check):
    flat(clean)
    code, found = check(clean.root)
    finding, = found["findings"]            # all images were looked at where they are
    assert code == 1 and finding["counts"] == {"train": 6, "val": 3, "test": 3}
    assert "6 of train are elsewhere, such as flat/train/train_0.png." in finding["remedy"]
    assert "Gather flat/test, flat/train, flat/val in one folder" in finding["remedy"]
    assert found["images_looked_at"] == 12


def test_images_of_one_other_folder_need_only_be_named(clean, check):
    (clean.root / "images").rename(clean.root / "pictures")
    code, found = check(clean.root)
    finding, = found["findings"]
    assert code == 1 and finding["remedy"].endswith("Write data.images=pictures.")
    assert check(clean.root, "data.images=pictures")[0] == 0
    for image in clean.image(0), clean.image(1, "test"):
        image["file_name"] = f"deep/er/{image['file_name']}"
    clean.write()
    _, found = check(clean.root, "data.images=pictures")
    finding, = found["findings"]            # two files by other names are not taken for others of their last part
    assert finding["counts"] == {"train": 1, "test": 1} and "elsewhere" not in finding["remedy"]


def test_a_folder_in_the_names_that_the_images_are_not_in(clean, check):
    for content in clean.content.values():
        for image in content["images"]:
            image["file_name"] = f"dataset/{image['file_name']}"
    clean.write()
    _, found = check(clean.root)
    finding, = found["findings"]
    assert "6 of train are elsewhere, such as images/train/0.png" in finding["remedy"] and found["images_looked_at"] == 12


def test_names_may_have_folders_as_windows_writes_them(clean, check):
    for content in clean.content.values():
        for image in content["images"]:
            image["file_name"] = image["file_name"].replace("/", "\\")
    clean.write()
    code, found = check(clean.root)         # which asks what train.py and test.py say
    assert (code, found["findings"], found["images_looked_at"]) == (0, [], 12)


def test_classes_may_be_chosen(clean, check):
    code, found = check(clean.root, "data.classes=gamma,alpha")
    assert (code, found["findings"]) == (0, [])
    assert found["splits"]["train"]["by_class"] == {"gamma": 6, "alpha": 6}
    assert found["splits"]["train"]["left_out"] == {"beta": 6}
    assert check(clean.root, "data.classes=gamma,alfa")[1]["findings"][0]["culprits"][0]["detail"] == "alfa, like alpha"


def test_only_the_splits_that_are_asked_for_are_read(clean, check):
    clean.content["val"]["images"][0]["file_name"] = "train/0.png"
    clean.write()
    assert check(clean.root)[0] == 1
    assert check(clean.root, "--splits", "test,train")[0] == 0
    code, found = check(clean.root, "--splits", "val")
    assert code == 0 and list(found["splits"]) == ["val"]


def test_fast_reads_headers_only(clean, check):
    """It sees sizes, missing files and equal bytes, and no damage inside."""
    clean.cut("val/2.png", 3000)
    clean.copy("train/3.png", "val/1.png")
    clean.image(5).update(width=65)
    clean.write()
    slow, fast = check(clean.root)[1], check(clean.root, "--fast")[1]
    kinds = [{f["kind"]: f["counts"] for f in found["findings"]} for found in (slow, fast)]
    same = {"image_size": {"train": 1}, "overlap_pixels": {"train/val": 1}}
    assert kinds == [{"image_unreadable": {"val": 1}, **same}, same]
    assert slow["decoded"] and not fast["decoded"]


def test_pixels_are_compared_not_bytes(clean):
    pixels = np.random.default_rng(0).integers(0, 255, (8, 9, 3), dtype=np.uint8)
    names = ["a.png", "b.bmp", "c.png", "d.png"]
    for name, shown in zip(names, (pixels, pixels, pixels[::-1], pixels.reshape(9, 8, 3)), strict=True):
        cv2.imwrite(str(clean.root / name), shown)
    paths = [str(clean.root / name) for name in names]
    digests = [look_at(paths, workers=1)[p].digest for p in paths]
    assert digests[0] == digests[1] and len({*digests}) == 3
    assert not any(look_at(paths, fast=True, workers=1)[p].digest == look_at(paths, fast=True, workers=1)[paths[0]].digest != ""
                   for p in paths[1:])


def test_processes_see_what_one_process_sees(clean, check):
    """As a command, with its exit code and without a trace of the workers."""
    clean.cut("val/2.png", 3000)
    code, found = check(clean.root)
    command = [sys.executable, "-m", "data.check", "--config", clean.root / "set.toml", "--json", clean.root / "again.json"]
    done = subprocess.run([*command, "--workers", "2"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == code == 1 and "Traceback" not in done.stderr and "val/2.png" in done.stdout
    assert json.loads((clean.root / "again.json").read_text()) == found


SPLITS = ("train", "val", "test")


def configure(tmp_path, root, pattern, **keys):
    keys |= {"root": root} | {split: pattern.format(split) for split in SPLITS}
    (tmp_path / "set.toml").write_text("[data]\n" + "".join(f'{key} = "{value}"\n' for key, value in keys.items()))


def test_the_real_set_is_clean_but_for_its_smallest_objects(real_set, check, tmp_path):
    """Looked at by hand: no box repeats or stands out; 19 are under 2 px, as areas were scaled to 416 px."""
    configure(tmp_path, real_set, "annotations/{}.json")
    code, found = check(tmp_path, "train.image_size=416", "assigner.min_box_side=16")
    expected = {}
    for split in SPLITS:
        entries = json.loads((real_set / f"annotations/{split}.json").read_text())["annotations"]
        expected[split] = sum(min(e["bbox"][2:]) < 2 for e in entries)
        assert found["splits"][split]["boxes"] == len(entries)
    assert code == 0 and {f["kind"]: f["counts"] for f in found["findings"]} == {"box_small": expected}
    assert sum(expected.values()) == 19


@pytest.mark.parametrize("kind", ["coco", "voc"])
def test_the_real_set_at_its_own_size_is_clean(real_voc, check, tmp_path, kind):
    pattern = "annotations/{}.json" if kind == "coco" else "voc/ImageSets/Main/{}.txt"
    configure(tmp_path, real_voc, pattern, annotations="voc/Annotations")
    code, found = check(tmp_path, "--fast", "train.image_size=1312", "assigner.min_box_side=16")
    assert (code, found["findings"]) == (0, [])
    assert [found["splits"][s]["boxes"] for s in SPLITS] == [9663, 2926, 2811]
