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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from errors import InputError
from eval.files import DetectionArrays, GroundTruthArrays, load_detections, load_ground_truth
from eval.grouping import blocks, class_edges, grouped, truth_groups
from eval.matching import TRUE, UNMATCHED, list_pairs, match

# linspace, not arange: pycocotools compares IoUs and recalls with exactly these floats
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_POINTS = np.linspace(0.0, 1.0, 101)
OLRP_PARTS = ("oLRP", "oLRP_Loc", "oLRP_FP", "oLRP_FN", "oLRP_score")


@dataclass(frozen=True)
class Protocol:
    """What a benchmark fixes.

    Args:
        name: for messages and file names.
        max_dets: ascending limits of detections per image and class; AP uses the last.
        area_ranges: name -> (low, high) in square pixels, both ends inside; the first, 'all', gives AP itself.
        olrp: whether oLRP and its parts are wanted too.
        difficult: whether an object marked `difficult` is left out, as VOC does; COCO knows no such mark. It counts neither
            as found nor as missed, and no detection of it is wrong, however many there are (eval/voc.py).
    """
    name: str
    max_dets: tuple[int, ...]
    area_ranges: dict[str, tuple[float, float]]
    olrp: bool = False
    difficult: bool = False


AITOD = Protocol("aitod", (1, 100, 1500), {
    "all": (0.0, 1e10), "vt": (0.0, 64.0), "t": (64.0, 256.0), "s": (256.0, 1024.0), "m": (1024.0, 1e10)})
COCO = Protocol("coco", (1, 10, 100), {
    "all": (0.0, 1e10), "s": (0.0, 1024.0), "m": (1024.0, 9216.0), "l": (9216.0, 1e10)})


def customized(protocol: Protocol, area_ranges: Sequence[str] = (), max_dets: Sequence[int] = (),
               olrp: bool = False) -> Protocol:
    """The protocol with a user's own ranges and limits in place of its own, where there are any.

    Args:
        area_ranges: "name:low:high" in square pixels, both ends inside; 'all' is added.
        max_dets: limits of detections per image and class.
    Raises:
        InputError: names what is wrong with them, as eval.area_ranges or eval.limits.
    """
    ranges = {"all": (0.0, 1e10)}
    for text in area_ranges:
        name, *ends = text.split(":")
        try:
            low, high = map(float, ends)
        except ValueError:
            low, high = 0.0, 0.0
        if not (name.isidentifier() and 0 <= low < high):
            raise InputError(f"eval.area_ranges: '{text}' is not name:low:high, such as t:64:256 (square pixels, low < high).")
        if name in ranges:
            raise InputError(f"eval.area_ranges: '{name}' stands twice ('all' is always there). Give each range its own name.")
        ranges[name] = (low, high)
    if len(set(max_dets)) < len(max_dets) or any(limit < 1 for limit in max_dets):
        raise InputError(f"eval.limits: {list(max_dets)} must be different numbers from 1 on, such as 1, 100, 1500.")
    return Protocol(protocol.name, tuple(sorted(max_dets)) or protocol.max_dets,
                    ranges if area_ranges else protocol.area_ranges, olrp or protocol.olrp, protocol.difficult)


