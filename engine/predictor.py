"""What predict.py does: detect on images of any folder, draw them, and write COCO results."""
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data.folders import walk
from data.pixels import ENDINGS, check_beginning, is_nearly_black, read_image
from data.raster import Georeference, Scene, open_scene, rasterio_or_none, read_georeference
from data.tiling import Tiling
from engine import checkpoint, geojson
from engine import config as configs
from engine.distributed import Ranks
from engine.drawing import write_picture
from engine.failures import in_one_line
from engine.files import write_json, write_text
from engine.lock import FolderLock
from engine.overview import draw_scene
from engine.places import check_targets
from engine.scenes import detect_scene
from errors import InputError, listed

PREFIX = ".pictures."       # of the folder where pictures wait until all are there
THUMBNAIL = 256             # pixels; enough to tell a black image


def predict(path: Path, source: Path, output: Path, overrides: list[str], tiling: Tiling | None = None) -> int:
    """Detect on one image or all images of a folder, in its subfolders too; returns the exit code.

    Writes output/pictures/<name>.png and output/detections.json: a COCO file with images, categories and annotations
    (with scores), so that other tools can show it; and, where rasterio is installed and an image lies somewhere on earth,
    output/detections.geojson. They appear when the last image is done.

    Args:
        overrides: eval.conf is the lowest score drawn and written.
        tiling: how larger images are cut; None: all are fitted to train.image_size.
    Raises:
        InputError: before the work, where a file does not begin as images do or a result cannot be written, and nothing
            changes; after it, where images turned out to be broken: the results of all others are there.
    """
    images = find_images(source, output)
    _check_images(images)
    model, content = checkpoint.load_for_inference(path)
    config = checkpoint.settings_for(content, path, overrides)
    device = Ranks(config.train.device).device
    model.to(device, memory_format=torch.channels_last)
    base = source if source.is_dir() else source.parent
    files = [file.relative_to(base) for file in images]
    shown = [output / "pictures" / name for name in picture_names(files)]
    check_targets([*shown, output / "detections.json", output / "detections.geojson"], images)
    results, broken = Results(content["class_names"]), []
    with _waiting_room(output) as beside, in_one_line(
            config, training=False, side=tiling.tile if tiling else None, single=tiling is None):
        bar = tqdm(total=0 if tiling else len(images), unit="tile" if tiling else "img", disable=None)
        for number, (file, name) in enumerate(zip(images, files, strict=True), 1):
            bar.set_description(f"predict {number}/{len(images)}")
            try:
                with open_scene(file) if tiling else Scene(read_image(file)) as scene:
                    found, over = detect_scene(model, scene, config, device, tiling, bar)
                    picture = draw_scene(scene, *found, results.names)
                    results.dark += not len(found[0]) and is_nearly_black(scene.reduced(
                        min(scene.width, THUMBNAIL), min(scene.height, THUMBNAIL)))
            except InputError as error:         # the work of hours on the others is worth having
                broken.append((file, error))
                continue
            results.add(number, str(name), (scene.width, scene.height), read_georeference(file), found)
            results.capped += over
            write_picture(beside / f"{number}.png", picture)
        bar.close()
        if not results.images:
            raise InputError(_in_one_line(broken))
        for image in results.images:
            place = shown[image["id"] - 1]
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(beside / f"{image['id']}.png", place)
        written = results.write(output)
    _tell(results, written, output, config, files, tiling)
    if broken:
        raise InputError(f"{_in_one_line(broken)} The results of the other {len(results.images)} image(s) are in {output}.")
    return 0


