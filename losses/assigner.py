"""Task-aligned assignment (TOOD, Feng et al., ICCV 2021), computed on the cells that lie inside boxes and on nothing else.

A dense implementation fills (objects x anchors) arrays: 3,000 tiny objects and 53,125 cells make 160 million entries of
which one in 10,000 is not empty. Here the cells inside a box are found in closed form, as a range of columns and rows
on each level, and listed; everything after that works on the list. On a GPU the host waits for two numbers, the lengths of
the list and of what is chosen from it.

Shapes: B images, A anchors, C classes, N objects, L levels, P candidate pairs (object, cell inside it), K positives.
"""
from functools import lru_cache
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from losses.boxes import complete_iou, wasserstein_similarity

Levels = tuple[tuple[int, int, int], ...]


class Targets(Protocol):
    """What the losses need to know of the objects of a batch (data.Targets fits)."""

    boxes: Tensor           # (N, 4) xyxy pixels
    labels: Tensor          # (N,) int64
    image_index: Tensor     # (N,) int64


class Assignment(NamedTuple):
    """K positives: which cell learns which object, and how strongly."""

    image_index: Tensor     # (K,) int64
    anchor_index: Tensor    # (K,) int64, each (image, anchor) at most once
    target_index: Tensor    # (K,) int64
    weight: Tensor          # (K,) the soft class target, 0..1


class TaskAlignedAssigner:
    """Choose for each object the cells that learn it, by how well they already classify and locate it.

        metric = score^alpha * overlap^beta,    overlap = (1 - nwd) * max(CIoU, 0) + nwd * NWD

    Candidates are the cells whose centre lies strictly inside the box; each object takes its `topk` best; a cell chosen by
    several objects goes to the one that it overlaps most among all whose box contains it. A positive's weight is its
    metric, scaled so that an object's best cell gets the object's best overlap; but hardly any where even the best metric
    is below 1e-9, as that of a tiny object is early in training.

    Args:
        min_box_side: sides shorter than this many pixels offer the cells of a side of this length (0: none do). Below
            8 px between a sixth (7 px) and two thirds (4 px) of all boxes contain no cell centre of strides 8 to 32 and are
            never learned.
        nwd: share of the Wasserstein similarity in the overlap (0: CIoU alone, the paper's way).
        nwd_size: its unit, pixels; about the mean side of the objects.
    """

    def __init__(
        self, num_classes: int, topk: int = 10, alpha: float = 0.5, beta: float = 6.0, min_box_side: float = 0,
        nwd: float = 0, nwd_size: float = 12.8,
    ):
        self.num_classes = num_classes
        self.topk = topk
        self.alpha = alpha
        self.beta = beta
        self.min_box_side = min_box_side
        self.nwd = nwd
        self.nwd_size = nwd_size

    @torch.no_grad()
    def __call__(
        self,
        scores: Tensor,
        boxes: Tensor,
        anchor_points: Tensor,
        strides: Tensor,
        targets: Targets,
        levels: Levels | None = None,
    ) -> Assignment:
        """Assign the objects of a batch.

        Args:
            scores: (B, A, C) class probabilities.
            boxes: (B, A, 4) predicted boxes, xyxy pixels.
            anchor_points: (A, 2) cell centres, pixels.
            strides: (A,) pixels.
            levels: (width, height, stride) of each level, in the order of the anchors; derived from them when None.
        Returns:
            The positives, ordered by object, then anchor.
        """
        A = anchor_points.shape[0]
        levels = levels or levels_of(anchor_points, strides)
        target, anchor, count = candidate_pairs(targets.boxes.float(), levels, self.min_box_side)
        image = targets.image_index[target]

        score = scores[image, anchor, targets.labels[target]].float()
        truth, predicted = targets.boxes[target].float(), boxes[image, anchor].float()
        overlap = complete_iou(truth, predicted).clamp_min(0)
        if self.nwd:
            overlap = torch.lerp(overlap, wasserstein_similarity(truth, predicted, self.nwd_size), self.nwd)
        metric = score.pow(self.alpha) * overlap.pow(self.beta)

        chosen = self._best_of_each(metric, target, count) & (metric > 0)
        cell = image * A + anchor                                   # (P,) one number per (image, anchor)
        positive = _resolve_conflicts(chosen, cell, overlap, target, cells=scores.shape[0] * A)

        target, overlap, metric = target[positive], overlap[positive], metric[positive]
        best_metric = metric.new_zeros(len(targets.labels)).scatter_reduce_(0, target, metric, "amax")
        best_overlap = metric.new_zeros(len(targets.labels)).scatter_reduce_(0, target, overlap, "amax")
        # 1e-9 is YOLO's: an object that nothing fits yet stays nearly silent (score 1e-5, overlap 0.061: weight 0.0085).
        weight = metric * best_overlap[target] / (best_metric[target] + 1e-9)
        return Assignment(image[positive], anchor[positive], target, weight)

    def _best_of_each(self, metric: Tensor, target: Tensor, count: Tensor) -> Tensor:
        """(P,) bool: the pair is among its object's topk by metric; of equals the first anchors. Pairs are listed by object."""
        order = metric.argsort(descending=True, stable=True)
        order = order[target[order].argsort(stable=True)]           # grouped as before, by falling metric within each object
        # Where each object's pairs begin. `target` ascends, so that it names the object at each place of `order`, too.
        begin = (count.cumsum(0) - count)[target]
        rank = torch.arange(len(order), device=metric.device) - begin
        return torch.empty_like(target, dtype=torch.bool).scatter_(0, order, rank < self.topk)