@dataclass(frozen=True)
class Curves:
    """Everything that the figures are means of; -1 where a class has no object in an area range.

    Args:
        precision: (T, R, K, A, M) float64, interpolated at RECALL_POINTS.
        recall: (T, K, A, M) float64, the highest recall reached.
        category_names: K names, by ascending category id.
        protocol: gives A and M.
        olrp: (K, 5) float64 by OLRP_PARTS where the protocol asks for it, -1 for what is not defined.
    """
    precision: np.ndarray
    recall: np.ndarray
    category_names: list[str]
    protocol: Protocol
    olrp: np.ndarray | None = None


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
        floats in 0..1, -1 where there is no object. With protocol.olrp also "oLRP", "oLRP_Loc", "oLRP_FP" and "oLRP_FN",
        and per class "oLRP_score", the score at which the error is lowest; -1 where they are not defined.
    Raises:
        InputError: a file or entry is unusable, or a detection names an image that the ground truth does not list.
    """
    return summarize(accumulate(ground_truth, detections, protocol))


def accumulate(ground_truth: dict | str | os.PathLike | GroundTruthArrays,
               detections: list[dict] | str | os.PathLike | DetectionArrays, protocol: Protocol = AITOD) -> Curves:
    """The precision and recall arrays behind `evaluate` (same arguments and errors)."""
    truth = load_ground_truth(ground_truth)
    found = load_detections(detections, truth)
    limits = np.sort(protocol.max_dets)
    num_classes, num_ranges, num_thresholds = len(truth.category_ids), len(protocol.area_ranges), len(IOU_THRESHOLDS)
    ignored = truth.crowd | truth.difficult if protocol.difficult else truth.crowd                  # (N,)
    counts = ~ignored[:, None] & inside_ranges(truth.area, protocol)                                # (N, A)
    objects = np.zeros((num_classes, num_ranges), np.int64)
    np.add.at(objects, truth.category_index, counts)

    order, group, rank = grouped(found, truth, limits[-1])
    matched = _matched(found.boxes, order, group, counts, ignored, truth, protocol.olrp)

    precision = np.full((num_thresholds, len(RECALL_POINTS), num_classes, num_ranges, len(limits)), -1.0)
    recall = np.full((num_thresholds, num_classes, num_ranges, len(limits)), -1.0)
    olrp = np.full((num_classes, len(OLRP_PARTS)), -1.0) if protocol.olrp else None
    edges = class_edges(group, truth)
    candidate_edges = np.searchsorted(matched.candidates, edges)
    for k in np.flatnonzero(objects.any(1)):
        mine = slice(edges[k], edges[k + 1])
        chosen = slice(candidate_edges[k], candidate_edges[k + 1])
        area = found.boxes[order[mine], 2] * found.boxes[order[mine], 3]
        own = _ranked(found.scores[order[mine]], area, rank[mine], matched.candidates[chosen] - edges[k],
                      matched.status[chosen], protocol)
        for a in np.flatnonzero(objects[k]):
            # The first true positive at which each recall point is reached: the same for all thresholds and limits.
            reached = np.searchsorted(np.arange(1, objects[k, a] + 1) / objects[k, a], RECALL_POINTS, side="left")
            for m, limit in enumerate(limits):
                precision[:, :, k, a, m], recall[:, k, a, m] = _curve(
                    own.status[a], own.places, own.inside[a], own.rank < limit, objects[k, a], reached)
        if protocol.olrp and objects[k, 0]:
            overlaps = matched.overlaps[chosen][own.candidate_order]
            olrp[k] = _optimal_lrp(own.status[0, 0], own.places, overlaps, own.inside[0], own.scores, objects[k, 0])
    return Curves(precision, recall, truth.category_names, protocol, olrp)


class _Matched(NamedTuple):
    """The detections that overlap an object enough, of all images.

    Args:
        candidates: (C,) int64, their places, ascending.
        status: (C, A, T) uint8, from eval/matching.py.
        overlaps: (C,) float64, the IoU of the match in the first area range at the lowest threshold; empty without oLRP.
    """
    candidates: np.ndarray
    status: np.ndarray
    overlaps: np.ndarray


def _matched(boxes: np.ndarray, order: np.ndarray, group: np.ndarray, counts: np.ndarray, ignored: np.ndarray,
             truth: GroundTruthArrays, wants_overlaps: bool) -> _Matched:
    """Match block by block; see eval/grouping.py for `order` and `group`.

    Args:
        counts: (N, A) bool, the object counts in the area range.
        ignored: (N,) bool, a crowd or left out as difficult: never used up.
    """
    truth_group = truth_groups(truth)
    parts = []
    for block, own in blocks(group, truth_group):
        pairs = list_pairs(group[block], boxes[order[block]], truth_group[own], truth.boxes[own], truth.crowd[own],
                           IOU_THRESHOLDS)
        overlaps = np.zeros(block.stop - block.start) if wants_overlaps else None
        candidates, status = match(pairs, group[block], counts[own], ignored[own], truth.annotation_ids[own],
                                   len(IOU_THRESHOLDS), overlaps)
        parts.append((candidates + block.start, status, overlaps[candidates] if wants_overlaps else np.zeros(0)))
    if not parts:
        return _Matched(np.zeros(0, np.int64), np.zeros((0, counts.shape[1], len(IOU_THRESHOLDS)), np.uint8), np.zeros(0))
    return _Matched(*(np.concatenate(part) for part in zip(*parts, strict=True)))


class _Ranked(NamedTuple):
    """The detections of one class by falling score; equal scores in the order of their images' ids, then of the file.

    Args:
        scores, rank: (d,); `rank` counts the better ones of the same image and class.
        inside: (A, d) bool, the box's area is in the range.
        candidate_order: (c,) int64, what sorts the class's candidates by falling score.
        places: (c,) int64, ascending, of the candidates so sorted among the d.
        status: (A, T, c) uint8 of the candidates so sorted.
    """
    scores: np.ndarray
    rank: np.ndarray
    inside: np.ndarray
    candidate_order: np.ndarray
    places: np.ndarray
    status: np.ndarray


def _ranked(scores: np.ndarray, area: np.ndarray, rank: np.ndarray, candidates: np.ndarray, status: np.ndarray,
            protocol: Protocol) -> _Ranked:
    """Sort a class's detections (d) and candidates (c, c x A x T), which come image by image."""
    ranking = np.argsort(-scores, kind="stable")
    position = np.empty_like(ranking)
    position[ranking] = np.arange(len(ranking))
    places = position[candidates]
    by_place = np.argsort(places)
    return _Ranked(scores[ranking], rank[ranking], np.ascontiguousarray(inside_ranges(area[ranking], protocol).T),
                   by_place, places[by_place], np.ascontiguousarray(status[by_place].transpose(1, 2, 0)))


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
    counted = _counted(status, places, inside & admitted)                                           # (T, c)
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


