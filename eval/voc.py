"""Average precision at IoU 0.5 in the three definitions in use for DIOR, in NumPy alone.

    metrics = evaluate("test.json", "detections.json")      # {"AP50_voc07": 0.71, "AP50_voc12": 0.74, "AP50_coco": ...}

Papers on DIOR print "mAP50" without saying which of these it is, and they differ by points:

* AP50_voc07: the mean of the interpolated precision at the recalls 0, 0.1, ..., 1 (Everingham et al., "The PASCAL Visual
  Object Classes Challenge", IJCV 2010; VOC up to 2009).
* AP50_voc12: the area under the interpolated precision (VOC from 2010; the development kit's VOCap).
* AP50_coco: the mean at 101 recalls with COCO's matching and its 100 detections a class and image. Without difficult
  objects it equals pycocotools' AP50.

VOC's matching is not COCO's: a detection takes the object of its class with the highest IoU (the first in the file of
equal ones), whether that is free or not. If a better detection has it already, it is a false positive; it never falls to
the next object. An object marked `difficult` counts neither as found nor as missed, and no detection of it is wrong,
however many there are; the same holds in AP50_coco, where COCO itself knows no such mark. A crowd is treated as difficult.

Coordinates are continuous: a box w wide covers w pixels. The kit's boxes end on the last pixel, so that it adds 1 to
widths; that is the same IoU if a reader of VOC files turns them into x, y, width and height with that 1.
Detections of equal score come in the order of their images' ids, then of the file.

Shape letters: D detections, N ground truths, K classes.
"""
import os
from typing import NamedTuple

import numpy as np

from eval.coco import RECALL_POINTS
from eval.files import DetectionArrays, GroundTruthArrays, load_detections, load_ground_truth
from eval.grouping import blocks, class_edges, grouped, truth_groups
from eval.matching import IGNORED, TRUE, UNMATCHED, list_pairs, match

IOU_THRESHOLD = np.array([0.5])
COCO_LIMIT = 100        # detections of a class in an image that COCO looks at
DEFINITIONS = ("AP50_voc07", "AP50_voc12", "AP50_coco")


class _Block(NamedTuple):
    """Detections by group and falling score, and the objects of these groups."""

    group: np.ndarray           # (D,) ascending
    boxes: np.ndarray           # (D, 4) float64 xywh px
    truth_group: np.ndarray     # (N,) in the order of the file
    truth_boxes: np.ndarray     # (N, 4)
    crowd: np.ndarray           # (N,) bool
    ignored: np.ndarray         # (N,) bool, crowd or difficult
    annotation_ids: np.ndarray  # (N,)


def evaluate(ground_truth: dict | str | os.PathLike | GroundTruthArrays,
             detections: list[dict] | str | os.PathLike | DetectionArrays) -> dict:
    """Score detections.

    Args:
        ground_truth: a COCO ground truth whose annotations may hold `difficult`, as a dict or a JSON file.
        detections: COCO results, as a list, a JSON file or DetectionArrays.
    Returns:
        {"AP50_voc07", "AP50_voc12", "AP50_coco", "per_class": {name: the same keys}} as Python floats in 0..1, means over
        the classes that have an object which counts, -1 where there is none.
    Raises:
        InputError: a file or entry is unusable, or a detection names an image that the ground truth does not list.
    """
    truth = load_ground_truth(ground_truth)
    detections = load_detections(detections, truth)

    objects = np.bincount(truth.category_index[~(truth.difficult | truth.crowd)], minlength=len(truth.category_ids))
    order, group, rank = grouped(detections, truth)
    by_voc, by_coco = _matched(detections.boxes, order, group, rank, truth)
    edges = class_edges(group, truth)

    per_class = {}
    for k, name in enumerate(truth.category_names):
        mine = slice(edges[k], edges[k + 1])
        # equal scores stay in the order of their images' ids, then of the file
        ranking = np.argsort(-detections.scores[order[mine]], kind="stable")
        voc, coco = _envelope(by_voc[mine][ranking]), _envelope(by_coco[mine][ranking])
        values = (_voc07(voc, objects[k]), _voc12(voc, objects[k]), _coco(coco, objects[k]))
        per_class[name] = dict(zip(DEFINITIONS, values if objects[k] else (-1.0,) * 3, strict=True))
    means = {}
    for name in DEFINITIONS:
        present = [values[name] for values in per_class.values() if values[name] >= 0]
        means[name] = float(np.mean(present)) if present else -1.0
    return {**means, "per_class": per_class}


