"""A COCO JSON file and its folder of images, read once into flat arrays.

What cannot be true is an error that names the entry. For testing the evaluator reads the file itself.
"""
import difflib
import gzip
import json
import os
import zlib
from collections import Counter
from itertools import chain
from pathlib import Path, PurePosixPath
from types import NoneType

import numpy as np

from data.source import FARTHEST, ImageRecord, Source, assemble, files_below
from errors import InputError

GZIP = b"\x1f\x8b"            # that such a file begins with


def load_coco(
    annotations: Path, images: Path, *, classes: tuple[str, ...] = (), key: str = "data.train", training: bool,
    images_key: str = "data.images",
) -> Source:
    """Read and check a COCO JSON file.

    Args:
        images: the folder that its file names start from.
        classes: names to keep, in the order of their labels; empty: all, by ascending id.
        key, images_key: what named the file and the folder, for messages: configuration keys or options.
        training: clip boxes to their image; drop those without area, and crowds.
    Raises:
        InputError: something in the file or the folder is wrong.
    """
    where = f"{key}: {annotations}"
    content = _read_json(annotations, key)
    for name in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise InputError(f"{where}: has no list '{name}', so it is not a COCO annotation file. Name another file.")
    ids, names = _categories(content["categories"], classes, where)
    records = _images(content["images"], images, where)
    _check_files(records, images, where, images_key)

    entries = content["annotations"]
    index_of = {record.id: k for k, record in enumerate(records)}
    declared = {c["id"] for c in content["categories"]}
    image, category, box, crowd = _fields(entries, index_of, declared, records, where)
    label_of = {identity: k for k, identity in enumerate(ids)}
    label = np.fromiter((label_of.get(c, -1) for c in category), dtype=np.int64, count=len(category))

    box = np.concatenate((box[:, :2], box[:, :2] + box[:, 2:]), 1)
    return assemble(names, ids, records, image, label, box, ("crowds", crowd), training)


def read_json(path: Path) -> object:
    """The content of a JSON file, compressed by gzip or not, whatever its name. Raises OSError, ValueError, RecursionError."""
    content = path.read_bytes()
    if content.startswith(GZIP):
        try:
            content = gzip.decompress(content)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"a gzip file that is damaged or was cut off: {error}") from None
    return json.loads(content)


def _read_json(path: Path, key: str) -> object:
    try:
        return read_json(path)
    except FileNotFoundError:
        remedy = "Name a COCO JSON file."
        if key.startswith("data."):
            remedy = f"Set data.root to the data set's folder and {key} to a file in it."
        raise InputError(f"{key}: {path} does not exist. {remedy}") from None
    except IsADirectoryError:
        raise InputError(f"{key}: {path} is a folder. Name a COCO JSON file.") from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"{key}: {path}: not JSON: {error.msg} at line {error.lineno}, column {error.colno}. Replace the file."
        ) from None
    except (OSError, ValueError, RecursionError) as error:      # ValueError: not text, or thousands of digits
        raise InputError(f"{key}: {path}: cannot be read ({error}). Replace the file.") from None


