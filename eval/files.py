"""Ground truth and detections: COCO JSON -> checked arrays, and arrays -> COCO results JSON.

Everything that can be wrong with a file is found here, before anything is computed, and reported in one line that names
the file, the first culprits, how many there are, and the way out (errors.InputError). What leaves this module can be
trusted by index.
"""
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from errors import InputError
from eval.faults import Fault, Faults, listed, offenders, unique
from eval.layout import Field
from eval.mistaken import no_detections, no_ground_truth, object_for_detections, objects_for_ground_truth
from eval.records import NEGATIVE_AREA, NEGATIVE_SIZE, NO_INTEGER, absent, columns, wrong_value
from eval.stream import JsonFile

WRITE_CHUNK = 20_000         # detections turned into text at a time: bounds the memory of write_detections
DETECTION = {"image_id": Field("integer"), "category_id": Field("integer"), "bbox": Field("box"), "score": Field("number")}
ANNOTATION = {"image_id": Field("integer"), "category_id": Field("integer"), "bbox": Field("box"),
              "area": Field("number", required=False), "iscrowd": Field("flag", required=False),
              "difficult": Field("flag", required=False), "id": Field("integer", required=False)}
IMAGE = CATEGORY = {"id": Field("integer")}
LISTS = ("images", "annotations", "categories")
FARTHEST = 1e9               # pixels and square pixels; what is beyond is a mistake, and would spoil sums and products
FAR_BOX = Fault("a bbox with a number beyond 1e9", "Boxes are x, y, width, height in pixels of the image.")
FAR_AREA = Fault("an area beyond 1e9", "Give square pixels of the image, or leave 'area' out.")
NO_TEXT = Fault("a name with half a character in it (a lone surrogate)", "Write the name anew.")
NO_LINE = Fault("a name with a line break or a control character in it", "Write the name anew, in one line.")
NO_NAME = Fault("an empty name", "Name it, or leave 'name' out: the id then stands for it.")


@dataclass
class DetectionArrays:
    """N detections as parallel arrays; plain sequences are converted.

    Args:
        image_ids: (N,) int64, ids as in the ground truth.
        category_ids: (N,) int64, ids as in the ground truth.
        boxes: (N, 4) float64, x y width height in pixels of the original image, (x, y) the top left corner.
        scores: (N,) float64.
    """
    image_ids: np.ndarray
    category_ids: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray

    def __post_init__(self):
        self.image_ids = np.asarray(self.image_ids, dtype=np.int64)
        self.category_ids = np.asarray(self.category_ids, dtype=np.int64)
        self.boxes = np.asarray(self.boxes, dtype=np.float64)
        self.scores = np.asarray(self.scores, dtype=np.float64)
        if self.boxes.size == 0:
            self.boxes = self.boxes.reshape(0, 4)
        count = len(self.image_ids)
        shapes = self.image_ids.shape, self.category_ids.shape, self.boxes.shape, self.scores.shape
        if shapes != ((count,), (count,), (count, 4), (count,)):
            raise ValueError(f"image_ids, category_ids, boxes, scores must be (N,), (N,), (N, 4), (N,), got {shapes}")

    def __len__(self) -> int:
        return len(self.image_ids)


@dataclass(frozen=True)
class GroundTruthArrays:
    """N annotations over I images and K categories, in file order (the order decides ties between equal IoUs).

    Args:
        image_ids: (I,) int64, ascending.
        category_ids: (K,) int64, ascending.
        category_names: K names, in the order of category_ids.
        image_index: (N,) int64 into image_ids.
        category_index: (N,) int64 into category_ids.
        boxes: (N, 4) float64, x y width height in pixels.
        area: (N,) float64 in square pixels: the annotation's `area`, else width * height.
        crowd: (N,) bool.
        annotation_ids: (N,) int64; where one has none, its place in the file from 1.
        difficult: (N,) bool, VOC's mark; only a protocol that asks for it looks at it.
    """
    image_ids: np.ndarray
    category_ids: np.ndarray
    category_names: list[str]
    image_index: np.ndarray
    category_index: np.ndarray
    boxes: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    annotation_ids: np.ndarray
    difficult: np.ndarray


