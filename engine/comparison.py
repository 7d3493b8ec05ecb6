"""What several detectors made of the same objects: hits, misses and false alarms of each, and where they differ most.

Shape letters: I images, N objects, D detections of one tool, K classes.
"""
from dataclasses import dataclass

import numpy as np

from eval.diagnosis import pair
from eval.files import DetectionArrays, GroundTruthArrays

TINY = 16               # pixels; objects up to this side weigh fully where a place is chosen to be enlarged
IN_A_REGION = 12        # small objects of the image fit this many times into the side of a region
SMALLEST = 40           # side of a region, pixels
MOST_PLACES = 2000      # that are tried as the middle of a region
Region = tuple[int, int, int]       # x, y of the corner and side of a square, pixels


@dataclass(frozen=True)
class Verdict:
    """One tool's detections at or above a score.

    Args:
        name: of the tool.
        boxes: (D, 4) float64 xyxy pixels.
        scores: (D,).
        labels: (D,) int64, places in the truth's categories.
        image: (D,) int64, places in the truth's images.
        hit, false: (D,) bool. One that is neither lies on a crowd or a difficult object.
        found: (N,) bool, the object is hit.
    """
    name: str
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    image: np.ndarray
    hit: np.ndarray
    false: np.ndarray
    found: np.ndarray


def judge(name: str, truth: GroundTruthArrays, detections: DetectionArrays, score: float) -> Verdict:
    """Pair by COCO's greedy rule at IoU 0.5 (eval/diagnosis.py). A detection of another class than its object is a false alarm,
    and its object is missed.
    """
    outcomes = pair(truth, detections, score)
    mine, hit = outcomes.detection, outcomes.right
    labels = np.searchsorted(truth.category_ids, detections.category_ids[mine])
    image = np.searchsorted(truth.image_ids, detections.image_ids[mine])
    found = np.zeros(len(truth.boxes), bool)
    found[outcomes.partner[hit]] = True
    return Verdict(name, _corners(detections.boxes[mine]), detections.scores[mine], labels, image, hit,
                   ~hit & ~outcomes.excused, found)


def count(truth: GroundTruthArrays, verdict: Verdict) -> np.ndarray:
    """(I, 3) int64: objects hit, objects missed, false alarms."""
    images = len(truth.image_ids)
    missed = _solid(truth) & ~verdict.found
    return np.stack([np.bincount(where, minlength=images) for where in (
        verdict.image[verdict.hit], truth.image_index[missed], verdict.image[verdict.false])], 1)


def difference(truth: GroundTruthArrays, verdicts: list[Verdict]) -> np.ndarray:
    """(I,) int64: objects that some tools hit and others miss, and the most false alarms of a tool less the fewest.

    Of a single tool: misses and false alarms.
    """
    counts = np.stack([count(truth, verdict) for verdict in verdicts])         # (tools, I, 3)
    if len(verdicts) == 1:
        return counts[0, :, 1:].sum(1)
    disputed = _disputed(verdicts) & _solid(truth)
    return np.bincount(truth.image_index[disputed], minlength=len(truth.image_ids)) + np.ptp(counts[:, :, 2], 0)


@dataclass(frozen=True)
class Found:
    """One tool on one image.

    Args:
        hits, false, missed: (n, 4) xyxy pixels of detections, detections and objects.
        boxes, scores, labels: (D, 4), (D,), (D,) of all detections, crowds' and difficult objects' too.
    """
    name: str
    hits: np.ndarray
    false: np.ndarray
    missed: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class ImageOutcome:
    """One image's objects and what each tool made of them.

    Args:
        boxes, labels: (n, 4) xyxy pixels and (n,) of all objects.
        solid: (n,) bool, neither a crowd nor difficult.
        disputed: (n,) bool, hit by some tools and missed by others; of a single tool: missed.
        tools: in the order given.
    """
    boxes: np.ndarray
    labels: np.ndarray
    solid: np.ndarray
    disputed: np.ndarray
    tools: list[Found]


def outcome(truth: GroundTruthArrays, verdicts: list[Verdict], image: int) -> ImageOutcome:
    """One image, by its place in the truth."""
    own = np.flatnonzero(truth.image_index == image)
    boxes, solid = _corners(truth.boxes[own]), _solid(truth)[own]
    disputed = _disputed(verdicts)[own] if len(verdicts) > 1 else ~verdicts[0].found[own]
    tools = []
    for verdict in verdicts:
        mine = verdict.image == image
        tools.append(Found(
            verdict.name, verdict.boxes[mine & verdict.hit], verdict.boxes[mine & verdict.false],
            boxes[solid & ~verdict.found[own]], verdict.boxes[mine], verdict.scores[mine], verdict.labels[mine],
        ))
    return ImageOutcome(boxes, truth.category_index[own], solid, disputed & solid, tools)


def regions(seen: ImageOutcome, width: int, height: int, most: int) -> list[Region]:
    """Where to look closer: squares in which the tools differ most, then those with most objects.

    They do not overlap, and hold the image's smaller objects (lower quartile) a dozen times along each side. Tiny objects
    weigh more than large ones, false alarms half as much as objects.
    """
    boxes = np.concatenate([seen.boxes[seen.solid], *(tool.false for tool in seen.tools)])
    if not len(boxes):
        return []
    sides = np.maximum(np.sqrt((boxes[:, 2:] - boxes[:, :2]).clip(0).prod(1)), 1.0)
    # 0.01: where nothing differs, and between equals, the densest
    weight = np.concatenate([seen.disputed[seen.solid] + 0.01, *(np.full(len(tool.false), 0.5) for tool in seen.tools)])
    weight = weight * np.minimum(TINY / sides, 1.0)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    side = max(1, round(min(max(IN_A_REGION * float(np.quantile(sides, 0.25)), SMALLEST), min(width, height) / 2)))
    limit = np.array((width, height)) - side
    places = middle[np.linspace(0, len(middle) - 1, min(len(middle), MOST_PLACES)).astype(int)]
    corners = np.clip(np.round(places - side / 2), 0, limit).astype(int)
    value = np.array([weight[((middle >= corner) & (middle < corner + side)).all(1)].sum() for corner in corners])
    chosen = []
    for k in np.argsort(-value, kind="stable"):
        if len(chosen) == most or value[k] <= 0:
            break
        if all((np.abs(corners[k] - other) >= side).any() for other in chosen):
            chosen.append(corners[k])
    return [(int(x), int(y), side) for x, y in chosen]


def _disputed(verdicts: list[Verdict]) -> np.ndarray:
    """(N,) bool: some tools found the object and others did not."""
    found = np.stack([verdict.found for verdict in verdicts])
    return found.any(0) & ~found.all(0)


def _solid(truth: GroundTruthArrays) -> np.ndarray:
    return ~(truth.crowd | truth.difficult)


def _corners(boxes: np.ndarray) -> np.ndarray:
    """(n, 4) xywh -> xyxy."""
    return np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), 1)
