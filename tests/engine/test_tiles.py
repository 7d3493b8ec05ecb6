"""Tiles and their merging, with a detector that is never wrong: it finds what is painted in a tile, and of what a border cuts
the part inside. So the truth is exact: each painted rectangle must come back once, as it was painted."""
import time

import cv2
import numpy as np
import pytest

from data.tiling import Grid, Tiling
from engine.tiles import merge, suppress, touching_pairs
from errors import InputError

Found = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def paint(rng: np.random.Generator, width: int, height: int, sizes: list[tuple[int, int]], gap: int = 3) -> tuple:
    """A picture (height, width) of 0 and, in rectangles of these sizes that lie `gap` apart, label + 1; and the rectangles."""
    picture, taken, truth = np.zeros((height, width), np.uint8), np.zeros((height, width), bool), []
    corners = [(0, 0), (1, 0), (0, 1), (1, 1)]             # the first four hug the corners of the image
    for w, h in sizes:
        w, h = min(w, width), min(h, height)
        for _ in range(20):
            x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            if corners:
                right, below = corners.pop()
                x, y = right * (width - w), below * (height - h)
            if not taken[y : y + h, x : x + w].any():
                label = int(rng.integers(3))
                picture[y : y + h, x : x + w] = label + 1
                taken[max(y - gap, 0) : y + h + gap, max(x - gap, 0) : x + w + gap] = True
                truth.append((x, y, x + w, y + h, label))
                break
    return picture, sorted(truth)


def find(picture: np.ndarray, grid: Grid) -> Found:
    """What the detector that is never wrong sees in each tile: tile, boxes, scores, labels."""
    tiles, boxes, labels = [], [], []
    for k in range(len(grid)):
        row, column = divmod(k, len(grid.xs))
        x, y = int(grid.xs[column]), int(grid.ys[row])
        shown = picture[y : y + grid.height, x : x + grid.width]
        for label in range(3):
            count, _, stats, _ = cv2.connectedComponentsWithStats((shown == label + 1).astype(np.uint8))
            for left, top, w, h, _ in stats[1:count]:
                tiles.append(k)
                boxes.append((x + left, y + top, x + left + w, y + top + h))
                labels.append(label)
    scores = np.random.default_rng(0).uniform(0.3, 1, len(tiles))
    return np.array(tiles, np.int64), np.array(boxes, np.float64).reshape(-1, 4), scores, np.array(labels, np.int64)


def as_rows(boxes: np.ndarray, labels: np.ndarray) -> list[tuple]:
    return sorted((*box, label) for box, label in zip(boxes.astype(int).tolist(), labels.tolist(), strict=True))


SCENES = [          # width, height, tile, overlap, sides of the rectangles
    (700, 500, 128, 32, (3, 20)),           # all smaller than the overlap
    (700, 500, 128, 32, (20, 60)),          # around its size
    (700, 500, 128, 32, (60, 400)),         # larger than the overlap, and than a tile
    (701, 333, 100, 50, (2, 150)),          # no side a multiple of anything
    (640, 640, 160, 40, (1, 8)),
    (515, 260, 256, 200, (4, 250)),         # each place in up to twenty tiles
    (900, 90, 128, 32, (3, 120)),           # one row
    (90, 900, 128, 32, (3, 120)),           # one column
    (129, 129, 128, 32, (3, 60)),           # the second tile is one pixel away
    (600, 400, 128, 0, (3, 200)),           # no overlap: parts meet at a line
    (600, 400, 128, 5, (3, 200)),
]


@pytest.mark.parametrize("scene", SCENES, ids=str)
def test_each_rectangle_is_found_once_and_whole(scene: tuple) -> None:
    width, height, tile, overlap, sides = scene
    cut = 0
    for seed in range(25):
        rng = np.random.default_rng(seed)
        sizes = [tuple(int(v) for v in rng.integers(sides[0], sides[1] + 1, 2)) for _ in range(40)]
        picture, truth = paint(rng, width, height, sizes, gap=3 if overlap > 8 else 9)
        grid = Tiling(tile, overlap).grid(width, height)
        tiles, boxes, scores, labels = find(picture, grid)
        cut += sum(row not in truth for row in as_rows(boxes, labels))
        found, _, kinds = merge(grid, tiles, boxes, scores, labels, iou=0.7)
        assert as_rows(found, kinds) == truth, f"seed {seed}"
    assert cut > 50             # else the scenes would not have put this to the test


