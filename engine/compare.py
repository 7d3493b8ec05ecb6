"""Pictures that compare: what several detectors find, miss and invent on the same images, side by side.

Files of any tool:   python -m engine.compare --ground-truth gt.json --images DIR --detections a.json b.json
Checkpoints:         python -m engine.compare --checkpoint runs/a/best.pt runs/b/best.pt --split test data.root=DIR
Both, with names:    python -m engine.compare ... --detections a.json --checkpoint b.pt --names YOLO11m RS-TinyNet
Certain images:      python -m engine.compare ... --only P0770.png P0075.png
Large images:        python -m engine.compare --checkpoint a.pt b.pt --tile 800 --overlap 200 data.root=DIR

Two pictures of each image go into --output: outcomes/ shows hits, misses and false alarms in three colours, classes/ the
objects and the detections in the colours of their classes. Below each view, places where the tools differ most are
enlarged. Without --only, the images are those on which the tools differ most. Detections pair with objects as for AP50, at
IoU 0.5 and within their class, from the score --conf on. Settings of checkpoints can be overridden: train.device=cpu.
"""
import argparse
import difflib
import os
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.coco import load_coco
from data.source import Source
from data.tiling import Tiling, tiling
from engine import checkpoint
from engine import config as configs
from engine.comparison import Verdict, count, difference, judge, outcome, regions
from engine.comparison_sheet import classes, outcomes
from engine.datasets import open_split, read_truth
from engine.distributed import Ranks
from engine.drawing import write_picture
from engine.failures import in_one_line
from engine.files import make_folder
from engine.places import check_targets
from engine.predictor import picture_names
from engine.scenes import predict_source
from engine.sheet import drawable_names
from errors import InputError, listed, run
from eval.files import DetectionArrays, GroundTruthArrays, ground_truth_arrays, read_detections, read_ground_truth_arrays
from eval.tables import Table
from eval.wording import row_name
from models import RSTinyNet

OVERRIDE = re.compile(r"[a-z]+\.[a-z0-9_]+=")
MOST_REGIONS = 2       # that a view has room for


class Images(NamedTuple):
    """What is looked at.

    Args:
        truth: its objects.
        source: its images; image k of it has the id source.images[k].id in the truth.
        names: of the images of `source`, relative to their folder.
    """

    truth: GroundTruthArrays
    source: Source
    names: list[str]


class Detector(NamedTuple):
    """A checkpoint that is ready to detect.

    Args:
        category_ids: of the truth, by label; one that the truth does not have where it lacks the class.
        label: what to call its progress.
    """

    model: RSTinyNet
    config: configs.Config
    category_ids: tuple[int, ...]
    label: str


def compare(images: Images, tools: list[tuple[str, DetectionArrays]], chosen: list[int] | None, number: int, conf: float,
            output: Path) -> int:
    """Draw, and print the counts; returns the exit code.

    Args:
        tools: names and detections.
        chosen: places of images in the source; None: the `number` on which the tools differ most.
    """
    truth = images.truth
    verdicts = [judge(name, truth, detections, conf) for name, detections in tools]
    place = np.searchsorted(truth.image_ids, [record.id for record in images.source.images])
    if chosen is None:
        order = np.argsort(-difference(truth, verdicts)[place], kind="stable")
        chosen = order[:number].tolist()
        print(_counts(images, verdicts, place, list(range(len(place)))).text() + "\n")
    names = drawable_names([images.names[k] for k in chosen], "image")
    for k, shown, name in zip(chosen, picture_names([Path(images.names[k]) for k in chosen]), names, strict=True):
        picture = np.ascontiguousarray(images.source.image(k)[..., ::-1])
        seen = outcome(truth, verdicts, place[k])
        places = regions(seen, picture.shape[1], picture.shape[0], MOST_REGIONS)
        write_picture(output / "outcomes" / shown, outcomes(seen, picture, name, conf, places))
        write_picture(output / "classes" / shown, classes(seen, picture, name, conf, places, truth.category_names))
    print(_counts(images, verdicts, place, chosen, each=True).text())
    print(f"\nwrote {output / 'outcomes'} and {output / 'classes'}")
    return 0


def _counts(images: Images, verdicts: list[Verdict], place: np.ndarray, chosen: list[int], each: bool = False) -> Table:
    """Hits, misses and false alarms of each tool, over some images or image by image."""
    counts = [count(images.truth, verdict)[place[chosen]] for verdict in verdicts]
    rows = [(images.names[k], verdict.name, *(f"{n:,}" for n in own[i])) for i, k in enumerate(chosen)
            for verdict, own in zip(verdicts, counts, strict=True)] if each else []
    title = "The images that are drawn" if each else f"All {len(chosen):,} images"
    if not each:
        rows = [("all", verdict.name, *(f"{n:,}" for n in own.sum(0))) for verdict, own in zip(verdicts, counts, strict=True)]
    return Table(title, ("image", "tool", "hit", "missed", "false alarms"), rows, left=("tool",))


