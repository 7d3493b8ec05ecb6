"""The sparse assigner against a dense one written here, object by object, in NumPy and float64."""
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from losses import TaskAlignedAssigner
from losses.assigner import candidate_pairs, levels_of


def grid(levels):
    """(A, 2) centres and (A,) strides of levels (width, height, stride)."""
    points = [((x + 0.5) * s, (y + 0.5) * s) for w, h, s in levels for y in range(h) for x in range(w)]
    strides = [s for w, h, s in levels for _ in range(w * h)]
    return torch.tensor(points, dtype=torch.float32), torch.tensor(strides, dtype=torch.float32)


def scene(seed, levels, images=3, objects=60, classes=5, smallest=2.0, largest=40.0):
    """Random dense scenes of tiny boxes, with predictions near the truth, so that metrics differ and cells are contested."""
    rng = np.random.default_rng(seed)
    width, height = levels[0][0] * levels[0][2], levels[0][1] * levels[0][2]
    points, strides = grid(levels)
    counts = rng.integers(0, objects, images)
    counts[rng.integers(images)] = 0                                   # one image without any object
    n = int(counts.sum())
    centre = rng.uniform(0, (width, height), (n, 2))
    side = rng.uniform(smallest, largest, (n, 2)) * rng.uniform(0.3, 1, (n, 1))
    boxes = np.clip(np.concatenate((centre - side / 2, centre + side / 2), 1), 0, (width, height) * 2)
    targets = SimpleNamespace(
        boxes=torch.tensor(boxes, dtype=torch.float32),
        labels=torch.tensor(rng.integers(0, classes, n)),
        image_index=torch.tensor(np.repeat(np.arange(images), counts)),
    )
    scores = torch.tensor(rng.uniform(0.001, 0.9, (images, len(points), classes)), dtype=torch.float32)
    reach = torch.tensor(rng.uniform(1, 20, (images, len(points), 4)), dtype=torch.float32)
    predicted = torch.cat((points - reach[..., :2], points + reach[..., 2:]), -1)
    return scores, predicted, points, strides, targets


def ciou(a, b):
    """Complete IoU of two boxes, by the book."""
    eps = 1e-7
    w1, h1, w2, h2 = a[2] - a[0], a[3] - a[1], b[2] - b[0], b[3] - b[1]
    inter = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    iou = inter / (w1 * h1 + w2 * h2 - inter + eps)
    c2 = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2 + eps
    d2 = ((a[0] + a[2] - b[0] - b[2]) ** 2 + (a[1] + a[3] - b[1] - b[3]) ** 2) / 4
    v = 4 / math.pi**2 * (math.atan(w2 / (h2 + eps)) - math.atan(w1 / (h1 + eps))) ** 2
    return iou - d2 / c2 - v * v / (v - iou + 1 + eps)


def nwd(a, b, size):
    """Normalised Wasserstein distance of two boxes, each a normal distribution with half its sides for deviations."""
    mean_a, mean_b = ((box[:2] + box[2:]) / 2 for box in (a, b))
    deviation_a, deviation_b = ((box[2:] - box[:2]) / 2 for box in (a, b))
    return math.exp(-math.sqrt(((mean_a - mean_b) ** 2).sum() + ((deviation_a - deviation_b) ** 2).sum()) / size)


def dense(scores, predicted, points, targets, topk=10, alpha=0.5, beta=6.0, min_box_side=0, share=0, size=12.8):
    """{(image, anchor): (object, weight)} by filling an (objects x anchors) table."""
    scores, predicted, points = scores.double().numpy(), predicted.double().numpy(), points.double().numpy()
    truth, labels, image = targets.boxes.double().numpy(), targets.labels.numpy(), targets.image_index.numpy()
    N, A = len(truth), len(points)
    overlap, metric, inside, chosen = np.zeros((N, A)), np.zeros((N, A)), np.zeros((N, A), bool), np.zeros((N, A), bool)
    for n in range(N):
        box = truth[n].copy()
        for axis in (0, 1):
            if min_box_side and box[axis + 2] - box[axis] < min_box_side:
                middle = (box[axis] + box[axis + 2]) / 2
                box[axis], box[axis + 2] = middle - min_box_side / 2, middle + min_box_side / 2
        inside[n] = (points > box[:2]).all(1) & (points < box[2:]).all(1)
        for a in np.flatnonzero(inside[n]):
            overlap[n, a] = (1 - share) * max(ciou(truth[n], predicted[image[n], a]), 0)
            overlap[n, a] += share * nwd(truth[n], predicted[image[n], a], size)
            metric[n, a] = scores[image[n], a, labels[n]] ** alpha * overlap[n, a] ** beta
        best = np.argsort(-metric[n], kind="stable")[:topk]
        chosen[n, best] = inside[n, best] & (metric[n, best] > 0)
    for k in np.unique(image):
        rows = np.flatnonzero(image == k)
        for a in np.flatnonzero(chosen[rows].sum(0) > 1):
            chosen[rows, a] = False
            chosen[rows[np.argmax(overlap[rows, a])], a] = True
    result = {}
    for n in range(N):
        mine = np.flatnonzero(chosen[n])
        for a in mine:
            weight = metric[n, a] * overlap[n, mine].max() / (metric[n, mine].max() + 1e-9)
            result[int(image[n]), int(a)] = (n, weight)
    return result


