"""The three definitions of AP50 against loops written from the definitions, eval.coco, and figures made by hand."""
from fractions import Fraction

import numpy as np
import pytest

from eval import grouping
from eval.coco import COCO
from eval.coco import evaluate as evaluate_coco
from eval.files import detection_arrays
from eval.scoring import PROTOCOLS, score
from eval.voc import evaluate


def by_the_kit(ground_truth, detections, category, overlap):
    """VOC07 and VOC12 of one class, as VOCevaldet and VOCap go about it: one detection after the other."""
    objects = {image["id"]: [] for image in ground_truth["images"]}
    for annotation in ground_truth["annotations"]:
        if annotation["category_id"] == category:
            objects[annotation["image_id"]].append({"box": annotation["bbox"], "taken": False,
                                                    "difficult": annotation.get("difficult", 0)})
    count = sum(not o["difficult"] for image in objects.values() for o in image)
    if count == 0:
        return -1.0, -1.0
    mine = [d for d in detections if d["category_id"] == category]
    mine.sort(key=lambda d: (-d["score"], d["image_id"]))
    true = false = 0
    curve = []                                                  # (true positives, precision)
    for detection in mine:
        best, chosen = -1.0, None
        for candidate in objects[detection["image_id"]]:
            value = overlap(detection["bbox"], candidate["box"])
            if value > best:
                best, chosen = value, candidate
        if best >= 0.5:
            if chosen["difficult"]:
                continue
            if chosen["taken"]:
                false += 1
            else:
                chosen["taken"] = True
                true += 1
        else:
            false += 1
        curve.append((true, true / (true + false)))
    eleven = 0.0
    for tenth in range(11):
        eleven += max((p for t, p in curve if Fraction(t, count) >= Fraction(tenth, 10)), default=0.0) / 11
    recall = [0.0, *(t / count for t, _ in curve), 1.0]
    precision = [0.0, *(p for _, p in curve), 0.0]
    for k in range(len(precision) - 2, -1, -1):
        precision[k] = max(precision[k], precision[k + 1])
    area = sum((recall[k + 1] - recall[k]) * precision[k + 1] for k in range(len(recall) - 1))
    return eleven, area


def by_coco(ground_truth, detections, category, overlap):
    """COCO's AP at IoU 0.5 of one class, difficult objects ignored and never used up."""
    events, count = [], 0
    for image in sorted(i["id"] for i in ground_truth["images"]):
        objects = [a for a in ground_truth["annotations"] if (a["image_id"], a["category_id"]) == (image, category)]
        count += sum(not a.get("difficult", 0) for a in objects)
        mine = [d for d in detections if (d["image_id"], d["category_id"]) == (image, category)]
        mine.sort(key=lambda d: -d["score"])
        taken = set()
        for detection in mine[:100]:
            result = "false"
            for wanted in (0, 1):
                best, chosen = 0.5, None
                for k, candidate in enumerate(objects):
                    if bool(candidate.get("difficult", 0)) == bool(wanted) and k not in taken:
                        value = overlap(detection["bbox"], candidate["bbox"])
                        if value >= best:
                            best, chosen = value, k
                if chosen is not None:
                    result = "ignored" if wanted else "true"
                    if not wanted:
                        taken.add(chosen)
                    break
            events.append((detection["score"], result))
    if count == 0:
        return -1.0
    events.sort(key=lambda e: -e[0])
    true = false = 0
    curve = []
    for _, result in events:
        true, false = true + (result == "true"), false + (result == "false")
        if result != "ignored":
            curve.append((true / count, true / (true + false)))
    return float(np.mean([max((p for r, p in curve if r >= point), default=0.0) for point in np.linspace(0, 1, 101)]))


@pytest.mark.parametrize("seed", range(150))
def test_equals_the_loops_on_random_scenes(seed, random_scene, overlap, monkeypatch):
    """In one block of detections, and in blocks of a few groups."""
    monkeypatch.setattr(grouping, "BLOCK", (1, 10, 1 << 20)[seed % 3])
    ground_truth, detections = random_scene(seed)
    metrics = evaluate(ground_truth, detections)
    expected = {c["id"]: (*by_the_kit(ground_truth, detections, c["id"], overlap),
                          by_coco(ground_truth, detections, c["id"], overlap))
                for c in ground_truth["categories"]}
    for category, values in expected.items():
        assert list(metrics["per_class"][f"class {category}"].values()) == pytest.approx(values, abs=1e-12), category
    for k, name in enumerate(("AP50_voc07", "AP50_voc12", "AP50_coco")):
        present = [values[k] for values in expected.values() if values[k] >= 0]
        assert metrics[name] == pytest.approx(np.mean(present) if present else -1.0, abs=1e-12)


