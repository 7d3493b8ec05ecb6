"""What is said of a JSON file that holds something else than it should: which, and how to make of it what is wanted."""
from errors import InputError
from eval.records import SCORES
from eval.stream import JsonFile

_KINDS = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", int: "a number", float: "a number",
          type(None): "null"}
_EXCHANGED = "Were ground truth and detections exchanged?"


def no_ground_truth(content: object, source: str) -> InputError:
    """Of a value that is no object; `source` names the file."""
    return InputError(f"{source}: holds {_kind(content)}, but ground truth is a JSON object with images, annotations and "
                      f"categories. {_EXCHANGED}")


def no_detections(content: object, source: str) -> InputError:
    """Of a value that is no list."""
    return InputError(f"{source}: holds {_kind(content)}, but detections are a JSON list of objects with image_id, "
                      f"category_id, bbox and score. {_EXCHANGED}")


def objects_for_ground_truth(source: str) -> InputError:
    """Of objects one after the other."""
    return InputError(f"{source}: holds one JSON object after the other, but ground truth is a single one with images, "
                      f"annotations and categories. {_EXCHANGED}")


def object_for_detections(file: JsonFile) -> InputError:
    """Of an object, at which the file stands, in the place of a list of detections."""
    keys = []
    for key in file.members():
        keys.append(key)
        if file.peek() != "[":
            file.value()
            continue
        batches = file.records({})
        first = next(batches, [None])[0]
        if isinstance(first, dict) and "image_id" in first:
            if key == "annotations" and not any(score in first for score in ("score", *SCORES)):
                break                                  # ground truth
            if key == "annotations" and "images" in keys:
                return InputError(f"{file.path}: holds images, and annotations with scores, as predict.py writes them; their "
                                  "ids are its own, not the ground truth's. Take the detections.json of test.py, which has "
                                  "--tile too.")
            return InputError(f"{file.path}: holds a JSON object with the detections below '{key}', but detections are a "
                              f"plain list. Write that list alone, as 'jq .{key}' does.")
        for _ in batches:                              # go past the list
            pass
    else:
        if "image_id" in keys or file.peek() == "{":
            return InputError(f"{file.path}: holds one JSON object per line, but detections are a JSON list. Wrap them in a "
                              "list, with commas between them, as 'jq -s .' does.")
    return no_detections({}, file.path)


def _kind(content: object) -> str:
    return _KINDS.get(type(content), f"a {type(content).__name__}")
