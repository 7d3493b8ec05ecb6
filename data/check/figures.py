"""The sizes and numbers of a split's objects, and how many of them a detector's grid overlooks."""
import numpy as np

from data.check.findings import Findings
from data.check.listing import Listing

RANGES = {"very tiny": 8, "tiny": 16, "small": 32, "medium": np.inf}        # AI-TOD's, root of the area in px, upper end inside
FINEST = (8, 4)                                                             # strides without and with the P2 level
COARSEST = 32


def figures(listing: Listing, size: np.ndarray, image_size: int) -> dict:
    """Plain values, for the page and for JSON.

    Args:
        size: (I, 2) width and height of the images, 0 where nothing is known.
        image_size: pixels, what the longer side of an image becomes before the network sees it.
    """
    counted = listing.label >= 0
    per_image = np.bincount(listing.image[counted], minlength=len(listing.names))
    box = listing.box[listing.solid]
    side = np.sqrt((box[:, 2:] - box[:, :2]).prod(1))
    shares, low = {}, -1.0
    for name, high in RANGES.items():
        shares[name] = _mean((side > low) & (side <= high))
        low = high
    return {
        "file": str(listing.file), "note": listing.note, "images": len(listing.names), "boxes": int(counted.sum()),
        "by_class": dict(zip(listing.classes, listing.count_by_class(), strict=True)),
        "left_out": listing.left_out,
        "side": {"mean": _mean(side), "median": float(np.median(side)) if len(side) else 0.0, "shares": shares,
                 "below_16": _mean(side < 16)},
        "per_image": {"min": int(per_image.min()), "median": float(np.median(per_image)), "max": int(per_image.max()),
                      "densest": listing.names[int(per_image.argmax())]} if len(per_image) else None,
        "no_cell": {str(finest): _mean(without_cell(listing, size, image_size, finest)[1]) for finest in FINEST},
    }


def without_cell(
    listing: Listing, size: np.ndarray, image_size: int, finest: int, min_box_side: float = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The boxes that training would take, (n,) int64, and whether each contains the centre of no cell, (n,) bool.

    The image is taken as the network sees it without augmentation. Centres lie at (i + 0.5) * stride, strides go from
    `finest` to 32 by twos, and inside is strictly inside, as in losses/assigner.py.

    Args:
        min_box_side: sides below this many pixels are enlarged to it first, as assigner.min_box_side does.
    """
    rows = np.flatnonzero(listing.solid & ~listing.unfit & (size > 0).all(1)[listing.image])
    limit = size[listing.image[rows]]
    box = np.clip(listing.box[rows], 0, np.concatenate((limit, limit), 1)) * (image_size / limit.max(1, initial=1))[:, None]
    area = (box[:, 2:] > box[:, :2]).all(1)
    rows, box = rows[area], box[area]
    centre, half = (box[:, :2] + box[:, 2:]) / 2, np.maximum(box[:, 2:] - box[:, :2], min_box_side) / 2
    held = np.zeros(len(box), bool)
    stride = finest
    while stride <= COARSEST:
        first = np.floor((centre - half) / stride - 0.5) + 1
        last = np.ceil((centre + half) / stride - 0.5) - 1
        held |= (last >= first).all(1)
        stride *= 2
    return rows, ~held


def check_figures(
    listing: Listing, size: np.ndarray, image_size: int, finest: int, min_box_side: float, max_det: int,
    class_limit: int | None, found: Findings,
) -> None:
    """Objects that the settings overlook: without a cell in training, above the limits in testing.

    Args:
        finest: the finest stride of the model.
        class_limit: detections of a class in an image that the protocol counts; None: all.
    """
    if listing.split == "train":
        rows, lost = without_cell(listing, size, image_size, finest, min_box_side)
        if lost.any():
            rows = rows[lost]
            found.add_many("no_cell", listing.split, len(rows), listing.culprits(rows, listing.boxes_as_listed(rows)))
            finer = _mean(without_cell(listing, size, image_size, FINEST[-1])[1])
            p2 = f", or a stride of {FINEST[-1]} (model.p2=true; leaves {finer:.1%})" if finest > FINEST[-1] else ""
            found.hint("no_cell", f"They are {_mean(lost):.1%} at strides from {finest} and {image_size} px; "
                       f"assigner.min_box_side={2 * finest} gives each a cell{p2}. 0 is what the paper's YOLO11 does.")
        return
    for k, n in enumerate(np.bincount(listing.image[listing.label >= 0], minlength=len(listing.names)).tolist()):
        if n > max_det:
            found.add("over_max_det", listing.split, listing.names[k], detail=f"{n:,} objects")
            found.hint("over_max_det", f"Raise eval.max_det from {max_det:,}.")
    if class_limit is not None and len(listing.classes):
        counted = listing.label >= 0
        cell = listing.image[counted] * len(listing.classes) + listing.label[counted]
        for place, n in zip(*np.unique(cell, return_counts=True), strict=True):
            if n > class_limit:
                k, label = divmod(int(place), len(listing.classes))
                found.add("over_class_limit", listing.split, listing.names[k], detail=f"{n:,} of {listing.classes[label]}")


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0
