"""What --weights takes: a checkpoint of train.py, or YOLO11 as Ultralytics publishes or trains it."""
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from engine import checkpoint, inert
from engine.inert import Record
from errors import InputError
from models import ModelConfig
from models.scaling import SCALES
from models.weights import convert_ultralytics_state_dict, place, recognise_yolo11

WANTED = "a best.pt or last.pt of train.py, or yolo11n.pt to yolo11x.pt of Ultralytics"


@dataclass(frozen=True)
class StartingWeights:
    """A state dict in the names of RSTinyNet, with each tensor where the network has its counterpart."""

    origin: str         # for people
    state: dict[str, Tensor]


def read_starting_weights(path: Path, config: ModelConfig) -> StartingWeights:
    """Read weights for a network to start from; nothing that the file names is imported or run.

    Raises:
        InputError: the file cannot be read or asks for more than tensors and records, is no checkpoint of
            ours or YOLO11 detection model of the network's scale, or holds numbers that are not finite.
    """
    content = inert.read(path, WANTED)
    if checkpoint.is_ours(content):
        return StartingWeights("of train.py", place(_our_weights(content, path, config), config))
    theirs = _ultralytics_weights(content, path)
    try:
        state = convert_ultralytics_state_dict(theirs)
        found = recognise_yolo11(state)
    except ValueError as error:
        raise InputError(f"{path}: {error}{_built_from(content)}. Name {WANTED}.") from None
    if found.scale != config.scale:
        raise InputError(f"{path}: holds YOLO11{found.scale}, but model.scale is {config.scale}. Name yolo11{config.scale}.pt, "
                         f"or set model.scale={found.scale}.")
    checkpoint.check_finite(state, path)
    return StartingWeights(f"YOLO11{found.scale} of Ultralytics for {found.num_classes} classes", place(state, config))


def _our_weights(content: dict, path: Path, config: ModelConfig) -> dict[str, Tensor]:
    weights = checkpoint.weights_of(content, path)
    told = content.get("model_config")
    scale = told.get("scale") if isinstance(told, dict) else None
    if not isinstance(scale, str) or scale not in SCALES:
        raise InputError(f"{path}: does not tell its network's scale. Name {WANTED}.")
    if scale != config.scale:
        raise InputError(f"{path}: holds a network of scale {scale}, but model.scale is {config.scale}, where few of "
                         f"its tensors fit. Set model.scale={scale}, or name another checkpoint.")
    return weights


def _ultralytics_weights(content: object, path: Path) -> dict[str, Tensor]:
    """The float32 state dict of what Ultralytics writes: the average of the weights where there is one, else the weights.

    A file may also hold the network alone, or its state dict.
    """
    model = _model_of(content)
    if isinstance(model, Record):
        kind = model.kind.rpartition(".")[2]
        if kind != "DetectionModel":
            raise InputError(f"{path}: holds a {kind}, not a DetectionModel of Ultralytics. Name {WANTED}.")
        try:
            model = dict(_tensors(model))
        except RecursionError:
            raise InputError(f"{path}: holds modules inside themselves. Name {WANTED}.") from None
    state = model if isinstance(model, dict) else {}
    if not state or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise InputError(f"{path}: holds no weights. Name {WANTED}.")
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def _model_of(content: object) -> object:
    if not isinstance(content, dict) or not {"ema", "model"} & content.keys():
        return content
    return content["ema"] if content.get("ema") is not None else content.get("model")


def _tensors(module: Record, prefix: str = "") -> Iterator[tuple[str, object]]:
    """What state_dict() of a module would give, from the record of it."""
    hidden = _part(module, "_non_persistent_buffers_set", set)
    for name, value in {**_part(module, "_parameters"), **_part(module, "_buffers")}.items():
        if value is not None and name not in hidden:
            yield f"{prefix}{name}", value
    for name, child in _part(module, "_modules").items():
        if isinstance(child, Record):
            yield from _tensors(child, f"{prefix}{name}.")


def _part(record: Record, key: str, kind: type = dict) -> dict | set:
    """One of a record's attributes; empty where it is missing or of another type, as only in a forged file."""
    part = record.state.get(key) if isinstance(record.state, dict) else None
    return part if isinstance(part, kind) else kind()


def _built_from(content: object) -> str:
    """" (yolov8n.yaml)", where the file tells."""
    model = _model_of(content)
    name = _part(model, "yaml").get("yaml_file") if isinstance(model, Record) else None
    return f" ({Path(name).name})" if isinstance(name, str) and name.isprintable() else ""