LEVELS = {"P3-P5": ((20, 12, 8), (10, 6, 16), (5, 3, 32)), "P2-P5": ((24, 16, 4), (12, 8, 8), (6, 4, 16), (3, 2, 32))}


@pytest.mark.parametrize(("min_box_side", "share", "size"),
                         [(0, 0, 12.8), (8, 0, 12.8), (16, 0, 12.8), (8, 0.5, 12.8), (0, 1, 5)])
@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS.keys())
@pytest.mark.parametrize("seed", range(4))
def test_sparse_equals_dense(seed, levels, min_box_side, share, size):
    scores, predicted, points, strides, targets = scene(seed, levels)
    expected = dense(scores, predicted, points, targets, min_box_side=min_box_side, share=share, size=size)
    assigner = TaskAlignedAssigner(num_classes=5, min_box_side=min_box_side, nwd=share, nwd_size=size)
    found = assigner(scores, predicted, points, strides, targets, levels)
    got = {
        (i, a): (t, w)
        for i, a, t, w in zip(*(x.tolist() for x in found), strict=True)
    }
    assert len(got) == len(found.weight)                                # each cell at most once
    assert {k: v[0] for k, v in got.items()} == {k: v[0] for k, v in expected.items()}
    for key, (_, weight) in expected.items():
        assert got[key][1] == pytest.approx(weight, rel=2e-4, abs=1e-7)


def test_scenes_hold_contested_and_crowded_cells():
    """The comparison above means something only if the scenes have conflicts and objects with more than topk candidates."""
    _, _, points, _, targets = scene(0, LEVELS["P2-P5"])
    target, anchor, count = candidate_pairs(targets.boxes, LEVELS["P2-P5"])
    cells = torch.stack((targets.image_index[target], anchor), 1)
    assert (torch.unique(cells, dim=0, return_counts=True)[1] > 1).sum() > 50
    assert (count > 10).sum() > 10
    assert (count == 0).sum() > 0


def test_levels_are_derived_from_the_anchors():
    levels = ((7, 3, 8), (3, 2, 16), (1, 1, 32))
    assert levels_of(*grid(levels)) == levels
    scores, predicted, points, strides, targets = scene(7, LEVELS["P3-P5"])
    assigner = TaskAlignedAssigner(num_classes=5)
    for given, derived in zip(
        assigner(scores, predicted, points, strides, targets, LEVELS["P3-P5"]),
        assigner(scores, predicted, points, strides, targets),
        strict=True,
    ):
        assert torch.equal(given, derived)


def test_a_centre_on_the_edge_is_not_inside():
    levels = ((4, 4, 8),)
    boxes = torch.tensor([[4.0, 4, 12, 12], [3.99, 3.99, 12.01, 12.01]])     # centres lie at 4, 12, 20, 28
    target, anchor, count = candidate_pairs(boxes, levels)
    assert count.tolist() == [0, 4]
    assert anchor.tolist() == [0, 1, 4, 5]
    assert target.tolist() == [1, 1, 1, 1]


def test_a_4_px_box_between_centres_has_no_cell_unless_enlarged():
    levels = ((4, 4, 8),)
    boxes = torch.tensor([[6.0, 6, 10, 10]])
    assert candidate_pairs(boxes, levels)[2].tolist() == [0]
    assert candidate_pairs(boxes, levels, min_box_side=16)[2].tolist() == [4]


def test_boxes_beyond_the_image_offer_only_cells_that_exist():
    levels = ((2, 2, 8), (1, 1, 16))
    boxes = torch.tensor([[-100.0, -100, 100, 100], [-50, -50, -10, -10], [30, 30, 50, 50]])
    target, anchor, count = candidate_pairs(boxes, levels)
    assert count.tolist() == [5, 0, 0]
    assert anchor.tolist() == [0, 1, 2, 3, 4]


def test_no_object_gives_no_positive():
    scores, predicted, points, strides, _ = scene(0, LEVELS["P3-P5"])
    nothing = SimpleNamespace(
        boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long), image_index=torch.zeros(0, dtype=torch.long)
    )
    found = TaskAlignedAssigner(num_classes=5)(scores, predicted, points, strides, nothing)
    assert [len(x) for x in found] == [0, 0, 0, 0]


def test_a_metric_of_zero_is_never_chosen():
    levels = ((4, 4, 8),)
    points, strides = grid(levels)
    targets = SimpleNamespace(boxes=torch.tensor([[0.0, 0, 32, 32]]), labels=torch.tensor([0]), image_index=torch.tensor([0]))
    far = torch.tensor([100.0, 100, 110, 110]).expand(1, 16, 4).clone()
    far[0, 5] = torch.tensor([0.0, 0, 32, 30])                          # the only prediction that overlaps the object
    found = TaskAlignedAssigner(num_classes=1)(torch.full((1, 16, 1), 0.5), far, points, strides, targets)
    assert found.anchor_index.tolist() == [5]
    assert found.weight.item() == pytest.approx(ciou([0, 0, 32, 32], [0, 0, 32, 30]), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_it_takes_half_and_double_predictions(dtype):
    scores, predicted, points, strides, targets = scene(1, LEVELS["P3-P5"])
    found = TaskAlignedAssigner(num_classes=5)(scores.to(dtype), predicted.to(dtype), points, strides, targets)
    assert len(found.weight) > 0
    assert torch.isfinite(found.weight).all()
