"""The figures of data.check against independent counts, and the published numbers beside them."""
import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from data.check.compare import compare
from data.check.figures import figures, without_cell
from data.check.listing import Listing
from data.check.overlap import shared_ground
from data.published import load_published
from losses.assigner import candidate_pairs

AITOD = ("airplane", "bridge", "storage-tank", "ship", "swimming-pool", "vehicle", "person", "wind-mill")


def listing(boxes, image=None, label=None, names=("a.png",), classes=("alpha",), split="train") -> Listing:
    n = len(boxes)
    return Listing(
        split, Path("train.json"), list(names), [""] * len(names), np.full((len(names), 2), 800), np.ones(len(names), bool),
        classes, {}, np.zeros(n, int) if image is None else image, np.zeros(n, int) if label is None else label,
        np.array(boxes, float), np.zeros(n, bool), np.full(n, np.nan), [f"annotation {k}" for k in range(n)],
    )


def random_boxes(count, rng, extent=800.0, longest=40.0):
    corner, side = rng.uniform(0, extent, (count, 2)), rng.uniform(1, longest, (count, 2))
    box = np.concatenate((corner, np.minimum(corner + side, extent)), 1)
    return box[((box[:, 2:] - box[:, :2]) > 0.5).all(1)]


@pytest.mark.parametrize("min_box_side", [0, 8, 16])
@pytest.mark.parametrize("finest", [8, 4])
def test_the_objects_without_a_cell_are_those_of_the_assigner(finest, min_box_side):
    rng = np.random.default_rng(0)
    boxes = random_boxes(1500, rng, longest=16).round(int(rng.integers(0, 2)))
    boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]
    strides = [s for s in (4, 8, 16, 32) if s >= finest]
    levels = tuple((800 // s, 800 // s, s) for s in strides)
    rows, lost = without_cell(listing(boxes), np.array([[800, 800]]), 800, finest, min_box_side)
    _, _, pairs = candidate_pairs(torch.tensor(boxes), levels, min_box_side)
    assert rows.tolist() == list(range(len(boxes))) and lost.tolist() == (pairs == 0).tolist()
    assert lost.any() == (min_box_side < 2 * finest)


def test_objects_are_measured_in_pixels_of_the_network():
    """A box of 10 px that holds a centre at 800 px holds none in an image that is scaled to a half."""
    box = [[9, 9, 19, 19]]                                      # centres at 12; scaled to 4.5..9.5, none between 4 and 12 but 8
    assert not without_cell(listing(box), np.array([[800, 800]]), 800, 8)[1].any()
    box = [[17, 17, 23, 23]]                                    # holds 20; scaled to 8.5..11.5 nothing
    assert not without_cell(listing(box), np.array([[800, 800]]), 800, 8)[1].any()
    assert without_cell(listing(box), np.array([[800, 800]]), 400, 8)[1].all()
    assert without_cell(listing(box), np.array([[400, 800]]), 400, 8)[1].all()


def test_sizes_fall_into_aitod_s_ranges_upper_end_inside():
    sides = [4, 8, 8.01, 16, 20, 32, 32.01, 100]
    found = figures(listing([[0, 0, s, s] for s in sides]), np.array([[800, 800]]), 800)
    assert found["side"]["shares"] == {"very tiny": 2 / 8, "tiny": 2 / 8, "small": 2 / 8, "medium": 2 / 8}
    assert found["side"]["mean"] == pytest.approx(sum(sides) / 8) and found["side"]["median"] == 18
    assert found["side"]["below_16"] == 3 / 8


def test_objects_per_image_and_class():
    image, label = np.array([0, 0, 0, 2, 2, 0]), np.array([0, 1, 1, 1, -1, 0])
    found = figures(listing([[0, 0, 9, 9]] * 6, image, label, ("a", "b", "c"), ("x", "y", "z")), np.full((3, 2), 800), 800)
    assert found["per_image"] == {"min": 0, "median": 1, "max": 4, "densest": "a"}
    assert found["by_class"] == {"x": 2, "y": 3, "z": 0} and found["boxes"] == 5


def test_shared_ground_is_that_of_a_count_pixel_by_pixel():
    """Crops of two scenes; the mask of all pixels that training shows decides, centre by centre."""
    rng = np.random.default_rng(1)
    places = [(scene, x, y) for scene, x, y in product(("1", "22", "P9__1.0"), (0, 60, 115), (0, 60, 115))]
    rng.shuffle(places)
    names = [f"deep/{scene}__{x}_{y}.png" if scene != "P9__1.0" else f"{scene}__{x}___{y}.png" for scene, x, y in places]
    size = np.full((len(places), 2), 80)
    train, test = range(14), range(14, 27)
    shown = {scene: np.zeros((200, 200), bool) for scene in ("1", "22", "P9__1.0")}
    for k in train:
        scene, x, y = places[k][0], int(places[k][1]), int(places[k][2])
        shown[scene][y : y + 80, x : x + 80] = True
    boxes = np.concatenate([random_boxes(30, rng, extent=80, longest=20)[:20] for _ in test])
    image = np.repeat(np.arange(13), 20)
    expected = 0
    for box, k in zip(boxes, image, strict=True):
        scene, x, y = places[14 + k]
        cx, cy = (box[0] + box[2]) / 2 + int(x), (box[1] + box[3]) / 2 + int(y)
        expected += shown[scene][int(cy), int(cx)]
    first = listing(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0, int), [names[k] for k in train])
    second = listing(boxes, image, None, [names[k] for k in test], split="test")
    total, culprits = shared_ground(first, size[:14], second, size[:13], set(), "train/test")
    assert total == expected and 0 < total < len(boxes)
    assert sum(int(c.detail.split()[0]) for c in culprits) == total


def test_published_numbers_add_up():
    """The totals that are printed are the sums of what is printed by class; trainval is train and val."""
    sets = load_published()
    assert list(sets) == ["aitod_v1", "aitod_v2", "dior"]
    for known in sets.values():
        assert known.images["trainval"] == known.images["train"] + known.images["val"]
        for part, by_class in known.by_class.items():
            assert len(by_class) == len(known.classes) and sum(by_class) == known.boxes[part]
    first = sets["aitod_v1"]
    both = zip(first.by_class["train"], first.by_class["val"], strict=True)
    assert tuple(a + b for a, b in both) == first.by_class["trainval"]
    assert first.images["train"] == 11214 and first.images["test"] == 14018 and first.all_boxes == 700621
    assert sets["aitod_v2"].classes == first.classes == AITOD and sets["aitod_v2"].all_boxes == 752746
    assert first.from_xview == {"train": 3704, "val": 935, "trainval": 4639, "test": 4667}
    assert sum(sets["dior"].images[s] for s in ("trainval", "test")) == 23463 and sets["dior"].all_boxes == 192472
    order = dict(zip(sets["dior"].classes, sets["dior"].by_class["test"], strict=True))
    assert (order["Expressway-Service-area"], order["ship"], order["windmill"]) == (1085, 35186, 2998)


def splits(**of):
    return {name: {"file": file, "images": images, "boxes": boxes} for name, (file, images, boxes) in of.items()}


def test_a_published_set_is_known_by_its_classes_and_numbers():
    both = splits(train=("a.json", 14018, 353000), test=("b.json", 14018, 347617))
    shuffled = ("wind-mill", "Storage_Tank", "airplane", "bridge", "ship", "swimming/pool", "vehicle", "person")
    found = compare(shuffled, both)
    assert (found.published.title, found.parts) == ("AI-TOD v1", {"train": "trainval", "test": "test"})
    assert found.names["Storage_Tank"] == 2 and found.names["wind-mill"] == 7
    dev = splits(train=("a.json", 11214, 282000), val=("c.json", 2804, 70426))
    assert compare(AITOD, dev).parts == {"train": "train", "val": "val"}
    more = splits(train=("a.json", 14018, 378000), test=("b.json", 14018, 374000))
    assert compare(AITOD, more).published.title == "AI-TOD v2"
    named = splits(train=("annotations/small_trainval_v2_2.0.json", 14018, 353000))
    assert compare(AITOD, named).published.title == "AI-TOD v2"
    few = compare(AITOD, splits(train=("a.json", 320, 9000)))
    assert few.published.title == "AI-TOD v1" and few.parts == {}
    dior = load_published()["dior"].classes
    assert compare(dior, splits(train=("trainval.txt", 11725, 68000))).parts == {"train": "trainval"}
    assert compare(AITOD[:7], both) is None and compare((), {}) is None


def test_published_counts_stand_beside_ours(tmp_path, check, capsys):
    """14,018 entries of images that are not there: nothing else is needed to compare the numbers."""
    images = [{"id": k, "file_name": f"{k}.png", "width": 800, "height": 800} for k in range(14018)]
    boxes = [{"id": k, "image_id": k, "category_id": 1 + k % 8, "bbox": [k % 700, 5, 12, 12]} for k in range(4000)]
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(AITOD)]
    (tmp_path / "test.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    (tmp_path / "set.toml").write_text(f'[data]\nroot = "{tmp_path}"\ntest = "test.json"\n')
    code, found = check(tmp_path)
    page = capsys.readouterr().out
    assert code == 1 and found["published"]["title"] == "AI-TOD v1" and found["published"]["is"] == {"test": "test"}
    rows = [line.split() for line in page.splitlines()]
    assert ["objects", "by", "class", "test", "published", "(test)"] in rows
    assert ["vehicle", "500", "306,678"] in rows and ["total", "4,000", "347,630"] in rows
    assert ["mean", "12.0", "12.8"] in rows and "issue 15" in page.replace("\n", " ")
    assert "image files missing: test 14,018" in page and "and 14,015 more" in page
    assert len(found["findings"][0]["culprits"]) == 1000
