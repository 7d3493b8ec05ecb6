"""What is wrong with the images, the boxes and the classes."""
import os

import numpy as np

from data.check.findings import Findings
from data.check.listing import Listing
from data.check.pictures import Look

SMALL = 2.0             # pixels
ROUNDING = 0.1          # pixels that a box may stand out of its image: coordinates are often written with one or two decimals
AREA = 0.01             # relative difference from width x height that is more than rounding


def check_images(listing: Listing, looks: dict[str, Look], image_size: int, found: Findings) -> None:
    """Unreadable, of another size than stated, blank, dark, shown twice, larger than the network's input, without objects."""
    split, objects = listing.split, np.bincount(listing.image[listing.label >= 0], minlength=len(listing.names))
    first: dict[str, int] = {}                                  # by digest
    for k, (name, path) in enumerate(zip(listing.names, listing.paths, strict=True)):
        if listing.annotated[k] and not objects[k]:
            found.add("image_empty", split, name)
        if not path:
            continue
        look = looks[path]
        if look.problem:
            found.add("image_unreadable", split, name, detail=look.problem)
            continue
        stated = tuple(listing.size[k].tolist())
        if all(stated) and stated != (look.width, look.height):
            detail = f"is {look.width} x {look.height}, annotated as {stated[0]} x {stated[1]}"
            found.add("image_size", split, name, detail=detail)
        if look.blank and objects[k]:
            found.add("image_blank", split, name)
        if look.dark and objects[k]:
            found.add("image_dark", split, name)
        if max(look.width, look.height) > image_size:
            found.add("image_shrunk", split, name, detail=f"{look.width} x {look.height}")
        if look.digest:
            twin = first.setdefault(look.digest, k)
            if os.path.realpath(listing.paths[twin]) != os.path.realpath(path):
                found.add("image_duplicate", split, name, detail=f"as {listing.names[twin]}")


def check_boxes(listing: Listing, size: np.ndarray, found: Findings) -> None:
    """Of zero size, outside, partly outside, small, repeated; areas that differ; crowds and difficult objects.

    Args:
        size: (I, 2) width and height of the images, 0 where nothing is known.
    """
    box, solid = listing.box, listing.solid
    limit = np.where(size > 0, size, np.inf)[listing.image]
    limit = np.concatenate((limit, limit), 1)
    clipped = np.clip(box, 0, limit)
    side = box[:, 2:] - box[:, :2]
    zero = solid & (side <= 0).any(1)
    visible = ((clipped[:, 2:] - clipped[:, :2]) > 0).all(1)
    sticks_out = (np.abs(clipped - box) > ROUNDING).any(1)
    masks = {
        "box_zero": zero,
        "box_outside": solid & ~zero & ~visible,
        "box_partly_outside": solid & visible & sticks_out,
        "box_small": solid & ~zero & (side < SMALL).any(1),
    }
    for kind, mask in masks.items():
        rows = np.flatnonzero(mask)
        found.add_many(kind, listing.split, len(rows), listing.culprits(rows, listing.boxes_as_listed(rows)))

    rows = np.flatnonzero(solid)
    keys = np.concatenate((listing.image[rows, None], listing.label[rows, None], box[rows]), 1)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    first = first[inverse.reshape(-1)]
    repeated = np.flatnonzero(first != np.arange(len(rows)))
    found.add_many("box_duplicate", listing.split, len(repeated), listing.culprits(
        rows[repeated], (f"as {listing.marks[rows[k]]}" for k in first[repeated])))

    product = side.prod(1)
    if listing.split == "train":
        rows = np.flatnonzero(solid & listing.unfit)
        found.add_many("not_learned", listing.split, len(rows), listing.culprits(rows))
        if not (solid & ~listing.unfit & visible & ~zero).any():
            found.add("no_usable_box", listing.split, detail=str(listing.file))
    else:
        rows = np.flatnonzero(listing.area < 0)
        details = (f"{area:.6g}" for area in listing.area[rows])
        found.add_many("area_invalid", listing.split, len(rows), listing.culprits(rows, details))
    with np.errstate(invalid="ignore"):
        differs = solid & (listing.area >= 0) & (np.abs(listing.area - product) > np.maximum(AREA * product, 1))
    rows = np.flatnonzero(differs)
    found.add_many("area_differs", listing.split, len(rows), listing.culprits(
        rows, (f"{a:.6g} instead of {p:.6g}" for a, p in zip(listing.area[rows], product[rows], strict=True))))


def check_classes(listings: dict[str, Listing], chosen: bool, found: Findings) -> None:
    """Classes in one split but not in another, or without objects.

    Args:
        listings: by split, all of the same classes.
        chosen: data.classes names the classes, so that files may hold others.
    """
    counts = {split: listing.count_by_class() for split, listing in listings.items()}
    trained = "train" in listings
    for split, listing in listings.items():
        for name, objects in listing.left_out.items():
            if trained and not chosen and objects:
                found.add("class_not_learned", split, detail=f"{name}: {objects:,} objects")
    for k, name in enumerate(next(iter(listings.values())).classes if listings else ()):
        if not any(held[k] for held in counts.values()):
            found.add("class_empty", "all", detail=name)
            continue
        for split in counts:
            if trained and split != "train" and bool(counts["train"][k]) != bool(counts[split][k]):
                kind = "class_untested" if counts["train"][k] else "class_untrained"
                found.add(kind, split, detail=f"{name}: {max(counts['train'][k], counts[split][k]):,} objects")
