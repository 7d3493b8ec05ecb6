"""Ground truth and detections: COCO JSON -> checked arrays, and arrays -> COCO results JSON.

Everything that can be wrong with a file is found here, before anything is computed, and reported in one line that names
the file, the first culprit and the way out (errors.InputError). What leaves this module can be trusted by index.
"""
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from errors import InputError

WRITE_CHUNK = 20_000         # detections turned into text at a time: bounds the memory of write_detections
SHOWN = 5                    # offenders named in a message


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
        annotation_ids: (N,) int64; 1..N where the file has none.
        difficult: (N,) bool, VOC's mark; eval/coco.py does not look at it.
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


def read_detections(path: str | os.PathLike, ground_truth: dict | GroundTruthArrays) -> DetectionArrays:
    """Read a COCO results file and check it against the ground truth it is to be scored on. Raises InputError."""
    truth = ground_truth_arrays(ground_truth)
    source = os.fspath(path)
    detections = detection_arrays(load_json(path), source)
    check_detections(detections, truth, source)
    unknown = ~np.isin(detections.category_ids, truth.category_ids)
    if unknown.any():
        raise InputError(f"{source}: {_offenders(detections.category_ids, unknown, 'category', 'categories')}; the "
                         f"ground truth declares {_listed(truth.category_ids)}. Map the labels to these ids.")
    return detections


def write_detections(path: str | os.PathLike, detections: DetectionArrays) -> None:
    """Write COCO results JSON, one detection a line, as a stream and unrounded: reading it gives the same floats.

    The text goes to a temporary file beside `path` and replaces it only when complete. Raises InputError for a number
    that JSON cannot hold (NaN, infinity).
    """
    path = Path(path)
    _require_finite(detections, str(path))
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
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
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON: {error.msg} at line {error.lineno}, column {error.colno}. "
                         "Mend it or write it again; was the writing cut off?") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not JSON: byte {error.start} is not UTF-8 text. Give a COCO JSON file.") from error


def ground_truth_arrays(ground_truth: dict | GroundTruthArrays, source: str = "ground truth") -> GroundTruthArrays:
    """Check a COCO ground truth dict and turn it into arrays; `source` names it in messages. Raises InputError."""
    if isinstance(ground_truth, GroundTruthArrays):
        return ground_truth
    if not isinstance(ground_truth, dict):
        raise InputError(f"{source}: holds a {type(ground_truth).__name__}, but ground truth is a JSON object with "
                         "images, annotations and categories. Were ground truth and detections exchanged?")
    for key in ("images", "annotations", "categories"):
        if not isinstance(ground_truth.get(key), list):
            raise InputError(f"{source}: has no list '{key}'. COCO ground truth needs images, annotations, categories.")
    images, annotations, categories = (ground_truth[key] for key in ("images", "annotations", "categories"))
    image_ids = _unique(_integers(images, "id", source, "image"), source, "image")
    category_ids = _unique(_integers(categories, "id", source, "category"), source, "category")
    names = {category["id"]: str(category.get("name", category["id"])) for category in categories}
    category_names = [names[number] for number in category_ids.tolist()]
    if len(set(category_names)) < len(category_names):
        twice = next(name for name in category_names if category_names.count(name) > 1)
        raise InputError(f"{source}: two categories are named '{twice}'. Give each category a name of its own.")

    boxes = _boxes(annotations, source, "annotation")
    if all("area" in annotation for annotation in annotations):
        area = _floats(annotations, "area", source, "annotation")
    else:
        # as a list of objects, so that a bad area is still found and named
        filled = [{"area": a.get("area", size)} for a, size in
                  zip(annotations, (boxes[:, 2] * boxes[:, 3]).tolist(), strict=True)]
        area = _floats(filled, "area", source, "annotation")
    count = len(annotations)
    has_ids = all("id" in annotation for annotation in annotations)
    return GroundTruthArrays(
        image_ids, category_ids, category_names,
        _index(_integers(annotations, "image_id", source, "annotation"), image_ids, source, "image", "images"),
        _index(_integers(annotations, "category_id", source, "annotation"), category_ids, source, "category",
               "categories"),
        boxes, area,
        crowd=np.fromiter((bool(annotation.get("iscrowd", 0)) for annotation in annotations), bool, count),
        annotation_ids=_integers(annotations, "id", source, "annotation") if has_ids else np.arange(1, count + 1),
        difficult=np.fromiter((bool(annotation.get("difficult", 0)) for annotation in annotations), bool, count))


def detection_arrays(results: Sequence[dict], source: str = "detections") -> DetectionArrays:
    """Check a list of COCO results and turn it into arrays; `source` names it in messages. Raises InputError."""
    if not isinstance(results, list | tuple):
        raise InputError(f"{source}: holds a {type(results).__name__}, but detections are a JSON list of objects with "
                         "image_id, category_id, bbox and score. Were ground truth and detections exchanged?")
    return DetectionArrays(_integers(results, "image_id", source, "detection"),
                           _integers(results, "category_id", source, "detection"),
                           _boxes(results, source, "detection"),
                           _floats(results, "score", source, "detection"))


