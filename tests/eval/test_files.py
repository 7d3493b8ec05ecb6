"""Reading: a bad file is refused in one line that names file, culprits and remedy. Writing: nothing is lost."""
import json
import math
import os
import re

import numpy as np
import pytest

from errors import InputError
from eval import stream
from eval.coco import evaluate
from eval.files import (
    DetectionArrays,
    check_detections,
    detection_arrays,
    ground_truth_arrays,
    read_detections,
    read_ground_truth,
    read_ground_truth_arrays,
    write_detections,
)

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


def test_a_byte_order_mark_before_the_text_is_no_part_of_it(tmp_path):
    file = tmp_path / "gt.json"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(GROUND_TRUTH).encode())
    assert read_ground_truth(file) == GROUND_TRUTH
    assert read_ground_truth_arrays(file).image_ids.tolist() == ground_truth_arrays(GROUND_TRUTH).image_ids.tolist()
    file.write_bytes(b"\xef\xbb\xbf?")
    assert "at line 1, column 1" in message_of(read_ground_truth, file)


def test_a_picture_is_not_json(tmp_path):
    (tmp_path / "bad.json").write_bytes(b"\x89PNG\xff\xfe")
    assert "not JSON" in message_of(read_ground_truth, tmp_path / "bad.json")


def test_exchanged_files_are_told_apart(tmp_path):
    assert "exchanged?" in message_of(read_ground_truth, write(tmp_path, [DETECTION]))
    assert "exchanged?" in message_of(read_detections, write(tmp_path, GROUND_TRUTH), GROUND_TRUTH)


@pytest.mark.parametrize(("change", "told"), [
    ({"bbox": [0, 0, 4]}, "has a bbox that is not four finite numbers: number 1 (image 1) with bbox [0, 0, 4]. "),
    ({"bbox": [0, 0, 4, None]}, "four finite numbers"),
    ({"bbox": [0, 0, 4, "4"]}, "four finite numbers"),
    ({"bbox": [0, 0, 4, math.nan]}, "four finite numbers"),
    ({"bbox": [0, 0, math.inf, 4]}, "four finite numbers"),
    ({"bbox": 7}, "four finite numbers"),
    ({"bbox": [0, 0, -4, 4]}, "1 of 2 detections has a negative size: number 1 (image 1) with bbox [0, 0, -4, 4]. "),
    ({"score": math.nan}, "has a score that is not a finite number: number 1 (image 1) with score nan. "),
    ({"score": "0.5"}, "with score '0.5'"),
    ({"score": None}, "with score None"),
    ({"score": [0.5]}, "with score [0.5]"),
    ({"score": 10 ** 400}, "a score that is not a finite number"),
    ({"image_id": "1"}, "has an image_id that is not an integer: number 1 (image '1') with image_id '1'. "),
    ({"image_id": 1.5}, "with image_id 1.5"),
    ({"image_id": 7}, "1 of 2 name image 7, which the ground truth does not list"),
    ({"category_id": 4}, "1 of 2 name category 4; the ground truth declares 3, 5"),
    ({"bbox": [0, -1e10, 4, 4]}, "1 of 2 detections has a bbox with a number beyond 1e9: number 1 (image 1) with bbox [0"),
    ({"bbox": [0, 0, 4, 1e300]}, "with bbox [0.0, 0.0, 4.0, 1e+300]. Boxes are x, y, width, height in pixels of the image."),
])
def test_a_bad_detection_is_named(tmp_path, change, told):
    file = write(tmp_path, [DETECTION, DETECTION | change])
    message = message_of(read_detections, file, GROUND_TRUTH)
    assert message.startswith(f"{file}: ") and told in message


@pytest.mark.parametrize("key", ["image_id", "category_id", "bbox", "score"])
def test_a_missing_key_of_a_detection_is_named(tmp_path, key):
    lacking = {name: value for name, value in DETECTION.items() if name != key}
    message = message_of(read_detections, write(tmp_path, [DETECTION, lacking]), GROUND_TRUTH)
    assert f"1 of 2 detections has no '{key}': number 1{'' if key == 'image_id' else ' (image 1)'}. Add it." in message


def test_a_detection_that_is_no_object_is_named(tmp_path):
    message = message_of(read_detections, write(tmp_path, [DETECTION, 3]), GROUND_TRUTH)
    assert "1 of 2 detections has the wrong type: number 1 with 3. Each is an object with image_id, category_id, " in message


BAD = [{"bbox": [0, 0, -4, 4], "image_id": 2}, {"score": math.nan}, {"bbox": [0, 0, 4]}]


