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

from eval.coco import RECALL_POINTS, grouped
from eval.files import DetectionArrays, GroundTruthArrays, load_detections, load_ground_truth
from eval.matching import IGNORED, TRUE, UNMATCHED, list_pairs, match

IOU_THRESHOLD = np.array([0.5])
COCO_LIMIT = 100        # detections of a class in an image that COCO looks at
DEFINITIONS = ("AP50_voc07", "AP50_voc12", "AP50_coco")


class _Grouped(NamedTuple):
    """Known detections by (class, image, falling score). Group = class * number of images + image."""

    group: np.ndarray           # (D,) int64, ascending
    boxes: np.ndarray           # (D, 4) float64 xywh px
    scores: np.ndarray          # (D,)
    truth_group: np.ndarray     # (N,) int64, in the order of the file
    num_images: int


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

    ignored = truth.difficult | truth.crowd
    num_images = len(truth.image_ids)
    order, group, rank = grouped(detections, truth)
    found = _Grouped(group, detections.boxes[order], detections.scores[order],
                     truth.category_index * num_images + truth.image_index, num_images)
    within = rank < COCO_LIMIT
    limited = found._replace(group=found.group[within], boxes=found.boxes[within], scores=found.scores[within])
    num_classes = len(truth.category_ids)
    objects = np.bincount(truth.category_index[~ignored], minlength=num_classes)
    by_voc = _envelopes(_match_as_voc(found, truth, ignored), found, num_classes)
    by_coco = _envelopes(_match_as_coco(limited, truth, ignored), limited, num_classes)

    per_class = {}
    for k, name in enumerate(truth.category_names):
        values = (_voc07(by_voc[k], objects[k]), _voc12(by_voc[k], objects[k]), _coco(by_coco[k], objects[k]))
        per_class[name] = dict(zip(DEFINITIONS, values if objects[k] else (-1.0,) * 3, strict=True))
    means = {}
    for name in DEFINITIONS:
        present = [values[name] for values in per_class.values() if values[name] >= 0]
        means[name] = float(np.mean(present)) if present else -1.0
    return {**means, "per_class": per_class}


def _match_as_voc(found: _Grouped, truth: GroundTruthArrays, ignored: np.ndarray) -> np.ndarray:
    """(D,) uint8: TRUE, UNMATCHED (a false positive) or IGNORED, by VOC's rule."""
    # Pairs come by IoU, then by ground truth. With the truths listed from the last, the last pair of a detection is its
    # highest IoU and, of equal ones, the first in the file: VOC's choice.
    pairs = list_pairs(found.group, found.boxes, found.truth_group[::-1], truth.boxes[::-1],
                       np.zeros(len(ignored), bool), IOU_THRESHOLD)
    best = np.flatnonzero(np.diff(pairs.detection, append=-1))
    detection, chosen = pairs.detection[best], len(ignored) - 1 - pairs.truth[best]
    outcome = np.full(len(found.group), UNMATCHED, np.uint8)
    outcome[detection[ignored[chosen]]] = IGNORED
    detection, chosen = detection[~ignored[chosen]], chosen[~ignored[chosen]]
    _, first = np.unique(chosen, return_index=True)     # those of one object share a group, so the first is the strongest
    outcome[detection[first]] = TRUE
    return outcome


def _match_as_coco(found: _Grouped, truth: GroundTruthArrays, ignored: np.ndarray) -> np.ndarray:
    """The same by COCO's rule; an ignored object is never used up, as a crowd is not."""
    pairs = list_pairs(found.group, found.boxes, found.truth_group, truth.boxes, truth.crowd, IOU_THRESHOLD)
    candidates, status = match(pairs, found.group, ~ignored[:, None], ignored, truth.annotation_ids, len(IOU_THRESHOLD))
    outcome = np.full(len(found.group), UNMATCHED, np.uint8)
    outcome[candidates] = status[:, 0, 0]
    return outcome


def _envelopes(outcome: np.ndarray, found: _Grouped, num_classes: int) -> list[np.ndarray]:
    """For each class the interpolated precision at each of its true positives, by falling score.

    The highest precision at this recall or beyond. It needs no other place: between two true positives precision falls.
    """
    label = found.group // max(found.num_images, 1)
    ranking = np.lexsort((-found.scores, label))
    outcome = outcome[ranking]
    edges = np.searchsorted(label, np.arange(num_classes + 1))
    envelopes = []
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        mine = outcome[start:stop]
        hits = np.flatnonzero(mine == TRUE)
        precision = np.arange(1, len(hits) + 1) / np.cumsum(mine != IGNORED)[hits]
        envelopes.append(np.maximum.accumulate(precision[::-1])[::-1])
    return envelopes


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
