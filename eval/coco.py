"""COCO and AI-TOD average precision and recall, equal to pycocotools, in NumPy alone.

    metrics = evaluate("test.json", "detections.json", protocol=AITOD)        # {"AP": 0.31, "AP50": ..., ...}

Definitions: Lin et al., "Microsoft COCO", ECCV 2014, and its reference implementation pycocotools 2.0; for AI-TOD (Wang
et al., ICPR 2020) the area ranges and detection limits of aitodpycocotools, which is otherwise the same code. Figures
equal pycocotools' to rounding, ties, crowds and boxes on the edge of an area range included (tests/eval/test_coco.py).
What differs is the cost: arrays over all images at once instead of a loop per image, class, area range and threshold.

Shape letters: D detections, C candidates (see eval/matching.py), T IoU thresholds, R recall points, K classes,
A area ranges, M detection limits.
"""
import os
from dataclasses import dataclass

import numpy as np

from eval.files import (
    DetectionArrays,
    GroundTruthArrays,
    check_detections,
    detection_arrays,
    ground_truth_arrays,
    load_json,
    read_detections,
)
from eval.matching import TRUE, UNMATCHED, list_pairs, match

# linspace, not arange: pycocotools compares IoUs and recalls with exactly these floats
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_POINTS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class Protocol:
    """What a benchmark fixes.

    Args:
        name: for messages and file names.
        max_dets: ascending limits of detections per image and class; AP uses the last.
        area_ranges: name -> (low, high) in square pixels, both ends inside; the first, 'all', gives AP itself.
    """
    name: str
    max_dets: tuple[int, int, int]
    area_ranges: dict[str, tuple[float, float]]


AITOD = Protocol("aitod", (1, 100, 1500), {
    "all": (0.0, 1e10), "vt": (0.0, 64.0), "t": (64.0, 256.0), "s": (256.0, 1024.0), "m": (1024.0, 1e10)})
COCO = Protocol("coco", (1, 10, 100), {
    "all": (0.0, 1e10), "s": (0.0, 1024.0), "m": (1024.0, 9216.0), "l": (9216.0, 1e10)})


@dataclass(frozen=True)
class Curves:
    """Everything that the figures are means of; -1 where a class has no object in an area range.

    Args:
        precision: (T, R, K, A, M) float64, interpolated at RECALL_POINTS.
        recall: (T, K, A, M) float64, the highest recall reached.
        category_names: K names, by ascending category id.
        protocol: gives A and M.
    """
    precision: np.ndarray
    recall: np.ndarray
    category_names: list[str]
    protocol: Protocol


def evaluate(ground_truth: dict | str | os.PathLike | GroundTruthArrays,
             detections: list[dict] | str | os.PathLike | DetectionArrays, protocol: Protocol = AITOD) -> dict:
    """Score detections.

    Args:
        ground_truth: a COCO ground truth, as a dict or a JSON file. Its images and categories are what is scored.
        detections: COCO results, as a list, a JSON file or DetectionArrays; the order decides between equal scores.
            A category that the ground truth does not declare is an error in a file and otherwise left out.
        protocol: AITOD or COCO, or your own.
    Returns:
        {"AP", "AP50", "AP75", "AP_vt", ..., "AR1", ..., "AR_vt", ..., "per_class": {name: the same keys}} as Python
        floats in 0..1, -1 where there is no object; DESIGN.md lists the keys as those of metrics.json.
    Raises:
        InputError: a file or entry is unusable, or a detection names an image that the ground truth does not list.
    """
    return summarize(accumulate(ground_truth, detections, protocol))


def accumulate(ground_truth: dict | str | os.PathLike | GroundTruthArrays,
               detections: list[dict] | str | os.PathLike | DetectionArrays, protocol: Protocol = AITOD) -> Curves:
    """The precision and recall arrays behind `evaluate` (same arguments and errors)."""
    truth = _load_ground_truth(ground_truth)
    found = _load_detections(detections, truth)
    limits = np.sort(protocol.max_dets)
    ranges = np.array(list(protocol.area_ranges.values()), dtype=np.float64)                        # (A, 2)
    num_images, num_classes = len(truth.image_ids), len(truth.category_ids)

    # Detections by (class, image, falling score); lexsort is stable, so equal scores keep the order of the file.
    known = np.isin(found.category_ids, truth.category_ids)
    scores, boxes = found.scores[known], found.boxes[known]
    group = (np.searchsorted(truth.category_ids, found.category_ids[known]) * num_images
             + np.searchsorted(truth.image_ids, found.image_ids[known]))
    order = np.lexsort((-scores, group))
    rank = np.arange(len(order)) - np.searchsorted(group[order], group[order])
    kept = rank < limits[-1]
    order, rank = order[kept], rank[kept]
    scores, boxes, group = scores[order], boxes[order], group[order]

    counts = ~truth.crowd[:, None] & _inside(truth.area, ranges)                                    # (N, A)
    pairs = list_pairs(group, boxes, truth.category_index * num_images + truth.image_index, truth.boxes, truth.crowd,
                       IOU_THRESHOLDS)
    candidates, status = match(pairs, group, counts, truth.crowd, truth.annotation_ids, len(IOU_THRESHOLDS))

    # The second order, by (class, falling score); equal scores stay in the order of their images' ids.
    label = group // max(num_images, 1)
    ranking = np.lexsort((-scores, label))
    position = np.empty_like(ranking)
    position[ranking] = np.arange(len(ranking))
    by_position = np.argsort(position[candidates])
    candidates, status = candidates[by_position], status[by_position]

    # (A, D): in the area range, hence a false positive if unmatched
    inside = np.ascontiguousarray(_inside(boxes[:, 2] * boxes[:, 3], ranges)[ranking].T)
    rank = rank[ranking]
    objects = np.zeros((num_classes, len(ranges)), np.int64)
    np.add.at(objects, truth.category_index, counts)

    precision = np.full((len(IOU_THRESHOLDS), len(RECALL_POINTS), num_classes, len(ranges), len(limits)), -1.0)
    recall = np.full((len(IOU_THRESHOLDS), num_classes, len(ranges), len(limits)), -1.0)
    class_edges = np.searchsorted(label, np.arange(num_classes + 1))
    candidate_edges = np.searchsorted(position[candidates], class_edges)
    for k in range(num_classes):
        mine = slice(class_edges[k], class_edges[k + 1])
        chosen = slice(candidate_edges[k], candidate_edges[k + 1])
        places = position[candidates[chosen]] - class_edges[k]
        class_status = np.ascontiguousarray(status[chosen].transpose(1, 2, 0))                      # (A, T, c)
        for a in np.flatnonzero(objects[k]):
            # The first true positive at which each recall point is reached: the same for all thresholds and limits.
            reached = np.searchsorted(np.arange(1, objects[k, a] + 1) / objects[k, a], RECALL_POINTS, side="left")
            for m, limit in enumerate(limits):
                precision[:, :, k, a, m], recall[:, k, a, m] = _curve(
                    class_status[a], places, inside[a, mine], rank[mine] < limit, objects[k, a], reached)
    return Curves(precision, recall, truth.category_names, protocol)


