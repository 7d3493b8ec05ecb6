"""Weights from elsewhere: YOLO11 checkpoints by name, where each variant has their tensors, partial loading with a report."""
import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from errors import printable
from models.rs_tinynet import ModelConfig, build_model
from models.scaling import SCALES

# YOLO11 numbers its layers in the order of its graph; the layers between (upsampling, concatenation) hold no weights.
_PLACES = {
    0: "backbone.stages.down.0",
    1: "backbone.stages.down.1",
    2: "backbone.stages.mix.1",
    3: "backbone.stages.down.2",
    4: "backbone.stages.mix.2",
    5: "backbone.stages.down.3",
    6: "backbone.stages.mix.3",
    7: "backbone.stages.down.4",
    8: "backbone.stages.mix.4",
    9: "backbone.sppf",
    10: "backbone.attention",
    13: "neck.top4",
    16: "neck.top3",
    17: "neck.down4",
    19: "neck.out4",
    20: "neck.down5",
    22: "neck.out5",
    23: "head",
}
_HEAD_PLACES = (("head.cv2.", "head.box."), ("head.cv3.", "head.cls."), ("head.dfl.conv.weight", "head.bins"))
# What a report calls the parts of a network, and how the names of their tensors begin.
_PARTS = {
    "backbone": ("backbone.stages.", "backbone.sppf.", "backbone.attention."),
    "ARB, column 1": ("backbone.auxiliary.",),
    "ARB, taps": ("backbone.taps.",),
    "neck": ("neck.top", "neck.down", "neck.out"),
    "MDCA": ("neck.attention.",),
    "PFDH": ("fusion.",),
    "head, boxes": ("head.box.", "head.bins"),
    "head, classes": ("head.cls.",),
    "auxiliary head": ("auxiliary_head.",),
}


