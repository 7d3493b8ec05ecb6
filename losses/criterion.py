"""What training minimises: class, box and distribution losses of the main head and of the auxiliary one.

    total = B * (sum over positives and cells) / max(1, sum of soft targets)

B and the sum of soft targets are those of the global batch, over all ranks, so that N ranks with B / N images each give
the gradient of one process with B images. Everything is computed in float32 at least, whatever autocast is on.

Shapes: B images, A anchors, C classes, K positives.
"""
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from errors import InputError
from losses.assigner import Assignment, Targets, TaskAlignedAssigner
from losses.boxes import boxes_around, complete_iou, distances_to_sides, wasserstein_similarity


@dataclass(frozen=True)
class LossConfig:
    """Gains of the terms (YOLO11's recipe)."""

    box: float = 7.5
    cls: float = 0.5
    dfl: float = 1.5
    auxiliary_weight: float = 0.25      # of all three terms of ARB's auxiliary head
    nwd: float = 0.0            # share of the Wasserstein similarity in the box loss; 0: CIoU alone
    nwd_size: float = 12.8      # its unit, pixels: AI-TOD's mean object

    def __post_init__(self):
        for name, value in vars(self).items():
            if not value >= 0:
                raise InputError(f"loss.{name}: {value} is not a weight. Use a number of 0 or more.")
        _check_nwd("loss", self.nwd, self.nwd_size)


@dataclass(frozen=True)
class AssignerConfig:
    """Task-aligned assignment; see TaskAlignedAssigner."""

    topk: int = 10              # cells that learn an object, at most
    alpha: float = 0.5          # power of the score
    beta: float = 6.0           # power of the overlap
    min_box_side: float = 0.0   # pixels: shorter sides offer the cells of a side of this length
    nwd: float = 0.0            # share of the Wasserstein similarity in the overlap; 0: CIoU alone
    nwd_size: float = 12.8      # its unit, pixels: AI-TOD's mean object

    def __post_init__(self):
        if self.topk < 1:
            raise InputError(f"assigner.topk: {self.topk} is not a number of cells. Use 1 or more.")
        for name in ("alpha", "beta", "min_box_side"):
            if not getattr(self, name) >= 0:
                raise InputError(f"assigner.{name}: {getattr(self, name)} is negative. Use 0 or more.")
        _check_nwd("assigner", self.nwd, self.nwd_size)


def _check_nwd(section: str, share: float, size: float) -> None:
    if not 0 <= share <= 1:
        raise InputError(f"{section}.nwd: {share} is no share. Use 0 to 1.")
    if not size > 0:
        raise InputError(f"{section}.nwd_size: {size} is not above 0. Use the mean side of the objects in pixels.")


class HeadOutput(NamedTuple):
    """The shape of a head's output that the criterion reads (models.HeadOutput fits)."""

    box_logits: Tensor      # (B, A, 4 * bins)
    class_logits: Tensor    # (B, A, C)
    anchors: NamedTuple     # points (A, 2), strides (A,), levels
    bins: Tensor            # (bins,) distances, in strides


class LossTerms(NamedTuple):
    """Losses of one batch. `total` is for backward; the others are detached, with their gains, and add up over the ranks'
    mean to the global batch's total / B."""

    total: Tensor
    box: Tensor
    cls: Tensor
    dfl: Tensor
    auxiliary: Tensor
    objects: Tensor         # objects on this rank
    unassigned: Tensor      # of these, how many no cell of the main head learns