def read_ground_truth(path: str | os.PathLike) -> dict:
    """Read and check a COCO ground truth file; returns its dict untouched. Raises InputError."""
    ground_truth = load_json(path)
    ground_truth_arrays(ground_truth, os.fspath(path))
    return ground_truth


def read_ground_truth_arrays(path: str | os.PathLike) -> GroundTruthArrays:
    """Read and check a COCO ground truth file without a dict for each annotation. Raises InputError."""
    source = os.fspath(path)
    lists = {}
    with JsonFile(path) as file:
        if file.peek() != "{":
            raise no_ground_truth([] if file.peek() == "[" else file.value(), source)
        for key in file.members():
            lists.pop(key, None)                          # of equal keys json takes the last
            is_list = file.peek() == "["
            if is_list and key == "images":
                lists[key] = _gather(file.records(IMAGE), IMAGE, source, "images")
            elif is_list and key == "annotations":
                lists[key] = _gather(file.records(ANNOTATION), ANNOTATION, source, "annotations")
            elif is_list and key == "categories":
                lists[key] = file.value()
            else:
                file.value()
        if file.peek() == "{":
            raise objects_for_ground_truth(source)
        file.finish()
    return _ground_truth(lists, source)


def read_detections(path: str | os.PathLike, ground_truth: dict | GroundTruthArrays) -> DetectionArrays:
    """Read a COCO results file and check it against the ground truth it is to be scored on. Raises InputError."""
    truth = ground_truth_arrays(ground_truth)
    source = os.fspath(path)
    with JsonFile(path) as file:
        if file.peek() != "[":
            raise object_for_detections(file) if file.peek() == "{" else no_detections(file.value(), source)
        found = _gather(file.records(DETECTION), DETECTION, source, "detections")
        file.finish()
    detections = DetectionArrays(found["image_id"], found["category_id"], found["bbox"], found["score"])
    check_detections(detections, truth, source)
    unknown = ~np.isin(detections.category_ids, truth.category_ids)
    if unknown.any():
        raise InputError(f"{source}: {offenders(detections.category_ids, unknown, 'category', 'categories')}; the "
                         f"ground truth declares {listed(truth.category_ids)}. Map the labels to these ids.")
    return detections


def load_ground_truth(ground_truth: dict | str | os.PathLike | GroundTruthArrays) -> GroundTruthArrays:
    """Checked arrays of a ground truth in any form that an evaluation takes. Raises InputError."""
    if isinstance(ground_truth, str | os.PathLike):
        return read_ground_truth_arrays(ground_truth)
    return ground_truth_arrays(ground_truth)


def load_detections(detections: list[dict] | str | os.PathLike | DetectionArrays, truth: GroundTruthArrays) -> DetectionArrays:
    """Checked arrays of detections in any form that an evaluation takes. Raises InputError."""
    if isinstance(detections, str | os.PathLike):
        return read_detections(detections, truth)
    if not isinstance(detections, DetectionArrays):
        detections = detection_arrays(detections)
    check_detections(detections, truth)
    return detections


