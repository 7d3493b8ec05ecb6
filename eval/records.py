"""Lists of dicts -> arrays, and what can be wrong with a record."""
import itertools
from collections.abc import Sequence

import numpy as np

from eval.faults import Fault, Faults
from eval.layout import Field

_WANTED = {"integer": ("an integer", "Give whole numbers below 2^63."),
           "number": ("a finite number", "Mend what wrote it; a diverged model predicts NaN."),
           "box": ("four finite numbers", "Boxes are x, y, width, height; a diverged model predicts NaN."),
           "flag": ("a number or a truth value", "Give 0 or 1, without quotes.")}
_NO_AREA = "Give square pixels, or leave 'area' out."
# Ground truth comes first: of texts in detections it is known that they meet whole numbers.
_TEXT_IN_DETECTIONS = ("These ids are texts, the ground truth's are whole numbers: write 7 for '7', and for a name the id that "
                       "the ground truth gives it.")
_TEXT = "These ids are texts, those of COCO detections are whole numbers: number them, in ground truth and detections alike."
SCORES = ("confidence", "conf", "scores")                # what other tools call a detection's score
NO_INTEGER = np.iinfo(np.int64).min
NEGATIVE_AREA = Fault("a negative area", _NO_AREA)
NEGATIVE_SIZE = Fault("a negative size", "Boxes are x, y, width, height; clip or remove them.")


def columns(records: Sequence[dict], fields: dict[str, Field], faults: Faults, number: int = 0) -> dict[str, np.ndarray]:
    """Check records and turn them into arrays.

    Args:
        faults: takes what is wrong with them.
        number: of the first record, from 0.
    Returns:
        Key -> (R,) or (R, 4), by the field's kind; where a record lacks it, as in `absent`. Nothing when a record is not in
        order.
    """
    arrays = {key: _array(records, key, field) for key, field in fields.items()}
    if all(array is not None for array in arrays.values()):
        return arrays
    # a record is not in order, or lacks what it need not have, or holds numbers of many kinds
    in_order = [_check(record, place, fields, faults) for place, record in enumerate(records, number)]
    if not all(in_order):
        return {}
    for key in [key for key, array in arrays.items() if array is None]:
        arrays[key] = absent(fields[key], len(records))
        for place, record in enumerate(records):
            if key in record:
                arrays[key][place] = record[key]
    return arrays


def absent(field: Field, count: int) -> np.ndarray:
    """What stands for a field in records that lack it: NaN, False, and for an integer NO_INTEGER."""
    if field.kind == "integer":
        return np.full(count, NO_INTEGER)
    if field.kind == "flag":
        return np.zeros(count, bool)
    return np.full((count, 4) if field.kind == "box" else count, np.nan)


def _array(records: Sequence[dict], key: str, field: Field) -> np.ndarray | None:
    """The values of all records, or None when that needs a closer look."""
    shape = (len(records), 4) if field.kind == "box" else (len(records),)
    try:
        values = [record[key] for record in records]
        if field.kind == "flag":
            plain = set(map(type, values)) <= {bool, int, type(None)}
            return np.fromiter(map(bool, values), bool, len(values)) if plain else None
        types = set(map(type, itertools.chain.from_iterable(values) if field.kind == "box" else values))
        # NumPy would take True for 1
        if any(not issubclass(t, int | float | np.integer | np.floating) or issubclass(t, bool) for t in types):
            return None
        array = np.array(values).reshape(shape) if len(values) == 0 else np.array(values)
    except (KeyError, TypeError, ValueError, OverflowError, IndexError):
        return None
    if array.dtype.kind not in "iuf" or array.shape != shape or not np.isfinite(array).all():
        return None
    if field.kind == "box" and (array[:, 2:] < 0).any():
        return None
    if field.kind == "integer":
        # among floats, integers from 2^53 on were rounded
        if array.dtype.kind == "i" or (array.dtype.kind == "f" and (np.abs(array) < 2 ** 53).all()):
            integers = array.astype(np.int64)
            return integers if (integers == array).all() else None
        return None
    return array.astype(np.float64)


def _check(record: object, place: int, fields: dict[str, Field], faults: Faults) -> bool:
    """Whether a record is in order."""
    if not isinstance(record, dict):
        wanted = ", ".join(key for key, field in fields.items() if field.required)
        faults.add(Fault("the wrong type", f"Each is an object with {wanted}."), f"number {place}", _short(record))
        return False
    found = [(fault, key) for key, field in fields.items() if (fault := _fault(record, key, field, faults.kinds))]
    if found:
        name = f"id {record['id']}" if _is_in_order(record.get("id"), "integer") else f"number {place}"
        if "image_id" in record:
            name += f" (image {_short(record['image_id'])})"
        for fault, key in found:
            faults.add(fault, name, f"{key} {_short(record[key])}" if key in record else "")
    return not found


def _fault(record: dict, key: str, field: Field, kinds: str) -> Fault | None:
    """What is wrong with a field of a record."""
    if key not in record:
        known_as = next((name for name in SCORES if name in record), None) if key == "score" else None
        remedy = f"Rename '{known_as}' to 'score'." if known_as else "Add it."
        return Fault(f"no '{key}'", remedy) if field.required else None
    if not _is_in_order(record[key], field.kind):
        fault = wrong_value(key, field.kind)
        if field.kind == "integer" and isinstance(record[key], str):
            fault = fault._replace(remedy=_TEXT_IN_DETECTIONS if kinds == "detections" else _TEXT)
        return fault
    return NEGATIVE_SIZE if field.kind == "box" and min(record[key][2:]) < 0 else None


def wrong_value(key: str, kind: str) -> Fault:
    """The fault of a value that is not of its field's kind."""
    wanted, remedy = _WANTED[kind]
    return Fault(f"{'an' if key[0] in 'aeiou' else 'a'} {key} that is not {wanted}", _NO_AREA if key == "area" else remedy)


def _is_in_order(value: object, kind: str) -> bool:
    if kind == "flag":
        return value is None or isinstance(value, bool | np.bool_ | int) or _is_number(value)
    if kind == "box":
        return isinstance(value, list | tuple | np.ndarray) and len(value) == 4 and all(map(_is_number, value))
    return _is_number(value) and (kind == "number" or (value == int(value) and -2 ** 63 <= value < 2 ** 63))


def _is_number(value: object) -> bool:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        return False
    try:
        return bool(np.isfinite(float(value)))
    except OverflowError:                  # an integer of hundreds of digits is JSON too
        return False


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