def _from_files(ground_truth: Path, folder: Path) -> Images:
    """Of COCO annotations."""
    truth = read_ground_truth_arrays(ground_truth)
    if not folder.is_dir():
        raise InputError(f"--images: {folder} is not a folder. Name the one that the file names start from.")
    source = load_coco(ground_truth, folder, key="--ground-truth", images_key="--images", training=False)
    return Images(truth, source, _relative(source, folder))


def _from_split(path: Path, split: str, overrides: list[str]) -> Images:
    """Of a checkpoint's data set."""
    content = checkpoint.load(path)
    checkpoint.describe(content, path)
    config = checkpoint.settings_for(content, path, overrides)
    names = tuple(content["class_names"])
    source = open_split(config, split, names, training=False)
    truth = ground_truth_arrays(read_truth(config, split, names))
    return Images(truth, source, _relative(source, Path(config.data.root) / config.data.images))


def _relative(source: Source, folder: Path) -> list[str]:
    return [Path(os.path.relpath(record.path, folder)).as_posix() for record in source.images]


def _open_detector(path: Path, truth: GroundTruthArrays, conf: float, overrides: list[str]) -> Detector:
    """Load a checkpoint; its classes become categories of the truth, by name."""
    model, content = checkpoint.load_for_inference(path)
    config = checkpoint.settings_for(content, path, [*overrides, f"eval.conf={conf}"])
    ids = dict(zip(truth.category_names, truth.category_ids.tolist(), strict=True))
    own = content["class_names"]
    if not set(own) & set(ids):
        raise InputError(f"{path}: knows {', '.join(own[:8])}, of which the ground truth names none (it has "
                         f"{', '.join(list(ids)[:8])}). Compare on images with its classes.")
    _tell_differences(path, own, list(ids))
    unknown = min(ids.values(), default=0) - 1
    return Detector(model, config, tuple(ids.get(name, unknown) for name in own), path.parent.name or path.stem)


def _tell_differences(path: Path, own: list[str], others: list[str]) -> None:
    """Print the classes that a checkpoint and the truth do not share, as no count tells that names were spelt differently."""
    lacking, extra = (listed([name for name in one if name not in other]) for one, other in ((others, own), (own, others)))
    if lacking:
        print(f"{path}: does not know {lacking}; their objects count as missed")
    if extra:
        print(f"{path}: knows {extra} too, which the ground truth does not name; these detections are left out")


def _detect(detector: Detector, images: Images, chosen: list[int] | None, cut: Tiling | None) -> DetectionArrays:
    """Its detections, on all images or some, with the category ids of the truth."""
    config = detector.config
    ranks = Ranks(config.train.device)
    with in_one_line(config, training=False, side=cut.tile if cut else None):
        found = predict_source(detector.model, images.source, config, ranks, detector.category_ids, cut, chosen,
                               detector.label)
    known = np.isin(found.detections.category_ids, images.truth.category_ids)
    return DetectionArrays(*(part[known] for part in vars(found.detections).values()))


def _find(names: list[str], wanted: list[str]) -> list[int]:
    """Places of images by their whole names, their file names, or these without the ending."""
    found = []
    for name in wanted:
        for key in (str, lambda n: Path(n).name, lambda n: Path(n).stem):
            matches = [k for k, own in enumerate(names) if key(own) == name]
            if matches:
                break
        if len(matches) > 1:
            raise InputError(f"--only: {name} could be {names[matches[0]]} or {names[matches[1]]}. Name the folder too.")
        if not matches:
            close = difflib.get_close_matches(name, names, n=1) or names[:1]
            raise InputError(f"--only: none of the {len(names):,} images is called {name}. Did you mean {close[0]}?")
        found += matches
    return list(dict.fromkeys(found))