def _curve(status: np.ndarray, places: np.ndarray, inside: np.ndarray, admitted: np.ndarray, num_objects: int,
           reached: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Interpolated precision and final recall of one class, area range and limit, at every threshold.

    Precision need be known at true positives only: between two of them it falls, and recall stands still.

    Args:
        status: (T, c) of the class's candidates, by falling score.
        places: (c,) of the candidates among the class's d detections by falling score.
        inside: (d,) bool, the detection's area is in the range.
        admitted: (d,) bool, the detection is within the limit of its image.
        num_objects: that count in this area range.
        reached: (R,) index of the true positive that first reaches each recall point.
    Returns:
        (T, R) and (T,) float64.
    """
    allowed = admitted[places]
    places, status = places[allowed], status[:, allowed]
    # Detections that count, up to each candidate: all inside the range, corrected where a match says otherwise.
    at_home = inside[places]
    countable = (status == TRUE) | ((status == UNMATCHED) & at_home)
    correction = np.cumsum(countable.astype(np.int8) - at_home, axis=1, dtype=np.int64)             # (T, c)
    counted = np.cumsum(inside & admitted)[places] + correction
    precision = np.zeros((len(status), len(reached)))
    recall = np.zeros(len(status))
    for t, row in enumerate(status):
        hits = np.flatnonzero(row == TRUE)
        if len(hits) == 0:
            continue
        true = np.arange(1, len(hits) + 1, dtype=np.float64)
        exact = true / (counted[t, hits] + np.spacing(1))
        envelope = np.maximum.accumulate(exact[::-1])[::-1]
        within = reached < len(hits)
        precision[t, within] = envelope[reached[within]]
        recall[t] = len(hits) / num_objects
    return precision, recall


def summarize(curves: Curves) -> dict:
    """Means over thresholds, recall points and classes, overall and per class; keys as in `evaluate`."""
    everything = _figures(curves.precision, curves.recall, curves.protocol)
    everything["per_class"] = {
        name: _figures(curves.precision[:, :, [k]], curves.recall[:, [k]], curves.protocol)
        for k, name in enumerate(curves.category_names)}
    return everything


def _figures(precision: np.ndarray, recall: np.ndarray, protocol: Protocol) -> dict[str, float]:
    """(T, R, K, A, M), (T, K, A, M) -> the figures of metrics.json without per_class."""
    ap50, ap75 = (int(np.abs(IOU_THRESHOLDS - value).argmin()) for value in (0.5, 0.75))
    sizes = list(enumerate(protocol.area_ranges))[1:]
    figures = {"AP": _mean(precision[..., 0, -1]),
               "AP50": _mean(precision[ap50, ..., 0, -1]),
               "AP75": _mean(precision[ap75, ..., 0, -1])}
    figures |= {f"AP_{name}": _mean(precision[..., a, -1]) for a, name in sizes}
    figures |= {f"AR{limit}": _mean(recall[..., 0, m]) for m, limit in enumerate(sorted(protocol.max_dets))}
    figures |= {f"AR_{name}": _mean(recall[..., a, -1]) for a, name in sizes}
    return figures


def _mean(values: np.ndarray) -> float:
    present = values[values > -1]
    return float(present.mean()) if present.size else -1.0


def _inside(area: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """(N,), (A, 2) -> (N, A) bool, both ends inside: an area of exactly 64 is very tiny and tiny."""
    return (area[:, None] >= ranges[:, 0]) & (area[:, None] <= ranges[:, 1])


def _load_ground_truth(ground_truth: dict | str | os.PathLike | GroundTruthArrays) -> GroundTruthArrays:
    if isinstance(ground_truth, str | os.PathLike):
        return ground_truth_arrays(load_json(ground_truth), os.fspath(ground_truth))
    return ground_truth_arrays(ground_truth)


def _load_detections(detections: list[dict] | str | os.PathLike | DetectionArrays,
                     truth: GroundTruthArrays) -> DetectionArrays:
    if isinstance(detections, str | os.PathLike):
        return read_detections(detections, truth)
    if not isinstance(detections, DetectionArrays):
        detections = detection_arrays(detections)
    check_detections(detections, truth)
    return detections