def check_detections(detections: DetectionArrays, truth: GroundTruthArrays, source: str = "detections") -> None:
    """Raise InputError unless every number is finite, every size >= 0 and every image one of the ground truth's."""
    _require_finite(detections, source)
    negative = (detections.boxes[:, 2:] < 0).any(1)
    if negative.any():
        first = int(negative.argmax())
        raise InputError(f"{source}: detection {first} (image {detections.image_ids[first]}) has a negative size, bbox "
                         f"{detections.boxes[first].tolist()}. Boxes are x, y, width, height.")
    unknown = ~np.isin(detections.image_ids, truth.image_ids)
    if unknown.any():
        raise InputError(f"{source}: {_offenders(detections.image_ids, unknown, 'image', 'images')}, which the ground "
                         "truth does not list. Score against the ground truth they were predicted on.")


def _require_finite(detections: DetectionArrays, source: str) -> None:
    bad = ~(np.isfinite(detections.boxes).all(1) & np.isfinite(detections.scores))
    if bad.any():
        first = int(bad.argmax())
        raise InputError(f"{source}: detection {first} (image {detections.image_ids[first]}) is not finite: bbox "
                         f"{detections.boxes[first].tolist()}, score {float(detections.scores[first])}. "
                         "Mend what wrote it; a diverged model predicts NaN.")


def _column(records: Sequence[dict], key: str, source: str, kind: str, valid: Callable[[object], bool],
            wanted: str, width: tuple[int, ...] = ()) -> np.ndarray:
    """Key `key` of all records as one numeric array (len(records), *width), or InputError naming the first bad one.

    The array is built in one go and the records are looked at one by one only when that fails.
    """
    try:
        # the type is left to NumPy: asked for floats, it would take the text "1" for a number
        column = np.array([record[key] for record in records])
        if column.dtype.kind in "iuf" and column.shape == (len(records), *width) and np.isfinite(column).all():
            return column
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        pass
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            raise InputError(f"{source}: {kind} {number} is a {type(record).__name__}, not an object with '{key}'. "
                             "Write it as COCO does.")
        if key not in record:
            raise InputError(f"{source}: {_called(record, number, kind)} has no '{key}'. Add it.")
        if not valid(record[key]):
            raise InputError(f"{source}: {_called(record, number, kind)} has {key} {_short(record[key])}; {wanted}.")
    return np.array([record[key] for record in records], dtype=np.float64).reshape(len(records), *width)


def _boxes(records: Sequence[dict], source: str, kind: str) -> np.ndarray:
    def valid(value: object) -> bool:
        return isinstance(value, list | tuple | np.ndarray) and len(value) == 4 and all(map(_is_number, value))

    wanted = "it must be four finite numbers x, y, width, height"
    boxes = _column(records, "bbox", source, kind, valid, wanted, width=(4,)).astype(np.float64)
    negative = (boxes[:, 2:] < 0).any(1)
    if negative.any():
        first = int(negative.argmax())
        raise InputError(f"{source}: {_called(records[first], first, kind)} has a negative size, bbox "
                         f"{boxes[first].tolist()}. Boxes are x, y, width, height; clip or remove it.")
    return boxes


def _floats(records: Sequence[dict], key: str, source: str, kind: str) -> np.ndarray:
    return _column(records, key, source, kind, _is_number, "it must be a finite number").astype(np.float64)


def _integers(records: Sequence[dict], key: str, source: str, kind: str) -> np.ndarray:
    def valid(value: object) -> bool:
        return _is_number(value) and value == int(value)

    wanted = "it must be an integer"
    column = _column(records, key, source, kind, valid, wanted)
    integers = column.astype(np.int64)
    if (integers != column).any():
        first = int((integers != column).argmax())
        raise InputError(f"{source}: {_called(records[first], first, kind)} has {key} {column[first]}; {wanted}.")
    return integers


def _unique(ids: np.ndarray, source: str, kind: str) -> np.ndarray:
    """(N,) -> (N,) ascending; InputError when an id stands twice."""
    ids = np.sort(ids)
    twice = ids[1:] == ids[:-1]
    if twice.any():
        raise InputError(f"{source}: {kind} id {ids[1:][twice][0]} stands twice. Give each {kind} an id of its own.")
    return ids


def _index(values: np.ndarray, known: np.ndarray, source: str, kind: str, kinds: str) -> np.ndarray:
    """(N,) ids -> (N,) places in the ascending array `known`; InputError when one is not there."""
    unknown = ~np.isin(values, known)
    if unknown.any():
        raise InputError(f"{source}: annotation entries: {_offenders(values, unknown, kind, kinds)}, but the file "
                         f"declares {_listed(known)}. Add these {kinds} or remove the annotations.")
    return np.searchsorted(known, values)


def _is_number(value: object) -> bool:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        return False
    try:
        return bool(np.isfinite(float(value)))
    except OverflowError:                  # an integer of hundreds of digits is JSON too
        return False


def _called(record: dict, number: int, kind: str) -> str:
    """How a message calls a record: by id and image where it has them, else by its place in the list."""
    name = f"{kind} {record['id']}" if "id" in record else f"{kind} number {number}"
    return f"{name} (image {record['image_id']})" if "image_id" in record else name


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _offenders(values: np.ndarray, wrong: np.ndarray, kind: str, kinds: str) -> str:
    ids = list(dict.fromkeys(values[wrong].tolist()))
    return f"{int(wrong.sum())} of {len(values)} name {kind if len(ids) == 1 else kinds} {_listed(ids)}"


def _listed(ids: Sequence[int] | np.ndarray) -> str:
    if len(ids) == 0:
        return "none"
    more = "" if len(ids) <= SHOWN else f" and {len(ids) - SHOWN} more"
    return ", ".join(str(number) for number in ids[:SHOWN]) + more
