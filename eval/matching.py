"""Which detection takes which ground truth: the greedy rule of COCO, over all images at once.

The rule (pycocotools, COCOeval.evaluateImg): in each image and category, at each IoU threshold and for each area range
on its own, detections choose in the order of their score. A detection takes the free ground truth of highest IoU among
those that count, and only if there is none, among those that are ignored (crowds, or out of the area range); of equal
IoUs the later in the file wins. A taken ground truth is gone, except that a crowd can be taken any number of times.

So only pairs with IoU >= the lowest threshold matter. They are listed once, flat, for all thresholds and area ranges;
a detection in no pair is never looked at again. Where no detection of a ground truth has a choice, the winners follow
in closed form, and only what is left is played out, one round for the r-th such detection of every group at once.

Shape letters: D detections, N ground truths, P pairs, C candidates (detections in a pair), A area ranges, T thresholds.
"""
from dataclasses import dataclass

import numpy as np

PAIR_CHUNK = 1 << 19          # pairs whose IoU is computed at a time: bounds the memory
UNMATCHED, TRUE, IGNORED = 0, 1, 2
COUNTS = 1 << 30              # lifts a ground truth that counts above every one that is ignored


@dataclass(frozen=True)
class Pairs:
    """P pairs with IoU at or above the lowest threshold, ordered by detection, then IoU, then ground truth.

    Args:
        detection: (P,) int64.
        truth: (P,) int64.
        level: (P,) int64 in 1..T, the number of thresholds that the IoU meets.
        iou: (P,) float64.
    """
    detection: np.ndarray
    truth: np.ndarray
    level: np.ndarray
    iou: np.ndarray


def list_pairs(detection_group: np.ndarray, detection_boxes: np.ndarray, truth_group: np.ndarray,
               truth_boxes: np.ndarray, crowd: np.ndarray, thresholds: np.ndarray) -> Pairs:
    """List the pairs of one group (image and category) whose IoU meets the lowest threshold.

    Args:
        detection_group: (D,) int64, ascending.
        detection_boxes: (D, 4) float64 xywh px.
        truth_group: (N,) int64, any order.
        truth_boxes: (N, 4) float64 xywh px.
        crowd: (N,) bool; the IoU with a crowd is the share of the detection that lies inside it.
        thresholds: (T,) float64 ascending, the lowest >= 0.5 (the search window relies on it).
    """
    found = []
    for members in (np.flatnonzero(~crowd), np.flatnonzero(crowd)):
        if len(members) == 0 or len(detection_group) == 0:
            continue
        is_crowd = bool(crowd[members[0]])
        members = members[np.lexsort((truth_boxes[members, 0], truth_group[members]))]
        first, last = _windows(detection_group, detection_boxes, truth_group[members], truth_boxes[members], is_crowd)
        ends = np.cumsum(last - first)
        start = 0
        while start < len(ends):
            done = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, done + PAIR_CHUNK, side="right")))
            counts = last[start:stop] - first[start:stop]
            detection = np.repeat(np.arange(start, stop), counts)
            # the window of each detection, laid end to end
            offset = np.arange(len(detection)) - np.repeat(ends[start:stop] - counts - done, counts)
            truth = members[np.repeat(first[start:stop], counts) + offset]
            iou = _iou(detection_boxes[detection], truth_boxes[truth], is_crowd)
            kept = iou >= thresholds[0]
            found.append((detection[kept], truth[kept], iou[kept]))
            start = stop
    if not found:
        return Pairs(*(np.zeros(0, kind) for kind in (np.int64, np.int64, np.int64, np.float64)))
    detection, truth, iou = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((truth, iou, detection))
    iou = iou[order]
    return Pairs(detection[order], truth[order], np.searchsorted(thresholds, iou, side="right"), iou)


