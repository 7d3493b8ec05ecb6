"""benchmarks/differences.py without the peer: what it hands over, and that a difference shows."""
from collections.abc import Callable

import numpy as np
import torch

from benchmarks import differences
from data import collate
from data.coco import load_coco
from data.loader import TrainDataset
from data.transforms import AugmentConfig
from engine.postprocess import select


def reported(stage: Callable[..., None], *arguments: object) -> str:
    lines = []
    stage(*arguments, lambda name, text: lines.append(f"{name}: {text}"))
    return "\n".join(lines)


def test_one_detection_more_and_one_that_moved_show(tiny_set: object) -> None:
    source = load_coco(tiny_set.root / "train.json", tiny_set.images, training=True)
    dataset = TrainDataset(source, AugmentConfig(), seed=0, mosaic_epochs=0)
    batch = collate([dataset[0, k, 64] for k in (0, 1)])
    given = differences.predictions(batch, classes=3, cells=200)
    assert given.shape == (2, 7, 200)
    theirs = []
    for k in range(2):
        xywh = given[k, :4].T
        corners = torch.cat((xywh[:, :2] - xywh[:, 2:] / 2, xywh[:, :2] + xywh[:, 2:] / 2), 1)
        found, _ = select(corners, given[k, 4:].T, 0.001, 0.7, 3000)
        theirs.append(torch.cat((found.boxes, found.scores[:, None], found.labels[:, None]), 1))
    assert "NMS: 0 of" in reported(differences.suppression, batch, given, theirs)
    theirs[1][0, 0] += 1
    theirs[0] = theirs[0][1:]
    assert "NMS: 3 of" in reported(differences.suppression, batch, given, theirs)


def test_a_rate_that_differs_is_named_with_its_batch() -> None:
    config = differences.SCHEDULE
    own = differences.optim.Schedule(config, 3)
    rows = [list(own.at(*divmod(k, 3))) for k in range(12)]
    assert "rate: 0.0e+00" in reported(differences.schedule, rows, config, 3 * config.batch_size)
    rows[7][0] += 0.25
    assert "rate: 2.5e-01, in batch 7" in reported(differences.schedule, rows, config, 3 * config.batch_size)


def test_pictures_are_described_by_quantiles_and_shares() -> None:
    text = differences.described([1, 3], np.array([4.0, 6, 10, 20]), [0.1, 0.3])
    assert text == "2.0 ± 0.7 objects each, side 4.6 8.0 17.0 px (10, 50, 90 %), 50 % under 8 px, 20.0 % grey"
