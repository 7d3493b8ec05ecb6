"""A config's data sets, ready for training or testing: sources, loaders, and the truth that the evaluator scores against."""
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from data import Batch, collate
from data.coco import CocoSource, load_coco
from data.loader import EvalDataset, eval_loader, train_loader
from engine.config import Config, EvalConfig
from engine.distributed import Ranks
from errors import InputError
from eval.coco import DetectionArrays, evaluate
from eval.files import read_ground_truth


def open_split(config: Config, split: str, classes: tuple[str, ...], training: bool) -> CocoSource:
    """Load one of data.train, data.val and data.test.

    Args:
        classes: names to keep, in the order of their labels; empty: all, by category id.
        training: boxes that cannot be learned are dropped.
    """
    return load_coco(
        split_file(config, split), Path(config.data.root) / config.data.images, classes=classes, key=f"data.{split}",
        training=training,
    )


def split_file(config: Config, split: str) -> Path:
    """The annotation file of a split."""
    name = getattr(config.data, split)
    if not name:
        raise InputError(f"data.{split}: is not set. Name a COCO JSON file, relative to data.root={config.data.root or '.'}.")
    return Path(config.data.root) / name


def read_truth(path: Path, class_names: tuple[str, ...]) -> dict:
    """A COCO ground truth, restricted to the classes that the model knows; annotations are left as they are."""
    truth = read_ground_truth(path)
    categories = [c for c in truth["categories"] if c["name"] in class_names]
    ids = {c["id"] for c in categories}
    return {**truth, "categories": categories, "annotations": [a for a in truth["annotations"] if a["category_id"] in ids]}


def score(truth: dict | Path, detections: DetectionArrays, config: EvalConfig) -> dict:
    """Metrics of detections by the configured protocol."""
    return evaluate(truth, detections, config.scoring())


class TrainingData:
    """What a training run reads. Opens data.train and data.val only.

    Attributes:
        class_names: by label.
        category_ids: of data.val (of data.train without it), by label.
        val_loader, val_truth: None without data.val; the truth is on rank 0 only.
    """

    def __init__(self, config: Config, ranks: Ranks):
        train = config.train
        source = open_split(config, "train", config.data.classes, training=True)
        self.class_names, self.category_ids = source.class_names, source.category_ids
        self.train_summary, self.val_summary = source.summary(), "none (data.val is empty); best.pt is the last average"
        if not len(source.boxes):
            raise InputError(f"data.train: {split_file(config, 'train')} holds no usable box. Name a file with annotations.")
        self.train_loader = train_loader(
            source, train.image_size, train.batch_size, config.augment, train.seed,
            mosaic_epochs=train.epochs - train.close_mosaic, workers=train.workers, rank=ranks.rank,
            world_size=ranks.world_size, pin_memory=ranks.device.type == "cuda",
        )
        self.val_loader = self.val_truth = None
        if config.data.val:
            val = open_split(config, "val", source.class_names, training=False)
            self.category_ids, self.val_summary = val.category_ids, val.summary()
            self.val_loader = eval_loader(
                val, train.image_size, config.eval.batch_size, workers=train.workers, rank=ranks.rank,
                world_size=ranks.world_size, pin_memory=ranks.device.type == "cuda",
            )
            self._val = EvalDataset(val, train.image_size)
            if ranks.is_main:
                self.val_truth = read_truth(split_file(config, "val"), source.class_names)

    def sample_batch(self, device: torch.device, count: int = 3) -> Batch:
        """The first validation images, of one shape, to look at."""
        first = [self._val[k] for k in range(min(count, len(self._val)))]
        return collate([s for s in first if s.image.shape == first[0].image.shape]).to(device)


def test_loader(config: Config, source: CocoSource, ranks: Ranks) -> DataLoader:
    """A loader over one split for testing."""
    return eval_loader(
        source, config.train.image_size, config.eval.batch_size, workers=config.train.workers, rank=ranks.rank,
        world_size=ranks.world_size, pin_memory=ranks.device.type == "cuda",
    )
