"""Checkpoints: plain values and tensors, written beside, synced and renamed, read without running code.

last.pt holds everything that a run needs to go on as if it had never stopped; best.pt what inference needs.
"""
import errno
import os
import pickle
import shutil
from pathlib import Path

import torch

from engine import config as configs
from engine.archive import opened
from errors import InputError, listed, printable
from models import ModelConfig, RSTinyNet, build_model

FORMAT = 1
WANTED = "a best.pt or last.pt that train.py wrote"
ANOTHER_VERSION = "was written by another version of this code"
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64)      # that weights come in


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
            content = _plain(torch.load(path, map_location="cpu", weights_only=True))
        except pickle.UnpicklingError:
            raise InputError(
                f"{path}: holds objects other than tensors and plain values, which could run code; it was not loaded. "
                f"Name {WANTED}."
            ) from None
    if not is_ours(content):
        raise InputError(f"{path}: not a checkpoint of this project. Name {WANTED}.")
    return content


def is_ours(content: object) -> bool:
    """Whether what a file holds is a checkpoint of this project."""
    return isinstance(content, dict) and type(content.get("format")) is int and content["format"] == FORMAT


def _plain(value: object) -> object:
    """The same in dicts and lists that are nothing else: a forged OrderedDict can have methods of its own."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in dict.items(value)}
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    return value


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
    weights = content.get("weights", content.get("ema"))
    if not weights or not isinstance(weights, dict) or not all(map(_is_weight, weights.items())):
        raise InputError(f"{path}: holds no weights. Name {WANTED}.")
    check_finite(weights, path)
    return weights


def _is_weight(item: tuple[object, object]) -> bool:
    """Whether a name and what it stands for are a text and numbers in memory, as only a forged file has them otherwise."""
    name, value = item
    return (isinstance(name, str) and isinstance(value, torch.Tensor) and value.dtype in DTYPES
            and value.layout == torch.strided and value.device.type == "cpu")


def check_finite(weights: dict[str, torch.Tensor], path: str | Path) -> None:
    """Raises InputError where a weight is not finite."""
    spoiled = [name for name, weight in weights.items() if not weight.isfinite().all()]
    if spoiled:
        raise InputError(f"{path}: holds numbers that are not finite, first in {printable(spoiled[0])}. Name another "
                         "checkpoint.")


def check_fits(own: dict[str, torch.Tensor], weights: dict[str, torch.Tensor], path: str | Path) -> None:
    """Raises InputError where weights have other names or shapes than a network's own."""
    shapes, found = ({k: tuple(v.shape) for k, v in state.items()} for state in (own, weights))
    differing = [name for name in {**shapes, **found} if shapes.get(name) != found.get(name)]
    if differing:
        raise InputError(f"{path}: {ANOTHER_VERSION}, as {len(differing)} of its tensors are not this network's, first "
                         f"{printable(differing[0])}. Use that version, or train anew.")


def describe(content: dict, path: str | Path) -> ModelConfig:
    """Of which network the weights are. Settings that the checkpoint lacks get their defaults, in content["config"].

    Raises:
        InputError: what tells how to use the weights is missing, or in the words of another version of this code.
    """
    for key, kind in (("model_config", dict), ("config", dict), ("class_names", list)):
        if not isinstance(content.get(key), kind):
            raise InputError(f"{path}: holds no {key}. Name {WANTED}.")
    content["config"] = _settings(content["config"], path).to_dict()
    network, names = _settings({"model": content["model_config"]}, path).model, content["class_names"]
    if len(names) != network.num_classes or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: does not name the {network.num_classes} classes of its network. Name {WANTED}.")
    return network


def _settings(tree: dict, path: str | Path) -> configs.Config:
    try:
        return configs.from_dict(tree, "settings")
    except (InputError, TypeError) as error:        # a forged file's keys can be of any type
        reason = printable(str(error).partition(". ")[0])
        raise InputError(f"{path}: {ANOTHER_VERSION} ({reason}). Use that version, or train anew.") from None


def settings_for(content: dict, path: str | Path, overrides: list[str]) -> configs.Config:
    """The settings of a described checkpoint with some changed, for inference.

    Raises:
        InputError: a key is unknown, or would have another network than this.
    """
    config = configs.from_dict(content["config"], str(path), overrides)
    own = content["class_names"]
    if config.data.classes and list(config.data.classes) != own:
        raise InputError(f"data.classes: {path} detects {listed(own)}; other classes are another training's. Leave it out: "
                         "metrics.json has the figures of each class.")
    return config


def load_for_inference(path: str | Path) -> tuple[RSTinyNet, dict]:
    """Build the deployed model of a best.pt, or the average of a last.pt; returns it and the checkpoint's content.

    Raises:
        InputError: the file is no checkpoint, or not of this version's networks.
    """
    content = load(path)
    weights = {k: v for k, v in weights_of(content, path).items() if not k.startswith("auxiliary_head.")}
    model = build_model(describe(content, path))
    model.auxiliary_head = None
    check_fits(model.state_dict(), weights, path)
    model.load_state_dict(weights)
    return model.deploy(), content
