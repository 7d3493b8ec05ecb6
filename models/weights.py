"""Weights from elsewhere: YOLO11 checkpoints by name, and partial loading with a report."""
import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

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
            raise ValueError(f"'{key}' is not a weight of a YOLO11 detection model")
        name = f"{_PLACES[int(match[1])]}.{match[2]}"
        for theirs, ours in _HEAD_PLACES:
            if name.startswith(theirs):
                name = name.replace(theirs, ours, 1)
        converted[name] = value.flatten() if name == "head.bins" else value
    return converted


@dataclass(frozen=True)
class LoadReport:
    """What became of each name in a partial load."""

    matched: tuple[str, ...]
    missing: tuple[str, ...]        # in the model, not in the file: keep their initial values
    left_over: tuple[str, ...]      # in the file, not in the model
    reshaped: tuple[str, ...]       # in both with different shapes: keep their initial values

    def __str__(self) -> str:
        lines = [f"weights: {len(self.matched)} of {len(self.matched) + len(self.missing) + len(self.reshaped)} loaded"]
        for label, names in (
            ("missing in the file", self.missing),
            ("of another shape", self.reshaped),
            ("left over in the file", self.left_over),
        ):
            if names:
                shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
                lines.append(f"  {len(names)} {label}: {shown}")
        return "\n".join(lines)


@torch.no_grad()
def load_partial(model: nn.Module, state: dict[str, Tensor]) -> LoadReport:
    """Copy every tensor whose name and shape agree into the model; the rest keeps its initial values."""
    own = model.state_dict()
    matched = [k for k in own if k in state and own[k].shape == state[k].shape]
    for key in matched:
        own[key].copy_(state[key])
    return LoadReport(
        matched=tuple(matched),
        missing=tuple(k for k in own if k not in state),
        left_over=tuple(k for k in state if k not in own),
        reshaped=tuple(k for k in own if k in state and own[k].shape != state[k].shape),
    )