def write_detections(path: str | os.PathLike, detections: DetectionArrays) -> None:
    """Write COCO results JSON, one detection a line, as a stream and unrounded: reading it gives the same floats.

    The text goes to a temporary file beside `path` and replaces it only when complete. Raises InputError for a number
    that JSON cannot hold (NaN, infinity).
    """
    path = Path(path)
    _not_finite(detections, str(path)).refuse(len(detections))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="ascii") as file:
            file.write("[")
            for start in range(0, len(detections), WRITE_CHUNK):
                part = slice(start, start + WRITE_CHUNK)
                rows = zip(detections.image_ids[part].tolist(), detections.category_ids[part].tolist(),
                           detections.boxes[part].tolist(), detections.scores[part].tolist(), strict=True)
                # repr of a Python float is its shortest text that reads back to the same bits
                lines = [f'{{"image_id": {image}, "category_id": {category}, "bbox": {box}, "score": {score!r}}}'
                         for image, category, box, score in rows]
                file.write(("\n" if start == 0 else ",\n") + ",\n".join(lines))
            file.write("\n]\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_json(path: str | os.PathLike) -> object:
    """The content of a JSON file. Raises InputError for a file that is missing, not text, or not JSON."""
    with JsonFile(path) as file:
        content = file.value(file.size + 1)
        file.finish()
    return content


def ground_truth_arrays(ground_truth: dict | GroundTruthArrays, source: str = "ground truth") -> GroundTruthArrays:
    """Check a COCO ground truth dict and turn it into arrays; `source` names it in messages. Raises InputError."""
    if isinstance(ground_truth, GroundTruthArrays):
        return ground_truth
    if not isinstance(ground_truth, dict):
        raise no_ground_truth(ground_truth, source)
    lists = {key: ground_truth[key] for key in LISTS if isinstance(ground_truth.get(key), list)}
    if "images" in lists:
        lists["images"] = _gather([lists["images"]], IMAGE, source, "images")
    if "annotations" in lists:
        lists["annotations"] = _gather([lists["annotations"]], ANNOTATION, source, "annotations")
    return _ground_truth(lists, source)


def _ground_truth(lists: dict, source: str) -> GroundTruthArrays:
    """From columns of images and annotations and a list of categories."""
    for key in LISTS:
        if key not in lists:
            raise InputError(f"{source}: has no list '{key}'. COCO ground truth needs images, annotations, categories.")
    images, annotations, categories = (lists[key] for key in LISTS)
    image_ids = unique(images["id"], source, "image")
    numbers = _gather([categories], CATEGORY, source, "categories")["id"]
    category_ids = unique(numbers, source, "category")
    names = _names(numbers, categories, source)
    category_names = [names[number] for number in category_ids.tolist()]
    given = annotations["id"] != NO_INTEGER
    unique(annotations["id"][given], source, "annotation")
    annotations["id"] = np.where(given, annotations["id"], np.arange(1, len(given) + 1))
    boxes = annotations["bbox"]
    _check_annotations(annotations, "bbox", boxes, {FAR_BOX: _is_far(boxes)}, source)
    area = np.where(np.isnan(annotations["area"]), boxes[:, 2] * boxes[:, 3], annotations["area"])
    _check_annotations(annotations, "area", area, {NEGATIVE_AREA: area < 0, FAR_AREA: area > FARTHEST}, source)
    return GroundTruthArrays(
        image_ids, category_ids, category_names,
        _index(annotations["image_id"], image_ids, source, "image", "images"),
        _index(annotations["category_id"], category_ids, source, "category", "categories"),
        boxes, area, annotations["iscrowd"], annotations["id"], annotations["difficult"])


def _check_annotations(annotations: dict[str, np.ndarray], key: str, values: np.ndarray, wrong: dict[Fault, np.ndarray],
                       source: str) -> None:
    """InputError where one of the (N,) masks holds, naming annotations and their values."""
    faults = Faults(source, "annotations")
    for fault, mask in wrong.items():
        faults.add_where(fault, mask, lambda k: (f"id {annotations['id'][k]} (image {annotations['image_id'][k]})",
                                                 f"{key} {values[k].tolist()}"))
    faults.refuse(len(values))


def _is_far(boxes: np.ndarray) -> np.ndarray:
    """(N, 4) -> (N,) bool: a number is finite, and beyond FARTHEST."""
    if boxes.max(initial=0) <= FARTHEST and boxes.min(initial=0) >= -FARTHEST:         # as always: spares large arrays
        return np.zeros(len(boxes), bool)
    return (np.isfinite(boxes) & (np.abs(boxes) > FARTHEST)).any(1)


def _names(numbers: np.ndarray, categories: list[dict], source: str) -> dict[int, str]:
    """Category id -> name, its id where it has none; InputError when two are alike or one cannot be written down."""
    names = {number: str(number if category.get("name") is None else category["name"])
             for number, category in zip(numbers.tolist(), categories, strict=True)}
    faults = Faults(source, "categories")
    for number, name in names.items():
        # JSON can spell half of a character that takes two units of UTF-16; it cannot be printed, drawn or written
        if any("\ud800" <= character <= "\udfff" for character in name):
            faults.add(NO_TEXT, f"id {number}", f"name {ascii(name)}")
        elif not name.strip():
            faults.add(NO_NAME, f"id {number}", f"name {ascii(name)}")
        elif name.splitlines() != [name] or any(unicodedata.category(character) == "Cc" for character in name):
            faults.add(NO_LINE, f"id {number}", f"name {ascii(name)}")
    faults.refuse(len(names))
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        raise InputError(f"{source}: more than one category is named {listed([repr(name) for name in twice])}. Give each "
                         "category a name of its own.")
    return names


def _index(values: np.ndarray, known: np.ndarray, source: str, kind: str, kinds: str) -> np.ndarray:
    """(N,) ids -> (N,) places in the ascending array `known`; InputError when one is not there."""
    unknown = ~np.isin(values, known)
    if unknown.any():
        raise InputError(f"{source}: annotation entries: {offenders(values, unknown, kind, kinds)}, but the file "
                         f"declares {listed(known)}. Add these {kinds} or remove the annotations.")
    return np.searchsorted(known, values)


def detection_arrays(results: Sequence[dict], source: str = "detections") -> DetectionArrays:
    """Check a list of COCO results and turn it into arrays; `source` names it in messages. Raises InputError."""
    if not isinstance(results, list | tuple):
        raise no_detections(results, source)
    found = _gather([results], DETECTION, source, "detections")
    return DetectionArrays(found["image_id"], found["category_id"], found["bbox"], found["score"])


def _gather(batches: Iterable[dict[str, np.ndarray] | Sequence], fields: dict[str, Field], source: str,
            kinds: str) -> dict[str, np.ndarray]:
    """One array a field from records as JsonFile.records yields them; InputError when some are not in order."""
    parts = {key: [absent(field, 0)] for key, field in fields.items()}
    faults = Faults(source, kinds)
    number = 0
    for batch in batches:
        if isinstance(batch, dict):
            count = len(next(iter(batch.values())))
        else:
            count = len(batch)
            batch = columns(batch, fields, faults, number)
        for key, field in fields.items():
            parts[key].append(batch[key] if key in batch else absent(field, count))
        number += count
        if faults.are_enough:
            faults.refuse(number, complete=False)
    faults.refuse(number)
    # one field at a time, so that the parts of all and the whole of all never exist together
    return {key: np.concatenate(parts.pop(key)) for key in fields}


def check_detections(detections: DetectionArrays, truth: GroundTruthArrays, source: str = "detections") -> None:
    """Raise InputError unless every number is finite, none of a box beyond 1e9, every size >= 0 and every image known."""
    faults = _not_finite(detections, source)
    faults.add_where(FAR_BOX, _is_far(detections.boxes), _shown(detections, "bbox", detections.boxes))
    faults.add_where(NEGATIVE_SIZE, (detections.boxes[:, 2:] < 0).any(1), _shown(detections, "bbox", detections.boxes))
    faults.refuse(len(detections))
    unknown = ~np.isin(detections.image_ids, truth.image_ids)
    if unknown.any():
        raise InputError(f"{source}: {offenders(detections.image_ids, unknown, 'image', 'images')}, which the ground "
                         "truth does not list. Score against the ground truth they were predicted on.")


def _not_finite(detections: DetectionArrays, source: str) -> Faults:
    """The detections that hold NaN or infinity."""
    boxes, scores = detections.boxes, detections.scores
    faults = Faults(source, "detections")
    faults.add_where(wrong_value("bbox", "box"), ~np.isfinite(boxes).all(1), _shown(detections, "bbox", boxes))
    faults.add_where(wrong_value("score", "number"), ~np.isfinite(scores), _shown(detections, "score", scores))
    return faults


def _shown(detections: DetectionArrays, key: str, values: np.ndarray) -> Callable[[int], tuple[str, str]]:
    """For Faults.add_where: how a message calls a detection, and the value of it that is wrong."""
    return lambda place: (f"number {place} (image {detections.image_ids[place]})", f"{key} {values[place].tolist()}")
