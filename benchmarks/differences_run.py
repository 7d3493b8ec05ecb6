"""The peer's half of benchmarks/differences.py: what Ultralytics makes of the same weights and images.

    python benchmarks/differences_run.py JSON

Reads FOLDER/inputs.pt and writes FOLDER/outputs.pt. Needs the peer alone.
"""
import json
import sys
from pathlib import Path

import torch
from accuracy_run import yolo_set
from ultralytics.cfg import get_cfg
from ultralytics.data.build import build_yolo_dataset
from ultralytics.data.utils import check_det_dataset
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import DEFAULT_CFG
from ultralytics.utils.nms import non_max_suppression
from ultralytics.utils.torch_utils import ModelEMA, init_seeds


def training_step(case: dict, given: dict) -> dict:
    """Evaluation, losses, gradients, one step of SGD and of the average, from random weights."""
    torch.manual_seed(0)
    model = DetectionModel(f"{case['model']}.yaml", ch=3, nc=case["classes"], verbose=False)
    model.args = get_cfg(DEFAULT_CFG)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    images = given["images"].float() / 255
    with torch.no_grad():
        decoded = model.eval()(images)[0]
    model.train()
    boxes, (height, width) = given["boxes"], images.shape[2:]
    xywh = torch.cat(((boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]), 1)
    batch = {"img": images, "batch_idx": given["image_index"].float(), "cls": given["labels"].float()[:, None],
             "bboxes": xywh / torch.tensor([width, height, width, height])}

    class Owner:
        """What build_optimizer reads of its trainer."""
        args = model.args
        data = {"nc": case["classes"]}

    optimizer = DetectionTrainer.build_optimizer(Owner(), model, "SGD", case["lr"], case["momentum"], case["weight_decay"])
    average = ModelEMA(model)
    loss, items = model.loss(batch)
    loss.sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    torch.nn.utils.clip_grad_norm_(model.parameters(), case["clip_norm"])
    optimizer.step()
    average.update(model)
    if not isinstance(items, dict):
        items = dict(zip(("box_loss", "cls_loss", "dfl_loss"), items, strict=True))
    return {"state": state, "decoded": decoded, "losses": {name.removesuffix("_loss"): v.detach() for name, v in items.items()},
            "gradients": gradients, "stepped": model.state_dict(), "averaged": average.ema.state_dict()}


def schedule(case: dict, yaml: Path) -> list[list[float]]:
    """Rate of weights, of biases, momentum and batches in a step, at each batch of a short training."""
    rows = []

    def note(trainer: object) -> None:
        groups = {group["param_group"]: group for group in trainer.optimizer.param_groups}
        rows.append([groups["weight"]["lr"], groups["bias"]["lr"], groups["weight"]["momentum"], trainer.accumulate])

    trainer = DetectionTrainer(overrides={
        "model": f"{case['model']}.yaml", "data": str(yaml), "optimizer": "SGD", "device": "cpu", "workers": 0, "amp": False,
        "lr0": case["lr"], "momentum": case["momentum"], "val": False, "plots": False, "save": False, "close_mosaic": 0,
        "pretrained": False, "project": str(Path(case["folder"]) / "schedule"), **case["schedule"]})
    trainer.add_callback("on_train_batch_end", note)
    trainer.train()
    return rows


def pictures(case: dict, yaml: Path) -> tuple[dict, list[tuple[int, int]]]:
    """Training pictures with mosaic and without colour jitter, by figures; and the shapes that images are tested at."""
    cfg = get_cfg(DEFAULT_CFG, {"imgsz": case["side"], "hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0, "task": "detect"})
    data = check_det_dataset(str(yaml))
    dataset = build_yolo_dataset(cfg, data["train"], 16, data, mode="train")
    found = {"counts": [], "sides": [], "grey": []}
    init_seeds(1)
    generator = torch.Generator().manual_seed(1)
    for k in torch.randperm(len(dataset), generator=generator)[: case["pictures"]].tolist():
        sample = dataset[k]
        sides = (sample["bboxes"][:, 2:] * case["side"]).prod(1).sqrt()
        found["counts"].append(len(sides))
        found["sides"] += sides.tolist()
        found["grey"].append((sample["img"] == 114).all(0).float().mean().item())
    tested = build_yolo_dataset(cfg, data["train"], 1, data, mode="val", rect=True)
    return found, sorted({tuple(map(int, shape)) for shape in tested.batch_shapes})


def main() -> None:
    case = json.loads(sys.argv[1])
    folder = Path(case["folder"])
    given = torch.load(folder / "inputs.pt", weights_only=True)
    outputs = training_step(case, given)
    yaml = yolo_set({**case, "splits": {**case["splits"], "val": case["splits"]["train"]}}, folder / "set")
    outputs["detections"] = non_max_suppression(given["predictions"], conf_thres=0.001, iou_thres=0.7, multi_label=True,
                                                max_det=3000, nc=case["classes"], max_time_img=60)
    outputs["pictures"], outputs["shapes"] = pictures(case, yaml)
    outputs["schedule"] = schedule(case, yaml)
    torch.save(outputs, folder / "outputs.pt")


if __name__ == "__main__":
    main()