def _windows(detection_group: np.ndarray, detection_boxes: np.ndarray, truth_group: np.ndarray,
             truth_boxes: np.ndarray, is_crowd: bool) -> tuple[np.ndarray, np.ndarray]:
    """For each detection the range [first, last) of ground truths, sorted by (group, x), that can reach IoU 0.5.

    IoU >= 1/2 needs an intersection of at least half of either box, hence an overlap in x of at least half of either
    width, hence a left edge within [x - w, x + w/2] of the detection's. A crowd has no such bound.
    """
    begin = np.searchsorted(truth_group, detection_group, side="left")
    end = np.searchsorted(truth_group, detection_group, side="right")
    if is_crowd:
        return begin, end
    # One ascending key for (group, x) allows a single search. The key is rounded, so the window is widened by far more
    # than the rounding; too wide costs a few IoUs, nothing else.
    x, width, edge = detection_boxes[:, 0], detection_boxes[:, 2], truth_boxes[:, 0]
    low, high = x - width, x + width / 2
    origin, span = edge.min(), np.ptp(edge) + 1
    key = truth_group * span + (edge - origin)
    slack = 1e-9 * (np.abs(x) + width) + 1e-14 * (np.abs(key).max() + np.abs(origin) + span)
    low = detection_group * span + np.clip(low - origin, -1, span)
    high = detection_group * span + np.clip(high - origin, -1, span)
    first = np.clip(np.searchsorted(key, low - slack, side="left"), begin, end)
    last = np.clip(np.searchsorted(key, high + slack, side="right"), first, end)
    return first, last


def _iou(a: np.ndarray, b: np.ndarray, is_crowd: bool) -> np.ndarray:
    """(P, 4), (P, 4) xywh -> (P,), in the operations and order of pycocotools' bbIou, so that it rounds alike."""
    width = np.minimum(a[:, 2] + a[:, 0], b[:, 2] + b[:, 0]) - np.maximum(a[:, 0], b[:, 0])
    height = np.minimum(a[:, 3] + a[:, 1], b[:, 3] + b[:, 1]) - np.maximum(a[:, 1], b[:, 1])
    touching = (width > 0) & (height > 0)
    intersection = width * height
    area = a[:, 2] * a[:, 3]
    union = area if is_crowd else area + b[:, 2] * b[:, 3] - intersection
    return np.divide(intersection, union, out=np.zeros(len(a)), where=touching & (union > 0))


