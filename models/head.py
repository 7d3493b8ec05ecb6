"""The detection head: per cell, class logits and a distribution over the distance to each side of the box.

Shapes: B images, A anchors (cells of all levels, finest level first, row by row), C classes.
"""
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.blocks import Conv

BINS = 16       # distances 0..15, in strides (Generalized Focal Loss, Li et al., NeurIPS 2020)


class Anchors(NamedTuple):
    """Where the cells lie."""

    points: Tensor                              # (A, 2) centres, xy in pixels
    strides: Tensor                             # (A,) pixels
    levels: tuple[tuple[int, int, int], ...]    # (width, height, stride) of each level, in cells, cells and pixels


class HeadOutput(NamedTuple):
    """What one head says about a batch."""

    box_logits: Tensor      # (B, A, 4 * BINS), sides in the order left, top, right, bottom
    class_logits: Tensor    # (B, A, C)
    anchors: Anchors
    bins: Tensor            # (BINS,) the distances that the bins stand for, in strides


class Detect(nn.Module):
    """YOLO11's decoupled head.

    Args:
        channels: width of each level.
        strides: stride of each level, in pixels.
        reference_width: width of the finest neck level, from which YOLO11 derives the inner widths of its branches; the
            default is channels[0]. PFDH changes the widths of the levels but not those of the branches.
    """

    def __init__(
        self, num_classes: int, channels: tuple[int, ...], strides: tuple[int, ...], reference_width: int | None = None
    ):
        super().__init__()
        self.strides = strides
        reference = reference_width or channels[0]
        box_width = max(reference // 4, 4 * BINS)
        class_width = max(reference, min(num_classes, 100))
        self.box = nn.ModuleList(
            nn.Sequential(Conv(c, box_width, 3), Conv(box_width, box_width, 3), nn.Conv2d(box_width, 4 * BINS, 1))
            for c in channels
        )
        self.cls = nn.ModuleList(
            nn.Sequential(
                nn.Sequential(Conv(c, c, 3, groups=c), Conv(c, class_width)),
                nn.Sequential(Conv(class_width, class_width, 3, groups=class_width), Conv(class_width, class_width)),
                nn.Conv2d(class_width, num_classes, 1),
            )
            for c in channels
        )
        # A fixed parameter, as in YOLO11, so that the counts agree with the paper's.
        self.bins = nn.Parameter(torch.arange(BINS, dtype=torch.float32), requires_grad=False)
        self._initialise_biases()

    def _initialise_biases(self) -> None:
        """Start from the class frequency of about five objects in a 640 x 640 image, not from one half everywhere."""
        for box, cls, stride in zip(self.box, self.cls, self.strides, strict=True):
            nn.init.constant_(box[-1].bias, 1.0)
            nn.init.constant_(cls[-1].bias, math.log(5 / cls[-1].out_channels / (640 / stride) ** 2))

    def forward(self, features: list[Tensor]) -> HeadOutput:
        """One (B, C, H, W) map per level -> HeadOutput."""
        box_logits = [_flat(branch(x)) for branch, x in zip(self.box, features, strict=True)]
        class_logits = [_flat(branch(x)) for branch, x in zip(self.cls, features, strict=True)]
        levels = tuple((x.shape[3], x.shape[2], s) for x, s in zip(features, self.strides, strict=True))
        anchors = make_anchors(levels, features[0].device)
        return HeadOutput(torch.cat(box_logits, 1), torch.cat(class_logits, 1), anchors, self.bins)


def _flat(x: Tensor) -> Tensor:
    """(B, K, H, W) -> (B, H * W, K)."""
    return x.flatten(2).transpose(1, 2)


def make_anchors(levels: tuple[tuple[int, int, int], ...], device: torch.device) -> Anchors:
    """Centres and strides, in float32, of all cells of levels given as (width, height, stride)."""
    points, strides = [], []
    for width, height, stride in levels:
        x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) * stride
        y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) * stride
        grid = torch.stack((x.expand(height, width), y[:, None].expand(height, width)), -1)     # (H, W, 2)
        points.append(grid.reshape(-1, 2))
        strides.append(torch.full((width * height,), float(stride), device=device))
    return Anchors(torch.cat(points), torch.cat(strides), levels)


def decode_boxes(output: HeadOutput) -> Tensor:
    """Boxes (B, A, 4), xyxy in pixels, not clipped: each side lies at the expected distance of its distribution."""
    B, A, _ = output.box_logits.shape
    probabilities = _at_least_float32(output.box_logits).reshape(B, A, 4, BINS).softmax(-1)
    distances = (probabilities @ _at_least_float32(output.bins)) * output.anchors.strides[:, None]        # (B, A, 4) pixels
    points = output.anchors.points
    return torch.cat((points - distances[..., :2], points + distances[..., 2:]), -1)


def decode(output: HeadOutput) -> tuple[Tensor, Tensor]:
    """Boxes (B, A, 4), xyxy in pixels, and class probabilities (B, A, C)."""
    return decode_boxes(output), _at_least_float32(output.class_logits).sigmoid()


def _at_least_float32(x: Tensor) -> Tensor:
    """800 px need more than float16's 11 bits. (torch.promote_types would stay in graphs that torch 2.6 exports.)"""
    return x if x.dtype == torch.float64 else x.float()
