"""Where our YOLO11 and Ultralytics' differ in training and testing, stage by stage, on the same weights and images.

    python3 -m venv PEERS && PEERS/bin/pip install ultralytics
    python -m benchmarks.differences --data DIR --peer-python PEERS/bin/python

DIR holds a COCO set such as tinyrs4_416 (annotations/train.json, images). What both compute from the same numbers is given as
the largest difference between the two; what is drawn at random, by figures of many pictures. On the CPU, in float32.
"""
import argparse
import json
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import engine.optimizer as optim
from benchmarks.accuracy_peer import ENVIRONMENT, MODELS
from data import Batch, collate
from data.coco import load_coco
from data.loader import EvalDataset, TrainDataset
from data.source import Source
from data.transforms import AugmentConfig, letterbox_shape
from engine.config import TrainConfig
from engine.ema import WeightAverage
from engine.postprocess import select
from errors import InputError, run
from losses import AssignerConfig, Criterion, LossConfig, TaskAlignedAssigner
from models import ModelConfig, build_model, decode
from models.weights import convert_ultralytics_state_dict

Report = Callable[[str, str], None]         # takes a stage and what was found

PEER = Path(__file__).with_name("differences_run.py")
PICTURES = 400          # training pictures of each, drawn at random
# The schedule's: few batches, with a warm-up that gathers and an end.
SCHEDULE = TrainConfig(epochs=4, batch_size=32, nominal_batch=64, warmup_epochs=1.0, image_size=64)


def inputs(source: Source, side: int, count: int) -> Batch:
    """The first square images of a set that hold objects, as the network sees them, and their boxes."""
    dataset = EvalDataset(source, side)
    chosen = [k for k in range(len(dataset)) if letterbox_shape(source.images[k].width, source.images[k].height, side)
              == (side, side) and len(source.objects(k)[1])]
    return collate([dataset[k] for k in chosen[:count]])


