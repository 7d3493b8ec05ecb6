"""Files that are not quite what they should be: read as they are where that is certain, else named for what they are."""
import codecs
import gzip
import json
import os
import threading

import numpy as np
import pytest

from errors import InputError
from eval import stream
from eval.files import (
    DetectionArrays,
    ground_truth_arrays,
    read_detections,
    read_ground_truth,
    read_ground_truth_arrays,
    write_detections,
)

TRUTH = {"images": [{"id": 1}, {"id": 2}], "categories": [{"id": 3, "name": "ship"}],
         "annotations": [{"id": 9, "image_id": 1, "category_id": 3, "bbox": [0, 0, 4, 4], "area": 16, "iscrowd": 0}]}
FOUND = [{"image_id": k % 2 + 1, "category_id": 3, "bbox": [k, 0.5, 4, 4], "score": k / 100} for k in range(100)]


def told_of(folder, content):
    """What read_detections says of a file: one line, after the name of the file."""
    file = folder / "dt.json"
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(InputError) as caught:
        read_detections(file, TRUTH)
    message = str(caught.value)
    assert message.startswith(f"{file}: ") and "\n" not in message and message.endswith((".", "?"))
    return message.removeprefix(f"{file}: ")


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, lambda text: gzip.compress(text[:700]) + gzip.compress(text[700:])])
@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_gzip_and_a_byte_order_mark_make_no_difference(tmp_path, mark, pack, name):
    file = tmp_path / name
    file.write_bytes(pack(mark + json.dumps(FOUND).encode()))
    found = read_detections(file, TRUTH)
    assert found.scores.tolist() == [d["score"] for d in FOUND] and found.boxes[99].tolist() == [99, 0.5, 4, 4]
    file.write_bytes(pack(mark + json.dumps(TRUTH).encode()))
    assert read_ground_truth(file) == TRUTH
    assert read_ground_truth_arrays(file).boxes.tolist() == [[0, 0, 4, 4]]


def test_a_pipe_of_gzip_can_be_read(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=[gzip.compress(json.dumps(FOUND).encode())], daemon=True)
    writer.start()
    assert len(read_detections(pipe, TRUTH)) == 100
    writer.join()


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_a_slip_is_named_by_the_place_that_an_editor_shows(tmp_path, mark):
    slip = mark + b'[{"image_id": 1,\n "category_id" 3}]'
    for text in (slip, gzip.compress(slip)):
        assert told_of(tmp_path, text).startswith("not JSON: Expecting ':' delimiter at line 2, column 16. ")


def test_the_progress_of_a_compressed_file_is_that_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "PROGRESS", 0)
    bars = []

    class Bar:
        disable, n = False, 0

        def __init__(self, total, **_):
            self.total = total
            bars.append(self)

        def update(self, count):
            self.n += count

        def close(self):
            pass

    monkeypatch.setattr(stream, "tqdm", Bar)
    write_detections(tmp_path / "dt.json", DetectionArrays(*(np.ones((30_000, *shape)) for shape in ((), (), (4,), ()))))
    text = (tmp_path / "dt.json").read_bytes()
    for packed in (text, gzip.compress(text)):
        (tmp_path / "dt.json").write_bytes(packed)
        truth = {**TRUTH, "categories": [{"id": 1}], "annotations": []}
        assert len(read_detections(tmp_path / "dt.json", truth)) == 30_000
        assert bars[-1].n == bars[-1].total == len(packed)


def test_a_damaged_gzip_file_is_no_traceback(tmp_path):
    whole = gzip.compress(np.random.default_rng(0).bytes(5000).hex().encode())
    middle = bytearray(gzip.compress(json.dumps(FOUND).encode()))
    middle[-6] ^= 255                                       # the checksum
    for damaged in (whole[:3], whole[:9], whole[:2000], bytes(middle)):
        assert told_of(tmp_path, damaged).startswith("a gzip file that is damaged or was cut off (")


@pytest.mark.parametrize(("encoding", "name"), [
    ("utf-16", "UTF-16"), ("utf-16-le", "UTF-16LE"), ("utf-16-be", "UTF-16BE"), ("utf-32", "UTF-32")])
def test_utf_16_is_named_and_the_way_to_utf_8(tmp_path, encoding, name):
    message = told_of(tmp_path, json.dumps(FOUND).encode(encoding))
    assert message == (f"is {name} text, but JSON files are UTF-8. Write it again as UTF-8, or convert it by "
                       f"'iconv -f {name} -t UTF-8'.")


