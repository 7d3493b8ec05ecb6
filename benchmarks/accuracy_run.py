"""One run of benchmarks/accuracy.py with Ultralytics: trains, and detects on the test images.

    python benchmarks/accuracy_run.py JSON

Writes FOLDER/test/detections.json (COCO results) and FOLDER/cost.json. Needs the peer alone. Started again, it goes on.
"""
import json
import statistics
import sys
import time
from pathlib import Path

import torch

THIN = 1e-6         # px; a box that is no wider has no area


def yolo_set(case: dict, folder: Path) -> Path:
    """The set as Ultralytics reads it: links to images, a text file of boxes for each, and a YAML, whose path it returns."""
    root = Path(case["data"]).resolve()
    splits = {split: json.loads((root / listing).read_text()) for split, listing in case["splits"].items()}
    # By name and in training's order: files may number and list the same classes in another way.
    names = [category["name"] for category in sorted(splits["train"]["categories"], key=lambda category: category["id"])]
    for split, content in splits.items():
        label = {category["id"]: names.index(category["name"]) for category in content["categories"]}
        lines = {image["id"]: [] for image in content["images"]}
        size = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
        for a in content["annotations"]:
            width, height = size[a["image_id"]]
            x1, y1 = max(a["bbox"][0], 0), max(a["bbox"][1], 0)
            x2, y2 = min(a["bbox"][0] + a["bbox"][2], width), min(a["bbox"][1] + a["bbox"][3], height)
            if not a.get("iscrowd") and x2 - x1 > THIN and y2 - y1 > THIN:
                box = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height
                lines[a["image_id"]].append(f"{label[a['category_id']]} " + " ".join(f"{v:.8f}" for v in box))
        for image in content["images"]:
            # Named by id: it comes back with the detections.
            link = folder / "images" / split / f"{image['id']}{Path(image['file_name']).suffix}"
            text = folder / "labels" / split / f"{image['id']}.txt"
            link.parent.mkdir(parents=True, exist_ok=True)
            text.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(root / case["images"] / image["file_name"])
            text.write_text("\n".join(lines[image["id"]]))
    description = {"path": str(folder), **{split: f"images/{split}" for split in case["splits"]}, "names": names}
    yaml = folder / "set.yaml"
    yaml.write_text(json.dumps(description))            # JSON is YAML
    ids = {category["name"]: category["id"] for category in splits["test"]["categories"]}
    (folder / "ids.json").write_text(json.dumps([ids[name] for name in names]))
    return yaml


class Clock:
    """Seconds of each epoch, alone and with its validation, kept in a file that an interrupted run goes on with."""

    def __init__(self, file: Path):
        self.file = file
        self.training = None

    def start(self, _: object) -> None:
        self.started = time.perf_counter()

    def trained(self, _: object) -> None:
        self.training = time.perf_counter() - self.started

    def validated(self, trainer: object) -> None:
        if self.training is not None:           # it calls this once more when the best weights have been tested
            record = {"epoch": trainer.epoch, "training": self.training, "all": time.perf_counter() - self.started}
            with open(self.file, "a") as file:
                file.write(json.dumps(record) + "\n")
            self.training = None

    def epochs(self) -> list[dict]:
        """Of each epoch the last record: one that was interrupted after it is trained again."""
        return list({record["epoch"]: record for record in map(json.loads, self.file.read_text().splitlines())}.values())


def is_trained(last: Path, epochs: int) -> bool:
    """Whether last.pt is of the last epoch; then there is nothing to resume, and asked to it would begin another training."""
    return last.exists() and torch.load(last, map_location="cpu", weights_only=False)["epoch"] in (-1, epochs - 1)


def precision(training: dict) -> bool | str:
    """What Ultralytics takes for `amp`: on a CPU only False, float32; it is refused bfloat16 there."""
    return training["amp"] if torch.cuda.is_available() and training.get("device") != "cpu" else False


def main() -> None:
    from ultralytics import YOLO
    from ultralytics.utils.torch_utils import get_flops, get_num_params
    case = json.loads(sys.argv[1])
    folder = Path(case["folder"])
    training = case["training"] | {"amp": precision(case["training"])}
    yaml = yolo_set(case, folder / "set")
    last = folder / "train/weights/last.pt"
    clock = Clock(folder / "seconds.jsonl")
    if not is_trained(last, training["epochs"]):
        model = YOLO(str(last) if last.exists() else f"{case['model']}.yaml")
        for event, listener in (("on_train_epoch_start", clock.start), ("on_train_epoch_end", clock.trained),
                                ("on_fit_epoch_end", clock.validated)):
            model.add_callback(event, listener)
        if last.exists():
            model.train(resume=True)
        else:
            model.train(data=str(yaml), optimizer="SGD", patience=0, pretrained=False, project=str(folder), name="train",
                        exist_ok=True, plots=False, **training)
    model = YOLO(str(folder / "train/weights/best.pt"))
    images, epochs = len(list((folder / "set/images/train").iterdir())), clock.epochs()
    cost = {"parameters": get_num_params(model.model), "gflops": get_flops(model.model, training["imgsz"]),
            "images_per_second": images / statistics.median(epoch["training"] for epoch in epochs),
            "hours": sum(epoch["all"] for epoch in epochs) / 3600}
    (folder / "cost.json").write_text(json.dumps(cost))
    model.val(data=str(yaml), split="test", imgsz=training["imgsz"], batch=1, save_json=True, plots=False,
              project=str(folder), name="val", exist_ok=True, workers=0, **case["testing"])
    ids = json.loads((folder / "set/ids.json").read_text())
    found = json.loads((folder / "val/predictions.json").read_text())
    (folder / "test").mkdir(exist_ok=True)
    (folder / "test/detections.json").write_text(json.dumps([
        {"image_id": int(d["image_id"]), "category_id": ids[d["category_id"] - 1], "bbox": d["bbox"], "score": d["score"]}
        for d in found]))


if __name__ == "__main__":
    main()
