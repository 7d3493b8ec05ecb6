"""Where a detector errs: which classes it takes for which, and which sizes of object it misses.

Average precision ranks all detections; a user looks at those above one score. So this matching has one threshold, and it
pairs across classes, once each: first objects and detections of the same class, then, among what is left, of different
ones. Each time the detection of the highest score chooses first, and takes the free object of the highest IoU. The diagonal
thus holds every object found with its right class; nothing right is lost to a neighbour.

Shape letters: D detections, N ground truths, K classes, P pairs.
"""
from dataclasses import dataclass

import numpy as np

from eval.files import DetectionArrays, GroundTruthArrays
from eval.grouping import blocks
from eval.matching import Pairs, list_pairs

SCORE = 0.25
IOU_THRESHOLD = np.array([0.5])


@dataclass(frozen=True)
class Outcomes:
    """What became of the D detections above a score, by image and falling score.

    Args:
        detection: (D,) int64, their places in the file.
        partner: (D,) int64, the object that each was paired with, of its own class or another; -1 for none.
        right: (D,) bool, the object is of its class.
        excused: (D,) bool, without an object, but on a crowd or a difficult one: no false alarm.
    """
    detection: np.ndarray
    partner: np.ndarray
    right: np.ndarray
    excused: np.ndarray


@dataclass(frozen=True)
class Diagnosis:
    """What became of each object and of each detection above a score.

    Args:
        confusion: (K + 1, K + 1) int64. Rows: the object's class, the last one no object. Columns: the class that was
            predicted, the last one none. So the last column counts missed objects and the last row false alarms.
        area: (N,) float64 in square pixels, of each object; crowds and difficult objects are left out.
        found: (N,) bool, found with the right class.
        class_names: K names.
        score: detections with a lower score were left out.
        used: the number of detections that were not.
        highest: the highest score of all detections, NaN when there is none.
    """
    confusion: np.ndarray
    area: np.ndarray
    found: np.ndarray
    class_names: list[str]
    score: float
    used: int
    highest: float


def diagnose(truth: GroundTruthArrays, detections: DetectionArrays, score: float = SCORE) -> Diagnosis:
    """Count what `pair` finds.

    Args:
        detections: of images that the truth lists; those of other categories are left out.
    """
    num_classes = len(truth.category_ids)
    confusion = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    solid = ~(truth.crowd | truth.difficult)
    outcomes = pair(truth, detections, score)
    label = np.searchsorted(truth.category_ids, detections.category_ids[outcomes.detection])
    matched = outcomes.partner >= 0
    taken, found = np.zeros(len(truth.boxes), bool), np.zeros(len(truth.boxes), bool)
    taken[outcomes.partner[matched]] = True
    found[outcomes.partner[outcomes.right]] = True
    np.add.at(confusion, (truth.category_index[outcomes.partner[matched]], label[matched]), 1)
    np.add.at(confusion, (num_classes, label[~matched & ~outcomes.excused]), 1)
    np.add.at(confusion, (truth.category_index[solid & ~taken], num_classes), 1)
    highest = float(detections.scores.max()) if len(detections) else float("nan")
    return Diagnosis(confusion, truth.area[solid], found[solid], list(truth.category_names), score, len(label), highest)


def pair(truth: GroundTruthArrays, detections: DetectionArrays, score: float = SCORE) -> Outcomes:
    """Pair detections with objects at IoU 0.5; crowds and difficult objects are not paired. Arguments: see `diagnose`."""
    solid = ~(truth.crowd | truth.difficult)
    order, image = _by_image(truth, detections, score)
    label = np.searchsorted(truth.category_ids, detections.category_ids[order])
    partner, excused = np.full(len(order), -1, np.int64), np.zeros(len(order), bool)
    for block, own in blocks(image, truth.image_index):
        pairs = list_pairs(image[block], detections.boxes[order[block]], truth.image_index[own], truth.boxes[own],
                           truth.crowd[own], IOU_THRESHOLD)
        chosen, excused[block] = _pair_up(pairs, label[block], detections.scores[order[block]], truth.category_index[own],
                                          solid[own])
        partner[block][chosen >= 0] = own[chosen[chosen >= 0]]
    matched = partner >= 0
    right = matched.copy()
    right[matched] = truth.category_index[partner[matched]] == label[matched]
    return Outcomes(order, partner, right, excused & ~matched)


def _by_image(truth: GroundTruthArrays, detections: DetectionArrays, score: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices (D,) of the detections that are used, by image and falling score, and the images (D,) as places in the truth.

    Equal scores keep the order of the file.
    """
    used = np.flatnonzero((detections.scores >= score) & np.isin(detections.category_ids, truth.category_ids))
    image = np.searchsorted(truth.image_ids, detections.image_ids[used]).astype(np.int32)
    order = np.lexsort((-detections.scores[used], image))
    return used[order], image[order]


def _pair_up(pairs: Pairs, label: np.ndarray, scores: np.ndarray, label_of: np.ndarray,
             solid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Choose among the pairs of some images.

    Args:
        label, scores: (D,) of the detections, which come by falling score in each image.
        label_of, solid: (N,) class of each object, and whether it is neither a crowd nor difficult.
    Returns:
        (D,) int64, the object of each detection, -1 for none; (D,) bool, the detection lies on one that is not solid.
    """
    excused = np.zeros(len(label), bool)
    excused[pairs.detection[~solid[pairs.truth]]] = True
    wanted = solid[pairs.truth]
    detection, truth = pairs.detection[wanted], pairs.truth[wanted]
    differs = label[detection] != label_of[truth]
    # Pairs of a detection come by rising IoU. Equal scores keep the order of the file.
    by_rank = np.lexsort((-np.arange(len(detection)), detection, -scores[detection], differs))
    return _greedy(detection[by_rank], truth[by_rank], len(label), len(label_of)), excused


def _greedy(detection: np.ndarray, truth: np.ndarray, num_detections: int, num_truths: int) -> np.ndarray:
    """Take the pairs (P,), (P,) one after the other where both sides are free still; (num_detections,) the truth, or -1.

    The first pair of both its detection and its truth is taken whatever the others do. So all of these are taken at once,
    and the same again with what they leave free: a few rounds, as many as the longest chain of rivals is long.
    """
    partner = np.full(num_detections, -1, np.int64)
    free = np.ones(num_truths, bool)
    while len(detection):
        leads = _is_first(detection, num_detections) & _is_first(truth, num_truths)
        partner[detection[leads]] = truth[leads]
        free[truth[leads]] = False
        left = (partner[detection] < 0) & free[truth]
        detection, truth = detection[left], truth[left]
    return partner


def _is_first(values: np.ndarray, count: int) -> np.ndarray:
    """(P,) integers below `count` -> (P,) bool: no equal one stands before."""
    first = np.empty(count, np.int64)
    first[values[::-1]] = np.arange(len(values))[::-1]         # of several assignments the last one holds
    return first[values] == np.arange(len(values))
