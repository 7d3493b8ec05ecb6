"""Checkpoints: plain values and tensors, written beside, synced and renamed, read without running code.

last.pt holds everything that a run needs to go on as if it had never stopped; best.pt what inference needs.
"""
import errno
import os
import pickle
import shutil
import subprocess
from pathlib import Path

import torch

from engine.archive import opened
from errors import InputError
from models import ModelConfig, RSTinyNet, build_model

FORMAT = 1
WANTED = "a best.pt or last.pt that train.py wrote"


def save(path: Path, content: dict) -> None:
    """Write a checkpoint so that a kill at any moment leaves the previous or the new file, never half of one.

    Raises:
        OSError: it could not be written, as on a full disk; the previous file stands.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            torch.save({"format": FORMAT, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except RuntimeError as error:       # torch's writer hides what the system said
        free = shutil.disk_usage(path.parent).free
        raise OSError(errno.EIO, f"the file system took only a part; {free:,} bytes are free") from error
    finally:
        beside.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what a process that was killed while writing left beside its files."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def load(path: str | Path) -> dict:
    """Read a checkpoint onto the CPU; anything but tensors and plain values in it is refused."""
    path = Path(path)
    with opened(path, WANTED):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            raise InputError(
                f"{path}: holds objects other than tensors and plain values, which could run code; it was not loaded. "
                f"Name {WANTED}."
            ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path}: not a checkpoint of this project. Name {WANTED}.")
    return content


def inference_content(model: RSTinyNet, class_names: tuple[str, ...], config: dict, progress: dict) -> dict:
    """What best.pt holds: fp32 weights without the auxiliary head, how to build the model, and what the classes mean."""
    state = {k: v.float() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    return {
        "weights": {k: v.cpu() for k, v in state.items() if not k.startswith("auxiliary_head.")},
        "model_config": vars(model.config).copy(),
        "class_names": list(class_names),
        "config": config,
        "progress": progress,
    }


def weights_of(content: dict, path: str | Path) -> dict[str, torch.Tensor]:
    """The weights of a best.pt, or the averaged ones of a last.pt.

    Raises:
        InputError: the checkpoint holds neither, or numbers that are not finite, with which nothing can be learned or found.
    """
    if "weights" not in content and "ema" not in content:
        raise InputError(f"{path}: holds no weights. Name {WANTED}.")
    weights = content["weights"] if "weights" in content else content["ema"]
    check_finite(weights, path)
    return weights


def check_finite(weights: dict[str, torch.Tensor], path: str | Path) -> None:
    """Raises InputError where a weight is not finite."""
    spoiled = [name for name, weight in weights.items() if not weight.isfinite().all()]
    if spoiled:
        raise InputError(f"{path}: holds numbers that are not finite, first in {spoiled[0]}. Name another checkpoint.")


def load_for_inference(path: str | Path) -> tuple[RSTinyNet, dict]:
    """Build the deployed model of a best.pt, or the average of a last.pt; returns it and the checkpoint's content."""
    content = load(path)
    weights = weights_of(content, path)
    model = build_model(ModelConfig(**content["model_config"]))
    model.auxiliary_head = None
    model.load_state_dict({k: v for k, v in weights.items() if not k.startswith("auxiliary_head.")})
    return model.deploy(), content


def code_revision() -> str:
    """The commit of this code, with a "+" when files differ from it; "unknown" outside a git checkout."""
    try:
        root = Path(__file__).parent
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")
