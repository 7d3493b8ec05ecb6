"""Choosing detections: equal to the textbook algorithm, whatever the number of candidates, classes and rounds."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data import Batch, Targets
from data.batch import ImageMeta
from engine import evaluator, postprocess
from engine.config import EvalConfig
from engine.postprocess import select, to_original


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(w, 0) * max(h, 0)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def textbook(boxes: np.ndarray, scores: np.ndarray, conf: float, iou: float) -> list[tuple[int, int]]:
    """(cell, class) of what remains, best first: take the best, drop those of its class that overlap it, and again."""
    pairs = [(a, c) for a in range(len(boxes)) for c in range(scores.shape[1]) if scores[a, c] > conf]
    pairs.sort(key=lambda p: -scores[p])
    kept: list[tuple[int, int]] = []
    for a, c in pairs:
        if all(c != other or overlap(boxes[a], boxes[b]) <= iou for b, other in kept):
            kept.append((a, c))
    return kept


def crowded_scene(cells: int, classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 120, (cells, 2))
    boxes = np.concatenate((corner, corner + rng.uniform(4, 20, (cells, 2))), 1)
    scores = rng.permutation(cells * classes).reshape(cells, classes) / (cells * classes)      # no two alike
    return torch.from_numpy(boxes), torch.from_numpy(scores)


@pytest.mark.parametrize("first_round", [7, 64, 8192])
@pytest.mark.parametrize("max_det", [5, 60, 10_000])
@pytest.mark.parametrize("iou", [0.3, 0.7])
def test_equals_the_textbook(monkeypatch: pytest.MonkeyPatch, first_round: int, max_det: int, iou: float) -> None:
    monkeypatch.setattr(postprocess, "FIRST_TRY", first_round)
    boxes, scores = crowded_scene(150, 3, seed=max_det)
    expected = textbook(boxes.numpy(), scores.numpy(), 0.2, iou)
    found, capped = select(boxes, scores, 0.2, iou, max_det)
    assert capped == (len(expected) > max_det)
    expected = expected[:max_det]
    assert found.labels.tolist() == [c for _, c in expected]
    assert found.scores.tolist() == [scores[p].item() for p in expected]
    assert found.boxes.tolist() == [boxes[a].tolist() for a, _ in expected]


def test_boxes_of_different_classes_never_suppress_each_other_however_far_out_they_lie() -> None:
    boxes = torch.tensor([[-5000.0, -5000.0, 9000.0, 9000.0], [10.0, 10.0, 20.0, 20.0]]).repeat(2, 1)
    scores = torch.zeros(4, 12)
    scores[0, 3], scores[1, 11], scores[2, 4], scores[3, 0] = 0.9, 0.8, 0.7, 0.6
    found, _ = select(boxes, scores, 0.1, 0.5, 100)
    assert found.labels.tolist() == [3, 11, 4, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_nothing_above_the_threshold_is_nothing(dtype: torch.dtype) -> None:
    found, capped = select(torch.ones(9, 4, dtype=dtype), torch.zeros(9, 2, dtype=dtype), 0.1, 0.5, 10)
    assert [len(x) for x in found] == [0, 0, 0] and found.boxes.shape == (0, 4) and not capped


def test_boxes_go_back_to_the_image_and_end_at_its_border() -> None:
    boxes = torch.tensor([[10.0, 20.0, 30.0, 40.0], [-4.0, -2.0, 1000.0, 1000.0]])
    own = to_original(boxes, (0.5, 2.0), width=100, height=300)
    assert own.tolist() == [[20.0, 10.0, 60.0, 20.0], [0.0, 0.0, 100.0, 300.0]]


class Blind(torch.nn.Module):
    """A network whose output does not depend on the image."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, images: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(main=None)


def test_what_lies_in_the_padding_is_no_detection(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of 1280 x 1200, fitted to 640 x 640: below row 600 is grey."""
    rows = [
        ((10, 610, 30, 630), 0.9),
        ((10, 600, 30, 620), 0.8),              # begins at the border
        ((100, 590, 120, 610), 0.5),
        ((50, 50, 60, 60), 0.4),
    ]
    boxes = torch.tensor([[box for box, _ in rows]], dtype=torch.float32)
    scores = torch.tensor([[[score] for _, score in rows]])
    monkeypatch.setattr(evaluator, "decode", lambda _: (boxes, scores))
    batch = Batch(torch.zeros(1, 3, 640, 640, dtype=torch.uint8), Targets.none(), [ImageMeta(1, "", 1280, 1200, (0.5, 0.5))])
    (found,), _ = evaluator.detect(Blind(), batch, EvalConfig(conf=0.1, nms=0.7, max_det=10))
    assert found.boxes.tolist() == [[200, 1180, 240, 1200], [100, 100, 120, 120]]
    assert found.scores.tolist() == pytest.approx([0.5, 0.4]) and found.labels.tolist() == [0, 0]
