"""oLRP against a plain loop over its definition; a user's own area ranges and limits."""
from dataclasses import replace

import numpy as np
import pytest

from errors import InputError
from eval.coco import AITOD, COCO, customized, evaluate

PARTS = ("oLRP", "oLRP_Loc", "oLRP_FP", "oLRP_FN", "oLRP_score")
WITH_OLRP = replace(AITOD, olrp=True)


def iou(a, b, crowd):
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    union = a[2] * a[3] + (0 if crowd else b[2] * b[3] - width * height)
    return width * height / union


def olrp_of_class(truths, found, limit):
    """The parts by the definition: match greedily at IoU 0.5, then try every score as the threshold.

    Args:
        truths: (image, box, crowd); found: (image, box, score), equal scores in the order that counts.
    """
    marked = []                                              # score, true positive, false positive, IoU
    for image in sorted({image for image, *_ in found}):
        free = [[box, crowd] for other, box, crowd in truths if other == image]
        ours = sorted(((score, box) for other, box, score in found if other == image), key=lambda pair: -pair[0])
        for score, box in ours[:limit]:
            best = None
            for wanted in (False, True):                     # a crowd only when nothing else is left
                for place, (other, crowd) in enumerate(free):
                    overlap = iou(box, other, crowd) if crowd == wanted else 0.0
                    if best is None or best[2] == wanted:
                        least = best[1] if best else 0.5
                        if overlap >= least:
                            best = (place, overlap, wanted)
            if best is None:
                marked.append((score, 0, 1, 0.0))
            elif best[2]:
                marked.append((score, 0, 0, 0.0))
            else:
                marked.append((score, 1, 0, best[1]))
                free[best[0]] = [[0, 0, 0, 0], False]
    objects = sum(not crowd for *_, crowd in truths)
    if objects == 0:
        return (-1.0,) * 5
    if not any(true for _, true, *_ in marked):
        return 1.0, -1.0, -1.0, 1.0, -1.0
    marked.sort(key=lambda entry: -entry[0])
    best = None
    true = false = 0
    error = 0.0
    for score, is_true, is_false, overlap in marked:
        true, false, error = true + is_true, false + is_false, error + is_true * (1 - overlap)
        missed = objects - true
        value = (error / 0.5 + false + missed) / (true + false + missed)
        if best is None or value < best[0] - 1e-13:
            location = error / true if true else -1.0
            alarms = false / (true + false) if true + false else -1.0
            best = (value, location, alarms, missed / objects, score)
    return best


def scene(seed):
    """Crowds, misses, doubles, classes without objects or detections; scores differ, so that no order of equal ones matters."""
    rng = np.random.default_rng(seed)
    truth = {"images": [{"id": n} for n in range(4)], "categories": [{"id": n, "name": str(n)} for n in range(5)],
             "annotations": []}
    found = []
    for image in range(4):
        for _ in range(rng.integers(0, 12)):
            box = [*rng.uniform(0, 60, 2), *rng.uniform(4, 20, 2)]
            category = int(rng.integers(0, 4))
            truth["annotations"].append({"id": len(truth["annotations"]) + 1, "image_id": image, "category_id": category,
                                         "bbox": box, "iscrowd": int(rng.random() < 0.1)})
            for _ in range(rng.integers(0, 4)):
                moved = (np.array(box) * rng.normal(1, 0.08, 4)).tolist()
                found.append({"image_id": image, "category_id": category if rng.random() < 0.8 else int(rng.integers(1, 5)),
                              "bbox": moved, "score": float(rng.random())})
    return truth, found


@pytest.mark.parametrize("seed", range(60))
def test_olrp_is_that_of_the_definition(seed):
    truth, found = scene(seed)
    protocol = replace(WITH_OLRP, max_dets=(1, 2, 3)) if seed % 2 else WITH_OLRP
    metrics = evaluate(truth, found, protocol)
    expected = {}
    for category in range(5):
        expected[str(category)] = olrp_of_class(
            [(a["image_id"], a["bbox"], bool(a["iscrowd"])) for a in truth["annotations"] if a["category_id"] == category],
            [(d["image_id"], d["bbox"], d["score"]) for d in found if d["category_id"] == category], protocol.max_dets[-1])
    for name, values in expected.items():
        assert [metrics["per_class"][name][part] for part in PARTS] == pytest.approx(values, abs=1e-12), name
    for i, part in enumerate(PARTS[:-1]):
        defined = [values[i] for values in expected.values() if values[i] >= 0]
        assert metrics[part] == pytest.approx(np.mean(defined) if defined else -1, abs=1e-12)


