"""One run of benchmarks/assigner.py: assign one batch with one tool, and print time, peak memory and positives as JSON.

    python benchmarks/assigner_run.py ours|ultralytics BATCH OBJECTS FINEST_STRIDE REPEAT cpu|cuda POSITIVES.npy

Needs torch and the tool itself, so that the peer's interpreter can run it.
"""
import ctypes
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from floor import wait

SIDE, CLASSES = 800, 8


class Peak:
    """The most memory that is held from now on above what is held now: of the GPU, or on a CPU of the process (Linux)."""

    def __init__(self, device: torch.device):
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)
        else:
            ctypes.CDLL(None).malloc_trim(0)            # what was freed before would be used again, and not seen
            Path("/proc/self/clear_refs").write_text("5")       # VmHWM starts anew
            self.before = self._held("VmRSS")

    def mb(self) -> float:
        """MB so far."""
        now = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else self._held("VmHWM")
        return (now - self.before) / 2**20

    @staticmethod
    def _held(name: str) -> int:
        return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) * 1024


def inputs(batch: int, objects: int, finest: int) -> tuple[torch.Tensor, ...]:
    """Scores (B, A, C), boxes (B, A, 4), points (A, 2), strides (A,), and flat truth boxes, labels, image indices.

    The first image holds `objects`, the others between a fifth of that and all. Sizes are AI-TOD's: lognormal about 12 px.
    Predictions are noise around the cells' own places, as early in training.

    Both assigners let sides below twice the finest stride offer the cells of a side of that length.
    """
    rng = np.random.default_rng((batch, objects, finest))
    points, strides = [], []
    for stride in (s for s in (4, 8, 16, 32) if s >= finest):
        cells = (np.arange(SIDE // stride) + 0.5) * stride
        points.append(np.stack(np.meshgrid(cells, cells), -1).reshape(-1, 2))
        strides.append(np.full(len(points[-1]), stride))
    points, strides = np.concatenate(points), np.concatenate(strides)
    counts = rng.integers(objects // 5, objects + 1, batch)
    counts[0] = objects
    image = np.repeat(np.arange(batch), counts)
    side = np.exp(rng.normal(np.log(12), 0.5, (len(image), 2))).clip(3, 200)
    corner = rng.uniform(0, SIDE - side)
    half = np.exp(rng.normal(np.log(8), 0.5, (batch, len(points), 4))) + strides[:, None] / 4
    boxes = np.concatenate((points - half[..., :2], points + half[..., 2:]), -1)
    scores = rng.uniform(0.01, 0.3, (batch, len(points), CLASSES))
    floats = (scores, boxes, points, strides, np.concatenate((corner, corner + side), 1))
    scores, boxes, points, strides, truth = (torch.from_numpy(x.astype(np.float32)) for x in floats)
    labels = torch.from_numpy(rng.integers(0, CLASSES, len(image)))
    return scores, boxes, points, strides, truth, labels, torch.from_numpy(image)


def ours(data: tuple[torch.Tensor, ...]) -> object:
    """The call to time, which returns (K, 3) image, cell and object of the positives."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from data import Targets
    from losses import TaskAlignedAssigner
    from losses.assigner import levels_of
    scores, boxes, points, strides, truth, labels, image = data
    levels = levels_of(points, strides)         # a network knows them
    assigner = TaskAlignedAssigner(CLASSES, min_box_side=2 * int(strides.min()))        # as the other enlarges small boxes
    targets = Targets(truth, labels, image)

    def call() -> torch.Tensor:
        found = assigner(scores, boxes, points, strides, targets, levels)
        return torch.stack((found.image_index, found.anchor_index, found.target_index), 1)
    return call


def ultralytics(data: tuple[torch.Tensor, ...]) -> object:
    """The same by the dense assigner; the padding of its objects is not timed."""
    from ultralytics.utils.tal import TaskAlignedAssigner
    scores, boxes, points, strides, truth, labels, image = data
    counts = torch.bincount(image, minlength=len(scores))
    padded = truth.new_zeros(len(scores), int(counts.max()), 4)
    classes = labels.new_zeros(len(scores), int(counts.max()), 1)
    starts = counts.cumsum(0) - counts
    place = torch.arange(len(image), device=image.device) - starts[image]
    padded[image, place], classes[image, place, 0] = truth, labels
    levels = strides.unique().int().tolist()
    assigner = TaskAlignedAssigner(topk=10, num_classes=CLASSES, alpha=0.5, beta=6.0, stride=levels)
    real = padded.sum(2, keepdim=True) > 0

    @torch.no_grad()
    def call() -> torch.Tensor:
        _, _, _, chosen, index = assigner(scores, boxes, points, classes, padded, real)
        where = chosen.nonzero()
        return torch.cat((where, (starts[where[:, 0]] + index[chosen])[:, None]), 1)
    return call


def main() -> None:
    tool, batch, objects, finest, repeat, device, file = sys.argv[1:]
    device = torch.device(device)
    few, data = (tuple(x.to(device) for x in inputs(*size, int(finest))) for size in ((1, 10), (int(batch), int(objects))))
    make = {"ours": ours, "ultralytics": ultralytics}[tool]
    make(few)()                                 # what the first call alone takes is not the assigner's
    call, seconds = make(data), []
    peak = Peak(device)
    for _ in range(int(repeat)):
        wait(device)
        start = time.perf_counter()
        positives = call()
        wait(device)
        seconds.append(time.perf_counter() - start)
    positives = positives.cpu().numpy()
    np.save(file, positives[np.lexsort(positives.T[::-1])])
    print(json.dumps({"seconds": min(seconds), "mb": peak.mb(), "positives": len(positives)}))


if __name__ == "__main__":
    main()
