"""Large images as overlapping tiles: how what these show becomes one list of objects.

An object in an overlap is seen by two tiles or four, and one that a tile's border cuts is seen in part. Three steps, in this
order, leave each object once:

1. The tile with the best view decides. A tile's view of a box is as good as the box is far from the tile's inner borders,
   those that are no border of the image. Where another tile sees the box clearly better (by `Grid.margin`), it has the say,
   and the box is dropped: parts at a border, and what the poor context there makes of them. What this leaves of an object that
   fits into the overlap is one box, or two of the whole object where two views are equally good.
2. Boxes of two tiles are one object when they agree about the ground that both tiles show: cut to it they have an IoU of at
   least AGREE, and neither has a better partner in the other's tile. So two looks at one object are recognised, and the parts
   of an object that no tile holds. The whole box with the highest score stands for the object; where every box is cut, the box
   around all parts, with their highest score.
3. Class-wise non-maximum suppression, so that boxes overlap no more than they may within one look.

Neighbours that overlap are safe, as step 2 pairs boxes off instead of suppressing all that are near. A box is only compared
with those that touch it, so that time and memory grow with the number of boxes, not with its square.

Shapes: N detections, P pairs.
"""
import numpy as np

from data.tiling import Grid

AGREE = 0.4             # IoU within what two tiles show, from which two boxes are one object
CHUNK = 1 << 20         # pairs that are looked at in one go