def _matched(boxes: np.ndarray, order: np.ndarray, group: np.ndarray, rank: np.ndarray,
             truth: GroundTruthArrays) -> tuple[np.ndarray, np.ndarray]:
    """(D,) uint8 each: TRUE, UNMATCHED (a false positive) or IGNORED, by VOC's rule and by COCO's.

    `order`, `group` and `rank` are as in eval/grouping.py.
    """
    by_voc = np.empty(len(order), np.uint8)
    by_coco = np.full(len(order), IGNORED, np.uint8)            # as is what lies beyond COCO's limit
    truth_group = truth_groups(truth)
    for place, own in blocks(group, truth_group):
        crowd, difficult = truth.crowd[own], truth.difficult[own]
        block = _Block(group[place], boxes[order[place]], truth_group[own], truth.boxes[own], crowd, crowd | difficult,
                       truth.annotation_ids[own])
        by_voc[place] = _match_as_voc(block)
        within = rank[place] < COCO_LIMIT
        by_coco[place][within] = _match_as_coco(block._replace(group=block.group[within], boxes=block.boxes[within]))
    return by_voc, by_coco


def _match_as_voc(block: _Block) -> np.ndarray:
    """(D,) uint8, the outcome for each detection."""
    # Pairs come by IoU, then by ground truth. With the truths listed from the last, the last pair of a detection is its
    # highest IoU and, of equal ones, the first in the file: VOC's choice.
    pairs = list_pairs(block.group, block.boxes, block.truth_group[::-1], block.truth_boxes[::-1],
                       np.zeros(len(block.ignored), bool), IOU_THRESHOLD)
    best = np.flatnonzero(np.diff(pairs.detection, append=-1))
    detection, chosen = pairs.detection[best], len(block.ignored) - 1 - pairs.truth[best]
    outcome = np.full(len(block.group), UNMATCHED, np.uint8)
    ignored = block.ignored[chosen]
    outcome[detection[ignored]] = IGNORED
    detection, chosen = detection[~ignored], chosen[~ignored]
    _, first = np.unique(chosen, return_index=True)     # those of one object share a group, so the first is the strongest
    outcome[detection[first]] = TRUE
    return outcome


def _match_as_coco(block: _Block) -> np.ndarray:
    """The same by COCO's rule; an ignored object is never used up, as a crowd is not."""
    pairs = list_pairs(block.group, block.boxes, block.truth_group, block.truth_boxes, block.crowd, IOU_THRESHOLD)
    candidates, status = match(pairs, block.group, ~block.ignored[:, None], block.ignored, block.annotation_ids,
                               len(IOU_THRESHOLD))
    outcome = np.full(len(block.group), UNMATCHED, np.uint8)
    outcome[candidates] = status[:, 0, 0]
    return outcome


def _envelope(outcome: np.ndarray) -> np.ndarray:
    """The interpolated precision at each true positive of one class, from the outcomes (d,) by falling score.

    The highest precision at this recall or beyond. It needs no other place: between two true positives precision falls.
    """
    hits = np.flatnonzero(outcome == TRUE)
    precision = np.arange(1, len(hits) + 1) / np.cumsum(outcome != IGNORED)[hits]
    return np.maximum.accumulate(precision[::-1])[::-1]


def _voc07(envelope: np.ndarray, objects: int) -> float:
    """Eleven points; a recall of tenths is compared in whole numbers, as 7 of 10 is 0.7 and not 0.7000000000000001."""
    needed = np.maximum(-(-np.arange(11) * objects // 10), 1)       # true positives that reach 0, 0.1, ..., 1
    return float(envelope[needed[needed <= len(envelope)] - 1].sum() / 11)


def _voc12(envelope: np.ndarray, objects: int) -> float:
    """Each true positive widens the recall by 1 / objects."""
    return float(envelope.sum() / max(objects, 1))


def _coco(envelope: np.ndarray, objects: int) -> float:
    """101 points, compared with the floats that pycocotools has."""
    reached = np.searchsorted(np.arange(1, objects + 1) / max(objects, 1), RECALL_POINTS, side="left")
    return float(envelope[reached[reached < len(envelope)]].sum() / len(RECALL_POINTS))
