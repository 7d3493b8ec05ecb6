"""The peer's side of benchmarks/accuracy.py: what of our settings Ultralytics can be told, and the call.

It has no counterpart to the assigner's settings, to train.clip_norm (10 there), augment.min_box_side (2 px there),
train.validate_every (1 there), nor to ours of the network. These stay as it has them. On a CPU it trains in float32.
"""
import json
import os
from pathlib import Path

from engine.config import Config
from errors import InputError

RUN = Path(__file__).with_name("accuracy_run.py")
# It would install packages on its own otherwise, at the end of a run of hours.
ENVIRONMENT = {**os.environ, "YOLO_AUTOINSTALL": "false"}
MODELS = [f"yolo11{scale}" for scale in "nsmlx"]

# Ours -> its name for the same.
COUNTERPARTS = {
    "train.epochs": "epochs", "train.batch_size": "batch", "train.nominal_batch": "nbs", "train.image_size": "imgsz",
    "train.lr": "lr0", "train.final_lr": "lrf", "train.momentum": "momentum", "train.weight_decay": "weight_decay",
    "train.warmup_epochs": "warmup_epochs", "train.warmup_momentum": "warmup_momentum",
    "train.warmup_bias_lr": "warmup_bias_lr", "train.close_mosaic": "close_mosaic", "train.seed": "seed",
    "train.workers": "workers", "eval.max_det": "max_det",
    "loss.box": "box", "loss.cls": "cls", "loss.dfl": "dfl",
    "augment.mosaic": "mosaic", "augment.degrees": "degrees", "augment.translate": "translate", "augment.scale": "scale",
    "augment.shear": "shear", "augment.flip_lr": "fliplr", "augment.flip_ud": "flipud", "augment.hsv_h": "hsv_h",
    "augment.hsv_s": "hsv_s", "augment.hsv_v": "hsv_v", "augment.multi_scale": "multi_scale",
}
ELSEWHERE = ("train.amp", "train.device", "eval.conf", "eval.nms")          # they reach it, too
PRECISIONS = {"off": False, "fp16": True, "bf16": "bf16"}


def check(row: str, name: str, own: list[str], config: Config) -> None:
    """Raise InputError for a row that the peer cannot train as it says.

    Args:
        name: of our config.
        own: the row's own settings.
    """
    if name not in MODELS:
        raise InputError(f"{row}: the peer has no {name}. Use one of {', '.join(MODELS)}.")
    for setting in own:
        key = setting.partition("=")[0]
        if key not in COUNTERPARTS and key not in ELSEWHERE:
            raise InputError(f"{row}: the peer cannot be told {key}. Leave it out.")
    if config.data.classes:
        raise InputError(f"data.classes: cannot be told to the peer of the row {row}. Leave it out, or make files of them.")
    for split in ("train", "val", "test"):
        file = getattr(config.data, split)
        if not file.endswith(".json"):
            raise InputError(f"data.{split}: {file or 'nothing'} is no COCO JSON file, which the row {row} needs.")


def command(python: str, row: str, config: Config, folder: Path) -> list[str]:
    """The call that trains and detects in its own environment."""
    values = config.to_dict()
    settings = {theirs: values[section][key] for ours, theirs in COUNTERPARTS.items() for section, key in [ours.split(".")]}
    settings |= {"amp": PRECISIONS[config.train.amp]}
    if config.train.device != "auto":
        settings |= {"device": "cpu" if config.train.device == "cpu" else 0}
    case = {
        "model": row.removeprefix("ultralytics:").split(",")[0],
        "data": config.data.root,
        "splits": {split: getattr(config.data, split) for split in ("train", "val", "test")},
        "images": config.data.images,
        "folder": str(folder),
        "training": settings,
        "testing": {"conf": config.eval.conf, "iou": config.eval.nms, "max_det": config.eval.max_det},
    }
    return [python, str(RUN), json.dumps(case)]
