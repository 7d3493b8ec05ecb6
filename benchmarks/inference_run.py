"""One run of benchmarks/inference.py: detect on images in memory with one tool, figures as JSON, detections as .npz.

    python benchmarks/inference_run.py ours|ultralytics JSON

Needs torch, OpenCV and the tool itself, so that the peer's interpreter can run it.
"""
import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif")
Found = tuple[np.ndarray, np.ndarray, np.ndarray]           # boxes (n, 4) xyxy, scores, labels


def images(folder: str, side: int, count: int) -> list[np.ndarray]:
    """BGR images, side x side, cut or padded with grey."""
    files = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in ENDINGS)[:count]
    if not files:
        raise SystemExit(f"{folder}: holds no image")
    result = []
    for file in files:
        picture = cv2.imread(str(file))[:side, :side]
        square = np.full((side, side, 3), 114, np.uint8)
        square[: picture.shape[0], : picture.shape[1]] = picture
        result.append(square)
    return result


def ours(case: dict) -> Callable[[list[np.ndarray]], list[Found]]:
    """A call from images to detections, as predict.py makes it."""
    from data import Batch, Targets
    from data.batch import ImageMeta
    from engine.checkpoint import load_for_inference
    from engine.config import EvalConfig
    from engine.evaluator import detect
    from engine.memory import keep_freed_memory
    if case["device"] == "cpu":
        keep_freed_memory()             # as engine/distributed.py does
    model, _ = load_for_inference(case["checkpoint"])
    device = torch.device(case["device"])
    half = case["half"]
    model.to(device, torch.float16 if half else torch.float32, memory_format=torch.channels_last)
    config = EvalConfig(conf=case["conf"], nms=case["nms"], max_det=case["max_det"])

    def call(pictures: list[np.ndarray]) -> list[Found]:
        pixels = torch.from_numpy(np.stack([picture[..., ::-1] for picture in pictures])).permute(0, 3, 1, 2)
        metas = [ImageMeta(0, "", p.shape[1], p.shape[0], (1.0, 1.0)) for p in pictures]
        found, _ = detect(model, Batch(pixels, Targets.none(), metas).to(device), config)
        return [tuple(x.cpu().numpy() for x in image) for image in found]
    return call


def ultralytics(case: dict) -> Callable[[list[np.ndarray]], list[Found]]:
    """The same with our weights in its YOLO11, by its own predict."""
    from ultralytics import YOLO
    from ultralytics.nn.tasks import DetectionModel

    from engine.checkpoint import load, weights_of
    from models.weights import convert_ultralytics_state_dict
    content = load(case["checkpoint"])
    trained = weights_of(content, case["checkpoint"])
    config = content["model_config"]
    net = DetectionModel(f"yolo11{config['scale']}.yaml", nc=config["num_classes"], verbose=False)
    state = net.state_dict()
    for key, value in state.items():
        (name,) = convert_ultralytics_state_dict({key: value})
        value.copy_(trained[name].reshape(value.shape))
    model = YOLO(f"yolo11{config['scale']}.yaml", verbose=False)
    model.model = net
    options = {"imgsz": case["side"], "conf": case["conf"], "iou": case["nms"], "max_det": case["max_det"], "verbose": False,
               "device": case["device"], "half": case["half"], "batch": case["batch"]}

    def call(pictures: list[np.ndarray]) -> list[Found]:
        results = [result.boxes for result in model.predict(pictures, **options)]
        return [(b.xyxy.cpu().numpy(), b.conf.cpu().numpy(), b.cls.cpu().numpy()) for b in results]
    return call


def chunks(pictures: list[np.ndarray], size: int) -> Iterable[list[np.ndarray]]:
    return (pictures[k : k + size] for k in range(0, len(pictures), size))


def main() -> None:
    tool, case = sys.argv[1], json.loads(sys.argv[2])
    pictures = images(case["images"], case["side"], case["count"])
    call = {"ours": ours, "ultralytics": ultralytics}[tool](case)
    device = torch.device(case["device"])
    for chunk in list(chunks(pictures, case["batch"]))[:3]:
        call(chunk)
    best, found = float("inf"), []
    for _ in range(case["repeat"]):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        found = [image for chunk in chunks(pictures, case["batch"]) for image in call(chunk)]
        best = min(best, time.perf_counter() - start)
    flat = [np.concatenate([image[k] for image in found]) for k in range(3)]
    index = np.repeat(np.arange(len(found)), [len(image[1]) for image in found])
    np.savez(case["output"], boxes=flat[0], scores=flat[1], labels=flat[2], image=index)
    print(json.dumps({"seconds": best / len(pictures), "detections": len(index), "images": len(pictures)}))


if __name__ == "__main__":
    main()