def match(pairs: Pairs, detection_group: np.ndarray, counts: np.ndarray, crowd: np.ndarray, annotation_ids: np.ndarray,
          num_thresholds: int, overlaps: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Play the greedy rule for every area range and threshold.

    Args:
        pairs: from list_pairs; detections are numbered by group and, within it, by falling score.
        detection_group: (D,) int64.
        counts: (N, A) bool, False where the ground truth is ignored in this area range.
        crowd: (N,) bool, what is never used up: crowds, and where a protocol leaves them out difficult objects.
        annotation_ids: (N,) int64; pycocotools takes a match with id 0 for no match, and so do we.
        num_thresholds: T.
        overlaps: (D,) float64 or None; takes the IoU of each detection's match in the first area range at the lowest
            threshold, for oLRP.
    Returns:
        candidates: (C,) int64, the detections in any pair, ascending.
        status: (C, A, T) uint8: UNMATCHED, TRUE (a true positive) or IGNORED (took an ignored ground truth).
    """
    candidates, place = np.unique(pairs.detection, return_inverse=True)
    status = np.zeros((len(candidates), counts.shape[1], num_thresholds), np.uint8)
    # What a match is worth. pycocotools stores the matched annotation's id and reads 0 as "none", which makes a match
    # with a counting annotation of id 0 a false positive; equal figures need the same slip.
    outcome = np.where(counts, (annotation_ids != 0)[:, None], IGNORED).astype(np.uint8)

    has_choice = np.bincount(place, minlength=len(candidates)) > 1
    contended = np.zeros(len(crowd), bool)
    contended[pairs.truth[has_choice[place]]] = True
    # Each detection falls wholly on one side: with a choice, all its truths are contended; without, it has one truth.
    played = contended[pairs.truth]

    matched = np.zeros(len(candidates))
    _settle(pairs.truth[~played], pairs.level[~played], place[~played], pairs.iou[~played], crowd, outcome, status, matched)
    _play(pairs.truth[played], pairs.level[played], place[played], pairs.iou[played], detection_group[candidates], counts,
          crowd, outcome, status, matched)
    if overlaps is not None:
        overlaps[candidates] = matched
    return candidates, status


def _settle(truth: np.ndarray, level: np.ndarray, place: np.ndarray, iou: np.ndarray, crowd: np.ndarray,
            outcome: np.ndarray, status: np.ndarray, matched: np.ndarray) -> None:
    """Fill `status` for detections with one pair each: at each threshold the first that meets it takes the truth.

    `matched` (C,) takes the pair's IoU, which means something only where the status says that there was a match.
    """
    if len(truth) == 0:
        return
    matched[place] = iou
    order = np.argsort(truth, kind="stable")              # by truth, then by falling score
    truth, level, place = truth[order], level[order], place[order]
    thresholds = np.arange(status.shape[2])
    step = len(thresholds) + 1
    segment = np.cumsum(np.diff(truth, prepend=truth[0]) != 0) * step
    best = np.maximum.accumulate(level + segment)         # the highest level so far within the truth
    before = np.maximum(np.concatenate(([0], best[:-1])) - segment, 0)
    before[crowd[truth]] = 0                              # a crowd is never gone
    won = (thresholds >= before[:, None]) & (thresholds < level[:, None])
    status[place] = won[:, None, :] * outcome[truth][:, :, None]


def _play(truth: np.ndarray, level: np.ndarray, place: np.ndarray, iou: np.ndarray, group: np.ndarray, counts: np.ndarray,
          crowd: np.ndarray, outcome: np.ndarray, status: np.ndarray, matched: np.ndarray) -> None:
    """Fill `status` and `matched` for detections that compete, the r-th of every group in round r; group is (C,)."""
    if len(truth) == 0:
        return
    players, player = np.unique(place, return_inverse=True)
    turn = _ordinal(group[players])
    order = np.argsort(turn[player], kind="stable")       # rounds; within one still by detection, IoU, truth
    truth, level, iou, player = truth[order], level[order], iou[order], player[order]
    position = _ordinal(player) + 1                       # 1.. within the detection: the last one is the best
    rounds = np.searchsorted(turn[player], np.arange(turn.max() + 2))

    contested, truth_place = np.unique(truth, return_inverse=True)
    free = np.ones((len(contested), *status.shape[1:]), bool)
    thresholds = np.arange(status.shape[2])
    # One number for each pair, so that one maximum chooses: its position within the detection, which rises with the IoU, and
    # COUNTS on top where the object counts. Times `available` it is 0 for what cannot be taken.
    priority = (position[:, None] + counts[truth] * COUNTS).astype(np.int32)                    # (P, A)
    for start, stop in zip(rounds[:-1], rounds[1:], strict=True):
        part = slice(start, stop)
        starts = np.flatnonzero(np.diff(player[part], prepend=-1))
        available = free[truth_place[part]] & (level[part, None] > thresholds)[:, None, :]      # (p, A, T)
        best = np.maximum.reduceat(priority[part, :, None] * available, starts, axis=0)        # (d, A, T)
        taker, area, threshold = np.nonzero(best)
        position_of_best = best[taker, area, threshold] % COUNTS
        pair = start + starts[taker] + position_of_best - 1
        status[players[player[pair]], area, threshold] = outcome[truth[pair], area]
        free[truth_place[pair], area, threshold] = crowd[truth[pair]]
        first = pair[(area == 0) & (threshold == 0)]
        matched[players[player[first]]] = iou[first]


def _ordinal(labels: np.ndarray) -> np.ndarray:
    """(N,) with equal labels adjacent -> (N,) 0, 1, 2, ... counted anew for each label."""
    place = np.arange(len(labels))
    if len(labels) == 0:
        return place
    new = np.concatenate(([True], labels[1:] != labels[:-1]))
    return place - np.maximum.accumulate(np.where(new, place, 0))
