"""What two splits share: files, pixels, and the ground that crops of one scene show."""
import os
import re
from itertools import combinations
from pathlib import PurePosixPath

import numpy as np

from data.check.findings import Culprit, Findings
from data.check.listing import Listing
from data.check.pictures import Look
from data.voc import without_ending

CROP = re.compile(r"(.+)__(\d+)_+(\d+)")        # <scene>__<x>_<y>: AI-TOD's crops of xView; DOTA's have more underscores


def check_overlap(listings: dict[str, Listing], looks: dict[str, Look], sizes: dict[str, np.ndarray], found: Findings) -> None:
    """Compare each split with those before it.

    Args:
        sizes: by split, (I, 2) width and height of the images.
    """
    for (one, first), (other, second) in combinations(listings.items(), 2):
        pair = f"{one}/{other}"
        files = {os.path.realpath(path): name for name, path in zip(first.names, first.paths, strict=True) if path}
        digests = {looks[path].digest: name for name, path in zip(first.names, first.paths, strict=True) if path}
        shared = set()
        for k, (name, path) in enumerate(zip(second.names, second.paths, strict=True)):
            twin = digests.get(looks[path].digest) if path and looks[path].digest else None
            if path and os.path.realpath(path) in files:
                found.add("overlap_file", pair, name)
                shared.add(k)
            elif twin is not None:
                found.add("overlap_pixels", pair, name, detail=f"as {twin}")
                shared.add(k)
        boxes, culprits = shared_ground(first, sizes[one], second, sizes[other], shared, pair)
        found.add_many("overlap_scene", pair, boxes, culprits, len(culprits))
        if boxes:
            share = boxes / second.solid.sum()
            found.hint("overlap_scene", f"{pair}: {share:.1%} of the boxes of {other}, in {len(culprits):,} images.")


def shared_ground(
    first: Listing, first_size: np.ndarray, second: Listing, second_size: np.ndarray, left_out: set[int], pair: str
) -> tuple[int, list[Culprit]]:
    """Boxes of the second split whose centre lies in an area that a crop of the first shows.

    The centre decides, as it does for AI-TOD's own tool, which gives a box to every crop that contains its centre: these
    are the very objects that the other crop holds, too.

    Args:
        first_size, second_size: (I, 2) width and height of the images.
        left_out: images of the second split that are known to stand in the first.
    Returns:
        How many, and one culprit for each image.
    """
    by_scene: dict[str, list[tuple[int, int, int, int]]] = {}
    for name, (width, height) in zip(first.names, first_size.tolist(), strict=True):
        crop = _crop(name)
        if crop:
            scene, x, y = crop
            by_scene.setdefault(scene, []).append((x, y, x + width, y + height))
    rows = np.flatnonzero(second.solid)
    rows = rows[np.argsort(second.image[rows], kind="stable")]
    ends = np.searchsorted(second.image[rows], np.arange(len(second.names) + 1))
    total, culprits = 0, []
    for k, name in enumerate(second.names):
        crop = _crop(name)
        if not crop or crop[0] not in by_scene or k in left_out:
            continue
        box = second.box[rows[ends[k] : ends[k + 1]]]
        centre = (box[:, None, :2] + box[:, None, 2:]) / 2 + crop[1:]                       # (n, 1, 2)
        area = np.array(by_scene[crop[0]], np.float64)[None]                                # (1, crops, 4)
        seen = ((centre >= area[..., :2]) & (centre < area[..., 2:])).all(2).any(1)
        if seen.any():
            total += int(seen.sum())
            culprits.append(Culprit(pair, name, detail=f"{int(seen.sum())} of {len(box)} boxes"))
    return total, culprits


def _crop(name: str) -> tuple[str, int, int] | None:
    """Scene and top left corner of a crop, by its file name."""
    match = CROP.fullmatch(PurePosixPath(without_ending(name.replace("\\", "/"))).name)
    return (match[1], int(match[2]), int(match[3])) if match else None