class Results:
    """What is found, image by image.

    Args:
        names: of the classes, by label.
    """

    def __init__(self, names: list[str]):
        self.names = names
        self.images: list[dict] = []            # as COCO has them
        self.annotations: list[dict] = []
        self.on_map: list[str] | None = None    # features; None: no image lies somewhere on earth
        self.misplaced = 0                      # objects that are nowhere on earth
        self.dark = 0                           # images that are nearly black, and show nothing
        self.capped = 0                         # images or tiles with more than eval.max_det detections

    def add(self, number: int, name: str, size: tuple[int, int], place: Georeference | None,
            found: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
        """Add an image of a width and a height: boxes (n, 4) xyxy in its pixels, scores (n,), labels (n,)."""
        self.images.append({"id": number, "file_name": name, "width": size[0], "height": size[1]})
        for (x1, y1, x2, y2), score, label in zip(*(part.tolist() for part in found), strict=True):
            self.annotations.append({
                "id": len(self.annotations) + 1, "image_id": number, "category_id": label + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0, "score": score,
            })
        if place is not None:
            texts, lost = geojson.features(name, place, *found, self.names)
            self.on_map = self.on_map or []
            self.on_map += texts
            self.misplaced += lost

    def write(self, output: Path) -> list[Path]:
        """Write detections.json and, if an image lies somewhere on earth, detections.geojson; returns their paths."""
        written = [output / "detections.json"]
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(self.names)]
        write_json(written[0], {"images": self.images, "categories": categories, "annotations": self.annotations})
        (output / "detections.geojson").unlink(missing_ok=True)         # of an earlier run
        if self.on_map is not None:
            written.append(output / "detections.geojson")
            write_text(written[-1], geojson.collection(self.on_map))
        return written


@contextmanager
def _waiting_room(output: Path) -> Iterator[Path]:
    """An empty folder for pictures until all are there. Those of runs that were killed are removed; another run that is
    writing into output/pictures is left in peace, and this one refused."""
    lock = FolderLock(output / "pictures")
    lock.take()
    try:
        for left in output.glob(f"{PREFIX}????????"):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=output, prefix=PREFIX) as folder:
            yield Path(folder)
    finally:
        lock.release()


def _check_images(images: list[Path]) -> None:
    """Raises InputError for files that cannot be read or do not begin as images do. Takes a look at each, no more."""
    broken = []
    for image in images:
        try:
            check_beginning(image)
        except InputError as error:
            broken.append((image, error))
    if broken:
        raise InputError(_in_one_line(broken))


def _tell(results: Results, written: list[Path], output: Path, config: configs.Config, files: list[Path],
          tiling: Tiling | None) -> None:
    """Print what was found and written, and what figures alone do not say."""
    print(f"{len(results.images)} image(s), {len(results.annotations)} objects with a score above {config.eval.conf}; wrote "
          f"{', '.join(map(str, written))} and {output / 'pictures'}")
    if results.capped:
        print(f"{results.capped} {'tile' if tiling else 'image'}(s) had more than eval.max_det={config.eval.max_det} "
              "detections; the weakest were left out")
    if results.dark:
        print(f"{results.dark} image(s) show no object and are nearly black, as a satellite's 11 or 12 bits are in files of 16 "
              "bits, of which the upper 8 are read: make 8 bits of them that span the range in use, as by gdal_translate -ot "
              "Byte -scale")
    if results.misplaced:
        print(f"{results.misplaced} object(s) are not in detections.geojson: their coordinates are no place on earth")
    if rasterio_or_none() is None and any(file.suffix.lower() in (".tif", ".tiff") for file in files):
        print("With rasterio (pip install rasterio) the objects of GeoTIFFs are written in map coordinates too")


def _in_one_line(broken: list[tuple[Path, InputError]]) -> str:
    """What is wrong with the first, and the names of the others."""
    (_, first), *others = broken
    if not others:
        return str(first)
    return f"{first} Nor can be used: {listed([path for path, _ in others])}."


def picture_names(names: list[Path]) -> list[Path]:
    """What the drawn pictures are called: a.png for a.jpg, but a.jpg.png where there is an a.tif too."""
    stems = Counter(name.with_suffix("") for name in names)
    return [name.with_name(f"{name.name if stems[name.with_suffix('')] > 1 else name.stem}.png") for name in names]


def find_images(source: Path, output: Path) -> list[Path]:
    """The images at a path, sorted, without those in an output folder within it: they are pictures of an earlier run. Links to
    folders are followed, each folder once."""
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise InputError(f"--source: {source} does not exist. Name an image or a folder of images.")
    base, results = source.resolve(), output.resolve()
    results = results if results != base and results.is_relative_to(base) else None
    images = sorted(p for p in walk(source) if p.suffix.lower() in ENDINGS and p.is_file()
                    and not (results and p.parent.resolve().is_relative_to(results))
                    and not p.parent.name.startswith(PREFIX))
    if not images:
        outside = " outside --output" if results else ""
        raise InputError(f"--source: {source} holds no image{outside} ({', '.join(ENDINGS)}). Name another folder.")
    return images
