"""Detect on scenes: fitted to the network as a whole or, larger than a tile, tile by tile."""
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from data import Batch, Targets
from data.batch import ImageMeta
from data.raster import Scene
from data.source import Source
from data.tiling import Grid, Tiling
from data.transforms import GREY, fitted_planes, split_rgb
from engine.config import Config, EvalConfig
from engine.datasets import test_loader
from engine.distributed import Ranks
from engine.evaluator import ImageDetections, Predictions, detect, predict_all
from engine.postprocess import Detections
from engine.tiles import merge
from models import RSTinyNet

Look = Callable[[Batch], tuple[list[Detections], int]]


def detect_scene(
    model: RSTinyNet, scene: Scene, config: Config, device: torch.device, tiling: Tiling | None = None,
    bar: tqdm | None = None,
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], int]:
    """Boxes (n, 4) xyxy in the scene's pixels, scores (n,), labels (n,); and how many tiles reached the cap.

    A scene that is no larger than a tile is one tile, and fitted to train.image_size as without tiling.

    Args:
        model: in evaluation mode, on the device.
        tiling: how a larger scene is cut; None: it is fitted to train.image_size as a whole.
        bar: to which the tiles are added.
    """
    bar = tqdm(total=0, disable=True) if bar is None else bar

    def look(batch: Batch) -> tuple[list[Detections], int]:
        return detect(model, batch.to(device), config.eval)

    if tiling:
        bar.total += len(tiling.grid(scene.width, scene.height))
        bar.refresh()
    if tiling and tiling.cuts(scene.width, scene.height):
        return detect_tiled(look, scene, tiling, config.eval.batch_size, config.eval.nms, bar.update)
    planes, scale = fitted_planes(scene.rows(0, scene.height), config.train.image_size)
    meta = ImageMeta(0, "", scene.width, scene.height, scale)
    (found,), over = look(Batch(torch.from_numpy(planes)[None], Targets.none(), [meta]))
    bar.update()
    return tuple(x.cpu().numpy() for x in found), over


def detect_tiled(
    look: Look, scene: Scene, tiling: Tiling, batch_size: int, iou: float, progress: Callable[[int], object]
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], int]:
    """Detections of one image, from its tiles at their own scale.

    Args:
        look: Detections of each image of a batch, in its own pixels, and how many of the images reached the cap.
        batch_size: tiles that it sees at once.
        iou: for merging.
        progress: is called with the number of tiles that are done.
    Returns:
        Boxes (n, 4) float64 xyxy in the image's pixels, scores (n,) and labels (n,), best first; and the tiles that reached
        the cap.
    """
    grid = tiling.grid(scene.width, scene.height)
    numbers, boxes, scores, labels, capped = [], [], [], [], 0
    tiles = cut(scene, grid)
    while batch := list(islice(tiles, batch_size)):
        found, over = look(_join(batch, grid))
        capped += over
        for (number, x, y, _), detections in zip(batch, found, strict=True):
            numbers.append(np.full(len(detections.labels), number))
            boxes.append(detections.boxes.cpu().numpy().astype(np.float64) + (x, y, x, y))
            scores.append(detections.scores.cpu().numpy())
            labels.append(detections.labels.cpu().numpy())
        progress(len(batch))
    parts = (np.concatenate(values) for values in (numbers, boxes, scores, labels))
    return merge(grid, *parts, iou), capped


def cut(scene: Scene, grid: Grid) -> Iterator[tuple[int, int, int, np.ndarray]]:
    """Number, x, y and RGB planes (3, H, W) uint8 of each tile, row by row.

    H and W are the tile's height and width, with grey to the right and below up to multiples of 32.
    """
    for row, y in enumerate(grid.ys.tolist()):
        band = scene.rows(y, y + grid.height)
        for column, x in enumerate(grid.xs.tolist()):
            planes = np.full((3, grid.height + -grid.height % 32, grid.width + -grid.width % 32), GREY, np.uint8)
            split_rgb(band[:, x : x + grid.width], planes[:, : grid.height, : grid.width])
            yield row * len(grid.xs) + column, x, y, planes


def _join(tiles: list[tuple[int, int, int, np.ndarray]], grid: Grid) -> Batch:
    meta = [ImageMeta(number, "", grid.width, grid.height, (1.0, 1.0)) for number, *_ in tiles]
    return Batch(torch.from_numpy(np.stack([planes for *_, planes in tiles])), Targets.none(), meta)


def predict_source(
    model: nn.Module, source: Source, config: Config, ranks: Ranks, category_ids: tuple[int, ...], tiling: Tiling | None,
    chosen: Sequence[int] | None = None, label: str = "test",
) -> Predictions | None:
    """Detections of a data set or of some of its images; on rank 0, None elsewhere.

    Args:
        model: is moved to the ranks' device.
        category_ids: of each label.
        tiling: how larger images are cut; None: all are fitted to train.image_size.
        chosen: images of the source; None: all.
        label: what to call the progress bar.
    """
    chosen = range(len(source)) if chosen is None else chosen
    model.to(ranks.device, memory_format=torch.channels_last)
    large = [k for k in chosen if tiling and tiling.cuts(source.images[k].width, source.images[k].height)]
    loader = test_loader(config, source, ranks, sorted(set(chosen) - set(large)))
    more = detect_large(model, source, large, tiling, config.eval, ranks, label) if large else ()
    return predict_all(model, loader, config.eval, ranks, category_ids, label, more=more)


def detect_large(
    model: nn.Module, source: Source, chosen: list[int], tiling: Tiling, config: EvalConfig, ranks: Ranks, label: str
) -> Iterator[ImageDetections]:
    """Detections of this rank's share of a data set's large images.

    Args:
        model: in evaluation mode.
        chosen: images of the source, on all ranks the same.
    """
    counts = {k: len(tiling.grid(source.images[k].width, source.images[k].height)) for k in chosen}
    mine = sorted(chosen, key=lambda k: -counts[k])[ranks.rank :: ranks.world_size]         # so that all have as much to do
    with tqdm(total=sum(counts[k] for k in mine), desc=label, unit="tile", leave=False,
              disable=None if ranks.is_main else True) as bar:
        for k in mine:
            with source.scene(k) as scene:
                (boxes, scores, labels), capped = detect_tiled(
                    lambda batch: detect(model, batch.to(ranks.device), config), scene, tiling, config.batch_size, config.nms,
                    bar.update)
            yield ImageDetections(source.images[k].id, boxes, scores, labels, capped > 0)