def test_objects_on_every_pixel_of_a_border() -> None:
    """A rectangle moved through the overlaps of tiles, pixel by pixel, at sizes around the overlap."""
    grid = Tiling(96, 32).grid(160, 160)
    for w, h in ((1, 1), (6, 9), (28, 31), (33, 32), (40, 90)):
        for x in range(52, 109):
            for y in {0, 64, 70, 80 - h // 2, 160 - h}:
                picture = np.zeros((160, 160), np.uint8)
                picture[y : y + h, x : x + w] = 1
                boxes, _, _ = merge(grid, *find(picture, grid), iou=0.7)
                assert boxes.tolist() == [[x, y, x + w, y + h]]


@pytest.mark.parametrize("jitter", [0.3, 1.0])
def test_two_looks_that_differ_a_little_are_one_object_and_neighbours_are_two(jitter: float) -> None:
    """Rows of vehicles, parked a pixel apart, whose boxes each tile draws a little differently."""
    rng = np.random.default_rng(0)
    picture, truth = np.zeros((600, 600), np.uint8), []
    for y in range(3, 580, 14):
        for x in range(2, 585, 7):
            picture[y : y + 11, x : x + 6] = 1
            truth.append((x, y, x + 6, y + 11))
    grid = Tiling(160, 40).grid(600, 600)
    tiles, boxes, _, labels = find(picture, grid)
    boxes += rng.uniform(-jitter, jitter, boxes.shape) / 2
    found, _, _ = merge(grid, tiles, boxes, rng.uniform(0.1, 1, len(boxes)), labels, iou=0.7)
    assert len(found) == len(truth)
    order = np.lexsort((np.round(found[:, 0] / 7), np.round(found[:, 1] / 14)))
    assert np.abs(found[order] - np.array(sorted(truth, key=lambda b: (b[1], b[0])))).max() <= jitter / 2


def test_neighbours_that_overlap_stay_two() -> None:
    """Two objects with an IoU of 0.6 in the middle of an overlap, each seen by both tiles: pairs, not a crowd to be thinned."""
    grid = Tiling(100, 40).grid(160, 100)
    objects = np.array([[70.0, 40, 90, 60], [75, 40, 95, 60]])
    boxes = np.concatenate((objects, objects + 0.5))
    for scores in ([0.9, 0.5, 0.6, 0.8], [0.9, 0.5, 0.6, 0.7], [0.4, 0.5, 0.6, 0.7]):
        found, kept, _ = merge(grid, np.array([0, 0, 1, 1]), boxes, np.array(scores), np.zeros(4, int), iou=0.7)
        assert sorted(np.round(found[:, 0]).tolist()) in ([70, 75], [70, 76], [71, 75], [71, 76]) and len(found) == 2
        assert sorted(kept) == sorted([max(scores[0], scores[2]), max(scores[1], scores[3])])


def test_the_tile_with_the_better_view_decides() -> None:
    """What one tile makes of an object at its border is dropped even where the other tile sees nothing there."""
    grid = Tiling(100, 40).grid(160, 100)                   # columns 0..100 and 60..160
    part, whole = [80.0, 40, 100, 60], [80.0, 40, 120, 60]
    assert len(merge(grid, np.array([0]), np.array([part]), np.ones(1), np.zeros(1, int), 0.7)[0]) == 0
    found, _, _ = merge(grid, np.array([0, 1]), np.array([part, whole]), np.array([0.9, 0.4]), np.zeros(2, int), 0.7)
    assert found.tolist() == [whole]


def test_a_part_does_not_join_an_object_of_another_class_or_another_object() -> None:
    grid = Tiling(100, 20).grid(180, 100)                   # columns 0..100 and 80..180
    left, right = [30.0, 40, 100, 60], [80.0, 40, 150, 60]
    assert merge(grid, np.array([0, 1]), np.array([left, right]), np.ones(2), np.array([1, 1]), 0.7)[0].tolist() == [
        [30, 40, 150, 60]]
    assert len(merge(grid, np.array([0, 1]), np.array([left, right]), np.ones(2), np.array([1, 2]), 0.7)[0]) == 2
    right[1], right[3] = 55, 75
    assert len(merge(grid, np.array([0, 1]), np.array([left, right]), np.ones(2), np.array([1, 1]), 0.7)[0]) == 2


def test_the_result_does_not_depend_on_the_order_in_which_tiles_were_looked_at() -> None:
    rng = np.random.default_rng(3)
    picture, _ = paint(rng, 500, 500, [(int(w), 20) for w in rng.integers(5, 60, 60)])
    grid = Tiling(128, 40).grid(500, 500)
    tiles, boxes, _, labels = find(picture, grid)
    scores = rng.integers(1, 4, len(tiles)) / 4             # many ties
    expected = merge(grid, tiles, boxes, scores, labels, 0.7)
    for seed in range(3):
        order = np.concatenate([np.flatnonzero(tiles == k) for k in np.random.default_rng(seed).permutation(len(grid))])
        again = merge(grid, tiles[order], boxes[order], scores[order], labels[order], 0.7)
        assert all(np.array_equal(a, b) for a, b in zip(expected, again, strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_pairs_and_suppression_equal_those_of_all_against_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(-50, 400, (300, 2)), rng.uniform(0, 30, (300, 2))
    size[::20] *= 12
    size[5] = 0
    if seed == 3:
        corner, size = np.round(corner), np.round(size)     # sides that touch, and equal boxes
        corner[1::2], size[1::2] = corner[::2], size[::2]
    boxes, labels, scores = np.concatenate((corner, corner + size), 1), rng.integers(0, 3, 300), rng.random(300)
    scores = -np.sort(-scores)
    pairs, kept = [], []
    for j in range(300):
        iou = {}
        for i in range(j):
            w = min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0])
            h = min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1])
            if w > 0 and h > 0 and labels[i] == labels[j]:
                pairs.append((i, j))
                iou[i] = w * h / (size[i].prod() + size[j].prod() - w * h)
        if all(iou.get(i, 0) <= 0.4 for i in kept):
            kept.append(j)
    assert sorted(zip(*(x.tolist() for x in touching_pairs(boxes, labels)), strict=True)) == sorted(pairs)
    assert np.array_equal(suppress(boxes, scores, labels, 0.4)[0], boxes[kept])