@pytest.mark.parametrize("chunk", [64, 500, 1 << 19])
def test_of_many_bad_detections_the_first_are_named_and_all_are_counted(tmp_path, monkeypatch, chunk):
    """In a file that is read in blocks as in a list; what is wrong in other ways is counted too."""
    monkeypatch.setattr(stream, "CHUNK", chunk)
    records = [dict(DETECTION) for _ in range(3000)]
    for place in range(30, 3000, 270):                          # 30, 300, 570, ...: eleven
        records[place] |= BAD[0]
    for place in (1000, 2000, 2999):
        records[place] |= BAD[1]
    records[2500] |= BAD[2] | BAD[1]
    file = write(tmp_path, records)
    for message in (message_of(read_detections, file, GROUND_TRUTH), message_of(detection_arrays, records, str(file))):
        assert message == (
            f"{file}: 11 of 3000 detections have a negative size: number 30 (image 2) with bbox [0, 0, -4, 4], number 300 "
            "(image 2), number 570 (image 2), number 840 (image 2), number 1110 (image 2) and 6 more. Boxes are x, y, width, "
            "height; clip or remove them. Besides, 4 have a score that is not a finite number, 1 has a bbox that is not "
            "four finite numbers.")


def test_of_many_bad_arrays_the_first_are_named_and_all_are_counted():
    found = random_detections(20)
    found.scores[3:11] = np.nan
    found.boxes[7, 2] = -1
    found.boxes[9, 0] = np.inf
    found.image_ids[:] = 2
    message = message_of(check_detections, found, ground_truth_arrays(GROUND_TRUTH))
    assert message.startswith("detections: 1 of 20 detections has a bbox that is not four finite numbers: number 9 (image 2) ")
    assert message.endswith("Besides, 8 have a score that is not a finite number, 1 has a negative size.")
    found.boxes[9, 0] = 0
    assert ("8 of 20 detections have a score that is not a finite number: number 3 (image 2) with score nan, number 4 "
            "(image 2), number 5 (image 2), number 6 (image 2), number 7 (image 2) and 3 more. "
            ) in message_of(evaluate, GROUND_TRUTH, found)


def test_a_file_full_of_bad_detections_is_not_read_to_its_end(tmp_path):
    """A diverged model writes NaN millions of times, and to count them all would take minutes."""
    message = message_of(read_detections, write(tmp_path, [DETECTION | BAD[1]] * 20_000), GROUND_TRUTH)
    count, total = re.search(r"(\d+) of the first (\d+) detections have a score", message).groups()
    assert 1000 <= int(count) == int(total) < 4000


@pytest.mark.parametrize(("change", "told"), [
    ({"bbox": [0, 0, -1, 1]}, "1 of 2 annotations has a negative size: id 11 (image 2) with bbox [0, 0, -1, 1]. "),
    ({"bbox": [0, 0, 1]}, "id 11 (image 2) with bbox [0, 0, 1]"),
    ({"area": math.nan}, "an area that is not a finite number: id 11 (image 2) with area nan. Give square pixels, or leave"),
    ({"area": math.inf}, "with area inf"),
    ({"area": "16"}, "with area '16'"),
    ({"area": 1.1e9}, "1 of 2 annotations has an area beyond 1e9: id 11 (image 2) with area 1100000000.0. Give square pixels"),
    ({"bbox": [0, 0, 1e5, 1e5]}, "has an area beyond 1e9: id 11 (image 2) with area 10000000000.0. Give square pixels"),
    ({"bbox": [-1.1e9, 0, 5, 5]}, "1 of 2 annotations has a bbox with a number beyond 1e9: id 11 (image 2) with bbox [-11000"),
    ({"bbox": [0, 0, 1e200, 1e200]}, "a bbox with a number beyond 1e9: id 11 (image 2) with bbox [0.0, 0.0, 1e+200, 1e+200]. "),
    ({"iscrowd": "0"}, "1 of 2 annotations has an iscrowd that is not a number or a truth value: id 11 (image 2) with i"),
    ({"iscrowd": "false"}, "with iscrowd 'false'. Give 0 or 1, without quotes."),
    ({"iscrowd": ""}, "with iscrowd ''"),
    ({"iscrowd": []}, "with iscrowd []"),
    ({"iscrowd": math.nan}, "with iscrowd nan"),
    ({"difficult": "0"}, "has a difficult that is not a number or a truth value: id 11 (image 2) with difficult '0'"),
    ({"area": None}, "with area None"),
    ({"area": -5}, "1 of 2 annotations has a negative area: id 11 (image 2) with area -5.0. Give square pixels"),
    ({"id": "x"}, "1 of 2 annotations has an id that is not an integer: number 1 (image 2) with id 'x'. "),
    ({"image_id": 9}, "1 of 2 name image 9, but the file declares 1, 2"),
    ({"category_id": 9}, "1 of 2 name category 9, but the file declares 3, 5"),
])
def test_a_bad_annotation_is_named(tmp_path, change, told):
    first, second = GROUND_TRUTH["annotations"]
    file = write(tmp_path, GROUND_TRUTH | {"annotations": [first, second | change]})
    message = message_of(read_ground_truth, file)
    assert message.startswith(f"{file}: ") and told in message


