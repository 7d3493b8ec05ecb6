"""Reading a VOC set: boxes and labels, DIOR's folders however they were unpacked, and every way in which it can be wrong."""
import re
import shutil
import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.coco import load_coco
from data.voc import load_voc, voc_truth
from errors import InputError
from eval.coco import COCO, evaluate

NAMES = ("alpha", "beta", "gamma")
DIOR = tuple(tomllib.loads((Path(__file__).parents[2] / "configs/dior/base.toml").read_text())["data"]["classes"])


def paths(root: Path, split: str = "train", images: str = "JPEGImages") -> tuple[Path, Path, Path]:
    return root / f"ImageSets/Main/{split}.txt", root / "Annotations", root / images


def load(voc, split="train", **options):
    return load_voc(*paths(voc.root, split), **{"training": True, **options})


def truth(voc, split="train", classes=NAMES):
    return voc_truth(*paths(voc.root, split), classes=classes)


def one(objects: str = "", size: str = "<size><width>96</width><height>64</height></size>") -> str:
    """The XML of one image."""
    return f"<annotation>{size}{objects}</annotation>"


def thing(name="alpha", box=(11, 11, 20, 25), extra="") -> str:
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name>{extra}<bndbox>{corners}</bndbox></object>"


def test_boxes_and_labels_are_those_of_the_same_set_as_coco(tiny_voc):
    for split, members in tiny_voc.SPLITS.items():
        source = load(tiny_voc, split, classes=NAMES)
        assert source.class_names == NAMES and source.category_ids == (1, 2, 3)
        assert [r.id for r in source.images] == list(range(1, len(members) + 1))
        for index, k in enumerate(members):
            boxes, labels = source.objects(index)
            expected = tiny_voc.objects(k)
            assert boxes.tolist() == [[x, y, x + w, y + h] for _, x, y, w, h in expected]
            assert [NAMES[label] for label in labels] == [name for name, *_ in expected]
            height, width = source.image(index).shape[:2]
            assert (width, height) == (source.images[index].width, source.images[index].height)


def test_a_box_from_the_first_to_the_last_pixel_is_the_whole_image(tiny_voc):
    """VOC counts from 1 and includes both corners; one pixel is a box of width 1."""
    tiny_voc.write(1, one(thing(box=(1, 1, 96, 64)) + thing(box=(96, 64, 96, 64)) + thing(box=(1.5, 2, 3.25, 4))))
    boxes, _ = load(tiny_voc).objects(1)
    assert boxes.tolist() == [[0, 0, 96, 64], [95, 63, 96, 64], [0.5, 1, 3.25, 4]]


def test_classes_order_the_labels_and_without_them_the_alphabet_does(tiny_voc):
    turned = load(tiny_voc, classes=("gamma", "alpha", "beta"))
    assert turned.class_names == ("gamma", "alpha", "beta")
    plain = load(tiny_voc)
    assert plain.class_names == NAMES
    assert [turned.class_names[k] for k in turned.labels] == [plain.class_names[k] for k in plain.labels]
    counts = {name: sum(name == other for k in range(8) for other, *_ in tiny_voc.objects(k)) for name in NAMES}
    assert dict(zip(NAMES, np.bincount(plain.labels, minlength=3).tolist(), strict=True)) == counts


def test_no_object_is_lost_to_the_case_of_a_letter(tiny_voc):
    tiny_voc.write(0, one(thing("Alpha") + thing("BETA") + thing("gamma") + thing(" alpha ")))
    declared = load(tiny_voc, classes=("Gamma", "alpha", "beta"))
    assert declared.class_names == ("Gamma", "alpha", "beta")
    assert declared.objects(0)[1].tolist() == [1, 2, 0, 1]
    assert load(tiny_voc).class_names == NAMES              # the common spelling
    assert len(load(tiny_voc).boxes) == len(declared.boxes)


def test_a_size_that_the_xml_lacks_comes_from_the_image(tiny_voc):
    zero = "<size><width>0</width><height>0</height></size>"
    for k, size in ((1, ""), (2, zero), (4, "<size><depth>3</depth></size>")):
        tiny_voc.write(k, one(thing(), size))
    records = load(tiny_voc).images
    assert [(records[k].width, records[k].height) for k in (1, 2, 4)] == [(96, 64), (96, 64), (96, 64)]


