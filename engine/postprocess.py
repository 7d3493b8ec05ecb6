"""Decoded cells -> detections: score threshold, class-wise non-maximum suppression, a cap on their number."""
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import nms

FIRST_TRY = 8192        # candidates in the first round of NMS, whose cost grows with their square


class Detections(NamedTuple):
    """Detections of one image, best first."""

    boxes: Tensor       # (n, 4) xyxy pixels
    scores: Tensor      # (n,)
    labels: Tensor      # (n,) int64


def select(boxes: Tensor, scores: Tensor, conf: float, iou: float, max_det: int) -> tuple[Detections, bool]:
    """Choose the detections of one image. A cell may give several, one for each class above `conf`.

    The greedy rule is exact and has no time limit: candidates are taken best first, in rounds, until `max_det` are kept or
    none is left, so that a round that keeps enough says the same as suppressing all of them at once.

    Args:
        boxes: (A, 4) xyxy pixels.
        scores: (A, C) probabilities.
        conf: a candidate needs a score above this.
        iou: of two boxes of one class that overlap more than this, the one with the lower score is dropped.
    Returns:
        The detections, and whether there would have been more than `max_det`.
    """
    anchor, label = (scores > conf).nonzero(as_tuple=True)
    score, order = scores[anchor, label].sort(descending=True, stable=True)
    anchor, label = anchor[order], label[order]
    box, tried = boxes[anchor].double(), FIRST_TRY
    while True:
        kept = _suppress(box[:tried], score[:tried].double(), label[:tried], iou)
        if tried >= len(score) or len(kept) > max_det:
            break
        tried *= 2
    capped = len(kept) > max_det
    kept = kept[:max_det]
    return Detections(boxes[anchor[kept]], score[kept], label[kept]), capped


def _suppress(boxes: Tensor, scores: Tensor, labels: Tensor, iou: float) -> Tensor:
    """Indices of the boxes (n, 4), best first, that no better one of their class overlaps by more than `iou`."""
    if boxes.is_cuda:
        # One call. Classes are moved apart by more than the image, in float64, where the move leaves every box as it was.
        span = (boxes.max() - boxes.min()).ceil() + 1 if len(boxes) else 0
        return nms(boxes + (labels * span)[:, None], scores, iou)
    kept = torch.zeros_like(labels, dtype=torch.bool)
    for label in labels.unique():           # a CPU would compare every box with those of all classes
        own = (labels == label).nonzero().squeeze(1)
        kept[own[nms(boxes[own], scores[own], iou)]] = True
    return kept.nonzero().squeeze(1)


def to_original(boxes: Tensor, scale: tuple[float, float], width: int, height: int) -> Tensor:
    """Boxes (n, 4) in network pixels -> the image's own pixels, float64, clipped to the image.

    Args:
        scale: network pixels per original pixel, along x and y.
    """
    boxes = boxes.double() / boxes.new_tensor((*scale, *scale), dtype=torch.float64)
    limit = boxes.new_tensor((width, height, width, height))
    return boxes.clamp_min(0).minimum(limit)