def with_crowds(seed, scene):
    """The scene, with about every seventh object a crowd."""
    rng = np.random.default_rng(seed)
    for annotation in scene[0]["annotations"]:
        annotation["iscrowd"] = int(rng.random() < 0.15)
    return scene


@pytest.mark.parametrize("seed", range(30))
def test_without_difficult_objects_the_third_is_pycocotools_ap50(seed, random_scene):
    """By way of eval.coco, which equals pycocotools (test_coco.py); crowds included."""
    ground_truth, detections = with_crowds(seed, random_scene(seed, difficult=0))
    theirs, ours = evaluate_coco(ground_truth, detections, COCO), evaluate(ground_truth, detections)
    assert ours["AP50_coco"] == pytest.approx(theirs["AP50"], abs=1e-12)
    for name, values in ours["per_class"].items():
        assert values["AP50_coco"] == pytest.approx(theirs["per_class"][name]["AP50"], abs=1e-12)


@pytest.mark.parametrize("seed", range(30))
def test_the_curves_of_the_pictures_agree_with_the_table(seed, random_scene):
    """Difficult objects and crowds included: AP of the precision-recall curves at IoU 0.5 is AP50_coco."""
    ground_truth, detections = with_crowds(seed, random_scene(seed, difficult=0.4))
    scored = score(ground_truth, detection_arrays(detections), PROTOCOLS["voc"])
    drawn = scored.curves.precision[0, :, :, 0, -1].mean(0)                 # (K,)
    assert drawn.tolist() == pytest.approx([v["AP50_coco"] for v in scored.metrics["per_class"].values()], abs=1e-12)


def scene(truths, detections):
    """One image, one class. truths: (x, difficult); detections: (x, score); all boxes 10 x 10 in one row."""
    ground_truth = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "ship"}], "annotations": [
        {"id": k + 1, "image_id": 1, "category_id": 1, "bbox": [x, 0, 10, 10], "area": 100, "iscrowd": 0, "difficult": d}
        for k, (x, d) in enumerate(truths)]}
    return ground_truth, [{"image_id": 1, "category_id": 1, "bbox": [x, 0, 10, 10], "score": s} for x, s in detections]


def test_a_second_detection_of_an_object_does_not_fall_to_the_next():
    """Objects at 0 and 4; detections at 1 and 1.5 both overlap both enough and prefer the first one."""
    metrics = evaluate(*scene([(0, 0), (4, 0)], [(1, 0.9), (1.5, 0.8)]))
    assert metrics["AP50_voc12"] == pytest.approx(1 / 2)        # one of two found; the second detection is false
    assert metrics["AP50_voc07"] == pytest.approx(6 / 11)       # recalls 0 to 0.5 at precision 1
    assert metrics["AP50_coco"] == pytest.approx(1.0)           # COCO lets it fall: IoU 7.5 / 12.5 with the other one


def test_difficult_objects_are_neither_found_nor_missed_nor_wrong():
    truths, detections = [(0, 0), (100, 1)], [(100, 0.9), (101, 0.8), (0, 0.7)]
    assert [evaluate(*scene(truths, detections))[k] for k in ("AP50_voc07", "AP50_voc12", "AP50_coco")] == [1, 1, 1]
    only = evaluate(*scene([(100, 1)], detections))
    assert only["AP50_voc12"] == -1 and only["per_class"]["ship"]["AP50_coco"] == -1


def test_recalls_of_whole_tenths_are_reached():
    """Seven of ten found, no false positive: recalls 0, 0.1, ..., 0.7 are eight of eleven points. In floats 0.7 is missed."""
    metrics = evaluate(*scene([(20 * k, 0) for k in range(10)], [(20 * k, 0.9) for k in range(7)]))
    assert metrics["AP50_voc07"] == pytest.approx(8 / 11) and metrics["AP50_voc12"] == pytest.approx(0.7)


def test_one_hundred_detections_are_coco_s_limit_and_not_voc_s():
    metrics = evaluate(*scene([(20 * k, 0) for k in range(200)], [(20 * k, 0.9) for k in range(200)]))
    assert metrics["AP50_voc12"] == metrics["AP50_voc07"] == 1
    assert metrics["AP50_coco"] == pytest.approx(51 / 101)


def test_nothing_at_all():
    ground_truth, _ = scene([(0, 0)], [])
    assert evaluate(ground_truth, [])["AP50_voc12"] == 0
    assert evaluate({**ground_truth, "annotations": []}, [])["AP50_voc12"] == -1