def test_hundreds_of_thousands_of_detections_are_merged_in_seconds() -> None:
    """A scene of 29,600 px full of vehicles, one strip of it crowded: pairs are looked for nearby only."""
    rng = np.random.default_rng(0)
    corner = np.concatenate((rng.integers(0, 5920, (200_000, 2)), rng.integers(0, (40, 5920), (40_000, 2))))
    corner = 5 * np.unique(corner, axis=0)
    objects = np.concatenate((corner, corner + rng.uniform(3, 4.9, corner.shape)), 1)
    grid = Tiling(800, 200).grid(29_600, 29_600)            # a tile each 600 px, the last one too
    tiles, boxes = [], []
    for row in (objects[:, 1] // 600 - 1, objects[:, 1] // 600):
        for column in (objects[:, 0] // 600 - 1, objects[:, 0] // 600):      # whole or cut, in all tiles that show it
            x, y = 600 * column, 600 * row
            seen = np.clip(objects, np.stack((x, y, x, y), 1), np.stack((x, y, x, y), 1) + 800)
            shown = (seen[:, 2:] > seen[:, :2]).all(1) & (row >= 0) & (row < 49) & (column >= 0) & (column < 49)
            tiles.append((row * 49 + column)[shown].astype(int))
            boxes.append(seen[shown])
    tiles, boxes = np.concatenate(tiles), np.concatenate(boxes)
    assert len(boxes) > 350_000
    start = time.process_time()
    found, _, _ = merge(grid, tiles, boxes, rng.random(len(boxes)), np.zeros(len(boxes), int), iou=0.7)
    assert time.process_time() - start < 20
    assert np.array_equal(found[np.lexsort(found.T)], objects[np.lexsort(objects.T)])


def test_the_grid() -> None:
    grid = Tiling(800, 200).grid(2001, 700)
    assert grid.xs.tolist() == [0, 600, 1200, 1201] and grid.ys.tolist() == [0] and (grid.width, grid.height) == (800, 700)
    assert Tiling(800, 200).grid(800, 801).ys.tolist() == [0, 1]
    assert Tiling(800, 200).grid(2000, 100).xs.tolist() == [0, 600, 1200]
    assert not Tiling(800, 200).cuts(800, 800) and Tiling(800, 200).cuts(10, 801)


@pytest.mark.parametrize(("tile", "overlap", "words"), [(16, 4, ("--tile", "32")), (800, 800, ("--overlap", "200")),
                                                         (64, -1, ("--overlap", "0..63"))])
def test_tiles_that_cannot_be_meant(tile: int, overlap: int, words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        Tiling(tile, overlap)
    assert all(word in str(caught.value) for word in words)


def test_nothing_found() -> None:
    grid = Tiling(64, 16).grid(200, 200)
    found = merge(grid, np.zeros(0, int), np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), 0.7)
    assert [len(x) for x in found] == [0, 0, 0] and found[0].shape == (0, 4)
