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
    # Classes are moved apart by more than the image, in float64, where the move leaves every box exactly as it was.
    box = boxes[anchor].double()
    span = (box.max() - box.min()).ceil() + 1 if len(box) else 0
    apart = box + (label * span)[:, None]
    tried = FIRST_TRY
    while True:
        kept = nms(apart[:tried], score[:tried].double(), iou)
        if tried >= len(score) or len(kept) > max_det:
            break
        tried *= 2
    capped = len(kept) > max_det
    kept = kept[:max_det]
    return Detections(boxes[anchor[kept]], score[kept], label[kept]), capped


def to_original(boxes: Tensor, scale: tuple[float, float], width: int, height: int) -> Tensor:
    """Boxes (n, 4) in network pixels -> the image's own pixels, float64, clipped to the image.

    Args:
        scale: network pixels per original pixel, along x and y.
    """
    boxes = boxes.double() / boxes.new_tensor((*scale, *scale), dtype=torch.float64)
    limit = boxes.new_tensor((width, height, width, height))
    return boxes.clamp_min(0).minimum(limit)
