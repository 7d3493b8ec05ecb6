"""The evaluator against pycocotools, on random scenes full of what goes wrong, and against figures made by hand."""
import collections
import contextlib
import copy
import io
import json

import cv2
import numpy as np
import pytest

from errors import InputError
from eval import grouping, matching
from eval.coco import AITOD, COCO, IOU_THRESHOLDS, DetectionArrays, Protocol, accumulate, evaluate
from eval.files import ground_truth_arrays

# limits that random scenes exceed, and area ranges whose ends are areas of whole boxes
TINY = Protocol("tiny", (1, 2, 4), {"all": (0.0, 1e10), "low": (0.0, 64.0), "high": (64.0, 256.0)})


def pycocotools_arrays(ground_truth, detections, protocol):
    """precision (T, R, K, A, M) and recall (T, K, A, M) by stock COCOeval with the protocol's parameters."""
    cocotools = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    detections = [dict(d, id=i + 1, area=d["bbox"][2] * d["bbox"][3], iscrowd=0) for i, d in enumerate(detections)]
    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = cocotools.COCO(), cocotools.COCO()
        truth.dataset = copy.deepcopy(ground_truth)
        truth.createIndex()
        # loadRes fails on an empty list; this is what it does otherwise
        found.dataset = dict(copy.deepcopy(ground_truth), annotations=detections)
        found.createIndex()
        run = cocoeval.COCOeval(truth, found, "bbox")
        run.params.maxDets = list(protocol.max_dets)
        run.params.areaRng = [list(ends) for ends in protocol.area_ranges.values()]
        run.params.areaRngLbl = list(protocol.area_ranges)
        run.evaluate()
        run.accumulate()
    return run.eval["precision"], run.eval["recall"]


def figures_of(precision, recall, protocol):
    """The keys of metrics.json from pycocotools' arrays, as its summarize takes means."""
    def mean(values):
        return float(np.mean(values[values > -1])) if (values > -1).any() else -1.0

    figures = {"AP": mean(precision[:, :, :, 0, 2]), "AP50": mean(precision[0, :, :, 0, 2]),
               "AP75": mean(precision[5, :, :, 0, 2])}
    for a, name in enumerate(protocol.area_ranges):
        if a > 0:
            figures[f"AP_{name}"] = mean(precision[:, :, :, a, 2])
            figures[f"AR_{name}"] = mean(recall[:, :, a, 2])
    for m, limit in enumerate(protocol.max_dets):
        figures[f"AR{limit}"] = mean(recall[:, :, 0, m])
    return figures


def assert_same(ground_truth, detections, protocol, label=""):
    precision, recall = pycocotools_arrays(ground_truth, detections, protocol)
    curves = accumulate(ground_truth, detections, protocol)
    np.testing.assert_allclose(curves.recall, recall, rtol=0, atol=1e-12, err_msg=str(label))
    np.testing.assert_allclose(curves.precision, precision, rtol=0, atol=1e-12, err_msg=str(label))

    metrics = evaluate(ground_truth, detections, protocol)
    per_class = metrics.pop("per_class")
    assert metrics == pytest.approx(figures_of(precision, recall, protocol), abs=1e-12, rel=0), label
    categories = sorted(ground_truth["categories"], key=lambda c: c["id"])
    assert list(per_class) == [c["name"] for c in categories]
    for k, category in enumerate(categories):
        expected = figures_of(precision[:, :, [k]], recall[:, [k]], protocol)
        assert per_class[category["name"]] == pytest.approx(expected, abs=1e-12, rel=0), label


