"""A YOLO11 checkpoint as Ultralytics writes it, made without Ultralytics: bare classes of its names around our tensors."""
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from models import ModelConfig, build_model

# Modules of Ultralytics and the classes in them that a YOLO11 checkpoint names; bare here: a pickle holds no code.
PACKAGE = {
    "ultralytics.nn.tasks": ("DetectionModel", "SegmentationModel"),
    "ultralytics.nn.modules.conv": ("Conv", "DWConv", "Concat"),
    "ultralytics.nn.modules.block": ("C3k2", "C3k", "Bottleneck", "SPPF", "C2PSA", "PSABlock", "Attention", "DFL"),
    "ultralytics.nn.modules.head": ("Detect",),
    "ultralytics.utils": ("IterableSimpleNamespace",),
}
KINDS = {name: module for module, names in PACKAGE.items() for name in names}


@contextmanager
def stand_ins() -> Iterator[Callable[[str], object]]:
    """The package's modules for as long as something is pickled; gives a maker of bare objects of a class."""
    modules = {}
    for path, names in PACKAGE.items():
        for depth in range(1, path.count(".") + 2):
            name = ".".join(path.split(".")[:depth])
            modules.setdefault(name, types.ModuleType(name))
        for name in names:
            base = nn.Module if ".nn." in path else types.SimpleNamespace
            setattr(modules[path], name, type(name, (base,), {"__module__": path}))
    sys.modules.update(modules)

    def make(kind: str) -> object:
        return getattr(modules[KINDS[kind]], kind)()

    try:
        yield make
    finally:
        for name in modules:
            del sys.modules[name]


def theirs(module: nn.Module, make: Callable[[str], object]) -> nn.Module:
    """Our block as theirs: their classes, the same names inside, the same tensors."""
    kind = type(module).__name__
    if not type(module).__module__.startswith("models.") and not list(module.children()):
        return module
    other = make(kind) if kind in KINDS else type(module)()
    for name, child in module.named_children():
        other.add_module("m" if name == "pool" else name, theirs(child, make))
    return other


def detection_model(model: nn.Module, make: Callable[[str], object], kind: str = "DetectionModel") -> nn.Module:
    """A YOLO11 of ours as Ultralytics builds it: 24 layers in a row, Detect at the end."""
    stages, neck = model.backbone.stages, model.neck
    head = make("Detect")
    head.cv2, head.cv3, head.dfl = theirs(model.head.box, make), theirs(model.head.cls, make), make("DFL")
    head.dfl.conv = nn.Conv2d(16, 1, 1, bias=False)
    head.dfl.conv.weight.data[:] = model.head.bins.data.view(1, 16, 1, 1)
    head.register_buffer("scratch", torch.zeros(1), persistent=False)
    up, cat = nn.Upsample(scale_factor=2), make("Concat")
    layers = [
        stages.down[0], stages.down[1], stages.mix[1], stages.down[2], stages.mix[2], stages.down[3], stages.mix[3],
        stages.down[4], stages.mix[4], model.backbone.sppf, model.backbone.attention, up, cat, neck.top4, up, cat, neck.top3,
        neck.down4, cat, neck.out4, neck.down5, cat, neck.out5,
    ]
    whole = make(kind)
    whole.model = nn.Sequential(*(theirs(layer, make) if layer not in (up, cat) else layer for layer in layers), head)
    whole.yaml = {"nc": 80, "yaml_file": "yolo11n.yaml"}
    whole.names = {k: f"class {k}" for k in range(80)}
    whole.args, whole.criterion = make("IterableSimpleNamespace"), None
    return whole


def network(scale: str = "n", num_classes: int = 80) -> nn.Module:
    """A YOLO11 in half precision whose every tensor differs from a fresh one's."""
    torch.manual_seed(3)
    model = build_model(ModelConfig(scale, num_classes=num_classes))
    for name, value in model.state_dict().items():
        if value.is_floating_point() and name != "head.bins":
            value.normal_()
    return model.half()


def write(path: Path, scale: str = "n", kind: str = "DetectionModel", **changes: object) -> nn.Module:
    """Write a checkpoint as it is published; returns our model with the same weights."""
    ours = network(scale)
    with stand_ins() as make:
        whole = detection_model(ours, make, kind)
        torch.save({"epoch": -1, "best_fitness": None, "model": whole, "ema": None, "updates": None, "optimizer": None,
                    "train_args": {"imgsz": 640}, "date": "2024-09-30", "version": "8.3.0", **changes}, path)
    assert not any(name.startswith("ultralytics") for name in sys.modules)
    return ours
