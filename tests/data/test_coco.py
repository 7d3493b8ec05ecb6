"""Reading a COCO set: labels and ids, what training leaves out, and every way in which a file can be wrong."""
import copy
import gzip

import cv2
import numpy as np
import pytest

from data.coco import load_coco
from errors import InputError


def load(tiny_set, content=None, **options):
    options = {"training": True, **options}
    return load_coco(tiny_set.write(content), tiny_set.images, **options)


def test_category_ids_become_labels_and_go_back(tiny_set):
    source = load(tiny_set)
    assert source.class_names == tiny_set.NAMES
    assert source.category_ids == tiny_set.IDS
    for index, record in enumerate(source.images):
        mine = [a for a in tiny_set.content["annotations"] if a["image_id"] == record.id]
        boxes, labels = source.objects(index)
        assert [source.category_ids[k] for k in labels] == [a["category_id"] for a in mine]
        assert boxes.tolist() == [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in mine)]
    assert source.objects(4)[0].shape == (0, 4)


def test_classes_choose_and_order_the_labels(tiny_set):
    source = load(tiny_set, classes=("gamma", "alpha"))
    assert source.category_ids == (9, 2)
    wanted = [a["category_id"] for a in tiny_set.content["annotations"] if a["category_id"] != 5]
    assert sorted(source.category_ids[k] for k in source.labels) == sorted(wanted)


def test_annotations_in_any_order_find_their_image(tiny_set):
    content = copy.deepcopy(tiny_set.content)
    content["annotations"].reverse()
    content["images"].reverse()
    straight, turned = load(tiny_set), load(tiny_set, content)
    for k in range(len(straight)):
        other = [r.id for r in turned.images].index(straight.images[k].id)
        assert sorted(straight.objects(k)[0].tolist()) == sorted(turned.objects(other)[0].tolist())


ODD = (
    ([-5, 10, 15, 10], "boxes clipped to their image", [0, 10, 10, 20]),
    ([-40, 10, 20, 10], "boxes outside their image left out", None),
    ([10, 10, 0, 8], "boxes of zero size left out", None),
    ([90, 10, 20, 100], "boxes clipped to their image", [90, 10, 96, 64]),
)


@pytest.mark.parametrize(("bbox", "what", "kept"), ODD)
def test_training_clips_or_leaves_out_and_counts(tiny_set, bbox, what, kept):
    content = copy.deepcopy(tiny_set.content)
    content["annotations"].append({"id": 999, "image_id": 104, "category_id": 2, "bbox": bbox, "area": 1, "iscrowd": 0})
    content["images"][4].update(width=96, height=64)
    source = load(tiny_set, content)
    assert source.objects(4)[0].tolist() == ([kept] if kept else [])
    assert source.changes == {what: 1}
    assert f"1 {what}" in source.summary()
    untouched = load(tiny_set, content, training=False)
    assert untouched.objects(4)[0].tolist() == [[bbox[0], bbox[1], bbox[0] + bbox[2], bbox[1] + bbox[3]]]


def test_crowds_are_left_out_of_training(tiny_set):
    content = copy.deepcopy(tiny_set.content)
    content["annotations"][0]["iscrowd"] = 1
    source = load(tiny_set, content)
    assert len(source.boxes) == len(content["annotations"]) - 1
    assert source.changes == {"crowds left out": 1}


def spoil(*path, value):
    """A change of one value in the content."""
    def change(content):
        for step in path[:-1]:
            content = content[step]
        content[path[-1]] = value
    return change


def drop(*path):
    def change(content):
        for step in path[:-1]:
            content = content[step]
        del content[path[-1]]
    return change


