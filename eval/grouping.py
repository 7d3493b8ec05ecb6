"""Detections in groups that know nothing of each other, and blocks of groups that bound the memory of what is done with them.

Shape letters: D detections, N ground truths.
"""
from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from eval.files import DetectionArrays, GroundTruthArrays

BLOCK = 1 << 20              # detections of a block, about
PROGRESS = 2 * BLOCK         # detections from which a progress bar is shown


def grouped(found: DetectionArrays, truth: GroundTruthArrays, limit: float = np.inf
            ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Detections by (class, image, falling score), the first `limit` of each image and class.

    Returns:
        (D,) their indices in `found`; (D,) group as in `truth_groups`, ascending; (D,) rank in the group from 0. Equal
        scores keep the order of the file.
    """
    # int32 where it suffices: at 20 million detections every array counts
    num_groups = max(len(truth.image_ids), 1) * (len(truth.category_ids) + 1)
    small = np.int32 if max(num_groups, len(found)) < 2 ** 31 else np.int64
    label = np.searchsorted(truth.category_ids, found.category_ids).astype(small)
    known = _equal_at(truth.category_ids, label, found.category_ids)
    group = label * small(len(truth.image_ids)) + np.searchsorted(truth.image_ids, found.image_ids).astype(small)
    scores, index = found.scores, None
    if not known.all():
        index = np.flatnonzero(known)
        scores, group = scores[index], group[index]
    order = np.lexsort((-scores, group)).astype(small)                        # stable
    group = group[order]
    place = np.arange(len(order), dtype=small)
    first = np.append(True, group[1:] != group[:-1])[: len(order)]
    rank = place - np.maximum.accumulate(np.where(first, place, small(0)))
    kept = rank < limit
    if not kept.all():
        order, group, rank = order[kept], group[kept], rank[kept]
    return (order if index is None else index[order]), group, rank


def truth_groups(truth: GroundTruthArrays) -> np.ndarray:
    """(N,) int64 group of each object: class * number of images + image."""
    return truth.category_index * len(truth.image_ids) + truth.image_index


def class_edges(group: np.ndarray, truth: GroundTruthArrays) -> np.ndarray:
    """(K + 1,) where the detections of each class start and end, from their ascending groups."""
    first = np.arange(len(truth.category_ids) + 1) * len(truth.image_ids)
    return np.searchsorted(group, first.astype(group.dtype))                 # of another type, all groups would be copied


def blocks(group: np.ndarray, truth_group: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Cut detections into blocks that end where a group does.

    Args:
        group: (D,) ascending.
        truth_group: (N,) in any order.
    Yields:
        A slice of about BLOCK detections, or one group that is larger, and the ascending indices of the objects in its groups.
    """
    start = 0
    # None: shown on a terminal only
    with tqdm(total=len(group), unit=" detections", unit_scale=True, desc="matching", leave=False,
              disable=None if len(group) >= PROGRESS else True) as bar:
        while start < len(group):
            stop = start + BLOCK
            stop = len(group) if stop >= len(group) else int(np.searchsorted(group, group[stop], side="left"))
            if stop <= start:
                stop = int(np.searchsorted(group, group[start], side="right"))
            yield slice(start, stop), np.flatnonzero((truth_group >= group[start]) & (truth_group <= group[stop - 1]))
            bar.update(stop - start)
            start = stop


def _equal_at(known: np.ndarray, place: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(N,) bool: the ascending array `known` holds the value, and at this place."""
    if len(known) == 0:
        return np.zeros(len(values), bool)
    return known[np.minimum(place, len(known) - 1)] == values
