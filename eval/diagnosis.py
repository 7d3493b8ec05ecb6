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
from eval.matching import list_pairs

SCORE = 0.25
IOU_THRESHOLD = np.array([0.5])


@dataclass(frozen=True)
class Diagnosis:
    """What became of each object and of each detection above a score.

    Args:
        confusion: (K + 1, K + 1) int64. Rows: the object's class, the last one no object. Columns: the class that was
            predicted, the last one none. So the last column counts missed objects and the last row false alarms.
        sides: (N,) float64 px, the square root of each object's area; crowds and difficult objects are left out.
        found: (N,) bool, found with the right class.
        class_names: K names.
        score: detections with a lower score were left out.
    """
    confusion: np.ndarray
    sides: np.ndarray
    found: np.ndarray
    class_names: list[str]
    score: float


def diagnose(truth: GroundTruthArrays, detections: DetectionArrays, score: float = SCORE) -> Diagnosis:
    """Pair detections with objects at IoU 0.5. A detection that is left but lies on a crowd or difficult object is no alarm.

    Args:
        detections: of images that the truth lists; those of other categories are left out.
    """
    num_classes = len(truth.category_ids)
    used = (detections.scores >= score) & np.isin(detections.category_ids, truth.category_ids)
    image = np.searchsorted(truth.image_ids, detections.image_ids[used])
    order = np.lexsort((-detections.scores[used], image))
    image, boxes = image[order], detections.boxes[used][order]
    scores = detections.scores[used][order]
    label = np.searchsorted(truth.category_ids, detections.category_ids[used][order])
    counts = ~(truth.crowd | truth.difficult)

    pairs = list_pairs(image, boxes, truth.image_index, truth.boxes, truth.crowd, IOU_THRESHOLD)
    solid = counts[pairs.truth]
    detection, chosen = pairs.detection[solid], pairs.truth[solid]
    differs = label[detection] != truth.category_index[chosen]
    # Pairs of a detection come by rising IoU. Equal scores keep the order of the file.
    by_rank = np.lexsort((-np.arange(len(detection)), detection, -scores[detection], differs))
    partner = _greedy(detection[by_rank], chosen[by_rank], len(label))

    matched = partner >= 0
    confusion = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    np.add.at(confusion, (truth.category_index[partner[matched]], label[matched]), 1)
    missed = counts.copy()
    missed[partner[matched]] = False
    np.add.at(confusion, (truth.category_index[missed], num_classes), 1)
    excused = np.zeros(len(label), bool)
    excused[pairs.detection[~solid]] = True
    np.add.at(confusion, (num_classes, label[~matched & ~excused]), 1)

    right = np.zeros(len(counts), bool)
    same = matched.copy()
    same[matched] = truth.category_index[partner[matched]] == label[matched]
    right[partner[same]] = True
    return Diagnosis(confusion, np.sqrt(truth.area[counts]), right[counts], list(truth.category_names), score)


def _greedy(detection: np.ndarray, truth: np.ndarray, count: int) -> np.ndarray:
    """(P,), (P,) in the order of preference -> (count,) the truth of each detection, -1 for none; each truth once."""
    partner = np.full(count, -1, np.int64)
    taken = set()
    done = set()
    for d, t in zip(detection.tolist(), truth.tolist(), strict=True):
        if d not in done and t not in taken:
            partner[d] = t
            done.add(d)
            taken.add(t)
    return partner