def merge(
    grid: Grid, tile: np.ndarray, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, iou: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each object once, from the detections of all tiles.

    Args:
        tile: (N,) int64, the tile that each detection is from.
        boxes: (N, 4) float64 xyxy in pixels of the image, each within its tile.
        scores: (N,).
        labels: (N,) int64.
        iou: of two boxes of one class that overlap more than this, the one with the lower score is dropped.
    Returns:
        Boxes, scores and labels, best first. Ties go by tile, then by the order within it: the result is the same whatever
        the order in which tiles were looked at.
    """
    order = np.argsort(tile, kind="stable")
    order = order[_is_seen_best(grid, tile[order], boxes[order])]
    tile, boxes, scores, labels = tile[order], boxes[order], scores[order], labels[order]
    cut = _cut_sides(grid, tile, boxes)
    first, second = _same_objects(grid, tile, boxes, labels, cut)
    boxes, scores, labels = _one_each(_groups(len(boxes), first, second), boxes, scores, labels, cut.any(1))
    order = np.argsort(-scores, kind="stable")
    return suppress(boxes[order], scores[order], labels[order], iou)


def _is_seen_best(grid: Grid, tile: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(N,) bool: no other tile sees the box clearly better than its own.

    Columns and rows are judged apart: the tile of the better column and the same row is there too.
    """
    row, column = np.divmod(tile, len(grid.xs))
    along_x = _is_best_along(boxes[:, 0], boxes[:, 2], grid.xs, grid.width, column, grid.margin)
    along_y = _is_best_along(boxes[:, 1], boxes[:, 3], grid.ys, grid.height, row, grid.margin)
    return along_x & along_y


def _is_best_along(
    low: np.ndarray, high: np.ndarray, starts: np.ndarray, side: int, own: np.ndarray, margin: float
) -> np.ndarray:
    """_is_seen_best along one axis: boxes reach from low to high, tiles from starts to starts + side, own is theirs."""
    def view(k: np.ndarray) -> np.ndarray:
        """Distance of each box to the nearer inner end of tile k, negative where it reaches beyond."""
        before = np.where(k == 0, np.inf, low - starts[k])
        behind = np.where(k == len(starts) - 1, np.inf, starts[k] + side - high)
        return np.minimum(before, behind)

    limit = view(own) + margin
    best = np.ones(len(low), bool)
    reach = int((np.searchsorted(starts, starts + side) - np.arange(len(starts))).max())    # tiles that overlap, and one
    for shift in range(-reach, reach + 1):
        best &= view(np.clip(own + shift, 0, len(starts) - 1)) <= limit
    return best


def _windows(grid: Grid, tile: np.ndarray) -> np.ndarray:
    """(N, 4) xyxy of the tiles."""
    row, column = np.divmod(tile, len(grid.xs))
    x, y = grid.xs[column], grid.ys[row]
    return np.stack((x, y, x + grid.width, y + grid.height), 1).astype(np.float64)


def _cut_sides(grid: Grid, tile: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(N, 4) bool: a box ends at an inner border of its tile there (left, top, right, bottom), as if cut by it."""
    row, column = np.divmod(tile, len(grid.xs))
    inner = np.stack((column > 0, row > 0, column < len(grid.xs) - 1, row < len(grid.ys) - 1), 1)
    return inner & (np.abs(boxes - _windows(grid, tile)) <= grid.margin)


def _same_objects(
    grid: Grid, tile: np.ndarray, boxes: np.ndarray, labels: np.ndarray, cut: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of boxes, (P,) indices each, that are one object seen by two tiles.

    They are compared on the common ground of their tiles, each grown by the margin m at every side. So parts meet, too, where
    tiles share a few pixels or none. Along one axis, with an object that both tiles cut:

        left tile          |-----------------------|
        right tile                         |-----------------------|
        common ground                    |-----------|                  from m before the right tile to m behind the left one
        box of the left        |------------------|....                 cut: ends within m of the border, grown by 2 m
        box of the right               ....|-----------------|

    How far a cut box goes on beyond its tile nobody knows. Grown, it goes through the common ground, and nothing else counts.
    """
    outwards = np.array((-1.0, -1, 1, 1)) * grid.margin
    grown_boxes, grown_tiles = boxes + cut * 2 * outwards, _windows(grid, tile) + outwards
    a, b = touching_pairs(grown_boxes, labels)
    apart = tile[a] != tile[b]
    a, b = a[apart], b[apart]
    low, high = np.maximum(grown_tiles[a, :2], grown_tiles[b, :2]), np.minimum(grown_tiles[a, 2:], grown_tiles[b, 2:])
    common = np.concatenate((low, high), 1)
    agreement = overlap(_clip(grown_boxes[a], common), _clip(grown_boxes[b], common))
    # On less ground, such as tiles share that are neighbours of one neighbour, two objects would do that lie end to end.
    least = np.minimum((grid.width, grid.height), min(grid.overlap, 2 * grid.margin)) + 2 * grid.margin
    long_enough = (high - low >= least).all(1)
    agree = long_enough & (agreement >= AGREE)
    a, b, agreement = a[agree], b[agree], agreement[agree]
    mutual = _is_first_choice(a, tile[b], agreement, b) & _is_first_choice(b, tile[a], agreement, a)
    return a[mutual], b[mutual]


def _clip(boxes: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """(P, 4) boxes cut to (P, 4) windows; what lies outside becomes empty."""
    low, high = windows[:, :2], np.maximum(windows[:, 2:], windows[:, :2])
    return np.concatenate((np.clip(boxes[:, :2], low, high), np.clip(boxes[:, 2:], low, high)), 1)


def _is_first_choice(one: np.ndarray, tile: np.ndarray, agreement: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(P,) bool: among the partners of `one` in this tile, `other` agrees best; of equals the first in order."""
    order = np.lexsort((other, -agreement, tile, one))
    starts = np.ones(len(order), bool)
    starts[1:] = (np.diff(one[order]) != 0) | (np.diff(tile[order]) != 0)
    first = np.zeros(len(order), bool)
    first[order[starts]] = True
    return first


def _groups(count: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N,) for each box the lowest index among all that pairs connect it with, directly or over others."""
    lowest = np.arange(count)
    while (lowest[first] != lowest[second]).any():
        low = np.minimum(lowest[first], lowest[second])
        np.minimum.at(lowest, first, low)
        np.minimum.at(lowest, second, low)
        lowest = lowest[lowest]
    return lowest


def _one_each(
    group: np.ndarray, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, cut: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One box for each group: the whole one with the highest score or, if all are cut, the box around them."""
    if not len(group):
        return boxes, scores, labels
    order = np.lexsort((-scores, cut, group))               # stable
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    leader = order[starts]
    around = np.concatenate((np.minimum.reduceat(boxes[order, :2], starts), np.maximum.reduceat(boxes[order, 2:], starts)), 1)
    boxes = np.where(cut[leader, None], around, boxes[leader])
    return boxes, np.maximum.reduceat(scores[order], starts), labels[leader]


def suppress(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, iou: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Greedy class-wise non-maximum suppression of boxes (N, 4), best first; as engine/postprocess.py, for any number."""
    better, worse = touching_pairs(boxes, labels)           # better < worse
    close = overlap(boxes[better], boxes[worse]) > iou
    better, worse = better[close], worse[close]
    keep = np.ones(len(boxes), bool)
    order = np.argsort(worse, kind="stable")                # what is decided about a box is final when it is asked for
    for i, j in zip(better[order].tolist(), worse[order].tolist(), strict=True):
        if keep[i]:
            keep[j] = False
    return boxes[keep], scores[keep], labels[keep]


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU (P,) of boxes (P, 4) in pairs; 0 where both are empty."""
    inter = (np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])).clip(0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - inter
    return np.divide(inter, union, out=np.zeros(len(a)), where=union > 0)


def touching_pairs(boxes: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of one label whose intersection has an area: (P,) indices each, the first below the second.

    The image is divided into strips. A box stands in the list of each strip that it touches, sorted by its left side, and is
    compared with those that begin before it ends. A pair counts in the strip where its intersection begins.
    """
    if len(boxes) < 2:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    x1, y1, x2, y2 = (boxes - np.tile(boxes[:, :2].min(0), 2)).T
    height = max(2 * (y2 - y1).mean(), 1.0)                 # so that a box stands in about two strips
    top, bottom = (y1 // height).astype(np.int64), (y2 // height).astype(np.int64)
    times = bottom - top + 1
    box = np.repeat(np.arange(len(boxes)), times)
    strip = np.arange(len(box)) - np.repeat(np.cumsum(times) - times - top, times)
    # One number tells label, strip and x. Rounding of x in it lets a candidate in, but never keeps one out.
    base = (labels[box] * (bottom.max() + 1) + strip) * (x2.max() + 1)
    key = base + x1[box]
    order = np.argsort(key, kind="stable")
    key, box, strip, base = key[order], box[order], strip[order], base[order]
    ends = np.searchsorted(key, base + x2[box], side="right")
    counts = ends - np.arange(len(box)) - 1
    total = np.cumsum(counts)
    found, start = [], 0
    while start < len(box):
        before = total[start - 1] if start else 0
        stop = max(int(np.searchsorted(total, before + CHUNK, side="right")), start + 1)
        count = counts[start:stop]
        one = np.repeat(np.arange(start, stop), count)
        other = one + 1 + np.arange(len(one)) - np.repeat(total[start:stop] - count - before, count)
        a, b = box[one], box[other]
        begin = np.maximum(y1[a], y1[b])
        wide = np.minimum(x2[a], x2[b]) > np.maximum(x1[a], x1[b])
        mine = wide & (np.minimum(y2[a], y2[b]) > begin) & (begin // height == strip[one])
        found.append(np.stack((np.minimum(a, b)[mine], np.maximum(a, b)[mine])))
        start = stop
    first, second = np.concatenate(found, 1)
    return first, second
