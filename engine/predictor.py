"""What predict.py does: detect on images of any folder, draw them, and write COCO results."""
import os
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data import Batch, Targets
from data.batch import ImageMeta
from data.pixels import ENDINGS, read_image
from data.transforms import letterbox
from engine import checkpoint
from engine import config as configs
from engine.distributed import Ranks
from engine.drawing import draw_boxes, write_picture
from engine.evaluator import detect
from engine.log import make_folder, write_json
from errors import InputError
from models import RSTinyNet


def predict(path: Path, source: Path, output: Path, overrides: list[str]) -> int:
    """Detect on one image or all images of a folder, in its subfolders too; returns the exit code.

    Writes output/pictures/<name>.png and output/detections.json: a COCO file with images, categories and annotations
    (with scores), so that other tools can show it. They appear when the last image is done; a broken one changes nothing.

    Args:
        overrides: eval.conf is the lowest score drawn and written.
    """
    images = find_images(source)
    model, content = checkpoint.load_for_inference(path)
    config = configs.from_dict(content["config"], str(path), overrides)
    device = Ranks(config.train.device).device
    model.to(device)
    class_names = content["class_names"]
    result = {
        "images": [],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(class_names)],
        "annotations": [],
    }
    base = source if source.is_dir() else source.parent
    names = [file.relative_to(base) for file in images]
    make_folder(output)
    with tempfile.TemporaryDirectory(dir=output, prefix=".pictures.") as beside:
        bar = tqdm(images, desc="predict", unit="img", disable=None)
        for number, (file, name) in enumerate(zip(bar, names, strict=True), 1):
            picture = np.ascontiguousarray(read_image(file)[..., ::-1])       # RGB
            boxes, scores, labels = detect_image(model, picture, config, device)
            height, width = picture.shape[:2]
            result["images"].append({"id": number, "file_name": str(name), "width": width, "height": height})
            for box, score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True):
                x1, y1, x2, y2 = box
                result["annotations"].append({
                    "id": len(result["annotations"]) + 1, "image_id": number, "category_id": label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0, "score": score,
                })
            drawn = draw_boxes(picture, boxes, labels, scores, class_names, zoom=max(1, round(800 / max(height, width))))
            write_picture(Path(beside) / f"{number}.png", drawn)
        for number, shown in enumerate(picture_names(names), 1):
            (output / "pictures" / shown).parent.mkdir(parents=True, exist_ok=True)
            os.replace(Path(beside) / f"{number}.png", output / "pictures" / shown)
    write_json(output / "detections.json", result)
    print(f"{len(images)} image(s), {len(result['annotations'])} objects with a score above {config.eval.conf}; wrote "
          f"{output / 'detections.json'} and {output / 'pictures'}")
    return 0


def detect_image(
    model: RSTinyNet, picture: np.ndarray, config: configs.Config, device: torch.device
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (n, 4) xyxy in the picture's pixels, scores (n,) and labels (n,) of one (H, W, 3) uint8 RGB picture."""
    fitted, scale = letterbox(picture, config.train.image_size)
    pixels = torch.from_numpy(np.ascontiguousarray(fitted.transpose(2, 0, 1)))[None]
    meta = ImageMeta(0, "", picture.shape[1], picture.shape[0], scale)
    none = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
    found, _ = detect(model, Batch(pixels, none, [meta]).to(device), config.eval)
    return tuple(x.cpu().numpy() for x in found[0])


def picture_names(names: list[Path]) -> list[Path]:
    """What the drawn pictures are called: a.png for a.jpg, but a.jpg.png where there is an a.tif too."""
    stems = Counter(name.with_suffix("") for name in names)
    return [name.with_name(f"{name.name if stems[name.with_suffix('')] > 1 else name.stem}.png") for name in names]


def find_images(source: Path) -> list[Path]:
    """The images at a path, sorted."""
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise InputError(f"--source: {source} does not exist. Name an image or a folder of images.")
    images = sorted(p for p in source.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())
    if not images:
        raise InputError(f"--source: {source} holds no image ({', '.join(ENDINGS)}). Name another folder.")
    return images