ODD = (
    ((-4, 11, 10, 20), "boxes clipped to their image", [0, 10, 10, 20]),
    ((91, 11, 100, 20), "boxes clipped to their image", [90, 10, 96, 20]),
    ((-40, 11, -20, 20), "boxes outside their image left out", None),
    ((97, 11, 99, 20), "boxes outside their image left out", None),
)


@pytest.mark.parametrize(("box", "what", "kept"), ODD)
def test_training_clips_or_leaves_out_and_counts_and_the_truth_keeps_all(tiny_voc, box, what, kept):
    tiny_voc.write(4, one(thing(box=box)))
    source = load(tiny_voc, classes=NAMES)
    assert source.objects(4)[0].tolist() == ([kept] if kept else [])
    assert source.changes == {what: 1} and f"1 {what}" in source.summary()
    x1, y1, x2, y2 = box[0] - 1, box[1] - 1, box[2], box[3]
    assert load(tiny_voc, classes=NAMES, training=False).objects(4)[0].tolist() == [[x1, y1, x2, y2]]
    entry = next(a for a in truth(tiny_voc)["annotations"] if a["image_id"] == 5)
    assert entry["bbox"] == [x1, y1, x2 - x1, y2 - y1] and entry["area"] == (x2 - x1) * (y2 - y1)


def test_difficult_objects_are_not_learned_and_are_marked_in_the_truth(tiny_voc):
    hard = "<difficult>1</difficult>"
    tiny_voc.write(4, one(thing(extra=hard) + thing("beta", extra="<difficult> 0 </difficult>") + thing("gamma")))
    source = load(tiny_voc, classes=NAMES)
    assert source.objects(4)[1].tolist() == [1, 2]
    assert source.changes == {"difficult objects left out": 1}
    assert load(tiny_voc, classes=NAMES, training=False).objects(4)[1].tolist() == [0, 1, 2]
    assert [a["difficult"] for a in truth(tiny_voc)["annotations"] if a["image_id"] == 5] == [1, 0, 0]


def test_the_truth_is_scored_as_any_coco_file(tiny_voc):
    """Perfect detections of it have an AP of 1, difficult or not; its numbers are those of the source for testing."""
    tiny_voc.write(4, one(thing(extra="<difficult>1</difficult>", box=(11.3, 11, 20.7, 25))))
    found, source = truth(tiny_voc), load(tiny_voc, classes=NAMES, training=False)
    assert [i["file_name"] for i in found["images"]] == [f"{k:03d}.png" for k in range(8)]
    assert [(i["id"], i["width"], i["height"]) for i in found["images"]] == [(r.id, r.width, r.height) for r in source.images]
    assert [(c["id"], c["name"]) for c in found["categories"]] == [(1, "alpha"), (2, "beta"), (3, "gamma")]
    assert [a["id"] for a in found["annotations"]] == list(range(1, len(source.boxes) + 1))
    assert [a["category_id"] - 1 for a in found["annotations"]] == source.labels.tolist()
    fractions = [a["bbox"] for a in found["annotations"] if a["image_id"] == 5]
    assert fractions == [[11.3 - 1, 10, 20.7 - (11.3 - 1), 15]]                 # not rounded to float32
    detections = [{k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.5} for a in found["annotations"]]
    assert evaluate(found, detections, COCO)["AP"] == pytest.approx(1)


def test_trainval_may_be_made_of_train_and_val(tiny_voc):
    source = load(tiny_voc, "trainval")
    assert [Path(r.path).stem for r in source.images] == tiny_voc.names[:10]
    assert re.search("listed in .*train.txt and .*val.txt, as there is no .*trainval.txt", source.summary())
    tiny_voc.list("trainval", tiny_voc.names[3:5])
    source = load(tiny_voc, "trainval")
    assert [Path(r.path).stem for r in source.images] == tiny_voc.names[3:5] and "listed" not in source.summary()