def convert_ultralytics_state_dict(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename a YOLO11 detection state dict (any scale) to the names of RSTinyNet.

    Args:
        state: keys `model.<layer>.<name>`, with or without further `model.` in front.
    Returns:
        The same tensors under our names; the DFL weights reshaped to (16,).
    Raises:
        ValueError: a key belongs to no layer of YOLO11 detection.
    """
    converted = {}
    for key, value in state.items():
        match = re.fullmatch(r"(?:model\.)*(\d+)\.(.+)", key)
        if match is None or int(match[1]) not in _PLACES:
            raise ValueError(f"'{printable(key)}' is not a weight of a YOLO11 detection model")
        name = f"{_PLACES[int(match[1])]}.{match[2]}"
        for theirs, ours in _HEAD_PLACES:
            if name.startswith(theirs):
                name = name.replace(theirs, ours, 1)
        converted[name] = value.flatten() if name == "head.bins" else value
    return converted


def recognise_yolo11(state: dict[str, Tensor]) -> ModelConfig:
    """Which YOLO11 a state dict in our names is of: its scale and number of classes.

    Raises:
        ValueError: of none, by the names and shapes of its tensors.
    """
    first, last = state.get("backbone.stages.down.0.conv.weight"), state.get("head.cls.0.2.bias")
    if first is None or last is None or first.ndim != 4 or last.ndim != 1 or not len(last):
        raise ValueError("it is not a YOLO11 detection model: its first or last convolution is missing or malformed")
    found, nearest = _shapes(state), None
    for name, scale in SCALES.items():
        if scale.channels(64) != len(first):
            continue
        config = ModelConfig(name, num_classes=len(last))
        with torch.device("meta"):
            expected = _shapes(build_model(config).state_dict())
        different = [k for k in {**expected, **found} if expected.get(k) != found.get(k)]
        if not different:
            return config
        if nearest is None or len(different) < nearest[0]:
            nearest = len(different), different[0], expected.get(different[0])
    if nearest is None:
        raise ValueError(f"it is not a YOLO11 detection model: its first layer has {len(first)} channels")
    _, key, shape = nearest
    raise ValueError(f"it is not a YOLO11 detection model: {printable(key)} is {_say(found.get(key))} there and {_say(shape)} "
                     "in YOLO11")


def _shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Without the counters of BatchNorm, which nothing here reads and some tools leave out."""
    return {k: tuple(v.shape) for k, v in state.items() if not k.endswith("num_batches_tracked")}


def _say(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else " x ".join(map(str, shape))


def place(state: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Move the tensors of one variant (our names) to where another has their counterparts.

    The head's levels go by their strides, as a network with the stride-4 level counts one more. Where the state dict has no
    second column, both columns of an ARB start from its backbone; SPPF and C2PSA are the main column's.

    Args:
        config: of the network that will load them.
    """
    has_p2 = any(k.startswith("neck.top2.") for k in state)
    up = int(config.has_p2) - int(has_p2)
    placed = {re.sub(r"(?<=head\.)(box|cls)\.(\d+)", lambda m: f"{m[1]}.{int(m[2]) + up}", k): v for k, v in state.items()}
    if config.arb and not any(k.startswith("backbone.auxiliary.") for k in state):
        column = {k.replace(".stages.", ".auxiliary.", 1): v for k, v in state.items() if k.startswith("backbone.stages.")}
        placed |= column
    return placed


@dataclass(frozen=True)
class LoadReport:
    """What became of each name in a partial load."""

    matched: tuple[str, ...]
    missing: tuple[str, ...]        # in the model, not in the file: keep their initial values
    left_over: tuple[str, ...]      # in the file, not in the model
    reshaped: tuple[str, ...]       # in both, but their layer has another shape: keep their initial values
    numbers: tuple[int, int]        # in the tensors that were loaded, and in all of the model

    def __str__(self) -> str:
        """How much was loaded, and for each part of the network which modules start from scratch."""
        own = {*self.matched, *self.missing, *self.reshaped}
        loaded, total = (count / 1e6 for count in self.numbers)
        lines = [f"weights: {len(self.matched)} of {len(own)} loaded, {loaded:.1f} of {total:.1f} million numbers"]
        for part, beginnings in _PARTS.items():
            names = {k for k in own if k.startswith(beginnings)}
            if not names:
                continue
            line = f"  {part:<15}{len(names & {*self.matched}):>4} of {len(names):>3}"
            fresh = [f"{_modules(found, names)} ({why})"
                     for why, group in (("no counterpart in the file", self.missing), ("of another shape", self.reshaped))
                     if (found := names & {*group})]
            lines.append(line + (f"   from scratch: {'; '.join(fresh)}" if fresh else ""))
        if self.left_over:
            shown = ", ".join(map(printable, self.left_over[:4])) + (", ..." if len(self.left_over) > 4 else "")
            lines.append(f"  {len(self.left_over)} left over in the file: {shown}")
        return "\n".join(lines)


def _modules(fresh: set[str], names: set[str]) -> str:
    """The outermost modules of which every tensor is fresh, without the network's part in front; "all" when all are."""
    if fresh == names:
        return "all"
    outermost = {}
    for name in sorted(fresh):
        steps = name.split(".")
        for depth in range(2, len(steps) + 1):
            above = ".".join(steps[:depth])
            if all(k in fresh for k in names if k == above or k.startswith(above + ".")):
                outermost[".".join(steps[1:depth])] = None
                break
    return ", ".join(outermost)


@torch.no_grad()
def load_partial(model: nn.Module, state: dict[str, Tensor]) -> LoadReport:
    """Copy every layer whose tensors agree in name and shape into the model; the rest keeps its initial values.

    A convolution and its BatchNorm are one layer, as a weight and its bias are: half of it taken over and half of it random
    would be neither.
    """
    own = model.state_dict()
    unfit = {_layer_of(k) for k in own if k in state and own[k].shape != state[k].shape}
    matched = [k for k in own if k in state and _layer_of(k) not in unfit]
    for key in matched:
        own[key].copy_(state[key])
    return LoadReport(
        matched=tuple(matched),
        missing=tuple(k for k in own if k not in state),
        left_over=tuple(k for k in state if k not in own),
        reshaped=tuple(k for k in own if k in state and _layer_of(k) in unfit),
        numbers=(sum(own[k].numel() for k in matched), sum(v.numel() for v in own.values())),
    )


def _layer_of(name: str) -> str:
    """`neck.top4.cv1` for `neck.top4.cv1.conv.weight` and for `neck.top4.cv1.bn.bias`."""
    return re.sub(r"(\.(conv|bn))?\.[^.]+$", "", name)
