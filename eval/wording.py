"""What a reader of a table or picture has to know of how its figures were taken: protocol, sizes, limits, whose they are."""
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from eval.coco import AITOD, COCO, IOU_THRESHOLDS, OLRP_PARTS, Protocol
from eval.diagnosis import Diagnosis
from eval.voc import COCO_LIMIT

SIZE_NAMES = {"all": "all sizes", "vt": "very tiny", "t": "tiny", "s": "small", "m": "medium", "l": "large"}
# what tools call the file that they write, and the folder: no name for a row
GENERIC = {
    "annotations", "bbox", "bboxes", "best", "box", "coco", "det", "dets", "detection", "detections", "dt", "eval",
    "evaluation", "final", "inference", "instances", "json", "last", "out", "output", "outputs", "pred", "preds", "predict",
    "prediction", "predictions", "result", "results", "run", "runs", "segm", "test", "testing", "train", "val",
    "valid", "validation",
}


def row_name(path: str | os.PathLike) -> str:
    """What a file of detections is called in a table: its name, or of results.bbox.json and the like that of its folder."""
    path = Path(path).absolute()
    own = Path(path.name.removesuffix(".gz")).stem
    return next((name for name in (own, *(folder.name for folder in path.parents)) if not _is_generic(name)), own)


def _is_generic(name: str) -> bool:
    words = re.split(r"[\W_\d]+", name.lower())
    return all(word in GENERIC for word in words if word)


def protocol_name(protocol: Protocol) -> str:
    """Such as "protocol aitod"; says so when its sizes or limits are not the benchmark's."""
    for standard in (AITOD, COCO):
        same = replace(protocol, olrp=False) == standard
        if protocol.name == standard.name and not same:
            return f"protocol {protocol.name} with own sizes or limits"
    return f"protocol {protocol.name}"


def bounds(area: tuple[float, float]) -> str:
    """A range of area in square pixels as the side of a square: "up to 8 px", "8 to 16 px", "from 32 px on"."""
    low, high = (f"{round(end**0.5, 1):,g}" for end in area)
    if area[1] >= 1e10:
        return f"from {low} px on" if area[0] > 0 else "any"
    return f"{low} to {high} px" if area[0] > 0 else f"up to {high} px"


def sizes_note(protocol: Protocol) -> str:
    """The ranges of size and their bounds in pixels; "" where there are none."""
    ranges = list(protocol.area_ranges.items())[1:]
    if not ranges:
        return ""
    return ("Sizes, by the square root of the object's area, bounds included: "
            + ", ".join(f"{SIZE_NAMES.get(name, name)} {bounds(area)}" for name, area in ranges) + ".")


def limit_note(protocol: Protocol) -> str:
    """The limit of detections that AP has."""
    limit = max(protocol.max_dets)
    return f"at most {limit:,} detection{'s' if limit > 1 else ''} of a class in an image"


def curves_note(protocol: Protocol) -> str:
    """How the curves of a picture were taken, in a line."""
    how = ", COCO's matching, without objects marked difficult" if protocol.difficult else ""
    return f"{protocol_name(protocol).capitalize()}{how}: {limit_note(protocol)}."


def silence(diagnosis: Diagnosis) -> str:
    """Why a picture of the diagnosis shows nothing found; "" when there is something to show."""
    if diagnosis.used:
        return ""
    if np.isnan(diagnosis.highest):
        return "There are no detections."
    return (f"No detection scores {diagnosis.score} or more (the highest {diagnosis.highest:.3g}), so every object counts as "
            "missed here. AP counts all detections.")


def ap_note(protocol: Protocol) -> str:
    """What AP, AP50, AR and the sizes in `eval.coco`'s figures mean, a line each."""
    first, second, *_, last = (f"{iou:.2f}" for iou in IOU_THRESHOLDS)
    limits = ", ".join(f"AR{limit}" for limit in sorted(protocol.max_dets))
    lines = (f"AP: mean over the IoUs {first}, {second}, ..., {last} (AP50, AP75: at that IoU alone) and over the classes, "
             f"{limit_note(protocol)}.",
             f"{limits}: highest recall, mean over the same IoUs, with at most that many detections of a class in an image.",
             sizes_note(protocol))
    return "\n".join(line for line in lines if line)


def voc_note() -> str:
    """The same for `eval.voc`'s figures."""
    return ("AP at IoU 0.5: mean of 11 recalls (voc07), area under the curve (voc12), COCO's 101 recalls and matching (coco).\n"
            f"All detections count; for coco {COCO_LIMIT} of a class in an image. Objects marked difficult are left out.")


def olrp_note() -> str:
    """The same for oLRP."""
    total, located, false, missed, score = OLRP_PARTS
    return (f"Lower is better. {total}: the lowest error over all scores at IoU 0.5, 100 where nothing is found.\n"
            f"Its parts there: {located}, mean of 1 - IoU of what is found; {false}, share of the detections that are wrong; "
            f"{missed}, share of the objects that are missed.\n"
            f"{score}: keep detections from this score on to reach it.")