def random_scene(seed):
    """Ties, crowds, areas on a boundary, classes and images without anything, copies of boxes, zero sizes."""
    rng = np.random.default_rng(seed)
    num_images, num_classes = rng.integers(1, 7), rng.integers(1, 5)
    image_ids = rng.choice(50, num_images, replace=False)                # neither sorted nor from 1
    category_ids = rng.choice(20, num_classes, replace=False)
    sides = np.array([0, 4, 8, 8, 8, 16, 16, 32, 33, 96])
    spread = rng.choice([10, 40, 200])                                   # crowded to lonely
    annotations, detections = [], []
    for image in image_ids:
        if rng.random() < 0.15:
            continue                                                     # an image with nothing at all
        boxes = []
        for _ in range(rng.integers(0, 15)):
            width, height = rng.choice(sides, 2) if rng.random() < 0.7 else rng.uniform(2, 40, 2)
            box = [*rng.integers(0, spread, 2), width, height]
            if boxes and rng.random() < 0.2:
                box = boxes[rng.integers(len(boxes))]                    # a copy: equal IoUs
            boxes.append([float(v) for v in box])
        for box in boxes:
            # some classes get no ground truth; areas that differ from the box, as with segmentation
            category = category_ids[rng.integers(max(1, num_classes - 1))]
            area = box[2] * box[3] if rng.random() < 0.8 else float(rng.choice([64, 256, 1024, 9216, 300.5]))
            annotations.append({"id": len(annotations) + 1, "image_id": int(image), "category_id": int(category),
                                "bbox": box, "area": area, "iscrowd": int(rng.random() < 0.15), "ignore": 1})
        for _ in range(rng.integers(0, 30)):
            if boxes and rng.random() < 0.8:
                x, y, w, h = boxes[rng.integers(len(boxes))]
                x, y, w, h = np.array([x, y, w, h]) + rng.choice([0, 0, 1, -1, 0.3], 4) * rng.choice([0, 1, 2])
                box = [x, y, max(w, 0), max(h, 0)]
            else:
                box = [*rng.integers(0, spread, 2), *rng.choice(sides, 2)]
            score = round(float(rng.random()), 1) if rng.random() < 0.8 else float(rng.random())
            detections.append({"image_id": int(image), "category_id": int(rng.choice(category_ids)),
                               "bbox": [float(v) for v in box], "score": score})
    order = rng.permutation(len(annotations))
    images = [{"id": int(image)} for image in image_ids]
    categories = [{"id": int(c), "name": f"class {c}"} for c in category_ids]
    ground_truth = {"images": images, "annotations": [annotations[i] for i in order], "categories": categories}
    rng.shuffle(detections)
    return ground_truth, list(detections)


@pytest.mark.parametrize("seed", range(200))
def test_equals_pycocotools_on_random_scenes(seed):
    ground_truth, detections = random_scene(seed)
    for protocol in (AITOD, COCO, TINY):
        assert_same(ground_truth, detections, protocol, (seed, protocol.name))


def test_random_scenes_do_hold_what_hurts():
    seen = collections.Counter()
    for seed in range(200):
        ground_truth, detections = random_scene(seed)
        annotations = ground_truth["annotations"]
        scores = [(d["image_id"], d["category_id"], d["score"]) for d in detections]
        groups = [s[:2] for s in scores]
        copies = [(a["image_id"], a["category_id"], *a["bbox"]) for a in annotations if a["bbox"][2] * a["bbox"][3]]
        sizes = [d["bbox"][2] * d["bbox"][3] for d in detections]
        found_classes = {d["category_id"] for d in detections}
        seen["tie"] += len(set(scores)) < len(scores)
        seen["over"] += any(groups.count(g) > TINY.max_dets[-1] for g in set(groups))
        seen["crowd"] += any(a["iscrowd"] for a in annotations)
        seen["copy"] += len(set(copies)) < len(copies)
        seen["edge"] += any(a["area"] in (64, 256, 1024) for a in annotations)
        seen["found edge"] += any(size in (64, 256, 1024) for size in sizes)
        seen["zero"] += any(a["bbox"][2] * a["bbox"][3] == 0 for a in annotations)
        seen["found zero"] += 0 in sizes
        seen["no truth"] += bool(found_classes - {a["category_id"] for a in annotations})
        seen["no image"] += bool({i["id"] for i in ground_truth["images"]} - {a["image_id"] for a in annotations})
    assert len(seen) == 10 and all(count >= 20 for count in seen.values()), seen