class Criterion:
    """Compute LossTerms from head outputs and targets.

    Args:
        world_size: number of ranks.
        all_sum: adds a tensor over the ranks and returns the sum.
    """

    def __init__(
        self,
        config: LossConfig,
        assigner: TaskAlignedAssigner,
        world_size: int = 1,
        all_sum: Callable[[Tensor], Tensor] = lambda x: x,
    ):
        self.config = config
        self.assigner = assigner
        self.world_size = world_size
        self.all_sum = all_sum

    def __call__(self, main: HeadOutput, auxiliary: HeadOutput | None, targets: Targets) -> LossTerms:
        """Losses of this rank's share of the global batch; every rank has the same number of images."""
        with torch.autocast(targets.boxes.device.type, enabled=False):
            heads = [main] if auxiliary is None else [main, auxiliary]
            parts = [self._head(head, targets) for head in heads]
            # One reduction for all heads: every rank takes part in it, whatever its images hold.
            soft_targets = self.all_sum(torch.stack([assignment.weight.sum() for _, assignment in parts]))
            terms = [self.world_size * part / n.clamp_min(1) for (part, _), n in zip(parts, soft_targets, strict=True)]

            auxiliary_term = self.config.auxiliary_weight * sum(t.sum() for t in terms[1:])
            images = main.class_logits.shape[0] * self.world_size
            total = images * (terms[0].sum() + auxiliary_term)
        box, cls, dfl = terms[0].detach().unbind()
        learned = torch.zeros_like(targets.labels, dtype=torch.bool)
        learned.index_fill_(0, parts[0][1].target_index, True)      # learned[...] = True would make the host wait for a GPU
        return LossTerms(
            total, box, cls, dfl,
            auxiliary=auxiliary_term.detach() if auxiliary is not None else torch.zeros_like(box),
            objects=learned.new_full((), len(learned), dtype=torch.int64),      # made on the device: a copy makes it wait
            unassigned=(~learned).sum(),
        )

    def _head(self, head: HeadOutput, targets: Targets) -> tuple[Tensor, Assignment]:
        """Sums (3,) of the box, class and DFL losses of one head, with gains, without normaliser; and the assignment."""
        class_logits = _at_least_float32(head.class_logits)
        points, strides, levels = head.anchors
        assigned = self.assigner(
            class_logits.detach().sigmoid(), predicted_boxes(head), points, strides, targets, levels
        )
        image, anchor, target, weight = assigned

        # BCE with logits x against a target t is softplus(x) - t x; t is zero but for the positives, so it is never stored.
        positive_logits = class_logits[image, anchor, targets.labels[target]]
        cls = F.softplus(class_logits).sum() - (weight * positive_logits).sum()

        bins = head.bins.to(class_logits.dtype)
        logits = _at_least_float32(head.box_logits[image, anchor]).unflatten(-1, (4, len(bins)))     # (K, 4, bins)
        stride = strides[anchor][:, None]
        point = points[anchor] / stride
        truth = targets.boxes[target].to(class_logits.dtype) / stride                               # (K, 4) strides
        predicted = boxes_around(point, logits.softmax(-1) @ bins)
        similarity = complete_iou(predicted, truth)
        if self.config.nwd:
            wasserstein = wasserstein_similarity(predicted * stride, truth * stride, self.config.nwd_size)
            similarity = torch.lerp(similarity, wasserstein, self.config.nwd)
        box = (weight * (1 - similarity)).sum()
        dfl = (weight * distribution_focal_loss(logits, distances_to_sides(point, truth))).sum()
        gains = self.config
        return torch.stack((gains.box * box, gains.cls * cls, gains.dfl * dfl)), assigned


def distribution_focal_loss(logits: Tensor, distance: Tensor) -> Tensor:
    """DFL (Li et al., NeurIPS 2020, Eq 6): cross-entropy to the two bins beside the true distance, mean over the sides.

    Args:
        logits: (K, 4, bins).
        distance: (K, 4) in strides; clamped to what the bins can say.
    Returns:
        (K,).
    """
    distance = distance.clamp(0, logits.shape[-1] - 1 - 0.01)
    lower = distance.floor()
    share = distance - lower                                            # of the upper bin
    log_p = logits.log_softmax(-1)
    at_lower = log_p.gather(-1, lower.long()[..., None]).squeeze(-1)
    at_upper = log_p.gather(-1, lower.long()[..., None] + 1).squeeze(-1)
    return -(at_lower * (1 - share) + at_upper * share).mean(-1)


@torch.no_grad()
def predicted_boxes(head: HeadOutput) -> Tensor:
    """(B, A, 4) xyxy pixels, for the assigner; without gradient."""
    logits = _at_least_float32(head.box_logits).unflatten(-1, (4, len(head.bins)))
    distance = (logits.softmax(-1) @ head.bins.to(logits.dtype)) * head.anchors.strides[:, None]
    return boxes_around(head.anchors.points, distance)


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