def test_olrp_by_hand():
    """Two objects; one is found with IoU 0.8, then a false alarm: best at the first score."""
    truth = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "ship"}], "annotations": [
        {"id": n, "image_id": 1, "category_id": 1, "bbox": [50 * n, 0, 10, 10]} for n in (1, 2)]}
    found = [{"image_id": 1, "category_id": 1, "bbox": [50, 0, 10, 8], "score": 0.9},
             {"image_id": 1, "category_id": 1, "bbox": [0, 50, 10, 8], "score": 0.4}]
    ship = evaluate(truth, found, WITH_OLRP)["per_class"]["ship"]
    assert [ship[part] for part in PARTS] == pytest.approx([(0.2 / 0.5 + 1) / 2, 0.2, 0, 0.5, 0.9])


@pytest.mark.parametrize(("found", "expected"), [
    # (x, height, score) of boxes 10 wide; the object is 10 x 10 at x = 0, a crowd reaches from x = 200 on
    ([(0, 8, 0.5), (90, 8, 0.5)], (0.4, 0.2, 0, 0, 0.5)),       # between equal scores there is a cut too
    ([(90, 8, 0.9), (0, 5, 0.8)], (1, -1, 1, 1, 0.9)),          # IoU 0.5 is worth nothing: the first of equal minima
    ([(210, 8, 0.9), (0, 5, 0.8)], (1, -1, -1, 1, 0.9)),        # one on a crowd is no false alarm
    ([(90, 8, 0.9)], (1, -1, -1, 1, -1)),                       # no true positive: no cut is better than another
    ([], (1, -1, -1, 1, -1))])
def test_olrp_follows_the_conventions_of_aitodpycocotools(found, expected):
    truth = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "ship"}], "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10]},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [200, 0, 90, 90], "iscrowd": 1}]}
    boxes = [{"image_id": 1, "category_id": 1, "bbox": [x, 0, 10, height], "score": score} for x, height, score in found]
    ship = evaluate(truth, boxes, WITH_OLRP)["per_class"]["ship"]
    assert [ship[part] for part in PARTS] == pytest.approx(expected, abs=1e-12)


def test_olrp_is_added_only_when_asked_for():
    truth, found = scene(0)
    with_it, without = evaluate(truth, found, WITH_OLRP), evaluate(truth, found, AITOD)
    assert not set(PARTS) & set(without) and set(PARTS[:-1]) <= set(with_it)
    assert {name: with_it[name] for name in without if name != "per_class"} == {
        name: value for name, value in without.items() if name != "per_class"}


def test_own_ranges_and_limits_take_the_place_of_the_protocols():
    truth, found = scene(3)
    own = customized(COCO, ["vt:0:64", "t:64:256", "s:256:1024", "m:1024:1e10"], [1500, 1, 100])
    assert evaluate(truth, found, own) == evaluate(truth, found, AITOD)
    assert customized(COCO) == COCO
    metrics = evaluate(truth, found, customized(AITOD, max_dets=[7]))
    assert [name for name in metrics if name.startswith("AR") and "_" not in name] == ["AR7"]


@pytest.mark.parametrize("text", ["t", "t:1", "t:1:2:3", "t:2:1", "t:-1:2", "t:a:b", ":1:2", "t:nan:2", "a b:1:2"])
def test_a_range_that_is_none_is_named(text):
    with pytest.raises(InputError, match="eval.area_ranges: .* is not name:low:high"):
        customized(AITOD, [text])


def test_ranges_and_limits_stand_once():
    for ranges in (["t:1:2", "t:2:3"], ["all:0:9"]):
        with pytest.raises(InputError, match="stands twice"):
            customized(AITOD, ranges)
    for limits in ([0], [1, 1], [-3, 4]):
        with pytest.raises(InputError, match="eval.limits: .* must be different numbers from 1 on"):
            customized(AITOD, max_dets=limits)
