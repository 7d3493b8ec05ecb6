"""What python -m data.check does: look a data set over, and ask of each split what train.py or test.py would say."""
import json
from functools import partial
from pathlib import Path

from data.check import Setup, page, survey, to_dict
from engine.config import Config
from engine.datasets import open_split, read_truth, split_file
from errors import InputError
from eval.files import ground_truth_arrays

SPLITS = ("train", "val", "test")


def check(config: Config, name: str, splits: str | None, fast: bool, workers: int | None, output: Path | None) -> int:
    """Print the page of findings; returns the exit code.

    Args:
        name: of the configuration.
        splits: those to check, with commas between; None: all that are set.
        fast: read headers only.
        workers: processes that read images; None: one for each core.
        output: a JSON file to write the same to.
    """
    if workers is not None and workers < 1:
        raise InputError(f"--workers: {workers} is too small. Use 1 or more.")
    if output and (output.is_dir() or not output.absolute().parent.is_dir()):
        raise InputError(f"--json: {output} cannot be written. Name a file in a folder that exists.")

    root = config.data.root or "."
    result = survey(_setup(config, splits, fast, workers), partial(refusal, config))
    looked = "were looked at by their headers (--fast)" if fast else "were decoded and compared by their pixels"
    print(page(result, f"{name} with data.root={root}", looked))
    if output:
        content = {"config": name, "root": root, "decoded": not fast, **to_dict(result)}
        output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return result.findings.exit_code


def refusal(config: Config, split: str, classes: tuple[str, ...]) -> str:
    """What train.py (of data.train) or test.py (of the others) would say of a split; "" if they take it."""
    try:
        source = open_split(config, split, classes, training=split == "train")
        if split != "train":
            ground_truth_arrays(read_truth(config, split, source.class_names), f"data.{split}")
    except InputError as error:
        return str(error)
    return ""


def _setup(config: Config, splits: str | None, fast: bool, workers: int | None) -> Setup:
    root = Path(config.data.root)
    if not root.is_dir():
        raise InputError(f"data.root: {root} is not a folder. Set it to the data set's folder.")
    wanted = [s.strip() for s in splits.split(",")] if splits else [s for s in SPLITS if getattr(config.data, s)]
    for split in wanted:
        if split not in SPLITS:
            raise InputError(f"--splits: '{split}' is not one of {', '.join(SPLITS)}.")
    if not wanted:
        raise InputError("data.train: is not set, nor are data.val and data.test. Name a COCO JSON file or a VOC image list.")
    return Setup(
        root=root, files={split: split_file(config, split) for split in SPLITS if split in wanted},
        images=root / config.data.images, annotations=root / config.data.annotations, classes=config.data.classes,
        image_size=config.train.image_size, finest_stride=4 if config.model.has_p2 else 8,
        min_box_side=config.assigner.min_box_side, max_det=config.eval.max_det,
        class_limit=None if config.eval.protocol == "voc" else config.eval.scoring().max_dets[-1], fast=fast, workers=workers,
    )
