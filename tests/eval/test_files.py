"""Reading: a bad file is refused in one line that names file, culprit and remedy. Writing: nothing is lost."""
import json
import math

import numpy as np
import pytest

from errors import InputError
from eval.coco import evaluate
from eval.files import DetectionArrays, read_detections, read_ground_truth, write_detections

GROUND_TRUTH = {
    "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
    "categories": [{"id": 3, "name": "ship"}, {"id": 5, "name": "vehicle"}],
    "annotations": [{"id": 10, "image_id": 1, "category_id": 3, "bbox": [0, 0, 4, 4], "area": 16, "iscrowd": 0},
                    {"id": 11, "image_id": 2, "category_id": 5, "bbox": [9, 9, 8, 8]}]}
DETECTION = {"image_id": 1, "category_id": 3, "bbox": [0.0, 0.5, 4.0, 4.0], "score": 0.5}


def message_of(call, *arguments):
    """The message of the InputError that the call raises: one line."""
    with pytest.raises(InputError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith((".", "?"))                   # ends with the way out
    return message


def write(folder, content):
    file = folder / "bad.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_a_good_ground_truth_comes_back_untouched(tmp_path):
    assert read_ground_truth(write(tmp_path, GROUND_TRUTH)) == GROUND_TRUTH


def test_a_missing_file_is_named(tmp_path):
    for call in (lambda p: read_ground_truth(p), lambda p: read_detections(p, GROUND_TRUTH)):
        assert "nowhere.json: cannot be read (No such file" in message_of(call, tmp_path / "nowhere.json")


def test_text_that_is_not_json_is_named_by_line_and_column(tmp_path):
    file = write(tmp_path, '[{"image_id": 1,\n "category_id" 3}]')
    message = message_of(read_detections, file, GROUND_TRUTH)
    assert message.startswith(f"{file}: not JSON") and "line 2, column 16" in message


def test_a_picture_is_not_json(tmp_path):
    (tmp_path / "bad.json").write_bytes(b"\x89PNG\xff\xfe")
    assert "not JSON" in message_of(read_ground_truth, tmp_path / "bad.json")


def test_exchanged_files_are_told_apart(tmp_path):
    assert "exchanged?" in message_of(read_ground_truth, write(tmp_path, [DETECTION]))
    assert "exchanged?" in message_of(read_detections, write(tmp_path, GROUND_TRUTH), GROUND_TRUTH)


@pytest.mark.parametrize(("change", "told"), [
    ({"bbox": [0, 0, 4]}, "bbox [0, 0, 4]; it must be four finite numbers"),
    ({"bbox": [0, 0, 4, None]}, "four finite numbers"),
    ({"bbox": [0, 0, 4, "4"]}, "four finite numbers"),
    ({"bbox": [0, 0, 4, math.nan]}, "four finite numbers"),
    ({"bbox": [0, 0, math.inf, 4]}, "four finite numbers"),
    ({"bbox": 7}, "four finite numbers"),
    ({"bbox": [0, 0, -4, 4]}, "negative size, bbox [0.0, 0.0, -4.0, 4.0]"),
    ({"score": math.nan}, "score nan; it must be a finite number"),
    ({"score": "0.5"}, "score '0.5'; it must be a finite number"),
    ({"score": None}, "score None"),
    ({"score": [0.5]}, "score [0.5]"),
    ({"score": 10 ** 400}, "it must be a finite number"),
    ({"image_id": "1"}, "image_id '1'; it must be an integer"),
    ({"image_id": 1.5}, "image_id 1.5; it must be an integer"),
    ({"image_id": 7}, "1 of 2 name image 7, which the ground truth does not list"),
    ({"category_id": 4}, "1 of 2 name category 4; the ground truth declares 3, 5"),
])
def test_a_bad_detection_is_named(tmp_path, change, told):
    file = write(tmp_path, [DETECTION, DETECTION | change])
    message = message_of(read_detections, file, GROUND_TRUTH)
    assert message.startswith(f"{file}: ") and told in message


@pytest.mark.parametrize("key", ["image_id", "category_id", "bbox", "score"])
def test_a_missing_key_of_a_detection_is_named(tmp_path, key):
    lacking = {name: value for name, value in DETECTION.items() if name != key}
    message = message_of(read_detections, write(tmp_path, [DETECTION, lacking]), GROUND_TRUTH)
    assert f"detection number 1 {'' if key == 'image_id' else '(image 1) '}has no '{key}'" in message


def test_a_detection_that_is_no_object_is_named(tmp_path):
    assert "detection 1 is a int" in message_of(read_detections, write(tmp_path, [DETECTION, 3]), GROUND_TRUTH)


def test_of_many_unknown_images_the_first_are_named(tmp_path):
    file = write(tmp_path, [DETECTION | {"image_id": number} for number in range(1, 12)])
    assert "9 of 11 name images 3, 4, 5, 6, 7 and 4 more" in message_of(read_detections, file, GROUND_TRUTH)


@pytest.mark.parametrize(("change", "told"), [
    ({"bbox": [0, 0, -1, 1]}, "annotation 11 (image 2) has a negative size"),
    ({"bbox": [0, 0, 1]}, "annotation 11 (image 2) has bbox [0, 0, 1]"),
    ({"area": math.nan}, "has area nan"),
    ({"area": None}, "has area None"),
    ({"area": -5}, "1 of 2 annotations have a negative area, the first is annotation 11 with -5.0"),
    ({"image_id": 9}, "1 of 2 name image 9, but the file declares 1, 2"),
    ({"category_id": 9}, "1 of 2 name category 9, but the file declares 3, 5"),
])
def test_a_bad_annotation_is_named(tmp_path, change, told):
    first, second = GROUND_TRUTH["annotations"]
    file = write(tmp_path, GROUND_TRUTH | {"annotations": [first, second | change]})
    message = message_of(read_ground_truth, file)
    assert message.startswith(f"{file}: ") and told in message


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_a_ground_truth_without_a_list_is_refused(tmp_path, key):
    lacking = {name: value for name, value in GROUND_TRUTH.items() if name != key}
    assert f"has no list '{key}'" in message_of(read_ground_truth, write(tmp_path, lacking))


def test_ids_and_names_stand_once(tmp_path):
    twice = GROUND_TRUTH | {"images": [{"id": 1}, {"id": 2}, {"id": 2}]}
    assert "image id 2 stands twice" in message_of(read_ground_truth, write(tmp_path, twice))
    twice = GROUND_TRUTH | {"categories": [{"id": 3, "name": "ship"}, {"id": 5, "name": "ship"}]}
    assert "two categories are named 'ship'" in message_of(read_ground_truth, write(tmp_path, twice))


def test_zero_sizes_are_no_error(tmp_path):
    empty = GROUND_TRUTH["annotations"][0] | {"bbox": [3, 3, 0, 0], "area": 0}
    read_ground_truth(write(tmp_path, GROUND_TRUTH | {"annotations": [empty]}))


def random_detections(count):
    rng = np.random.default_rng(0)
    boxes = rng.random((count, 4)) * 10.0 ** rng.integers(-12, 6, (count, 4))
    return DetectionArrays(rng.integers(1, 3, count), rng.choice([3, 5], count), boxes, rng.random(count))


@pytest.mark.parametrize("count", [0, 1, 7, 40_001])
def test_what_is_written_reads_back_to_the_same_bits(tmp_path, count):
    detections = random_detections(count)
    file = tmp_path / "detections.json"
    write_detections(file, detections)
    again = read_detections(file, GROUND_TRUTH)
    for name in ("image_ids", "category_ids", "boxes", "scores"):
        assert np.array_equal(getattr(again, name), getattr(detections, name))
    assert [path.name for path in tmp_path.iterdir()] == ["detections.json"]      # no temporary file is left
    assert evaluate(GROUND_TRUTH, file) == evaluate(GROUND_TRUTH, detections)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    file = tmp_path / "detections.json"
    write_detections(file, random_detections(3))
    before = file.read_bytes()
    bad = random_detections(5)
    bad.scores[3] = np.nan
    assert "detection 3" in message_of(write_detections, file, bad)
    assert file.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_arrays_of_the_wrong_shape_are_refused():
    with pytest.raises(ValueError, match="must be"):
        DetectionArrays([1, 2], [1, 2], [[0, 0, 1, 1]], [0.5, 0.5])