def predictions(batch: Batch, classes: int, cells: int = 3000) -> Tensor:
    """(B, 4 + C, cells) xywh and scores as a network might give them: boxes about the objects and anywhere."""
    rng = np.random.default_rng(0)
    images, _, height, width = batch.images.shape
    centres = rng.uniform(0, (width, height), (images, cells, 2))
    sides = np.exp(rng.normal(np.log(14), 0.6, (images, cells, 2)))
    for k in range(images):
        boxes = batch.targets.boxes[batch.targets.image_index == k].numpy()
        near = rng.integers(len(boxes), size=cells // 2)
        noise = rng.normal(0, 2, (2, len(near), 2))
        centres[k, : len(near)] = (boxes[near, :2] + boxes[near, 2:]) / 2 + noise[0]
        sides[k, : len(near)] = np.maximum(boxes[near, 2:] - boxes[near, :2] + noise[1], 1)
    scores = rng.beta(0.3, 6, (images, cells, classes))
    return torch.from_numpy(np.concatenate((centres, sides, scores), 2).astype(np.float32)).transpose(1, 2).contiguous()


def largest(ours: Tensor, theirs: Tensor) -> str:
    """The largest difference, in numbers and as a share of the largest number."""
    difference = (ours.double() - theirs.double()).abs().max().item()
    return f"{difference:.1e} ({difference / theirs.double().abs().max().item():.1e} of the largest)"


def joined(tensors: dict[str, Tensor], names: list[str]) -> Tensor:
    return torch.cat([tensors[name].detach().flatten() for name in names])


def training_step(batch: Batch, theirs: dict, scale: str, classes: int, config: TrainConfig, report: Report) -> None:
    """Network, losses, gradients, one optimizer step and the average after it."""
    state = convert_ultralytics_state_dict(theirs["state"])
    model = build_model(ModelConfig(scale=scale, num_classes=classes))
    model.load_state_dict(state)
    images = batch.images.float() / 255

    with torch.no_grad():
        boxes, scores = decode(model.eval()(images).main)
    centre = torch.cat(((boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]), -1)
    expected = theirs["decoded"].transpose(1, 2)
    report("network, evaluation: boxes in px", largest(centre, expected[..., :4]))
    report("network, evaluation: scores", largest(scores, expected[..., 4:]))

    model.train()
    optimizer = optim.build_optimizer(model, config, accumulate=1)
    average = WeightAverage(model, config.ema_decay, config.ema_updates)
    output = model(images)
    assigner = TaskAlignedAssigner(classes, **vars(AssignerConfig(min_box_side=16)))
    terms = Criterion(LossConfig(), assigner)(output.main, None, batch.targets)
    for name in ("box", "cls", "dfl"):
        report(f"loss: {name}", largest(getattr(terms, name), theirs["losses"][name]))
    terms.total.backward()
    own = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    gradients = convert_ultralytics_state_dict(theirs["gradients"])
    names = sorted(own)
    a, b = joined(own, names), joined(gradients, names)
    report("gradient of all weights", f"{(a - b).norm() / b.norm():.1e} of its length")
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
    optim.apply(optim.Moment(config.lr, config.lr, config.momentum, 1), optimizer)
    optimizer.step()
    average.update()
    before, after = joined(state, names), convert_ultralytics_state_dict(theirs["stepped"])
    a, b = joined(dict(model.named_parameters()), names) - before, joined(after, names) - before
    report("SGD, first step of all weights", f"{(a - b).norm() / b.norm():.1e} of its length")
    averaged = convert_ultralytics_state_dict(theirs["averaged"])
    names = [name for name in averaged if "num_batches" not in name and name != "head.bins"]
    report("average after it, statistics included",
           largest(joined(average.model.state_dict(), names), joined(averaged, names)))


def schedule(theirs: list[list[float]], config: TrainConfig, images: int, report: Report) -> None:
    """Rates, momentum and gathered batches, batch by batch."""
    own = optim.Schedule(config, -(-images // config.batch_size))
    rows = np.array([own.at(*divmod(k, own.batches_per_epoch)) for k in range(len(theirs))])
    for column, name in enumerate(("rate", "rate of biases", "momentum", "batches in a step")):
        difference = np.abs(rows[:, column] - np.array(theirs)[:, column])
        report(f"schedule, {len(theirs)} batches: {name}", f"{difference.max():.1e}, in batch {difference.argmax()}")


def suppression(batch: Batch, given: Tensor, theirs: list[Tensor], report: Report) -> None:
    """Detections of the same predictions."""
    only = counted = 0
    for k in range(len(batch.images)):
        xywh, scores = given[k, :4].T, given[k, 4:].T
        boxes = torch.cat((xywh[:, :2] - xywh[:, 2:] / 2, xywh[:, :2] + xywh[:, 2:] / 2), 1)
        found, _ = select(boxes, scores, conf=0.001, iou=0.7, max_det=3000)
        a = {(round(s, 5), c, *np.round(box, 2)) for box, s, c in zip(found.boxes.tolist(), found.scores.tolist(),
                                                                     found.labels.tolist(), strict=True)}
        b = {(round(row[4], 5), int(row[5]), *np.round(row[:4], 2)) for row in theirs[k].tolist()}
        only += len(a ^ b)
        counted += len(b)
    report("NMS", f"{only} of {counted:,} detections are in one of the two only")


def pictures(source: Source, side: int, theirs: dict, report: Report) -> None:
    """Training pictures, which are drawn at random: with mosaic, without colour jitter."""
    for least in (2.0, 1.0):
        augment = replace(AugmentConfig(hsv_h=0, hsv_s=0, hsv_v=0), min_box_side=least)
        dataset = TrainDataset(source, augment, seed=0, mosaic_epochs=1)
        rng = np.random.default_rng(1)
        counts, sides, grey = [], [], []
        for k in rng.choice(len(source), min(PICTURES, len(source)), replace=False):
            sample = dataset[0, int(k), side]
            counts.append(len(sample.labels))
            sides.append((sample.boxes[:, 2:] - sample.boxes[:, :2]).prod(1).sqrt().numpy())
            grey.append((sample.image == 114).all(0).float().mean().item())
        report(f"pictures, boxes from {least:g} px", described(counts, np.concatenate(sides), grey))
    report("pictures, theirs", described(theirs["counts"], np.array(theirs["sides"]), theirs["grey"]))


def described(counts: list[int], sides: np.ndarray, grey: list[float]) -> str:
    quarters = " ".join(f"{q:.1f}" for q in np.quantile(sides, (0.1, 0.5, 0.9)))
    error = np.std(counts) / len(counts) ** 0.5
    return (f"{np.mean(counts):.1f} ± {error:.1f} objects each, side {quarters} px (10, 50, 90 %), "
            f"{100 * (sides < 8).mean():.0f} % under 8 px, {100 * np.mean(grey):.1f} % grey")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the set")
    parser.add_argument("--peer-python", required=True, help="interpreter that has ultralytics")
    parser.add_argument("--model", default="yolo11n", choices=MODELS)
    parser.add_argument("--side", type=int, default=416, help="pixels (default: 416)")
    options = parser.parse_args()
    source = load_coco(options.data / "annotations/train.json", options.data / "images", training=True)
    batch = inputs(source, options.side, count=4)
    given = predictions(batch, len(source.class_names))
    config = TrainConfig(batch_size=len(batch.images), nominal_batch=len(batch.images))

    def report(stage: str, text: str) -> None:
        print(f"{stage:44} {text}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        torch.save({"images": batch.images, **vars(batch.targets), "predictions": given}, folder / "inputs.pt")
        case = {"model": options.model, "data": str(options.data), "folder": str(folder), "side": options.side,
                "classes": len(source.class_names), "pictures": PICTURES, "splits": {"train": "annotations/train.json"},
                "images": "images", "lr": config.lr, "momentum": config.momentum, "weight_decay": config.weight_decay,
                "clip_norm": config.clip_norm, "schedule": {
                    "epochs": SCHEDULE.epochs, "batch": SCHEDULE.batch_size, "nbs": SCHEDULE.nominal_batch,
                    "warmup_epochs": SCHEDULE.warmup_epochs, "imgsz": SCHEDULE.image_size}}
        process = subprocess.run([options.peer_python, str(PEER), json.dumps(case)], check=False, capture_output=True,
                                 text=True, env=ENVIRONMENT)
        if process.returncode:
            raise InputError(f"--peer-python: the peer failed: {process.stderr.strip().splitlines()[-1]}")
        theirs = torch.load(folder / "outputs.pt", weights_only=True)
    training_step(batch, theirs, options.model[-1], len(source.class_names), config, report)
    schedule(theirs["schedule"], SCHEDULE, len(source), report)
    suppression(batch, given, theirs["detections"], report)
    shapes = {letterbox_shape(r.width, r.height, options.side) for r in source.images}
    report("images are tested at (height, width)", f"{sorted(shapes)}; theirs {sorted(map(tuple, theirs['shapes']))}")
    pictures(source, options.side, theirs["pictures"], report)


if __name__ == "__main__":
    run(main)
