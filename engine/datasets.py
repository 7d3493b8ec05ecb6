"""A config's data sets, ready for training or testing: sources, loaders, and the truth that the evaluator scores against."""
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from data import Batch, collate
from data.cache import open_cache
from data.coco import load_coco
from data.loader import EvalDataset, eval_loader, statistics_loader, train_loader
from data.source import Source
from data.voc import load_voc, voc_truth
from engine.config import Config
from engine.distributed import Ranks
from errors import InputError
from eval.files import ground_truth_arrays, read_ground_truth


def open_split(config: Config, split: str, classes: tuple[str, ...], training: bool) -> Source:
    """Load one of data.train, data.val and data.test.

    Args:
        classes: names in the order of their labels, of which a COCO file may hold more; empty: those of the files.
        training: boxes that cannot be learned are dropped.
    """
    file, root = split_file(config, split), Path(config.data.root)
    images, key = root / config.data.images, f"data.{split}"
    if is_voc(file):
        return load_voc(file, root / config.data.annotations, images, classes=classes, key=key, training=training)
    return load_coco(file, images, classes=classes, key=key, training=training)


def split_file(config: Config, split: str) -> Path:
    """The annotation file of a split, or its VOC image list."""
    name = getattr(config.data, split)
    if not name:
        raise InputError(f"data.{split}: is not set. Name a COCO JSON file or a VOC image list (.txt), relative to "
                         f"data.root={config.data.root or '.'}.")
    return Path(config.data.root) / name


def is_voc(file: Path) -> bool:
    """Whether a split is a VOC image list."""
    return file.suffix == ".txt"


def read_truth(config: Config, split: str, class_names: tuple[str, ...]) -> dict:
    """A split's COCO ground truth, restricted to the classes that the model knows; annotations are left as they are."""
    file, root = split_file(config, split), Path(config.data.root)
    if is_voc(file):
        return voc_truth(
            file, root / config.data.annotations, root / config.data.images, classes=class_names, key=f"data.{split}"
        )
    truth = read_ground_truth(file)
    categories = [c for c in truth["categories"] if c["name"] in class_names]
    ids = {c["id"] for c in categories}
    return {**truth, "categories": categories, "annotations": [a for a in truth["annotations"] if a["category_id"] in ids]}


class TrainingData:
    """What a training run reads. Opens data.train and data.val only.

    Attributes:
        class_names: by label.
        category_ids: of data.val (of data.train without it), by label.
        fingerprint: of the images and objects to train on.
        statistics_loader: images that BatchNorm's statistics are taken anew from; None without train.precise_batchnorm.
        val_loader, val_truth: None without data.val; the truth is on rank 0 only.
    """

    def __init__(self, config: Config, ranks: Ranks):
        train = config.train
        source = open_split(config, "train", config.data.classes, training=True)
        self.class_names, self.category_ids = source.class_names, source.category_ids
        self.fingerprint = source.fingerprint()
        self.train_summary, self.val_summary = source.summary(), "none (data.val is empty); best.pt is the last average"
        if not len(source.boxes):
            raise InputError(f"data.train: {split_file(config, 'train')} holds no usable box. Name a file with annotations.")
        self.train_loader = train_loader(
            source, train.image_size, train.batch_size, config.augment, train.seed,
            mosaic_epochs=train.epochs - train.close_mosaic, workers=train.workers, rank=ranks.rank,
            world_size=ranks.world_size, pin_memory=ranks.device.type == "cuda",
        )
        share = train.batch_size // ranks.world_size
        if share == 1 and min(self.train_loader.batch_sampler.sides()) == 32:
            raise InputError(
                f"train.batch_size: {train.batch_size} is one image at a time, which at 32 px is a single cell of stride 32: "
                f"BatchNorm has no spread to divide by. Use {2 * ranks.world_size}, or a larger train.image_size."
            )
        self.statistics_loader = None
        if train.precise_batchnorm:
            self.statistics_loader = statistics_loader(
                source, train.image_size, config.eval.batch_size, config.augment, train.seed, train.precise_batchnorm,
                train.workers, ranks.rank, ranks.world_size, pin_memory=ranks.device.type == "cuda",
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
                self.val_truth = ground_truth_arrays(read_truth(config, "val", source.class_names))
        # Last, as filling a cache takes minutes and what is wrong elsewhere is known by now.
        use_cache(config, {"train": source, "val": val} if config.data.val else {"train": source}, ranks)

    def sample_batch(self, device: torch.device, count: int = 3) -> Batch:
        """The first validation images, of one shape, to look at."""
        first = [self._val[k] for k in range(min(count, len(self._val)))]
        return collate([s for s in first if s.image.shape == first[0].image.shape]).to(device)


def use_cache(config: Config, sources: dict[str, Source], ranks: Ranks) -> None:
    """Let sources, by the name of their split, take their pixels from a cache, as data.cache says."""
    if config.data.cache == "none":
        return
    root = Path(config.data.root)
    caches = []
    for split, source in sources.items():
        cache = open_cache(
            source, config.data.cache, root, root / config.data.cache_dir, split_file(config, split), quiet=not ranks.is_main
        )
        source.decoded = cache.image
        caches.append(cache)
    if config.data.cache == "ram":
        ranks.wait()        # every rank has opened them
        for cache in caches:
            cache.drop_name()


def test_loader(config: Config, source: Source, ranks: Ranks, chosen: Sequence[int] | None = None) -> DataLoader:
    """A loader over one split for testing, or over some of its images."""
    return eval_loader(
        source, config.train.image_size, config.eval.batch_size, workers=config.train.workers, rank=ranks.rank,
        world_size=ranks.world_size, pin_memory=ranks.device.type == "cuda", chosen=chosen,
    )