def _named(paths: list[Path], given: list[str]) -> list[str]:
    """What each tool is called: as asked for, or after its file or folder; of equal names the later ones get a number."""
    if given and len(given) != len(paths):
        raise InputError(f"--names: {len(given)} for {len(paths)} tools. Name each, first the files of detections, then the "
                         "checkpoints.")
    names, seen = [], Counter()
    for name in given or map(row_name, paths):
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    return drawable_names(names, "tool")


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and compare; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m engine.compare", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ground-truth", type=Path, help="COCO annotations, gzip or not")
    parser.add_argument("--images", type=Path, help="the folder that their file names start from")
    parser.add_argument("--split", choices=("train", "val", "test"),
                        help="in place of both: which of the first checkpoint's data.* (default: test)")
    parser.add_argument("--detections", type=Path, nargs="+", default=[], metavar="FILE", help="COCO results, gzip or not")
    parser.add_argument("--checkpoint", type=Path, nargs="+", default=[], metavar="FILE",
                        help="best.pt or last.pt that train.py wrote; detects on the images that are named, or on all")
    parser.add_argument("--names", nargs="+", default=[], metavar="NAME", help="of the tools: files first, then checkpoints")
    parser.add_argument("--conf", type=float, default=0.25, help="lowest score that counts (default: 0.25)")
    parser.add_argument("--tile", type=int, metavar="PX", help="checkpoints see larger images in tiles of this side, at their "
                        "own scale, as predict.py and test.py do")
    parser.add_argument("--overlap", type=int, metavar="PX", help="of neighbouring tiles (default: a quarter of --tile)")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--number", type=int, default=4, help="how many images to draw (default: 4)")
    choice.add_argument("--only", nargs="+", default=[], metavar="NAME", help="which images to draw, by file name")
    parser.add_argument("--output", type=Path, default=Path("runs/compare"),
                        help="folder of the pictures (default: runs/compare)")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that differ from the checkpoints'")
    options = parser.parse_intermixed_args(arguments)
    _take_out_overrides(options)
    _check(options)
    cut = tiling(options.tile, options.overlap)

    names = _named([*options.detections, *options.checkpoint], options.names)
    if options.ground_truth:
        images = _from_files(options.ground_truth, options.images)
    else:
        images = _from_split(options.checkpoint[0], options.split or "test", options.overrides)
    chosen = _find(images.names, options.only) if options.only else None
    # All is read before the first detection, as what is wrong with the last file would be told after hours.
    detectors = [_open_detector(path, images.truth, options.conf, options.overrides) for path in options.checkpoint]
    found = [read_detections(path, images.truth) for path in options.detections]
    _make_places(options.output, images, chosen)
    found += [_detect(detector, images, chosen, cut) for detector in detectors]
    return compare(images, list(zip(names, found, strict=True)), chosen, options.number, options.conf, options.output)


def _make_places(output: Path, images: Images, chosen: list[int] | None) -> None:
    """Make the folders of the pictures and see that these can be written, whichever images they will be of.

    Raises:
        InputError: they cannot, or an image would be lost.
    """
    names = [Path(images.names[k]) for k in (range(len(images.names)) if chosen is None else chosen)]
    possible = [*picture_names(names), *(name.with_suffix(".png") for name in names)]
    folders = output / "outcomes", output / "classes"
    targets = [folder / name for folder in folders for name in dict.fromkeys(possible)]
    check_targets(targets, (Path(record.path) for record in images.source.images))
    for folder in folders:
        make_folder(folder)


def _take_out_overrides(options: argparse.Namespace) -> None:
    """Overrides that follow a list, as in `--checkpoint a.pt b.pt data.root=DIR`, are none of its entries."""
    for name in ("detections", "checkpoint", "names", "only"):
        entries = getattr(options, name)
        options.overrides += [str(entry) for entry in entries if OVERRIDE.match(str(entry))]
        setattr(options, name, [entry for entry in entries if not OVERRIDE.match(str(entry))])


def _check(options: argparse.Namespace) -> None:
    """Raise InputError for options that do not go together."""
    if not options.detections and not options.checkpoint:
        raise InputError("engine.compare: name what to compare: --detections FILE ... or --checkpoint FILE ...")
    if options.overrides and not options.checkpoint:
        raise InputError(f"'{options.overrides[0]}': belongs to a checkpoint, and none is named.")
    if options.tile is not None and not options.checkpoint:
        raise InputError("--tile: is how a checkpoint sees large images, and none is named. Leave it out.")
    if options.ground_truth and options.split:
        raise InputError("--split: belongs to a checkpoint's own data set. Leave it out, or --ground-truth.")
    if bool(options.ground_truth) != bool(options.images):
        missing = "--images" if options.ground_truth else "--ground-truth"
        raise InputError(f"{missing}: is needed too: --ground-truth FILE names the objects, --images DIR has their pictures.")
    if not options.ground_truth and not options.checkpoint:
        raise InputError("--ground-truth: is needed for files of detections, and --images DIR with its pictures.")
    if not 0 <= options.conf <= 1:
        raise InputError(f"--conf: {options.conf} is outside 0..1.")
    if options.number < 1:
        raise InputError(f"--number: {options.number} is too small. Use 1 or more.")


if __name__ == "__main__":
    run(main)
