"""The pictures that a training run shows: its augmented batch, the cells that objects get, predictions beside the truth."""
import numpy as np
import torch

from data import Batch
from engine.drawing import draw_boxes, draw_cells, grid, side_by_side
from engine.postprocess import select
from losses.assigner import Assignment
from models import HeadOutput, decode

SHOWN = 0.25        # lowest score drawn


def training_batch(batch: Batch, class_names: tuple[str, ...], count: int = 4) -> np.ndarray:
    """The first images of an augmented batch with their boxes."""
    pictures = []
    for k in range(min(count, len(batch.images))):
        boxes, labels = _targets(batch, k)
        pictures.append(draw_boxes(_rgb(batch, k), boxes, labels, class_names=class_names, zoom=_zoom(batch)))
    return grid(pictures, columns=2)


def assigned_cells(batch: Batch, head: HeadOutput, assignment: Assignment) -> np.ndarray:
    """Which cells of each level learn the objects of the image that holds most."""
    counts = torch.bincount(batch.targets.image_index, minlength=len(batch.images)).cpu()
    k = int(counts.argmax())
    first = int(counts[:k].sum())                                   # objects are listed image by image
    boxes, _ = _targets(batch, k)
    mine = (assignment.image_index == k).cpu().numpy()
    anchor = assignment.anchor_index.cpu().numpy()[mine]
    target = assignment.target_index.cpu().numpy()[mine] - first
    points = head.anchors.points.cpu().numpy()[anchor]
    stride = head.anchors.strides.cpu().numpy()[anchor]
    cells = [np.concatenate((points, target[:, None]), 1)[stride == s] for _, _, s in head.anchors.levels]
    names = [f"stride {s}: {len(c)} cells" for (_, _, s), c in zip(head.anchors.levels, cells, strict=True)]
    without = len(boxes) - len(set(target.tolist()))
    names[0] += f" | {len(boxes)} objects, {without} without a cell (red)"
    return side_by_side(draw_cells(_rgb(batch, k), boxes, cells, zoom=_zoom(batch)), names)


@torch.no_grad()
def predictions_beside_truth(
    model: torch.nn.Module, batch: Batch, class_names: tuple[str, ...], iou: float, count: int = 3
) -> np.ndarray:
    """Truth on the left, predictions above a score of 0.25 on the right, one image a row."""
    boxes, scores = decode(model(batch.images[:count].float() / 255).main)
    rows = []
    for k in range(min(count, len(batch.images))):
        found, _ = select(boxes[k], scores[k], SHOWN, iou, max_det=1000)
        found = [x.cpu().numpy() for x in found]
        picture, zoom = _rgb(batch, k), _zoom(batch)
        truth = draw_boxes(picture, *_targets(batch, k), class_names=class_names, zoom=zoom)
        drawn = draw_boxes(picture, found[0], found[2], found[1], class_names=class_names, zoom=zoom)
        rows.append(side_by_side((truth, drawn), (f"truth: {len(_targets(batch, k)[0])}",
                                                  f"predicted, score above {SHOWN}: {len(found[0])}")))
    return grid(rows, columns=1)


def _rgb(batch: Batch, k: int) -> np.ndarray:
    return batch.images[k].permute(1, 2, 0).cpu().numpy()


def _targets(batch: Batch, k: int) -> tuple[np.ndarray, np.ndarray]:
    mine = batch.targets.image_index == k
    return batch.targets.boxes[mine].cpu().numpy(), batch.targets.labels[mine].cpu().numpy()


def _zoom(batch: Batch) -> int:
    """Enlarge small images, so that boxes of a few pixels can be told apart."""
    return max(1, round(800 / max(batch.images.shape[2:])))