def candidate_pairs(boxes: Tensor, levels: Levels, min_box_side: float = 0) -> tuple[Tensor, Tensor, Tensor]:
    """List the cells whose centre lies strictly inside each box.

    Args:
        boxes: (N, 4) xyxy pixels.
        levels: (width, height, stride) of each level.
        min_box_side: sides below this are enlarged to it about the box's centre first.
    Returns:
        object and anchor of each pair, both (P,) int64, ordered by object, then anchor; and (N,) int64, pairs per object.
    """
    device, N = boxes.device, len(boxes)
    boxes = boxes.double()      # halves, thirds of a pixel and powers of two are then exact: "strictly inside" is decided right
    if min_box_side > 0:
        centre, side = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        half = torch.where(side < min_box_side, min_box_side, side) / 2
        boxes = torch.cat((centre - half, centre + half), 1)

    stride, size = _strides_and_sizes(levels, device)
    cells = (size[:, 0] * size[:, 1]).long()
    level_start = cells.cumsum(0) - cells                                                              # (L,)

    # Cell i has its centre at (i + 0.5) * stride; lo < centre < hi holds for i in first..last.
    first = (boxes[:, None, :2] / stride - 0.5).floor().add_(1).clamp_min(0)                           # (N, L, 2)
    last = torch.minimum((boxes[:, None, 2:] / stride - 0.5).ceil().sub_(1), size - 1)
    extent = (last - first + 1).clamp_min(0).long()
    first = first.long()

    pairs = extent.prod(2).reshape(-1)                                                                 # (N * L,)
    row = torch.arange(N * len(levels), device=device).repeat_interleave(pairs)                        # (P,)
    within = torch.arange(len(row), device=device) - (pairs.cumsum(0) - pairs)[row]
    columns = extent[..., 0].reshape(-1)[row]
    x = first[..., 0].reshape(-1)[row] + within % columns
    y = first[..., 1].reshape(-1)[row] + within // columns
    level = row % len(levels)
    anchor = level_start[level] + y * size[:, 0].long()[level] + x
    return row // len(levels), anchor, pairs.view(N, len(levels)).sum(1)


@lru_cache(64)
def _strides_and_sizes(levels: Levels, device: torch.device) -> tuple[Tensor, Tensor]:
    """Strides (L, 1) and columns and rows (L, 2), float64. Made once for each image size, as a copy makes a GPU wait."""
    stride = torch.tensor([s for _, _, s in levels], device=device, dtype=torch.float64)[:, None]
    return stride, torch.tensor([(w, h) for w, h, _ in levels], device=device, dtype=torch.float64)


def levels_of(anchor_points: Tensor, strides: Tensor) -> Levels:
    """Recover (width, height, stride) of each level from its anchors, listed level by level and row by row."""
    levels = []
    for stride, count in zip(*torch.unique_consecutive(strides, return_counts=True), strict=True):
        begin = sum(w * h for w, h, _ in levels)
        rows = anchor_points[begin : begin + int(count), 1]
        width = int((rows == rows[0]).sum())
        levels.append((width, int(count) // width, int(stride)))
    return tuple(levels)


def _resolve_conflicts(chosen: Tensor, cell: Tensor, overlap: Tensor, target: Tensor, cells: int) -> Tensor:
    """Give each cell that several objects chose to the one it overlaps most among all that contain it.

    Args:
        chosen, cell, overlap, target: (P,) of each pair; `cell` counts over the whole batch.
    Returns:
        (K,) int64 indices of the pairs that remain, at most one for each cell.
    """
    takers = torch.zeros(cells, dtype=torch.int32, device=cell.device).index_add_(0, cell, chosen.int())
    highest = overlap.new_full((cells,), -1).scatter_reduce_(0, cell, overlap, "amax")
    is_highest = overlap == highest[cell]                                           # (P,)
    nobody = torch.iinfo(target.dtype).max
    winner = target.new_full((cells,), nobody)                                      # of equals the first object
    winner.scatter_reduce_(0, cell, torch.where(is_highest, target, nobody), "amin")
    contested = takers[cell] > 1
    kept = torch.where(contested, target == winner[cell], chosen)                   # the winner need not have chosen the cell
    return kept.nonzero().squeeze(1)
