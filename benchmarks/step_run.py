"""One run of benchmarks/step.py: training steps of one model with one tool, figures as JSON.

    python benchmarks/step_run.py ours|ultralytics JSON

Needs torch and the tool itself, so that the peer's interpreter can run it.
"""
import json
import resource
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from floor import Counter, copy_rate, matrix_product_rate, wait

CLASSES, OBJECTS = 8, 24          # AI-TOD's classes, and its mean number of objects in an image
PARTS = ("forward", "loss", "backward", "update")
AMP = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def batch(images: int, side: int) -> tuple[torch.Tensor, ...]:
    """uint8 images (B, 3, side, side), boxes (N, 4) xyxy px, labels (N,), image indices (N,), from a fixed seed."""
    rng = np.random.default_rng((images, side))
    pixels = rng.integers(0, 256, (images, 3, side, side), dtype=np.uint8)
    sides = np.exp(rng.normal(np.log(12), 0.5, (images * OBJECTS, 2))).clip(4, side / 4)
    corner = rng.uniform(0, side - sides)
    boxes = np.concatenate((corner, corner + sides), 1).astype(np.float32)
    labels = rng.integers(0, CLASSES, len(boxes))
    return tuple(map(torch.from_numpy, (pixels, boxes, labels, np.repeat(np.arange(images), OBJECTS))))


class Step:
    """The four parts of a training step; `mark` is called between them."""

    def __init__(self, case: dict):
        self.device = torch.device(case["device"])
        self.autocast = (torch.autocast(self.device.type, AMP[case["amp"]]) if case["amp"] != "off" else nullcontext())
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=case["amp"] == "fp16")

    def __call__(self, mark: Callable[[], None]) -> None:
        raise NotImplementedError


class Ours(Step):
    """As engine/trainer.py does it, but for what it logs."""

    def __init__(self, case: dict):
        super().__init__(case)
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
        from data import Targets
        from engine.batchnorm import KeptStatistics
        from engine.config import TrainConfig
        from engine.ema import WeightAverage
        from engine.memory import keep_freed_memory
        from engine.optimizer import build_optimizer
        from losses import AssignerConfig, Criterion, LossConfig, TaskAlignedAssigner
        from models import ModelConfig, build_model
        if self.device.type == "cpu":
            keep_freed_memory()         # as engine/distributed.py does
        torch.manual_seed(0)
        model = build_model(ModelConfig(**{**case["model"], "num_classes": CLASSES}))
        self.raw = model.to(self.device, memory_format=torch.channels_last).train()
        train = TrainConfig()
        self.optimizer = build_optimizer(self.raw, train, 1)
        self.clip = train.clip_norm
        self.ema = WeightAverage(self.raw, train.ema_decay, train.ema_updates)
        self.statistics = KeptStatistics(self.raw)
        # The peer enlarges small boxes for its assignment likewise.
        self.criterion = Criterion(LossConfig(), TaskAlignedAssigner(CLASSES, **vars(AssignerConfig(min_box_side=16))))
        self.model = torch.compile(self.raw) if case["compile"] else self.raw
        pixels, boxes, labels, image = (x.to(self.device) for x in batch(case["batch"], case["side"]))
        self.pixels, self.targets = pixels, Targets(boxes, labels, image)

    def __call__(self, mark: Callable[[], None]) -> None:
        images = self.pixels.to(torch.float32, memory_format=torch.channels_last) / 255
        with self.autocast:
            output = self.model(images)
        mark()
        terms = self.criterion(output.main, output.auxiliary, self.targets)
        mark()
        self.scaler.scale(terms.total).backward()
        mark()
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.raw.parameters(), self.clip)
        if bool(norm.isfinite()):
            self.scaler.step(self.optimizer)
            self.ema.update()
            self.statistics.keep()
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        mark()


class Ultralytics(Step):
    """As its trainer does it: loss in the model's forward, SGD in three groups, clip at 10, average of the weights."""

    def __init__(self, case: dict):
        super().__init__(case)
        from ultralytics.cfg import get_cfg
        from ultralytics.nn.tasks import DetectionModel
        from ultralytics.utils.torch_utils import ModelEMA
        torch.manual_seed(0)
        model = DetectionModel(f"yolo11{case['model']['scale']}.yaml", nc=CLASSES, verbose=False)
        model.args = get_cfg()
        # Its trainer's choice: NHWC on a GPU alone.
        layout = torch.channels_last if self.device.type == "cuda" else torch.contiguous_format
        self.raw = model.to(self.device, memory_format=layout).train()
        for name, parameter in self.raw.named_parameters():
            parameter.requires_grad_(".dfl" not in name)
        groups = [], [], []
        for module in self.raw.modules():
            for name, parameter in module.named_parameters(recurse=False):
                kind = 2 if name == "bias" else 1 if isinstance(module, torch.nn.BatchNorm2d) else 0
                groups[kind].extend([parameter] if parameter.requires_grad else [])
        self.optimizer = torch.optim.SGD([{"params": groups[0], "weight_decay": 5e-4}, *({"params": g} for g in groups[1:])],
                                         lr=0.01, momentum=0.937, nesterov=True)
        self.ema = ModelEMA(self.raw)
        self.model = torch.compile(self.raw) if case["compile"] else self.raw
        self.pixels, boxes, labels, image = (x.to(self.device) for x in batch(case["batch"], case["side"]))
        middle, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        self.targets = {"cls": labels[:, None].float(), "batch_idx": image.float(),
                        "bboxes": torch.cat((middle, size), 1) / case["side"]}

    def __call__(self, mark: Callable[[], None]) -> None:
        images = self.pixels.float() / 255
        with self.autocast:
            output = self.model.predict(images) if self.model is self.raw else self.model(images)
            mark()
            loss, _ = self.raw.loss({"img": images, **self.targets}, output)
        mark()
        self.scaler.scale(loss.sum()).backward()
        mark()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.raw.parameters(), 10.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.ema.update(self.raw)
        mark()


def timed_parts(step: Step) -> np.ndarray:
    """Seconds of each part of a step."""
    times = [time.perf_counter()]

    def mark() -> None:
        wait(step.device)
        times.append(time.perf_counter())

    step(mark)
    return np.diff(times)


def peak_gib(device: torch.device) -> float:
    """The most that the device, or on a CPU the process, has held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    tool, case = sys.argv[1], json.loads(sys.argv[2])
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    step = {"ours": Ours, "ultralytics": Ultralytics}[tool](case)
    for _ in range(case["warmup"]):
        step(lambda: None)
    whole, parts = [], []
    for _ in range(case["steps"]):
        wait(step.device)
        start = time.perf_counter()
        step(lambda: None)
        wait(step.device)
        whole.append(time.perf_counter() - start)
    for _ in range(max(case["steps"] // 2, 1)):
        parts.append(timed_parts(step))
    memory = peak_gib(step.device)
    peak, bandwidth = matrix_product_rate(step.device, AMP[case["amp"]]), copy_rate(step.device)
    counter = Counter()
    with counter:
        step(lambda: None)
    print(json.dumps({
        "seconds": float(np.median(whole)), "parts": dict(zip(PARTS, np.median(parts, 0).tolist(), strict=True)),
        "gib": memory - (base if step.device.type == "cpu" else 0), "flops": counter.flops,
        "bytes": counter.bytes, "floor": counter.seconds(peak, bandwidth), "peak": peak, "bandwidth": bandwidth,
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in step.raw.parameters()),
    }))


if __name__ == "__main__":
    main()
