"""Run a model over a data set, on all ranks."""
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from data import Batch
from engine.config import EvalConfig
from engine.distributed import Ranks
from engine.postprocess import Detections, select, to_original
from engine.signals import Stopped, StopRequest
from eval.files import DetectionArrays
from models import decode


@dataclass
class Predictions:
    """Detections of a data set."""

    detections: DetectionArrays
    capped_images: int          # images that had more than eval.max_det detections


@torch.inference_mode()
def detect(model: nn.Module, batch: Batch, config: EvalConfig) -> tuple[list[Detections], int]:
    """Detections of each image of a batch, in its own pixels (float64), and how many images reached the cap.

    A box of which the image shows nothing, as in the grey beside it, is none.

    Args:
        model: in evaluation mode.
        batch: on the model's device, uint8.
    """
    images = batch.images.to(next(model.parameters()).dtype, memory_format=torch.channels_last) / 255
    boxes, scores = decode(model(images).main)
    found, capped = [], 0
    for k, meta in enumerate(batch.meta):
        detections, over = select(boxes[k], scores[k], config.conf, config.nms, config.max_det)
        own = to_original(detections.boxes, meta.scale, meta.width, meta.height)
        empty = (own[:, 2:] <= own[:, :2]).any(1)           # not so a NaN, which is told where detections are written
        found.append(Detections(own[~empty], detections.scores[~empty], detections.labels[~empty]))
        capped += over
    return found, capped


@dataclass
class ImageDetections:
    """Detections of one image."""

    image_id: int
    boxes: np.ndarray           # (n, 4) float64, xyxy pixels of the image
    scores: np.ndarray          # (n,)
    labels: np.ndarray          # (n,)
    is_capped: bool             # there were more, in a tile at least


def predict_all(
    model: nn.Module, loader: DataLoader, config: EvalConfig, ranks: Ranks, category_ids: tuple[int, ...],
    label: str = "test", stop: StopRequest | None = None, more: Iterable[ImageDetections] = (),
) -> Predictions | None:
    """Detections of all images of a loader whose ranks share the work; on rank 0, None elsewhere.

    Args:
        model: in evaluation mode.
        category_ids: of each label.
        label: what to call the progress bar.
        stop: looked at between batches.
        more: images of this rank that the loader does not have.
    Raises:
        Stopped: on all ranks, as one of them was asked to stop.
    """
    ids, categories, boxes, scores = [], [], [], []
    capped = 0

    def add(image_id: int, xyxy: np.ndarray, score: np.ndarray, labels: np.ndarray) -> None:
        ids.append(np.full(len(xyxy), image_id, dtype=np.int64))
        categories.append(np.asarray(category_ids, dtype=np.int64)[labels])
        boxes.append(np.concatenate((xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]), 1))
        scores.append(score.astype(np.float64))

    for batch in batches_of(loader, ranks, label, stop):
        found, over = detect(model, batch, config)
        capped += over
        for meta, detections in zip(batch.meta, found, strict=True):
            add(meta.image_id, *(x.cpu().numpy() for x in detections))
    for image in more:
        add(image.image_id, image.boxes, image.scores, image.labels)
        capped += image.is_capped
    shard = (_concatenate(ids, np.int64), _concatenate(categories, np.int64), _concatenate(boxes, np.float64, 4),
             _concatenate(scores, np.float64), capped)
    shards = ranks.gather(shard)
    if shards is None:
        return None
    arrays = [np.concatenate(parts) for parts in list(zip(*shards, strict=True))[:4]]
    return Predictions(DetectionArrays(*arrays), sum(s[4] for s in shards))


def batches_of(loader: DataLoader, ranks: Ranks, label: str, stop: StopRequest | None) -> Iterator[Batch]:
    """This rank's batches, on its device. All ranks go through theirs together.

    Args:
        label: what to call the progress bar.
        stop: looked at between batches.
    Raises:
        Stopped: on all ranks, as one of them was asked to stop.
    """
    batches = iter(loader)
    (rounds,) = ranks.all_max(len(loader))          # a rank with fewer batches still takes part in asking who must stop
    for _ in tqdm(range(rounds), desc=label, unit="batch", leave=False, disable=None if ranks.is_main else True):
        if any(ranks.any(bool(stop))):
            raise Stopped
        batch = next(batches, None)
        if batch is not None:
            yield batch.to(ranks.device, non_blocking=True)


def _concatenate(parts: list[np.ndarray], dtype: type, columns: int = 0) -> np.ndarray:
    """Joined parts; an empty array of the right shape when there are none."""
    empty = np.zeros((0, columns) if columns else (0,), dtype=dtype)
    return np.concatenate([empty, *parts])