@pytest.mark.parametrize("read", [read_ground_truth_arrays, ground_truth_arrays])
def test_marks_are_truth_values_numbers_or_null(tmp_path, read):
    """The same from a file as from a dict, and as Python takes them."""
    values = [0, 1, True, False, None, 0.0, 1.0, 0.5, 2]
    for chosen in (values, values[:5], [0, 1]):
        annotations = [{"id": k, "image_id": 1, "category_id": 3, "bbox": [0, 0, 4, 4], "iscrowd": value, "difficult": value}
                       for k, value in enumerate(chosen)]
        truth = GROUND_TRUTH | {"annotations": annotations}
        found = read(write(tmp_path, truth) if read is read_ground_truth_arrays else truth)
        assert found.crowd.tolist() == found.difficult.tolist() == [bool(value) for value in chosen]


def test_numbers_of_exactly_1e9_are_taken():
    box = {"bbox": [-1e9, 1e9, 1e9, 1], "area": 1e9}
    truth = ground_truth_arrays(GROUND_TRUTH | {"annotations": [GROUND_TRUTH["annotations"][0] | box]})
    assert truth.area.tolist() == [1e9]
    check_detections(DetectionArrays([1], [3], [box["bbox"]], [0.5]), truth)


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_a_ground_truth_without_a_list_is_refused(tmp_path, key):
    lacking = {name: value for name, value in GROUND_TRUTH.items() if name != key}
    assert f"has no list '{key}'" in message_of(read_ground_truth, write(tmp_path, lacking))


def test_ids_and_names_stand_once(tmp_path):
    twice = GROUND_TRUTH | {"images": [{"id": number} for number in (1, 2, 2, 3, 3, 3)]}
    assert "more than one image has id 2, 3. " in message_of(read_ground_truth, write(tmp_path, twice))
    twice = GROUND_TRUTH | {"categories": [{"id": 3, "name": "ship"}, {"id": 5, "name": "ship"}]}
    assert "more than one category is named 'ship'. " in message_of(read_ground_truth, write(tmp_path, twice))
    annotation = GROUND_TRUTH["annotations"][0]
    twice = GROUND_TRUTH | {"annotations": [annotation | {"id": k // 2} for k in range(15)]}
    assert "more than one annotation has id 0, 1, 2, 3, 4 and 2 more. " in message_of(read_ground_truth, write(tmp_path, twice))


def test_an_id_that_is_the_place_of_an_annotation_without_one_is_no_clash():
    annotation = {key: value for key, value in GROUND_TRUTH["annotations"][0].items() if key != "id"}
    truth = ground_truth_arrays(GROUND_TRUTH | {"annotations": [annotation | {"id": 2}, annotation]})
    assert truth.annotation_ids.tolist() == [2, 2]


@pytest.mark.parametrize("read", [read_ground_truth, read_ground_truth_arrays])
def test_a_name_that_cannot_be_written_down_is_refused(tmp_path, read):
    """Half of a character is valid JSON, and no UTF-8: printing, drawing and writing a name with it would fail later."""
    named = GROUND_TRUTH | {"categories": [{"id": 3, "name": "ship \ud800"}, {"id": 5, "name": "\U0001f6f0 vehicle"}]}
    message = message_of(read, write(tmp_path, named))
    assert "1 of 2 categories has a name with half a character in it " in message
    assert "id 3 with name 'ship \\ud800'. " in message
    message.encode()


@pytest.mark.parametrize(("name", "told"), [
    ("", "has an empty name: id 3 with name ''. "), (" \t", "has an empty name: id 3 with name ' \\t'. "),
    ("ship\nb", "has a name with a line break or a control character in it: id 3 with name 'ship\\nb'. Write the name anew"),
    ("ship\r", "with name 'ship\\r'. "), ("a\x1b[2J", "with name 'a\\x1b[2J'. "), ("a\u2028b", "with name 'a\\u2028b'. ")])
def test_a_name_that_does_not_fit_a_line_is_refused(tmp_path, name, told):
    categories = [{"id": 3, "name": name}, {"id": 5, "name": "d\u00e9p\u00f4t \u8239 | <b>"}]
    message = message_of(read_ground_truth, write(tmp_path, GROUND_TRUTH | {"categories": categories}))
    assert "1 of 2 categories has " in message and told in message


def test_a_class_without_a_name_is_called_by_its_id():
    truth = ground_truth_arrays(GROUND_TRUTH | {"categories": [{"id": 5, "name": None}, {"id": 3}]})
    assert truth.category_names == ["3", "5"]


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


def test_what_a_kill_leaves_is_hidden_and_named_after_the_process(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.extend(path.name for path in tmp_path.iterdir()))
    write_detections(tmp_path / "detections.json", random_detections(3))
    assert seen == [f".detections.json.{os.getpid()}.tmp"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    file = tmp_path / "detections.json"
    write_detections(file, random_detections(3))
    before = file.read_bytes()
    bad = random_detections(5)
    bad.scores[3] = np.nan
    assert "1 of 5 detections has a score that is not a finite number: number 3 " in message_of(write_detections, file, bad)
    assert file.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_arrays_of_the_wrong_shape_are_refused():
    with pytest.raises(ValueError, match="must be"):
        DetectionArrays([1, 2], [1, 2], [[0, 0, 1, 1]], [0.5, 0.5])