def _categories(
    categories: list[dict], classes: tuple[str, ...], where: str
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Ids and names of the classes, by label."""
    by_name = {}
    for entry in categories:
        if not isinstance(entry, dict) or type(entry.get("id")) is not int or not isinstance(entry.get("name"), str):
            raise InputError(f"{where}: category {entry!r} needs a whole number 'id' and a text 'name'.")
        if any("\ud800" <= character <= "\udfff" for character in entry["name"]):      # JSON's, but not to be printed or drawn
            raise InputError(f"{where}: category {entry['id']} has a name with half a character in it (a lone surrogate), "
                             f"{entry['name']!r}. Write the name anew.")
        if entry["name"] in by_name:
            raise InputError(f"{where}: declares the category '{entry['name']}' twice. Rename or merge one.")
        by_name[entry["name"]] = entry["id"]
    repeated = [i for i, n in Counter(by_name.values()).items() if n > 1]
    if repeated:
        raise InputError(f"{where}: category id {repeated[0]} is declared twice. Give each category an id of its own.")
    if not by_name:
        raise InputError(f"{where}: declares no category. Add the classes to 'categories'.")
    for name in classes:
        if classes.count(name) > 1:
            raise InputError(f"data.classes: lists '{name}' twice. Remove one: each name stands for one label.")
        if name not in by_name:
            close = difflib.get_close_matches(name, by_name, n=1)
            hint = f"Did you mean '{close[0]}'?" if close else f"It declares {', '.join(by_name)}."
            raise InputError(f"{where}: has no category '{name}'. {hint}")
    names = classes or tuple(sorted(by_name, key=by_name.get))
    return tuple(by_name[n] for n in names), names


def _images(entries: list[dict], folder: Path, where: str) -> list[ImageRecord]:
    records = []
    for entry in entries:
        if not isinstance(entry, dict):
            raise InputError(f"{where}: image entry {entry!r} is not an object.")
        name, size = entry.get("file_name"), (entry.get("width"), entry.get("height"))
        if type(entry.get("id")) is not int:
            raise InputError(f"{where}: image '{name}' has the id {entry.get('id')!r}. Give it a whole number.")
        if not isinstance(name, str) or not name:
            raise InputError(f"{where}: image {entry['id']} has no 'file_name'. Add it.")
        if not all(type(v) is int and 0 < v < FARTHEST for v in size):
            raise InputError(f"{where}: image {entry['id']} ('{name}') has the size {size[0]!r} x {size[1]!r}. Give "
                             "its width and height in pixels.")
        parts = PurePosixPath(name.replace("\\", "/"))      # as Windows writes folders
        if parts.is_absolute() or ".." in parts.parts:
            raise InputError(f"{where}: image {entry['id']} has the file name '{name}', which leaves the image folder. "
                             "Use names relative to data.images.")
        records.append(ImageRecord(entry["id"], str(folder / parts), *size))
    repeated = [i for i, n in Counter(r.id for r in records).items() if n > 1]
    if repeated:
        raise InputError(f"{where}: image id {repeated[0]} is used twice. Give each image an id of its own.")
    if not records:
        raise InputError(f"{where}: lists no image. Name another file.")
    return records


def _check_files(records: list[ImageRecord], folder: Path, where: str, key: str) -> None:
    present = set(files_below(folder, key))
    missing = [r.path for r in records if os.path.normpath(r.path) not in present]
    if missing:
        shown = ", ".join(os.path.relpath(p, folder) for p in missing[:5])
        raise InputError(f"{where}: {len(missing):,} of {len(records):,} images are not in {folder}, such as {shown}. "
                         f"Set {key} to their folder.")


def _fields(
    entries: list[dict], index_of: dict[int, int], declared: set[int], records: list[ImageRecord], where: str
) -> tuple[np.ndarray, list[int], np.ndarray, np.ndarray]:
    """Image index (N,), category id (N), box xywh (N, 4) float64 and crowd flag (N,) of all annotations.

    All are checked at once, in C; only a file that is wrong is walked through, to name the first offender.
    """
    try:
        image, category, boxes = ([e[name] for e in entries] for name in ("image_id", "category_id", "bbox"))
        crowds = [e.get("iscrowd", 0) for e in entries]
        sound = (
            set(map(type, chain(image, category))) <= {int}
            and index_of.keys() >= set(image)
            and declared.issuperset(category)
            and set(map(type, boxes)) <= {list}
            and set(map(len, boxes)) <= {4}
            and set(map(type, chain.from_iterable(boxes))) <= {int, float}
            and set(map(type, crowds)) <= {int, bool, float, NoneType}
        )
        box = np.array(boxes if sound else [], dtype=np.float64).reshape(-1, 4)
        sound = sound and bool((np.abs(box) < FARTHEST).all() and (box[:, 2:] >= 0).all())
    except (KeyError, TypeError, OverflowError):        # a field missing, no object at all, an integer beyond float64
        sound = False
    if not sound:
        raise InputError(f"{where}: {_first_offence(entries, index_of, declared, records)}")
    ids = [e["id"] for e in entries if type(e.get("id")) is int]
    if len(set(ids)) < len(ids):
        repeated = Counter(ids).most_common(1)[0][0]
        raise InputError(f"{where}: annotation id {repeated} is used twice. Give each annotation an id of its own.")
    crowd = np.array(crowds, dtype=bool)
    return np.fromiter(map(index_of.get, image), dtype=np.int64, count=len(entries)), category, box, crowd


def _first_offence(
    entries: list[dict], index_of: dict[int, int], declared: set[int], records: list[ImageRecord]
) -> str:
    """What is wrong with the first annotation that cannot be read, and the way out."""
    for k, entry in enumerate(entries):
        if not isinstance(entry, dict):
            return f"annotation number {k + 1} is not an object. Fix the file."
        name, image = f"annotation {entry.get('id', f'number {k + 1}')}", entry.get("image_id")
        if type(image) is not int or image not in index_of:
            return f"{name} belongs to image {image!r}, which the file does not list. Fix the file."
        name += f" (image '{Path(records[index_of[image]].path).name}')"
        category, box = entry.get("category_id"), entry.get("bbox")
        if type(category) is not int or category not in declared:
            return (f"{name} names category {category!r}, but the file declares {_span(declared)}. Fix the file, or "
                    "list the categories to keep in data.classes.")
        numbers = isinstance(box, list) and len(box) == 4 and all(type(v) in (int, float) for v in box)
        if not numbers or not all(abs(v) < FARTHEST for v in box):
            return (f"{name} has the bbox {repr(box)[:80]}. It must be four finite numbers: x, y, width, height. "
                    "Fix the file.")
        if box[2] < 0 or box[3] < 0:
            return (f"{name} has the bbox {box}. Its width and height must not be negative: the format is x, y, width, "
                    "height. Fix the file.")
        if not isinstance(entry.get("iscrowd"), int | float | None):
            return f"{name} has the iscrowd {entry['iscrowd']!r}. Give 0 or 1, without quotes."
    raise AssertionError("called for annotations that are sound")


def _span(ids: set[int]) -> str:
    """1..8 for a run of ids, a list otherwise."""
    low, high = min(ids), max(ids)
    if high - low + 1 == len(ids) > 1:
        return f"{low}..{high}"
    return ", ".join(str(i) for i in sorted(ids)[:12])