def test_a_list_may_hold_endings_folders_blank_lines_and_a_byte_order_mark(tiny_voc):
    deep = tiny_voc.root / "JPEGImages/deep"
    deep.mkdir()
    for k in (0, 1):
        (tiny_voc.root / f"JPEGImages/00{k}.png").rename(deep / f"00{k}.png")
    text = "\ufeff000.png\r\n\r\n  deep/001 \r\n002.JPG\r\n"
    (tiny_voc.root / "Annotations/deep").mkdir()
    (tiny_voc.root / "Annotations/001.xml").rename(tiny_voc.root / "Annotations/deep/001.xml")
    (tiny_voc.root / "ImageSets/Main/train.txt").write_bytes(text.encode())
    assert [Path(r.path).name for r in load(tiny_voc).images] == ["000.png", "001.png", "002.png"]


class Dior:
    """A made-up DIOR: two images to train, one to validate, one to test, each with objects of all twenty classes."""

    SPLITS = {"train": ["00001", "00003"], "val": ["00002"], "test": ["11726"]}

    def __init__(self, root: Path):
        self.root = root
        names = list(DIOR)
        for folder in ("ImageSets/Main", "Annotations/Horizontal Bounding Boxes", "Annotations/Oriented Bounding Boxes",
                       "JPEGImages-trainval", "JPEGImages-test"):
            (root / folder).mkdir(parents=True)
        for split, members in self.SPLITS.items():
            (root / f"ImageSets/Main/{split}.txt").write_text("\n".join(members))
            for shift, member in enumerate(members):
                objects = "".join(thing(n, (k + 1, 2 * k + 1, k + 10, 2 * k + 5 + shift)) for k, n in enumerate(names))
                text = one(objects, "<size><width>80</width><height>80</height><depth>3</depth></size>")
                (root / f"Annotations/Horizontal Bounding Boxes/{member}.xml").write_text(text)
                turned = text.replace("bndbox", "robndbox").lower()
                (root / f"Annotations/Oriented Bounding Boxes/{member}.xml").write_text(turned)
                folder = "JPEGImages-test" if split == "test" else "JPEGImages-trainval"
                cv2.imwrite(str(root / folder / f"{member}.jpg"), np.zeros((80, 80, 3), np.uint8))

    def move(self, old: str, new: str) -> None:
        (self.root / new).parent.mkdir(parents=True, exist_ok=True)
        (self.root / old).rename(self.root / new)

    def double(self, folder: str) -> None:
        self.move(folder, "aside")
        self.move("aside", f"{folder}/{folder}")


def merged(dior: Dior) -> None:
    for folder in ("JPEGImages-trainval", "JPEGImages-test"):
        shutil.copytree(dior.root / folder, dior.root / "JPEGImages", dirs_exist_ok=True)
        shutil.rmtree(dior.root / folder)


