"""The confusion of classes and the objects found, against a loop and against a scene made by hand."""
import numpy as np
import pytest

from eval import grouping
from eval.diagnosis import _greedy, diagnose
from eval.files import detection_arrays, ground_truth_arrays


def by_loop(ground_truth, detections, score, overlap):
    """Detection by detection, first within classes, then across them."""
    ids = sorted(c["id"] for c in ground_truth["categories"])
    counts = np.zeros((len(ids) + 1, len(ids) + 1), int)
    found = set()
    for image in ground_truth["images"]:
        objects = [a for a in ground_truth["annotations"] if a["image_id"] == image["id"]]
        mine = [d for d in detections if d["image_id"] == image["id"] and d["score"] >= score]
        mine.sort(key=lambda d: -d["score"])
        taken, used = set(), set()
        for same in (True, False):
            for d, detection in enumerate(mine):
                best, chosen = 0.5, None
                for t, truth in enumerate(objects):
                    fits = (truth["category_id"] == detection["category_id"]) == same
                    if fits and not truth["difficult"] and t not in taken and d not in used:
                        value = overlap(detection["bbox"], truth["bbox"])
                        if value >= best:
                            best, chosen = value, t
                if chosen is not None:
                    taken.add(chosen)
                    used.add(d)
                    counts[ids.index(objects[chosen]["category_id"]), ids.index(detection["category_id"])] += 1
                    if same:
                        found.add(objects[chosen]["id"])
        for t, truth in enumerate(objects):
            if not truth["difficult"] and t not in taken:
                counts[ids.index(truth["category_id"]), -1] += 1
        for d, detection in enumerate(mine):
            excused = any(t["difficult"] and overlap(detection["bbox"], t["bbox"]) >= 0.5 for t in objects)
            if d not in used and not excused:
                counts[-1, ids.index(detection["category_id"])] += 1
    solid = [a for a in ground_truth["annotations"] if not a["difficult"]]
    return counts, [a["id"] in found for a in solid], [a["area"] for a in solid]


@pytest.mark.parametrize("seed", range(60))
def test_equals_a_loop_on_random_scenes(seed, random_scene, overlap, monkeypatch):
    """In one block of detections, and image by image."""
    monkeypatch.setattr(grouping, "BLOCK", (1, 30, 1 << 20)[seed % 3])
    ground_truth, detections = random_scene(seed)
    diagnosis = diagnose(ground_truth_arrays(ground_truth), detection_arrays(detections), score=0.3)
    counts, found, areas = by_loop(ground_truth, detections, 0.3, overlap)
    assert diagnosis.confusion.tolist() == counts.tolist()
    assert diagnosis.found.tolist() == found and diagnosis.area.tolist() == areas
    assert diagnosis.used == sum(d["score"] >= 0.3 for d in detections)
    assert diagnosis.highest == max((d["score"] for d in detections), default=None) or not detections


def one_after_the_other(detection, truth, num_detections):
    partner = [-1] * num_detections
    for d, t in zip(detection, truth, strict=True):
        if partner[d] < 0 and t not in partner:
            partner[d] = t
    return partner


@pytest.mark.parametrize("seed", range(20))
def test_pairs_taken_many_at_a_time_are_those_taken_one_after_the_other(seed):
    """At random, and in a chain: each detection prefers the truth of the one before, so that each choice waits for another."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 80))
    chain = np.repeat(np.arange(count), 2), np.maximum(np.arange(-1, 2 * count - 1) // 2, 0)
    for detection, truth in ((rng.integers(0, 12, count), rng.integers(0, 9, count)), chain):
        partner = _greedy(detection, truth, 80, 80)
        assert partner.tolist() == one_after_the_other(detection.tolist(), truth.tolist(), 80)


def test_a_ship_taken_for_a_vehicle_is_a_confusion_and_a_second_detection_an_alarm():
    boxes = {"ship": [0, 0, 10, 10], "vehicle": [50, 0, 10, 10]}
    ground_truth = {
        "images": [{"id": 1}], "categories": [{"id": 1, "name": "ship"}, {"id": 2, "name": "vehicle"}],
        "annotations": [{"id": k, "image_id": 1, "category_id": k, "bbox": box} for k, box in enumerate(boxes.values(), 1)]}
    detections = [{"image_id": 1, "category_id": c, "bbox": b, "score": s} for c, b, s in (
        (2, boxes["ship"], 0.9), (2, boxes["vehicle"], 0.5), (2, boxes["vehicle"], 0.8), (1, boxes["ship"], 0.2))]
    diagnosis = diagnose(ground_truth_arrays(ground_truth), detection_arrays(detections))
    assert diagnosis.confusion.tolist() == [[0, 1, 0],      # the ship, its own detection is too weak
                                            [0, 1, 0],
                                            [0, 1, 0]]
    assert diagnosis.found.tolist() == [False, True] and diagnosis.area.tolist() == [100, 100]
    assert diagnosis.used == 3 and diagnosis.highest == 0.9
