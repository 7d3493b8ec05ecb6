"""One run of benchmarks/accuracy.py with Ultralytics: trains, and detects on the test images.

    python benchmarks/accuracy_run.py JSON

Writes FOLDER/test/detections.json (COCO results) and FOLDER/cost.json. Needs the peer alone. Started again, it goes on.
"""
import csv
import json
import sys
from pathlib import Path

THIN = 1e-6         # px; a box that is no wider has no area


def yolo_set(case: dict, folder: Path) -> Path:
    """The set as Ultralytics reads it: links to images, a text file of boxes for each, and a YAML, whose path it returns."""
    root = Path(case["data"]).resolve()
    for split, listing in case["splits"].items():
        content = json.loads((root / listing).read_text())
        label = {category["id"]: k for k, category in enumerate(content["categories"])}
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
    names = [category["name"] for category in content["categories"]]
    description = {"path": str(folder), **{split: f"images/{split}" for split in case["splits"]}, "names": names}
    yaml = folder / "set.yaml"
    yaml.write_text(json.dumps(description))            # JSON is YAML
    (folder / "ids.json").write_text(json.dumps([category["id"] for category in content["categories"]]))
    return yaml


def main() -> None:
    from ultralytics import YOLO
    from ultralytics.utils.torch_utils import get_flops, get_num_params
    case = json.loads(sys.argv[1])
    folder = Path(case["folder"])
    yaml = yolo_set(case, folder / "set")
    last = folder / "train/weights/last.pt"
    model = YOLO(str(last) if last.exists() else f"{case['model']}.yaml")
    if last.exists() and not (folder / "train/done").exists():
        model.train(resume=True)
    elif not last.exists():
        model.train(data=str(yaml), epochs=case["epochs"], batch=case["batch"], nbs=case["nominal_batch"], imgsz=case["side"],
                    optimizer="SGD", lr0=case["lr"], momentum=0.937, weight_decay=0.0005, warmup_epochs=case["warmup_epochs"],
                    close_mosaic=case["close_mosaic"], seed=case["seed"], workers=case["workers"], patience=0, pretrained=False,
                    amp=case["amp"] != "off", max_det=case["max_det"], project=str(folder), name="train", exist_ok=True,
                    plots=False)
    (folder / "train/done").touch()
    with open(folder / "train/results.csv") as file:
        seconds = [float({key.strip(): value for key, value in line.items()}["time"]) for line in csv.DictReader(file)]
    images = len(list((folder / "set/images/train").iterdir()))
    model = YOLO(str(folder / "train/weights/best.pt"))
    cost = {"parameters": get_num_params(model.model), "gflops": get_flops(model.model, case["side"]),
            "images_per_second": images * len(seconds) / seconds[-1],       # with validation, which it does not time apart
            "hours": seconds[-1] / 3600}
    (folder / "cost.json").write_text(json.dumps(cost))
    model.val(data=str(yaml), split="test", imgsz=case["side"], batch=1, conf=case["conf"], iou=case["nms"],
              max_det=case["max_det"], save_json=True, plots=False, project=str(folder), name="val", exist_ok=True, workers=0)
    ids = json.loads((folder / "set/ids.json").read_text())
    found = json.loads((folder / "val/predictions.json").read_text())
    (folder / "test").mkdir(exist_ok=True)
    (folder / "test/detections.json").write_text(json.dumps([
        {"image_id": int(d["image_id"]), "category_id": ids[d["category_id"] - 1], "bbox": d["bbox"], "score": d["score"]}
        for d in found]))


if __name__ == "__main__":
    main()