LAYOUTS = {
    "as published": lambda dior: None,
    "doubled image folders": lambda dior: (dior.double("JPEGImages-trainval"), dior.double("JPEGImages-test")),
    "one image folder": merged,
    "lists in Main": lambda dior: dior.move("ImageSets/Main", "Main"),
    "lists in ImageSets": lambda dior: (dior.move("ImageSets/Main", "aside"), (dior.root / "ImageSets").rmdir(),
                                        dior.move("aside", "ImageSets")),
    "XML in Annotations": lambda dior: (dior.move("Annotations/Horizontal Bounding Boxes", "aside"),
                                        shutil.rmtree(dior.root / "Annotations"), dior.move("aside", "Annotations")),
    "copies for another tool": lambda dior: shutil.copytree(dior.root / "JPEGImages-trainval", dior.root / "yolo/images"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_dior_is_read_however_it_was_unpacked(tmp_path, layout):
    dior = Dior(tmp_path)
    LAYOUTS[layout](dior)
    for split, members in (("trainval", ["00001", "00003", "00002"]), ("test", ["11726"])):
        source = load_voc(*paths(tmp_path, split, "."), classes=DIOR, training=True)
        assert [Path(r.path).name for r in source.images] == [f"{m}.jpg" for m in members]
        for index in range(len(members)):
            assert source.image(index).shape == (80, 80, 3)
            boxes, labels = source.objects(index)
            assert labels.tolist() == list(range(20))
            assert boxes[:, :3].tolist() == [[k, 2 * k, k + 10] for k in range(20)]


def test_dior_s_classes_are_alphabetical_and_twenty(tmp_path):
    """The order of the paper's Table II is the alphabet's, so that a set without data.classes has the same labels."""
    Dior(tmp_path)
    assert load_voc(*paths(tmp_path, "test", "."), training=True).class_names == DIOR
    assert len(set(DIOR)) == len(DIOR) == 20


def text(change):
    """A spoiled XML file of image 3, made of the text of a sound one with one object."""
    return lambda voc: voc.write(3, change(one(thing())))


def replaced(old, new):
    return text(lambda xml: xml.replace(old, new))


def names(*added):
    return lambda voc: voc.list("train", [*voc.names[:3], *added])


BAD = {
    "no XML file": (
        lambda voc: (voc.root / "Annotations/003.xml").unlink(), "XML files of 1 of 8 .*003.*Set data.annotations"),
    "no image": (lambda voc: (voc.root / "JPEGImages/003.png").unlink(), "images of 1 of 8 .*003.*Set data.images"),
    "XML cut short": (text(lambda xml: xml[:40]), "003.xml: not XML: .*line 1, column.*Replace"),
    "empty XML": (text(lambda xml: ""), "003.xml: not XML"),
    "an encoding that is none": (text(lambda xml: '<?xml version="1.0" encoding="no-such"?>' + xml), "003.xml: not XML"),
    "a web page": (text(lambda xml: "<html><body/></html>"), "003.xml: begins with <html>.*not a VOC annotation"),
    "XML that is a folder": (
        lambda voc: ((voc.root / "Annotations/003.xml").unlink(), (voc.root / "Annotations/003.xml").mkdir()),
        "XML files of 1 of 8"),
    "no box": (text(lambda xml: one("<object><name>alpha</name></object>")), r"object 1 \('alpha'\) has no <bndbox>"),
    "an oriented box": (replaced("bndbox", "robndbox"), "object 1 .*no <bndbox>.*folder of horizontal boxes"),
    "no ymin": (replaced("<ymin>11</ymin>", ""), "object 1 .*no <ymin>.*xmin 11, xmax 20, ymax 25"),
    "text in a box": (replaced(">11</ymin>", ">top</ymin>"), "object 1 .*ymin top.*four finite numbers"),
    "an empty corner": (replaced(">11</ymin>", "></ymin>"), "object 1 .*four finite numbers"),
    "NaN in a box": (replaced(">11</ymin>", ">nan</ymin>"), "object 1 .*ymin nan.*four finite numbers"),
    "infinite box": (replaced(">25</ymax>", ">inf</ymax>"), "object 1 .*ymax inf.*four finite numbers"),
    "number beyond float32": (replaced(">25</ymax>", ">1e39</ymax>"), "object 1 .*ymax 1e39.*four finite numbers"),
    "reversed box": (replaced(">20</xmax>", ">5</xmax>"), "object 1 .*xmin 11, ymin 11, xmax 5, ymax 25.*reversed"),
    "no name": (replaced("<name>alpha</name>", ""), "object 1 has no <name>"),
    "an empty name": (replaced("alpha", " "), "object 1 has no <name>"),
    "difficulty that is none": (
        text(lambda xml: one(thing() + thing(extra="<difficult>maybe</difficult>"))), "object 2 .*'maybe'.*0 or 1"),
    "impossible size": (replaced("<width>96", "<width>1e300"), "003.xml: has the size '1e300' x '64'"),
    "negative size": (replaced("<width>96", "<width>-96"), "003.xml: has the size '-96' x '64'"),
    "size that is no number": (replaced("<width>96", "<width>wide"), "003.xml: has the size 'wide' x '64'"),
    "name that climbs out": (names("../secret"), r"'\.\./secret', which leaves"),
    "windows name that climbs out": (names("..\\secret"), "which leaves"),
    "absolute name": (names("/etc/passwd"), "'/etc/passwd', which leaves"),
    "name of the folder": (names("."), "'.', which leaves"),
    "name that no file has": (names("nowhere"), "XML files of 1 of 4 .*nowhere"),
    "name in another folder": (names("deep/003"), "XML files of 1 of 4 .*deep/003"),
    "name listed twice": (names("000"), "lists '000' 2 times"),
    "name listed with and without its ending": (names("000.png"), "lists '000' 2 times"),
    "empty list": (lambda voc: voc.list("train", []), "train.txt: lists no image"),
    "list that is no text": (
        lambda voc: (voc.root / "ImageSets/Main/train.txt").write_bytes(b"\xff\xd8\xff\x00"), "train.txt: cannot be read"),
    "list that is a folder": (
        lambda voc: ((voc.root / "ImageSets/Main/train.txt").unlink(), (voc.root / "ImageSets/Main/train.txt").mkdir()),
        "train.txt is a folder"),
    "no list": (lambda voc: (voc.root / "ImageSets/Main/train.txt").unlink(), "train.txt does not exist.*data.root"),
    "no folder of XML": (lambda voc: (voc.root / "Annotations").rename(voc.root / "a"), "data.annotations: .*not a folder"),
    "no folder of images": (lambda voc: (voc.root / "JPEGImages").rename(voc.root / "a"), "data.images: .*not a folder"),
    "two images of one name": (
        lambda voc: shutil.copytree(voc.root / "JPEGImages", voc.root / "JPEGImages/again"),
        "'000' stands for both .*Set data.images"),
    "two XML files of one name": (
        lambda voc: shutil.copytree(voc.root / "Annotations", voc.root / "Annotations/again"),
        "'000' stands for both .*Set data.annotations"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("use", ["train", "test"])
def test_what_is_wrong_is_named_in_one_line(tiny_voc, spoil, message, use):
    spoil(tiny_voc)
    with pytest.raises(InputError, match=message) as caught:
        load(tiny_voc) if use == "train" else truth(tiny_voc)
    assert re.fullmatch("data[.](train|test|images|annotations): .*", str(caught.value))      # one line: . is no newline


def test_a_class_that_is_not_declared_is_named_with_the_nearest(tiny_voc):
    path = tiny_voc.write(3, one(thing() + thing("gama")))
    with pytest.raises(InputError, match=f"{path.name}: object 2 is a 'gama', .*3 classes .*Did you mean 'gamma'"):
        load(tiny_voc, classes=NAMES)
    with pytest.raises(InputError, match="'gamma', which is not one of the 2 classes .alpha, beta."):
        load(tiny_voc, classes=("alpha", "beta"))
    with pytest.raises(InputError, match="data.classes: lists 'Beta' twice"):
        load(tiny_voc, classes=("beta", "Beta"))


def test_a_set_without_objects_needs_its_classes_declared(tiny_voc):
    for k in range(8):
        tiny_voc.write(k, one(size=""))
    with pytest.raises(InputError, match="none of its 8 XML files holds an object.*data.classes"):
        load(tiny_voc)
    source = load(tiny_voc, classes=NAMES)
    assert source.boxes.shape == (0, 4) and "8 images without a box" in source.summary()
    assert truth(tiny_voc)["annotations"] == []


def test_trainval_that_overlaps_or_is_nowhere_is_named(tiny_voc):
    tiny_voc.list("val", tiny_voc.names[7:10])
    with pytest.raises(InputError, match=r"trainval.txt: lists '007' 2 times \(train.txt and val.txt together\)"):
        load(tiny_voc, "trainval")
    (tiny_voc.root / "ImageSets/Main/val.txt").unlink()
    with pytest.raises(InputError, match=r"trainval.txt does not exist \(nor train.txt and val.txt, which would do\)"):
        load(tiny_voc, "trainval")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_real_set_is_the_same_as_its_coco_file(real_voc, split):
    """The XML holds whole pixels: corners agree to half a pixel, and exactly where COCO's are whole."""
    classes = ("airplane", "storagetank", "ship", "vehicle")
    voc = load_voc(
        real_voc / f"voc/ImageSets/Main/{split}.txt", real_voc / "voc/Annotations", real_voc / "images", classes=classes,
        training=False,
    )
    coco = load_coco(real_voc / f"annotations/{split}.json", real_voc / "images", training=False)
    assert [(r.path, r.width, r.height) for r in voc.images] == [(r.path, r.width, r.height) for r in coco.images]
    assert voc.offsets.tolist() == coco.offsets.tolist() and voc.labels.tolist() == coco.labels.tolist()
    assert np.abs(voc.boxes - coco.boxes).max() <= 0.501
    whole = (coco.boxes == coco.boxes.round()).all(1)
    assert whole.mean() > 0.5 and (voc.boxes[whole] == coco.boxes[whole]).all()
