"""AI-TOD's facts: classes, splits, published counts, names of its files, and the crops that make its xView part.

Sources: Wang et al., "Tiny object detection in aerial images", ICPR 2020, and the repository jwwangchn/AI-TOD with its issues
15 (counts) and 28 (counts of v2); Xu et al., "Detecting tiny objects in aerial images", ISPRS 2022 (AI-TOD-v2: the images of
AI-TOD, annotated anew).
"""
import re
from pathlib import PurePosixPath
from typing import NamedTuple

from data.published import load_published

SPLITS = ("train", "val", "trainval", "test")               # trainval = train and val together
_V1, _V2 = (load_published()[name] for name in ("aitod_v1", "aitod_v2"))
CLASSES = _V1.classes                                       # ids 1..8
IMAGES, CROPS = _V1.images, _V1.from_xview                  # by split, of both versions, 800 x 800 px; those cut from xView
BOXES = _V1.by_class        # of v1, as its tool has made them since June 2022 (issue 15); its authors put the change at 0.004 %
FIRST_BOXES = {"trainval": 353_004, "test": 347_617}        # of v1 before June 2022
BOXES_V2 = _V2.all_boxes                                    # trainval and test together (issue 28)
AS_MANY_AS_V2 = 1.02        # times the boxes of v1; more than these are taken for v2's, which are 7 % more in all

# Names of xView crops, the last or first eight of the official lists: a file with all of one row is of that split.
WITNESSES = {
    "train": ("2356__1200_0", "1584__1200_1800", "2021__3000_2384", "1820__0_1800", "1809__3000_600", "2413__2736_0",
              "907__2400_2418", "2408__2806_1200"),
    "val": ("2053__2298_1200", "24__0_1200", "2053__600_1800", "389__600_1801", "1036__600_0", "2509__600_2396",
            "2423__600_600", "2353__1800_2397"),
    "test": ("1849__1200_600", "1150__600_1928", "888__1800_2418", "493__0_600", "1530__2437_2419", "1450__2400_2400",
             "1430__600_600", "136__600_0"),
}

SIDE = 800          # of a crop, pixels
STRIDE = 600        # crops overlap by 200 px


class Crop(NamedTuple):
    """Pixels x to x + 800, y to y + 800 of an xView scene; what lies beyond its right and lower border is black."""

    scene: str      # N of N.tif
    x: int
    y: int


def crop_of(name: str) -> Crop | None:
    """The crop that a file name stands for, such as 1815__3019_600.png; None for an image that is not from xView."""
    found = re.fullmatch(r"([1-9]\d*)__(\d+)_(\d+)\.png", PurePosixPath(name).name)
    return Crop(found[1], int(found[2]), int(found[3])) if found else None


def crop_starts(length: int) -> list[int]:
    """Where crops begin along a side of a scene: every 600 px, the last one moved back to end at the border.

    The one before the last may cross the border; it stays where it is. So 1815__3000_1200 and 1815__3019_600 are both there.

    Args:
        length: of the side, pixels.
    """
    regular = list(range(0, length, STRIDE))
    return sorted({*regular[:-1], max(length - SIDE, 0)})


def annotation_name(version: int, split: str) -> str:
    """What configs/aitod (version 1) and configs/aitod_v2 (2) call a split's annotation file, as its publishers do."""
    return f"aitod_{split}_v1.json" if version == 1 else f"aitodv2_{split}.json"