def test_equals_pycocotools_in_one_dense_scene():
    """One class, long chains in which each choice changes the next, more detections than the limit."""
    rng = np.random.default_rng(7)
    boxes = np.concatenate([rng.uniform(0, 60, (120, 2)), rng.uniform(6, 18, (120, 2))], 1).round(1)
    found = boxes[rng.integers(0, 120, 700)] + rng.normal(0, 1, (700, 4)).round(1)
    found[:, 2:] = np.maximum(found[:, 2:], 0)
    ground_truth = {
        "images": [{"id": 3}], "categories": [{"id": 1, "name": "ship"}],
        "annotations": [{"id": i + 1, "image_id": 3, "category_id": 1, "bbox": b, "area": b[2] * b[3],
                         "iscrowd": int(i % 50 == 0)} for i, b in enumerate(boxes.tolist())]}
    detections = [{"image_id": 3, "category_id": 1, "bbox": b, "score": s}
                  for b, s in zip(found.tolist(), rng.random(700).round(2).tolist(), strict=True)]
    assert_same(ground_truth, detections, Protocol("dense", (1, 100, 600), AITOD.area_ranges))


def test_equals_pycocotools_on_what_a_dense_detector_leaves(detector_scene):
    ground_truth, detections = detector_scene
    assert len(detections) > 3000
    for protocol in (AITOD, COCO):
        assert_same(ground_truth, detections, protocol)
    assert 0.3 < evaluate(ground_truth, detections, AITOD)["AP"] < 0.7


def test_chunks_of_pairs_and_blocks_of_detections_change_nothing(monkeypatch):
    ground_truth, detections = random_scene(11)
    whole = accumulate(ground_truth, detections, AITOD)
    for size in (1, 3, 20):
        monkeypatch.setattr(matching, "PAIR_CHUNK", size)
        monkeypatch.setattr(grouping, "BLOCK", size)
        parts = accumulate(ground_truth, detections, AITOD)
        assert (whole.precision == parts.precision).all() and (whole.recall == parts.recall).all()


def test_pairs_are_those_of_brute_force_where_the_search_window_ends():
    """IoU 1/2 at the very ends of the window: twice as wide to the left, half as wide to the right; 7 groups."""
    rng = np.random.default_rng(3)
    count = 400
    found = np.concatenate([rng.uniform(-500, 500, (count, 2)), rng.uniform(1, 90, (count, 2))], 1)
    x, y, w, h = found.T
    truth = np.concatenate([np.stack([x - w, y, 2 * w, h], 1), np.stack([x + w / 2, y, w / 2, h], 1),
                            np.stack([x, y - h, w, 2 * h], 1), np.stack([x + w / 3, y, w, h], 1)])
    truth[:, 0] += rng.integers(-2, 3, len(truth)) * np.spacing(truth[:, 0])     # outside by rounding alone
    found_group = np.sort(rng.integers(0, 7, count))
    truth_group = np.tile(found_group, 4)
    crowd = rng.random(len(truth)) < 0.1
    pairs = matching.list_pairs(found_group, found, truth_group, truth, crowd, IOU_THRESHOLDS)

    expected, meets = [], []
    for d in range(count):
        for g in np.flatnonzero(truth_group == found_group[d]):
            a, b = found[d], truth[g]
            width, height = (min(a[i + 2] + a[i], b[i + 2] + b[i]) - max(a[i], b[i]) for i in (0, 1))
            if width <= 0 or height <= 0:
                continue
            common = width * height
            iou = common / (a[2] * a[3] if crowd[g] else a[2] * a[3] + b[2] * b[3] - common)
            if iou >= 0.5:
                expected.append((d, g))
                meets.append((iou >= IOU_THRESHOLDS).sum())
    assert len(expected) > count
    order = np.lexsort((pairs.truth, pairs.detection))
    assert list(zip(pairs.detection[order], pairs.truth[order], strict=True)) == expected
    assert pairs.level[order].tolist() == meets


@pytest.mark.parametrize("shift", [-1e7, 1e6, 9e8])
def test_the_search_window_is_wide_enough_far_from_the_origin(shift):
    """At 9e8 px (1e9 is refused) a float64 still holds 1e-7 px; a window that ignores rounding would lose pairs."""
    ground_truth, detections = random_scene(4)
    for record in (*ground_truth["annotations"], *detections):
        record["bbox"][0] += shift
    assert_same(ground_truth, detections, AITOD)


