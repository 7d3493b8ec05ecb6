"""Read a COCO file that may be wrong everywhere: what can be used is kept, what cannot is noted."""
import difflib
from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np

from data.check.findings import Findings
from data.check.listing import Listing
from data.coco import read_json
from data.source import FARTHEST

NO_BOX = (np.nan,) * 4


def read_coco(file: Path, classes: tuple[str, ...], split: str, found: Findings) -> Listing | None:
    """Read a file; None when nothing in it can be read.

    Args:
        classes: names that count, in the order of their labels; empty: all of the file, by ascending id.
    Returns:
        The paths are still empty: where the images lie is another question.
    """
    content = _content(file, split, found)
    if content is None:
        return None
    images, annotations, categories = content
    for entries, what in ((images, "lists no image"), (categories, "declares no category")):
        if not entries:
            found.add("annotation_file", split, detail=f"{file}: {what}")
            return None
    names = _categories(categories, split, found)               # by id
    declared = tuple(names[i] for i in sorted(names))
    for name in classes:
        if name not in declared:
            close = difflib.get_close_matches(name, declared, n=1, cutoff=0.5)
            found.add("class_unknown", split, detail=f"{name}, like {close[0]}" if close else name)
    classes = classes or declared
    label_of = {i: classes.index(name) if name in classes else -1 for i, name in names.items()}
    left_out = {name: 0 for name in declared if name not in classes}

    file_names, sizes, index_of = _images(images, split, found)
    image, label, box, unfit, area, marks, seen = [], [], [], [], [], [], Counter()
    for number, entry in enumerate(annotations, start=1):
        if not isinstance(entry, dict):
            found.add("broken_entry", split, annotation=f"annotation number {number}")
            continue
        identity = entry.get("id")
        mark = f"annotation {identity}" if type(identity) in (int, str) else f"annotation number {number}"
        if type(identity) is int:
            seen[identity] += 1
            if seen[identity] > 1:
                found.add("annotation_id_twice", split, annotation=mark)
        owner = entry.get("image_id")
        if type(owner) is not int or owner not in index_of:
            found.add("unknown_image", split, annotation=mark, detail=f"image {owner!r}")
            continue
        name, category = file_names[index_of[owner]], entry.get("category_id")
        known = type(category) is int and category in label_of
        if not known:
            found.add("unknown_category", split, name, mark, f"category {category!r}")
        image.append(index_of[owner])
        label.append(label_of[category] if known else -1)
        if known and label[-1] < 0:
            left_out[names[category]] += 1
        box.append(_box(entry.get("bbox"), name, mark, split, found))
        unfit.append(bool(entry.get("iscrowd", 0)))
        stated = entry.get("area")
        area.append(stated if type(stated) in (int, float) and abs(stated) < FARTHEST**2 else np.nan)
        marks.append(mark)
    return Listing(
        split, file, file_names, [""] * len(file_names), np.array(sizes, np.int64).reshape(-1, 2),
        np.ones(len(file_names), bool), classes, left_out, np.array(image, np.int64), np.array(label, np.int64),
        np.array(box, np.float64).reshape(-1, 4), np.array(unfit, bool), np.array(area, np.float64), marks,
    )


def _content(file: Path, split: str, found: Findings) -> tuple[list, list, list] | None:
    try:
        content = read_json(file)
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not JSON: {error}"
        found.add("annotation_file", split, detail=f"{file}: {reason}")
        return None
    lists = [content.get(key) if isinstance(content, dict) else None for key in ("images", "annotations", "categories")]
    if not all(isinstance(entries, list) for entries in lists):
        found.add("annotation_file", split, detail=f"{file}: not a COCO file: it lacks images, annotations or categories")
        return None
    return tuple(lists)


def _categories(entries: list, split: str, found: Findings) -> dict[int, str]:
    """Names by id."""
    names: dict[int, str] = {}
    for entry in entries:
        if not isinstance(entry, dict) or type(entry.get("id")) is not int or not isinstance(entry.get("name"), str):
            found.add("broken_entry", split, detail=f"category {str(entry)[:60]}")
        elif entry["id"] in names or entry["name"] in names.values():
            found.add("category_twice", split, detail=f"{entry['id']} {entry['name']}")
        else:
            names[entry["id"]] = entry["name"]
    return names


def _images(entries: list, split: str, found: Findings) -> tuple[list[str], list[tuple[int, int]], dict[int, int]]:
    """File names, sizes (0 where invalid), and the index of each id."""
    names, sizes, index_of, seen = [], [], {}, set()
    for entry in entries:
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name or type(entry.get("id")) is not int:
            found.add("broken_entry", split, detail=f"image {str(entry)[:60]}")
            continue
        if entry["id"] in index_of:
            found.add("image_id_twice", split, name, detail=f"id {entry['id']}")
        parts = PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts:
            found.add("name_escapes", split, name)
        elif str(parts) in seen:
            found.add("file_twice", split, name, detail=f"id {entry['id']}")
        seen.add(str(parts))
        size = (entry.get("width"), entry.get("height"))
        if not all(type(v) is int and 0 < v < FARTHEST for v in size):
            found.add("size_invalid", split, name, detail=f"{size[0]!r} x {size[1]!r}")
            size = (0, 0)
        index_of.setdefault(entry["id"], len(names))
        names.append(name)
        sizes.append(size)
    return names, sizes, index_of


def _box(bbox: object, name: str, mark: str, split: str, found: Findings) -> tuple[float, ...]:
    """Corners of a bbox, NaN when it is none."""
    numbers = isinstance(bbox, list) and len(bbox) == 4 and all(type(v) in (int, float) for v in bbox)
    if not numbers or not all(abs(v) < FARTHEST for v in bbox):
        found.add("box_invalid", split, name, mark, str(bbox)[:60])
        return NO_BOX
    x, y, width, height = bbox
    if width < 0 or height < 0:
        found.add("box_negative", split, name, mark, str(bbox)[:60])
        return NO_BOX
    return x, y, x + width, y + height
