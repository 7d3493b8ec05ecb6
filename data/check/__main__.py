"""Tell what is wrong with a data set, whatever train.py can read.

    python -m data.check --config configs/aitod/rs_tinynet_m.toml data.root=/data/aitod
    python -m data.check --config FILE [--splits train,test] [--fast] [--json FILE] [section.key=value ...]

Prints one page: each kind of finding with its count, the first culprits, what it does and the remedy; then classes, sizes and
numbers of the objects, beside those published where the classes are AI-TOD's or DIOR's. Every image is decoded once, in
parallel; --fast reads headers only. Exit code 0: nothing would hurt; 1: something stops training or testing, or hurts;
2: the arguments are wrong.
"""
import argparse
import json
from functools import partial
from pathlib import Path

from data.check import Setup, page, survey, to_dict

# The one place where data/ knows engine: a command that takes --config needs what reads it. Nothing imports this file.
from engine import config as configs
from engine.datasets import open_split, read_truth, split_file
from errors import InputError, run
from eval.files import ground_truth_arrays

SPLITS = ("train", "val", "test")


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and check; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m data.check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="TOML file, such as configs/demo.toml")
    parser.add_argument("--splits", help="those to check, such as train,val (default: all that the configuration sets)")
    parser.add_argument("--fast", action="store_true", help="do not decode images: damage inside them goes unnoticed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the same for a machine")
    parser.add_argument("--workers", type=int, help="processes that read images (default: one for each core)")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that differ from the file")
    options = parser.parse_intermixed_args(arguments)

    config = configs.load(options.config, options.overrides)
    if options.workers is not None and options.workers < 1:
        raise InputError(f"--workers: {options.workers} is too small. Use 1 or more.")
    if options.json and (options.json.is_dir() or not options.json.absolute().parent.is_dir()):
        raise InputError(f"--json: {options.json} cannot be written. Name a file in a folder that exists.")

    root = config.data.root or "."
    result = survey(_setup(config, options.splits, options.fast, options.workers), partial(refusal, config))
    looked = "were looked at by their headers (--fast)" if options.fast else "were decoded and compared by their pixels"
    print(page(result, f"{options.config} with data.root={root}", looked))
    if options.json:
        content = {"config": options.config, "root": root, "decoded": not options.fast, **to_dict(result)}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return result.findings.exit_code


def refusal(config: configs.Config, split: str, classes: tuple[str, ...]) -> str:
    """What train.py (of data.train) or test.py (of the others) would say of a split; "" if they take it."""
    try:
        source = open_split(config, split, classes, training=split == "train")
        if split != "train":
            ground_truth_arrays(read_truth(config, split, source.class_names), f"data.{split}")
    except InputError as error:
        return str(error)
    return ""


def _setup(config: configs.Config, splits: str | None, fast: bool, workers: int | None) -> Setup:
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


if __name__ == "__main__":
    run(main)
