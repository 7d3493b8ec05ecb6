"""Box arithmetic on tensors. Boxes are xyxy in one common unit; the last dimension is 4."""
import math

import torch
from torch import Tensor

_EPS = 1e-7


def complete_iou(a: Tensor, b: Tensor) -> Tensor:
    """CIoU of boxes at equal places (Zheng et al., AAAI 2020, Eqs 7-11), in -1.5..1.

        CIoU = IoU - d^2 / c^2 - alpha v

    d: distance of the centres; c: diagonal of the enclosing box; v: disagreement of the aspect ratios; alpha, its weight,
    is a constant for the gradient.

    Args:
        a, b: (..., 4) xyxy, broadcastable.
    Returns:
        (...).
    """
    wa, ha = (a[..., 2:] - a[..., :2]).unbind(-1)
    wb, hb = (b[..., 2:] - b[..., :2]).unbind(-1)
    overlap = _intersection(a, b)
    iou = overlap / (wa * ha + wb * hb - overlap + _EPS)
    enclosing = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    diagonal = enclosing.pow(2).sum(-1) + _EPS
    distance = (b[..., :2] + b[..., 2:] - a[..., :2] - a[..., 2:]).pow(2).sum(-1) / 4
    aspect = (4 / math.pi**2) * (torch.atan(wb / (hb + _EPS)) - torch.atan(wa / (ha + _EPS))).pow(2)
    with torch.no_grad():
        alpha = aspect / (aspect - iou + (1 + _EPS))
    return iou - (distance / diagonal + alpha * aspect)


def wasserstein_similarity(a: Tensor, b: Tensor, size: float) -> Tensor:
    """Normalised Gaussian Wasserstein distance of boxes at equal places (Wang et al., arXiv:2110.13389, section 3.2), in 0..1.

        NWD = exp(-W / size),    W^2 = |centre_a - centre_b|^2 + |side_a - side_b|^2 / 4

    Unlike IoU it falls smoothly with the distance of boxes that do not touch, and a pixel costs a box of any size the same.

    Args:
        a, b: (..., 4) xyxy pixels, broadcastable.
        size: pixels; about the mean side of the data set's objects.
    Returns:
        (...).
    """
    centres = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]).pow(2).sum(-1) / 4
    sides = (a[..., 2:] - a[..., :2] - b[..., 2:] + b[..., :2]).pow(2).sum(-1) / 4
    return torch.exp(-(centres + sides + _EPS).sqrt() / size)


def distances_to_sides(points: Tensor, boxes: Tensor) -> Tensor:
    """Distances from points (..., 2) to the left, top, right and bottom of boxes (..., 4) -> (..., 4)."""
    return torch.cat((points - boxes[..., :2], boxes[..., 2:] - points), -1)


def boxes_around(points: Tensor, distances: Tensor) -> Tensor:
    """The inverse: boxes (..., 4) from points (..., 2) and distances (..., 4) to left, top, right and bottom."""
    return torch.cat((points - distances[..., :2], points + distances[..., 2:]), -1)


def _intersection(a: Tensor, b: Tensor) -> Tensor:
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    return sides.clamp_min(0).prod(-1)