def one_image(boxes, **extra):
    annotations = [{"id": i + 1, "image_id": 1, "category_id": 1, "bbox": box} | extra for i, box in enumerate(boxes)]
    return {"images": [{"id": 1}], "categories": [{"id": 1, "name": "ship"}], "annotations": annotations}


def detection(box, score, image=1, category=1):
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def test_two_objects_one_found_after_a_false_alarm_by_hand():
    truth = one_image([[0, 0, 10, 10], [100, 100, 10, 10]])
    metrics = evaluate(truth, [detection([50, 50, 10, 10], 0.9), detection([0, 0, 10, 10], 0.8)])
    # precision 1/2 up to recall 1/2, which 51 of the 101 recall points (0, 0.01, ..., 0.50) reach
    assert metrics["AP"] == pytest.approx(0.5 * 51 / 101, abs=1e-12)
    assert metrics["AP_t"] == metrics["AP"] and metrics["AP_vt"] == -1         # 100 px2 is tiny
    assert (metrics["AR1"], metrics["AR100"], metrics["AR1500"]) == (0, 0.5, 0.5)


def test_an_iou_just_at_a_threshold_counts_by_hand():
    truth = one_image([[0, 0, 10, 10]])
    metrics = evaluate(truth, [detection([0, 0, 10, 7.5], 0.9)])               # IoU 0.75: 6 of 10 thresholds
    assert metrics["AP50"] == pytest.approx(1) and metrics["AP75"] == pytest.approx(1)
    assert metrics["AP"] == pytest.approx(0.6) and metrics["AR100"] == pytest.approx(0.6)


@pytest.mark.parametrize(("boxes", "second_is_right"), [
    ([[0, 0, 10, 10], [4, 0, 10, 10]], False), ([[4, 0, 10, 10], [0, 0, 10, 10]], True)])
def test_of_equal_ious_the_later_in_the_file_is_taken_by_hand(boxes, second_is_right):
    """The first detection lies half way between both (IoU 2/3); the second fits the box at x = 4 alone."""
    metrics = evaluate(one_image(boxes), [detection([2, 0, 10, 10], 0.9), detection([4, 0, 10, 10], 0.8)])
    assert metrics["AR100"] == pytest.approx((4 * (1 + second_is_right) + 6 * 1) / 20)      # IoU 2/3: 4 thresholds


def test_an_area_on_a_boundary_counts_on_both_sides():
    metrics = evaluate(one_image([[0, 0, 8, 8]]), [detection([0, 0, 8, 8], 0.9)])
    assert metrics["AP_vt"] == pytest.approx(1) and metrics["AP_t"] == pytest.approx(1)
    assert metrics["AP_s"] == metrics["AP_m"] == -1


def test_the_area_field_decides_and_not_the_box():
    metrics = evaluate(one_image([[0, 0, 40, 40]], area=50.0), [])
    assert metrics["AP_vt"] == 0 and metrics["AP_m"] == -1


def test_no_detections_scores_zero_and_no_objects_minus_one():
    metrics = evaluate(one_image([[0, 0, 10, 10]]), [])
    assert metrics["AP"] == 0 and metrics["AR1500"] == 0
    metrics = evaluate(one_image([]), [detection([0, 0, 10, 10], 0.9)])
    assert all(value == -1 for key, value in metrics.items() if key != "per_class")
    metrics = evaluate({"images": [], "annotations": [], "categories": []}, [])
    assert metrics["AP"] == -1 and metrics["per_class"] == {}


def test_keys_are_those_of_metrics_json_and_values_plain_floats():
    metrics = evaluate(one_image([[0, 0, 10, 10]]), [], AITOD)
    keys = ["AP", "AP50", "AP75", "AP_vt", "AP_t", "AP_s", "AP_m", "AR1", "AR100", "AR1500",
            "AR_vt", "AR_t", "AR_s", "AR_m"]
    assert list(metrics) == [*keys, "per_class"] and list(metrics["per_class"]["ship"]) == keys
    assert all(type(metrics[key]) is float for key in keys)
    metrics = evaluate(one_image([[0, 0, 10, 10]]), [], COCO)
    assert list(metrics) == ["AP", "AP50", "AP75", "AP_s", "AP_m", "AP_l", "AR1", "AR10", "AR100",
                             "AR_s", "AR_m", "AR_l", "per_class"]