BAD = {
    "category that no one declared": (
        spoil("annotations", 3, "category_id", value=7), "annotation 4 .*names category 7.*2, 5, 9"),
    "category of a wrong type": (spoil("annotations", 3, "category_id", value=[5]), "annotation 4 .*names category"),
    "three numbers": (
        spoil("annotations", 2, "bbox", value=[1, 2, 3]), r"annotation 3 .*bbox \[1, 2, 3\].*four finite"),
    "number beyond float64": (spoil("annotations", 2, "bbox", value=[1, 2, 10**400, 4]), "annotation 3 .*four finite"),
    "number beyond float32": (spoil("annotations", 2, "bbox", value=[1, 2, 1e39, 4]), "annotation 3 .*four finite"),
    "text in a box": (spoil("annotations", 2, "bbox", value=[1, 2, 3, "4"]), "annotation 3 .*four finite"),
    "NaN in a box": (spoil("annotations", 2, "bbox", value=[1, 2, 3, float("nan")]), "annotation 3 .*four finite"),
    "infinite box": (spoil("annotations", 2, "bbox", value=[1, 2, float("inf"), 4]), "annotation 3 .*four finite"),
    "null box": (spoil("annotations", 2, "bbox", value=None), "annotation 3 .*four finite"),
    "no box": (drop("annotations", 2, "bbox"), "annotation 3 .*four finite"),
    "negative width": (spoil("annotations", 2, "bbox", value=[9, 9, -3, 4]), "annotation 3 .*must not be negative"),
    "unknown image": (spoil("annotations", 0, "image_id", value=7), "annotation 1 .*image 7.*does not list"),
    "image id of a wrong type": (spoil("annotations", 0, "image_id", value={}), "annotation 1 .*does not list"),
    "annotation that is no object": (spoil("annotations", 0, value=5), "annotation number 1 is not an object"),
    "crowd as text": (spoil("annotations", 2, "iscrowd", value="0"), "annotation 3 .*iscrowd '0'.*without quotes"),
    "repeated annotation id": (spoil("annotations", 1, "id", value=1), "annotation id 1 is used twice"),
    "repeated image id": (spoil("images", 1, "id", value=100), "image id 100 is used twice"),
    "image id of a wrong type ": (spoil("images", 1, "id", value="x"), "'001.png' has the id 'x'"),
    "repeated category id": (spoil("categories", 1, "id", value=2), "category id 2 is declared twice"),
    "repeated category name": (spoil("categories", 1, "name", value="alpha"), "'alpha' twice"),
    "no category": (spoil("categories", value=[]), "declares no category"),
    "category without a name": (drop("categories", 0, "name"), "needs a whole number 'id' and a text 'name'"),
    "category with half a character": (
        spoil("categories", 1, "name", value="b\ud800"), r"category 5 has a name with half a character.* 'b\\ud800'"),
    "image without a name": (drop("images", 0, "file_name"), "image 100 has no 'file_name'"),
    "image of an impossible size": (spoil("images", 0, "width", value=10**400), "image 100 .*has the size 1000"),
    "image without a size": (drop("images", 0, "width"), "image 100 .*size None x"),
    "image of zero size": (spoil("images", 0, "height", value=0), "image 100 .* x 0"),
    "name that climbs out": (
        spoil("images", 0, "file_name", value="../secret.png"), r"'\.\./secret\.png', which leaves"),
    "absolute name": (spoil("images", 0, "file_name", value="/etc/passwd"), "'/etc/passwd', which leaves"),
    "windows name that climbs out": (spoil("images", 0, "file_name", value="..\\x.png"), "which leaves"),
    "missing image": (spoil("images", 0, "file_name", value="nowhere.png"), "1 of 12 images are not in .*nowhere.png"),
    "no images": (spoil("images", value=[]), "lists no image"),
    "no list of annotations": (drop("annotations"), "no list 'annotations'"),
    "annotations that are no list": (spoil("annotations", value={}), "no list 'annotations'"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("training", [True, False])
def test_bad_content_is_named(tiny_set, change, message, training):
    content = copy.deepcopy(tiny_set.content)
    change(content)
    with pytest.raises(InputError, match=message) as caught:
        load(tiny_set, content, training=training)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["train.json.gz", "packed.json"])
def test_gzip_makes_no_difference(tiny_set, name):
    plain = load(tiny_set)
    (tiny_set.root / name).write_bytes(gzip.compress((tiny_set.root / "train.json").read_bytes()))
    packed = load_coco(tiny_set.root / name, tiny_set.images, training=True)
    assert packed.images == plain.images and packed.class_names == plain.class_names
    for index in range(len(plain)):
        for ours, theirs in zip(packed.objects(index), plain.objects(index), strict=True):
            assert np.array_equal(ours, theirs)


def test_a_damaged_gzip_file_is_named(tiny_set, tmp_path):
    whole = gzip.compress(np.random.default_rng(0).bytes(5000).hex().encode())
    middle = bytearray(whole)
    middle[2000:2100] = bytes(100)
    for damaged in (whole[:-9], whole[:5], bytes(middle), b"\x1f\x8bno gzip at all"):
        (tmp_path / "damaged.json").write_bytes(damaged)
        with pytest.raises(InputError, match="damaged.json: cannot be read .a gzip file that is damaged or was cut .*Replace"):
            load_coco(tmp_path / "damaged.json", tiny_set.images, training=True)


def test_bad_files_are_named(tiny_set, tmp_path):
    cases = {
        tmp_path / "absent.json": "data.train: .*absent.json does not exist",
        tmp_path: "is a folder",
        tmp_path / "broken.json": "broken.json: not JSON: .* at line 1, column",
        tmp_path / "list.json": "no list 'images'",
        tmp_path / "binary.json": "binary.json: (not JSON|cannot be read)",
    }
    (tmp_path / "broken.json").write_text('{"images": [')
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00\x81")
    for path, message in cases.items():
        with pytest.raises(InputError, match=message):
            load_coco(path, tiny_set.images, training=True)


def test_bad_folders_are_named(tiny_set, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, message in ((tmp_path / "empty", "data.images: .*is empty"), (tmp_path / "absent", "is not a folder")):
        with pytest.raises(InputError, match=message):
            load_coco(tiny_set.root / "train.json", folder, training=True)


def test_an_unknown_class_names_the_nearest(tiny_set):
    with pytest.raises(InputError, match="no category 'gama'. Did you mean 'gamma'"):
        load(tiny_set, classes=("alpha", "gama"))


def test_a_class_listed_twice_is_named(tiny_set):
    with pytest.raises(InputError, match="data.classes: lists 'beta' twice"):
        load(tiny_set, classes=("beta", "alpha", "beta"))


@pytest.mark.parametrize("kept", [0.99, 0.5, 0.02, 0])
@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_an_image_cut_short_is_named(tiny_set, kind, kept):
    """cv2.imread would make a picture of the JPEG, grey where data are missing."""
    content = copy.deepcopy(tiny_set.content)
    content["images"][0]["file_name"] = f"whole.{kind}"
    path = tiny_set.images / f"whole.{kind}"
    cv2.imwrite(str(path), cv2.imread(str(tiny_set.images / "000.png")))
    source = load(tiny_set, content)
    assert source.image(0).shape[2] == 3
    whole = path.read_bytes()
    for trailer in b"a camera's trailer", bytes(99), b"trailer" + bytes(99):        # what follows the end does no harm
        path.write_bytes(whole + trailer)
        source.image(0)
    start = int(len(whole) * kept)
    for rest in b"", bytes(len(whole) - start):             # zeros: room that was made for a download
        path.write_bytes(whole[:start] + rest)
        with pytest.raises(InputError, match=f"whole.{kind}: cannot be decoded"):
            source.image(0)


def test_broken_and_changed_images_are_named(tiny_set):
    source = load(tiny_set)
    (tiny_set.images / "000.png").write_bytes((tiny_set.images / "000.png").read_bytes()[:40])
    with pytest.raises(InputError, match="000.png: cannot be decoded"):
        source.image(0)
    cv2.imwrite(str(tiny_set.images / "001.png"), np.zeros((10, 20, 3), np.uint8))
    with pytest.raises(InputError, match="001.png: is 20 x 10 px, but its annotations say 96 x 64"):
        source.image(1)


def test_the_real_set_is_read_whole(real_set):
    source = load_coco(real_set / "annotations" / "train.json", real_set / "images", training=True)
    assert (len(source), len(source.boxes)) == (409, 9663)
    assert source.class_names == ("airplane", "storage-tank", "ship", "vehicle")
    assert np.bincount(source.labels).tolist() == [3033, 4064, 545, 2021]
