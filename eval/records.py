"""Lists of dicts -> arrays, and what is said of a record that is not in order: one line with culprit and remedy."""
import itertools
from collections.abc import Sequence

import numpy as np

from errors import InputError
from eval.layout import Field

SHOWN = 5                    # offenders named in a message
_WANTED = {"integer": "it must be an integer", "number": "it must be a finite number",
           "box": "it must be four finite numbers x, y, width, height"}


def columns(records: Sequence[dict], fields: dict[str, Field], source: str, kind: str,
            number: int = 0) -> dict[str, np.ndarray]:
    """Check records and turn them into arrays.

    Args:
        source, kind: how messages call the file and a record.
        number: of the first record, from 0.
    Returns:
        Key -> (R,) or (R, 4), by the field's kind; where a record lacks it, as in `absent`.
    Raises:
        InputError: names the first record that is not in order.
    """
    arrays = {key: _array(records, key, field) for key, field in fields.items()}
    if any(array is None for array in arrays.values()):
        # a record is not in order, or lacks what it need not have, or holds numbers of many kinds
        for place, record in enumerate(records, number):
            _check(record, place, fields, source, kind)
        for key in [key for key, array in arrays.items() if array is None]:
            arrays[key] = absent(fields[key], number, len(records))
            for place, record in enumerate(records):
                if key in record:
                    arrays[key][place] = record[key]
    return arrays


def absent(field: Field, number: int, count: int) -> np.ndarray:
    """What stands for a field in records that lack it: NaN, False, and for an integer the place in the file from 1."""
    if field.kind == "integer":
        return np.arange(number + 1, number + count + 1)
    if field.kind == "flag":
        return np.zeros(count, bool)
    return np.full((count, 4) if field.kind == "box" else count, np.nan)


def _array(records: Sequence[dict], key: str, field: Field) -> np.ndarray | None:
    """The values of all records, or None when that needs a closer look."""
    shape = (len(records), 4) if field.kind == "box" else (len(records),)
    try:
        values = [record[key] for record in records]
        if field.kind == "flag":
            return np.fromiter(map(bool, values), bool, len(values))
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


def _check(record: object, place: int, fields: dict[str, Field], source: str, kind: str) -> None:
    """Raise InputError when the record is not in order."""
    if not isinstance(record, dict):
        raise InputError(f"{source}: {kind} {place} is a {type(record).__name__}, not an object with "
                         f"'{next(iter(fields))}'. Write it as COCO does.")
    name = f"{kind} {record['id']}" if "id" in record else f"{kind} number {place}"
    if "image_id" in record:
        name += f" (image {record['image_id']})"
    for key, field in fields.items():
        if key not in record:
            if field.required:
                raise InputError(f"{source}: {name} has no '{key}'. Add it.")
            continue
        value = record[key]
        if not _is_in_order(value, field.kind):
            raise InputError(f"{source}: {name} has {key} {_short(value)}; {_WANTED[field.kind]}.")
        if field.kind == "box" and min(value[2:]) < 0:
            raise InputError(f"{source}: {name} has a negative size, bbox {[float(number) for number in value]}. "
                             "Boxes are x, y, width, height; clip or remove it.")


def _is_in_order(value: object, kind: str) -> bool:
    if kind == "flag":
        return True
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


def unique(ids: np.ndarray, source: str, kind: str) -> np.ndarray:
    """(N,) -> (N,) ascending; InputError when an id stands twice."""
    ids = np.sort(ids)
    twice = ids[1:] == ids[:-1]
    if twice.any():
        raise InputError(f"{source}: {kind} id {ids[1:][twice][0]} stands twice. Give each {kind} an id of its own.")
    return ids


def offenders(values: np.ndarray, wrong: np.ndarray, kind: str, kinds: str) -> str:
    """How many of all values are wrong, and the first of them by value."""
    ids = list(dict.fromkeys(values[wrong].tolist()))
    return f"{int(wrong.sum())} of {len(values)} name {kind if len(ids) == 1 else kinds} {listed(ids)}"


def listed(ids: Sequence[int] | np.ndarray) -> str:
    """The first ids and how many more there are."""
    if len(ids) == 0:
        return "none"
    more = "" if len(ids) <= SHOWN else f" and {len(ids) - SHOWN} more"
    return ", ".join(str(number) for number in ids[:SHOWN]) + more