def test_annotation_id_zero_is_scored_as_pycocotools_does():
    """pycocotools reads the matched annotation's id 0 as "no match"; equal figures need that too."""
    truth = one_image([[0, 0, 10, 10], [30, 0, 10, 10]])
    for number, annotation in enumerate(truth["annotations"]):
        annotation.update(id=number, area=100, iscrowd=0)
    assert_same(truth, [detection([0, 0, 10, 10], 0.9), detection([30, 0, 10, 10], 0.8)], AITOD)


def test_an_undeclared_category_is_left_out_as_pycocotools_does():
    truth = one_image([[0, 0, 10, 10]], area=100, iscrowd=0)
    assert_same(truth, [detection([0, 0, 10, 10], 0.9, category=7), detection([0, 0, 10, 10], 0.8)], AITOD)


def test_lists_files_and_arrays_give_the_same(tmp_path):
    truth, found = random_scene(5)
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "dt.json").write_text(json.dumps(found))
    arrays = DetectionArrays([d["image_id"] for d in found], [d["category_id"] for d in found],
                             [d["bbox"] for d in found], [d["score"] for d in found])
    expected = evaluate(truth, found)
    assert evaluate(truth, arrays) == expected
    assert evaluate(ground_truth_arrays(truth), arrays) == expected
    assert evaluate(tmp_path / "gt.json", str(tmp_path / "dt.json")) == expected


def test_inputs_are_left_as_they_are():
    truth, found = random_scene(6)
    before = copy.deepcopy((truth, found))
    evaluate(truth, found)
    assert (truth, found) == before


def test_an_unknown_image_is_refused():
    with pytest.raises(InputError, match="1 of 1 name image 9, which the ground truth does not list"):
        evaluate(one_image([[0, 0, 10, 10]]), [detection([0, 0, 1, 1], 0.9, image=9)])


def test_equals_pycocotools_on_real_scenes(real_set):
    """Real objects, detections drawn around them."""
    ground_truth = json.loads((real_set / "annotations" / "test.json").read_text())
    rng = np.random.default_rng(0)
    detections = []
    for annotation in ground_truth["annotations"]:
        x, y, w, h = np.array(annotation["bbox"]) * (1 + rng.normal(0, 0.04, 4)) + rng.normal(0, 0.8, 4)
        detections.append(detection([x, y, max(w, 0.0), max(h, 0.0)], round(float(rng.random()), 2),
                                    annotation["image_id"], annotation["category_id"]))
    assert_same(ground_truth, detections, AITOD)


def test_equals_pycocotools_on_what_a_detector_finds_in_real_images(real_set):
    """A poor one, but of real images: regions of stable grey (MSER), nested ones included, scored by their contrast."""
    ground_truth = json.loads((real_set / "annotations" / "test.json").read_text())
    ground_truth["images"] = ground_truth["images"][::3]
    ids = {image["id"] for image in ground_truth["images"]}
    ground_truth["annotations"] = [a for a in ground_truth["annotations"] if a["image_id"] in ids]
    categories = {category["name"]: category["id"] for category in ground_truth["categories"]}
    find = cv2.MSER_create(8, 12, 2000)          # step of grey, least and most area; their names differ between versions
    detections = []
    for image in ground_truth["images"]:
        grey = cv2.imread(str(real_set / "images" / image["file_name"]), cv2.IMREAD_GRAYSCALE)
        for points, (x, y, w, h) in zip(*find.detectRegions(grey), strict=True):
            around = grey[max(y - 3, 0) : y + h + 3, max(x - 3, 0) : x + w + 3]
            contrast = abs(grey[points[:, 1], points[:, 0]].mean() - around.mean()) / 255
            for name in image["labelled_categories"]:                        # which class there is, but not where
                detections.append(detection([int(x), int(y), int(w), int(h)], round(float(contrast), 2), image["id"],
                                            categories[name]))
    assert len(detections) > 1000
    assert_same(ground_truth, detections, AITOD)
    metrics = evaluate(ground_truth, detections, AITOD)
    assert 0.01 < metrics["AR1500"] < 0.5 and metrics["AR100"] < metrics["AR1500"]
