"""What predict.py does: detect on images of any folder, draw them, and write COCO results."""
import os
import tempfile
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data import Batch, Targets
from data.batch import ImageMeta
from data.pixels import ENDINGS, read_image
from data.raster import Scene, open_scene, rasterio_or_none, read_georeference
from data.transforms import letterbox
from engine import checkpoint, geojson
from engine import config as configs
from engine.distributed import Ranks
from engine.drawing import write_picture
from engine.evaluator import detect
from engine.failures import in_one_line
from engine.log import make_folder, write_json, write_text
from engine.overview import draw_scene
from engine.places import check_targets
from engine.postprocess import Detections
from engine.scenes import detect_tiled
from engine.tiles import Tiling
from errors import InputError
from models import RSTinyNet


def predict(path: Path, source: Path, output: Path, overrides: list[str], tiling: Tiling | None = None) -> int:
    """Detect on one image or all images of a folder, in its subfolders too; returns the exit code.

    Writes output/pictures/<name>.png and output/detections.json: a COCO file with images, categories and annotations
    (with scores), so that other tools can show it; and, where rasterio is installed and an image lies somewhere on earth,
    output/detections.geojson. They appear when the last image is done; a broken one changes nothing.

    Args:
        overrides: eval.conf is the lowest score drawn and written.
        tiling: how larger images are cut; None: all are fitted to train.image_size.
    """
    images = find_images(source)
    model, content = checkpoint.load_for_inference(path)
    config = configs.from_dict(content["config"], str(path), overrides)
    device = Ranks(config.train.device).device
    model.to(device)
    names = content["class_names"]
    result = {
        "images": [],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(names)],
        "annotations": [],
    }
    base = source if source.is_dir() else source.parent
    files = [file.relative_to(base) for file in images]
    on_map, misplaced, capped = [], 0, 0
    shown = [output / "pictures" / name for name in picture_names(files)]
    check_targets([*shown, output / "detections.json", output / "detections.geojson"], images)
    make_folder(output / "pictures")
    short_of_memory = in_one_line(config, training=False, side=tiling.tile) if tiling else nullcontext()
    with tempfile.TemporaryDirectory(dir=output, prefix=".pictures.") as beside, short_of_memory:
        bar = tqdm(total=0 if tiling else len(images), unit="tile" if tiling else "img", disable=None)
        for number, (file, name) in enumerate(zip(images, files, strict=True), 1):
            bar.set_description(f"predict {number}/{len(images)}")
            with open_scene(file) if tiling else Scene(read_image(file)) as scene:
                (boxes, scores, labels), over = detect_scene(model, scene, config, device, tiling, bar)
                picture = draw_scene(scene, boxes, scores, labels, names)
                width, height = scene.width, scene.height
            capped += over
            result["images"].append({"id": number, "file_name": str(name), "width": width, "height": height})
            for box, score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True):
                x1, y1, x2, y2 = box
                result["annotations"].append({
                    "id": len(result["annotations"]) + 1, "image_id": number, "category_id": label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0, "score": score,
                })
            write_picture(Path(beside) / f"{number}.png", picture)
            place = read_georeference(file)
            if place is not None:
                texts, lost = geojson.features(str(name), place, boxes, scores, labels, names)
                on_map.append(texts)
                misplaced += lost
        bar.close()
        for number, place in enumerate(shown, 1):
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(Path(beside) / f"{number}.png", place)
    write_json(output / "detections.json", result)
    written = [output / "detections.json"]
    (output / "detections.geojson").unlink(missing_ok=True)         # of an earlier run
    if on_map:
        written.append(output / "detections.geojson")
        write_text(written[-1], geojson.collection([text for texts in on_map for text in texts]))
    print(f"{len(images)} image(s), {len(result['annotations'])} objects with a score above {config.eval.conf}; wrote "
          f"{', '.join(map(str, written))} and {output / 'pictures'}")
    if capped:
        print(f"{capped} {'tile' if tiling else 'image'}(s) had more than eval.max_det={config.eval.max_det} detections; the "
              "weakest were left out")
    if misplaced:
        print(f"{misplaced} object(s) are not in detections.geojson: their coordinates are no place on earth")
    if rasterio_or_none() is None and any(file.suffix.lower() in (".tif", ".tiff") for file in files):
        print("With rasterio (pip install rasterio) the objects of GeoTIFFs are written in map coordinates too")
    return 0


def detect_scene(
    model: RSTinyNet, scene: Scene, config: configs.Config, device: torch.device, tiling: Tiling | None, bar: tqdm
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], int]:
    """Boxes (n, 4) xyxy in the scene's pixels, scores (n,), labels (n,); and how many tiles reached the cap.

    A scene that is no larger than a tile is one tile, and fitted to train.image_size as without tiling.

    Args:
        bar: to which the tiles are added.
    """
    def look(batch: Batch) -> tuple[list[Detections], int]:
        return detect(model, batch.to(device), config.eval)

    is_cut = tiling is not None and tiling.cuts(scene.width, scene.height)
    if tiling:
        bar.total += len(tiling.grid(scene.width, scene.height))
        bar.refresh()
    if is_cut:
        return detect_tiled(look, scene, tiling, config.eval.batch_size, config.eval.nms, bar.update)
    fitted, scale = letterbox(scene.rows(0, scene.height), config.train.image_size)
    pixels = torch.from_numpy(np.ascontiguousarray(fitted[..., ::-1].transpose(2, 0, 1)))[None]
    meta = ImageMeta(0, "", scene.width, scene.height, scale)
    (found,), over = look(Batch(pixels, Targets.none(), [meta]))
    bar.update()
    return tuple(x.cpu().numpy() for x in found), over


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