def test_what_is_no_text_at_all_is_not_taken_for_another_encoding(tmp_path):
    for start in (b"\x89PNG\r\n", b"\0\0\0\x18ftyp", b"\xff\xd8\xff\xe0", b"PK\x03\x04"):
        assert told_of(tmp_path, start + b"\xff\xfe" * 9).startswith("not JSON: ")


@pytest.mark.parametrize(("content", "key"), [
    ({"annotations": FOUND}, "annotations"), ({"predictions": FOUND}, "predictions"),
    ({"info": {"by": [1]}, "annotations": [{"image_id": 1, "confidence": 0.5}]}, "annotations")])
def test_detections_inside_an_object_are_pointed_at(tmp_path, content, key):
    assert told_of(tmp_path, content) == (f"holds a JSON object with the detections below '{key}', but detections are a plain "
                                          f"list. Write that list alone, as 'jq .{key}' does.")


def test_a_data_set_of_predictions_has_ids_of_its_own_and_its_list_is_not_advised(tmp_path):
    """predict.py numbers images and classes from 1 on, so that the list alone would be scored against other images."""
    content = {"images": TRUTH["images"], "categories": TRUTH["categories"], "annotations": FOUND}
    assert told_of(tmp_path, content) == (
        "holds images, and annotations with scores, as predict.py writes them; their ids are its own, not the ground truth's. "
        "Take the detections.json of test.py, which has --tile too.")


@pytest.mark.parametrize("content", [TRUTH, {**TRUTH, "annotations": []}, {}, {"annotations": [3]}, {"a": {"b": 1}}])
def test_ground_truth_in_the_place_of_detections_is_called_an_exchange(tmp_path, content):
    message = told_of(tmp_path, content)
    assert message.startswith("holds an object, but detections are a JSON list ")
    assert message.endswith("Were ground truth and detections exchanged?")


@pytest.mark.parametrize(("text", "kind"), [
    ("null", "null"), ("1", "a number"), ("1.5", "a number"), ('"a"', "a text"), ("true", "a truth value")])
def test_a_single_value_is_called_as_json_calls_it(tmp_path, text, kind):
    assert told_of(tmp_path, text.encode()).startswith(f"holds {kind}, but detections are a JSON list ")
    with pytest.raises(InputError, match=f"holds {kind}, but ground truth is a JSON object "):
        read_ground_truth_arrays(tmp_path / "dt.json")


@pytest.mark.parametrize("count", [1, 2, 100])
def test_one_object_per_line_is_named(tmp_path, count):
    lines = "\n".join(map(json.dumps, FOUND[:count])).encode()
    assert told_of(tmp_path, lines) == ("holds one JSON object per line, but detections are a JSON list. Wrap them in a list, "
                                        "with commas between them, as 'jq -s .' does.")
    if count > 1:
        with pytest.raises(InputError, match="one JSON object after the other, but ground truth is a single one"):
            read_ground_truth_arrays(tmp_path / "dt.json")


def test_texts_for_ids_are_told_from_the_numbers_of_the_other_file(tmp_path):
    for key, value in (("image_id", "1"), ("image_id", "P0001"), ("category_id", "ship")):
        message = told_of(tmp_path, [*FOUND, {**FOUND[0], key: value}])
        assert message.startswith("1 of 101 detections has a") and f"{key} that is not an integer: number 100 " in message
        assert message.endswith(f"with {key} '{value}'. These ids are texts, the ground truth's are whole numbers: write 7 for "
                                "'7', and for a name the id that the ground truth gives it.")
    for truth in ({**TRUTH, "images": [{"id": "1"}, {"id": "2"}]}, {**TRUTH, "categories": [{"id": "3"}]},
                  {**TRUTH, "annotations": [{**TRUTH["annotations"][0], "image_id": "1"}]}):
        with pytest.raises(InputError) as caught:
            ground_truth_arrays(truth)
        assert str(caught.value).endswith(". These ids are texts, those of COCO detections are whole numbers: number them, "
                                          "in ground truth and detections alike.")


@pytest.mark.parametrize("known_as", ["confidence", "conf", "scores"])
def test_another_name_of_the_score_is_pointed_at(tmp_path, known_as):
    records = [{**{key: d[key] for key in ("image_id", "category_id", "bbox")}, known_as: d["score"]} for d in FOUND]
    message = told_of(tmp_path, records)
    assert message.startswith("100 of 100 detections have no 'score': number 0 (image 1), ")
    assert message.endswith(f"and 95 more. Rename '{known_as}' to 'score'.")
    assert told_of(tmp_path, records[:1]).startswith("1 of 1 detection has no 'score': ")