def _counted(status: np.ndarray, places: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """How many detections count, as right or wrong, up to each candidate and with it.

    All that are inside the range; but a true positive outside it counts too, and one inside that took an ignored object does
    not. Only candidates can be either.

    Args:
        status: (..., c) of the candidates, by falling score.
        places: (c,) of the candidates among the d detections by falling score.
        inside: (d,) bool, the detection's area is in the range.
    Returns:
        (..., c) int64.
    """
    at_home = inside[places]
    counts = (status == TRUE) | ((status == UNMATCHED) & at_home)
    correction = np.cumsum(counts.astype(np.int8) - at_home, axis=-1, dtype=np.int64)
    return np.cumsum(inside, dtype=np.int32)[places] + correction


def _optimal_lrp(status: np.ndarray, places: np.ndarray, overlaps: np.ndarray, inside: np.ndarray, scores: np.ndarray,
                 num_objects: int) -> tuple[float, ...]:
    """Optimal localisation-recall-precision error of one class (Oksuz et al., ECCV 2018, Eq 1 and 3) and its parts.

        LRP(s) = (sum over true positives of (1 - IoU) / (1 - tau) + FP + FN) / (TP + FP + FN),    tau = 0.5

    of the detections that score at least s, and the minimum over s. A false positive never lowers it, so that it is the
    value at a true positive, or 1, before the first one.

    Where the paper leaves a choice, it is aitodpycocotools': the first area range and the highest limit alone; a cut after
    any detection, between equal scores too, and of equal minima the first; oLRP_Loc is the mean of 1 - IoU, not divided by
    1 - tau; oLRP_FP is 1 - precision, oLRP_FN 1 - recall; a class without a true positive has oLRP and oLRP_FN 1 and no other
    part; means are over the classes where a part is defined.

    Args:
        status: (c,) of the class's candidates, by falling score, at threshold tau.
        places, inside: as in _curve.
        overlaps: (c,) the IoU of each match.
        scores: (d,) falling.
        num_objects: that count.
    Returns:
        As in OLRP_PARTS; -1 for a part that is not defined, being 0 / 0.
    """
    hits = np.flatnonzero(status == TRUE)
    counted = _counted(status, places, inside)
    true = np.arange(1, len(hits) + 1)
    false = counted[hits] - true
    error = true - np.cumsum(overlaps[hits])
    lrp = (error / (1 - IOU_THRESHOLDS[0]) + false + num_objects - true) / (num_objects + false)
    best = int(lrp.argmin()) if len(hits) else 0
    if len(hits) == 0:
        return 1.0, -1.0, -1.0, 1.0, -1.0
    if lrp[best] >= 1 and places[hits[0]] > 0:               # no better than the first detection, which finds nothing
        first_counts = counted[0] if places[0] == 0 else inside[0]
        return 1.0, -1.0, 1.0 if first_counts else -1.0, 1.0, scores[0]
    return (lrp[best], error[best] / true[best], false[best] / (true[best] + false[best]),
            (num_objects - true[best]) / num_objects, scores[places[hits[best]]])


def summarize(curves: Curves) -> dict:
    """Means over thresholds, recall points and classes, overall and per class; keys as in `evaluate`."""
    everything = _figures(curves.precision, curves.recall, curves.protocol)
    per_class = {name: _figures(curves.precision[:, :, [k]], curves.recall[:, [k]], curves.protocol)
                 for k, name in enumerate(curves.category_names)}
    if curves.olrp is not None:
        # a score belongs to one class
        everything |= {part: _mean(curves.olrp[:, i]) for i, part in enumerate(OLRP_PARTS[:-1])}
        for figures, values in zip(per_class.values(), curves.olrp.tolist(), strict=True):
            figures.update(zip(OLRP_PARTS, values, strict=True))
    return everything | {"per_class": per_class}


def _figures(precision: np.ndarray, recall: np.ndarray, protocol: Protocol) -> dict[str, float]:
    """(T, R, K, A, M), (T, K, A, M) -> the figures of metrics.json without per_class."""
    ap50, ap75 = (int(np.abs(IOU_THRESHOLDS - value).argmin()) for value in (0.5, 0.75))
    sizes = list(enumerate(protocol.area_ranges))[1:]
    figures = {"AP": range_ap(precision, 0),
               "AP50": _mean(precision[ap50, ..., 0, -1]),
               "AP75": _mean(precision[ap75, ..., 0, -1])}
    figures |= {f"AP_{name}": range_ap(precision, a) for a, name in sizes}
    figures |= {f"AR{limit}": _mean(recall[..., 0, m]) for m, limit in enumerate(sorted(protocol.max_dets))}
    figures |= {f"AR_{name}": _mean(recall[..., a, -1]) for a, name in sizes}
    return figures


def range_ap(precision: np.ndarray, a: int) -> float:
    """AP of the a-th area range, from Curves.precision; -1 where there is no object."""
    return _mean(precision[..., a, -1])


def _mean(values: np.ndarray) -> float:
    present = values[values > -1]
    return float(present.mean()) if present.size else -1.0


def inside_ranges(area: np.ndarray, protocol: Protocol) -> np.ndarray:
    """(N,) square pixels -> (N, A) bool, both ends inside: an area of exactly 64 is very tiny and tiny."""
    ranges = np.array(list(protocol.area_ranges.values()), dtype=np.float64)                        # (A, 2)
    return (area[:, None] >= ranges[:, 0]) & (area[:, None] <= ranges[:, 1])
