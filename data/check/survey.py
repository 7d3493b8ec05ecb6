"""Go through a whole set: read every split leniently, look at every image, collect what is wrong."""
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.check.compare import Comparison, compare
from data.check.contents import check_boxes, check_classes, check_images
from data.check.figures import check_figures, figures
from data.check.findings import Findings
from data.check.listing import Listing
from data.check.overlap import check_overlap
from data.check.pictures import Look, look_at
from data.check.places import find_annotations, find_elsewhere, place_images
from data.check.read_coco import read_coco
from data.check.read_voc import read_voc


@dataclass(frozen=True)
class Setup:
    """A set as a configuration names it, and the settings that decide what it does to training and testing."""

    root: Path
    files: dict[str, Path]          # by split (train, val, test): COCO JSON, or VOC image list (.txt)
    images: Path                    # folder
    annotations: Path               # folder of a VOC list's XML files
    classes: tuple[str, ...] = ()   # data.classes
    image_size: int = 800           # pixels
    finest_stride: int = 8
    min_box_side: float = 0
    max_det: int = 3000
    class_limit: int | None = 1500  # detections of a class in an image that the protocol counts; None: all
    fast: bool = False              # do not decode images
    workers: int | None = None      # processes; None: one for each core


@dataclass
class Survey:
    """What was found."""

    findings: Findings
    splits: dict[str, dict]         # figures of those that could be read
    comparison: Comparison | None
    looked_at: int                  # image files


def survey(setup: Setup, refusal: Callable[[str, tuple[str, ...]], str] = lambda split, classes: "") -> Survey:
    """Check a set.

    Args:
        refusal: what train.py or test.py would say of a split, given the class names; "" if they take it. It is asked for
            splits where nothing was found that stops them, so that the check never passes what they refuse.
    """
    found, listings = Findings(), {}
    classes = setup.classes
    for split, file in setup.files.items():
        listing = _read(setup, split, file, classes, found)
        if listing is not None:
            listings[split] = listing
            classes = classes or listing.classes                # those of the first split, training, are those of all
    find_elsewhere(list(listings.values()), setup.images, setup.root, found)
    looks = look_at([p for x in listings.values() for p in x.paths if p], setup.fast, setup.workers)

    sizes = {split: _sizes(listing, looks) for split, listing in listings.items()}
    for split, listing in listings.items():
        check_images(listing, looks, setup.image_size, found)
        check_boxes(listing, sizes[split], found)
        check_figures(listing, sizes[split], setup.image_size, setup.finest_stride, setup.min_box_side, setup.max_det,
                      setup.class_limit, found)
    check_classes(listings, bool(setup.classes), found)
    check_overlap(listings, looks, sizes, found)
    for split in setup.files:
        message = "" if found.stops(split) else refusal(split, classes)
        if message:
            found.add("refused", split, detail=message)
    splits = {split: figures(listing, sizes[split], setup.image_size) for split, listing in listings.items()}
    for split in splits.values():
        split["file"] = os.path.relpath(split["file"], setup.root)
    comparison = compare(classes, splits)
    if comparison and comparison.parts and comparison.published.leaked_boxes:
        boxes, title = comparison.published.leaked_boxes, comparison.published.title
        found.hint("overlap_scene", f"In {title} its users count {boxes:,} such boxes, by a rule of their own.")
    return Survey(found, splits, comparison, len(looks))


def _read(setup: Setup, split: str, file: Path, classes: tuple[str, ...], found: Findings) -> Listing | None:
    if file.suffix == ".txt":
        listing = read_voc(file, setup.annotations, setup.images, classes, split, found)
        if listing is None:
            found.hint("annotation_file", find_annotations(setup.root, file, split, setup.files.values())[1])
        return listing
    hint = ""
    if not file.exists():
        other, hint = find_annotations(setup.root, file, split, setup.files.values())
        if other is not None:
            found.add("annotation_file", split, detail=f"{file}: No such file")
            file = other
    listing = read_coco(file, classes, split, found)
    found.hint("annotation_file", hint)
    if listing is not None:
        place_images(listing, setup.images, found)
    return listing


def _sizes(listing: Listing, looks: dict[str, Look]) -> np.ndarray:
    """(I, 2) width and height: as stated, else of the file, else 0."""
    actual = np.array([looks[p][:2] if p else (0, 0) for p in listing.paths], np.int64).reshape(-1, 2)
    return np.where((listing.size > 0).all(1, keepdims=True), listing.size, actual)
