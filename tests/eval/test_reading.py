"""Reading JSON straight into arrays: whatever the text looks like, the same as json.load, or refused where that fails."""
import json
import math
import os
import threading
import tracemalloc

import numpy as np
import pytest

from errors import InputError
from eval import files, stream
from eval.decimals import decimals, eight_digits
from eval.files import DetectionArrays, read_detections, read_ground_truth_arrays, write_detections

TRUTH = {"images": [{"id": n} for n in range(-3, 60)], "categories": [{"id": n, "name": f"c{n}"} for n in range(9)],
         "annotations": []}
STRINGS = [
    "", "a.png", '"image_id": 1, "score": 0.5}, {', "}]", "back\\slash", 'quo"te', "tab\t", "ÄÖ \u2603 \U0001f6f0",
    "\x00", "1.5"]


def plainly(text):
    """What a COCO results text holds, by json and a loop over its records; None when it has to be refused."""
    def number(value):
        if type(value) not in (int, float):
            raise ValueError(value)
        value = float(value)
        if not math.isfinite(value):
            raise ValueError(value)
        return value

    def integer(value):
        if number(value) != int(value):
            raise ValueError(value)
        return int(value)

    rows = []
    try:
        records = json.loads(text)
        if not isinstance(records, list):
            return None
        for record in records:
            x, y, w, h = map(number, record["bbox"] if isinstance(record["bbox"], list) else None)
            if min(w, h) < 0 or max(map(abs, (x, y, w, h))) > 1e9:
                return None
            image, category = integer(record["image_id"]), integer(record["category_id"])
            if not (-3 <= image < 60 and 0 <= category < 9):
                return None
            rows.append((image, category, x, y, w, h, number(record["score"])))
    except (ValueError, TypeError, KeyError, IndexError, OverflowError):
        return None
    return rows


def ours(path, text):
    """The same by read_detections; None when it refuses."""
    path.write_bytes(text.encode())
    try:
        found = read_detections(path, TRUTH)
    except InputError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
        return None
    return list(zip(found.image_ids.tolist(), found.category_ids.tolist(), *found.boxes.T.tolist(), found.scores.tolist(),
                    strict=True))


class Writer:
    """A program that writes detections: each has its own habits of key order, spaces, digits and further keys."""

    def __init__(self, rng):
        self.rng = rng
        self.untidy = rng.choice([0, 0, 0.02, 0.3])          # how often a record breaks the habit
        self.comma, self.colon = rng.choice([", ", ",", " ,\n\t", ",\r\n"]), rng.choice([": ", ":", " : "])
        self.between = rng.choice([", ", ",", ",\n", "\n,\n  "])
        self.ends = [str(end) for end in rng.choice(["[]", "[\n|\n]", " [ | ]  ", "\n[|]\n"]).replace("[]", "[|]").split("|")]
        self.style = int(rng.integers(6))
        self.keys = list(rng.permutation(["image_id", "category_id", "bbox", "score", *self.further()]))

    def further(self):
        names = ["id", "area", "segmentation", "name", "note.1", "iscrowd", "é", "rle"]
        return rng_sample(self.rng, names, int(self.rng.integers(0, 4)))

    def number(self, value):
        style = self.style if self.rng.random() > self.untidy else int(self.rng.integers(9))
        if style in (0, 1):
            return repr(value)
        if style == 2:
            return f"{value:.2f}"
        if style == 3:
            return repr(float(np.float32(value)))
        if style == 4:
            return f"{value:.4e}" if self.rng.random() < 0.3 else f"{value:.5g}"
        if style == 5:
            return str(round(value))
        if style == 6:
            return f"{value:.25f}"
        if style == 7:
            return f"{value:.19E}"
        return f"{value:.17f}"

    def value(self, key):
        rng = self.rng
        if key == "image_id":
            return str(rng.integers(-3, 60)) + (".0" if rng.random() < self.untidy / 4 else "")
        if key == "category_id":
            return str(rng.integers(0, 9)) + ("e0" if rng.random() < self.untidy / 8 else "")
        if key == "score":
            return self.number(float(rng.random() * 10.0 ** -rng.integers(0, 7)))
        if key == "bbox":
            return "[" + self.comma.join(self.number(float(v)) for v in rng.uniform(0, 2000, 4)) + "]"
        if key == "segmentation":
            return json.dumps([rng.integers(0, 9, 8).tolist(), {"deep": [[], {}, None, True, "}"]}])
        if key == "rle":
            return json.dumps({"size": [8, 8], "counts": str(rng.choice(STRINGS))}, ensure_ascii=bool(rng.integers(2)))
        if key in ("id", "area"):
            return str(rng.integers(1, 10 ** 6))
        return json.dumps(str(rng.choice(STRINGS)) if rng.random() < 0.3 else "constant", ensure_ascii=bool(rng.integers(2)))

    def record(self):
        keys = self.keys if self.rng.random() >= self.untidy else list(self.rng.permutation(self.keys))
        return "{" + self.comma.join(f"{json.dumps(str(k))}{self.colon}{self.value(k)}" for k in keys) + "}"

    def text(self, count):
        return self.ends[0] + self.between.join(self.record() for _ in range(count)) + self.ends[1]


def rng_sample(rng, names, count):
    return [names[i] for i in rng.permutation(len(names))[:count]]


@pytest.mark.parametrize("seed", range(300))
def test_reads_what_json_reads_whatever_the_writer(tmp_path, monkeypatch, seed):
    rng = np.random.default_rng(seed)
    if seed % 3:                                             # cuts everywhere
        monkeypatch.setattr(stream, "CHUNK", int(rng.integers(1, 700)))
        monkeypatch.setattr(stream, "PROBE", int(rng.integers(1, 300)))
    text = Writer(rng).text(int(rng.choice([0, 1, 2, 3, 30, 120])))
    expected = plainly(text)
    assert expected is not None
    assert ours(tmp_path / "dt.json", text) == expected


@pytest.mark.parametrize("seed", range(300))
def test_refuses_what_json_refuses_after_any_slip_of_the_pen(tmp_path, seed):
    """One to three characters changed, doubled or left out: accepted with json's values, or refused as json does."""
    rng = np.random.default_rng(1000 + seed)
    writer = Writer(rng)
    writer.untidy = 0                                        # or little of it would be read by its layout
    text = writer.text(12)
    outcomes = set()
    for _ in range(12):
        worse = text
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(len(worse)))
            piece = str(rng.choice(list('0123456789.-+eE,:[]{}" \n') + ["NaN", "-Infinity", "null", "true", "00", "1e999", ""]))
            worse = worse[:at] + piece + worse[at + int(rng.integers(0, 2)):]
        expected = plainly(worse)
        outcomes.add(expected is None)
        assert ours(tmp_path / "dt.json", worse) == expected, worse
    assert True in outcomes


def test_a_regular_file_is_read_by_its_layout(tmp_path, monkeypatch):
    """Else it would all be right, and slow: json sees the first record and the last, and one with another kind of key."""
    seen = []
    original = files.columns
    monkeypatch.setattr(files, "columns", lambda records, *rest: seen.append(len(records)) or original(records, *rest))
    rng = np.random.default_rng(0)
    count = 20_000
    found = DetectionArrays(rng.integers(0, 60, count), rng.integers(0, 9, count),
                            rng.uniform(0, 800, (count, 4)) * 10.0 ** -rng.integers(0, 7, (count, 4)), rng.random(count))
    file = tmp_path / "dt.json"
    write_detections(file, found)
    odd = '{"score": 1, "bbox": [1, 2, 3, 4], "category_id": 1, "image_id": 2}'
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:5000], odd + ",", *lines[5000:]]))
    read = read_detections(file, TRUTH)
    seen = [size for size in seen if size > 0]
    assert len(read) == count + 1 and sum(seen[-4:]) <= 8 and len(seen) <= 6
    kept = np.arange(count + 1) != 4999
    assert (read.boxes[kept] == found.boxes).all() and (read.scores[kept] == found.scores).all()
    assert (read.image_ids[kept] == found.image_ids).all() and (read.category_ids[kept] == found.category_ids).all()


def numerals(rng, count):
    """Decimals that are hard to round: short and long, next to the middle between two doubles, powers of two."""
    for _ in range(count):
        kind = rng.integers(6)
        if kind == 0:
            yield repr(float(rng.random() * 10.0 ** rng.integers(-5, 8)))
        elif kind == 1:
            yield repr(float(np.float32(rng.random() * 10.0 ** rng.integers(-3, 4))))
        elif kind == 2:
            digits = "".join(map(str, rng.integers(0, 10, rng.integers(1, 19))))
            yield f"{int(digits[: rng.integers(1, len(digits) + 1)])}.{digits}"[:19]
        elif kind == 3:                                      # 2^53 + 1, 2^54 + 2, ...: half way between two doubles
            exponent = int(rng.integers(53, 59))
            middle = 2 ** exponent + (2 * int(rng.integers(0, 50)) + 1) * 2 ** (exponent - 53)
            text = str(middle + int(rng.integers(-1, 2)))
            point = int(rng.integers(1, len(text)))
            yield text if rng.random() < 0.5 else f"{text[:point]}.{text[point:]}"
        elif kind == 4:
            yield f"0.{'0' * int(rng.integers(0, 20))}{rng.integers(1, 10 ** int(rng.integers(1, 18)))}"
        else:
            yield f"{2.0 ** int(rng.integers(-30, 50)):.15f}"[:19]


def test_decimals_are_those_of_float_to_the_bit():
    rng = np.random.default_rng(0)
    texts = []
    for text in numerals(rng, 40_000):
        if "e" in text:
            continue
        whole, _, places = text.rstrip(".").partition(".")
        whole = str(int(whole))
        if len(whole) + len(places) <= 18 or (whole == "0" and len(places) <= 22):
            texts.append(f"{whole}.{places}" if places else whole)
    assert len(texts) > 30_000
    joined = np.frombuffer(("," + ",".join(texts)).encode(), np.uint8)
    lengths = np.array([len(text) for text in texts])
    wholes = np.array([len(text.partition(".")[0]) for text in texts])
    places = np.array([len(text.partition(".")[2]) for text in texts])
    end = np.cumsum(lengths + 1)
    values, doubtful = decimals(eight_digits(joined)[0], end - lengths + wholes, wholes, end, places)
    expected = np.array([float(text) for text in texts])
    certain = np.ones(len(texts), bool)
    certain[doubtful] = False
    assert (values[certain] == expected[certain]).all()
    # the middles are doubtful, and little else
    assert 0.02 < (~certain).mean() < 0.1
    easy = np.array([len(text) <= 15 for text in texts])
    assert certain[easy].all()


@pytest.mark.parametrize(("text", "message"), [
    ("[", "Expecting value at line 1, column 2"),
    ("", "Expecting value at line 1, column 1"),
    ('[{"image_id": 1}', "Expecting ',' delimiter at line 1, column 17"),
    ('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1},\n]', "Expecting value at line 2, column 1"),
    ('[] x', "Extra data at line 1, column 4"),
    ('[{"é": "ü", "a" 1}]', "Expecting ':' delimiter at line 1, column 17"),
    ('[{"a": tru}]', "Expecting value at line 1, column 8"),
    ('[{"a": "b}]', "Unterminated string starting at at line 1, column 8"),
])
def test_what_is_not_json_is_named_by_its_place(tmp_path, text, message):
    file = tmp_path / "dt.json"
    file.write_bytes(text.encode())
    with pytest.raises(InputError) as caught:
        read_detections(file, TRUTH)
    assert f"not JSON: {message}. Mend it" in str(caught.value)


def test_a_slip_deep_in_a_regular_file_is_named_by_line_and_column(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "CHUNK", 4096)
    file = tmp_path / "dt.json"
    write_detections(file, DetectionArrays(*(np.ones((3000, *shape)) for shape in ((), (), (4,), ()))))
    lines = file.read_text().splitlines()
    lines[2000] = lines[2000].replace('"score": ', '"score" ')
    file.write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"Expecting ':' delimiter at line 2001, column \d+"):
        read_detections(file, TRUTH)


def test_a_pipe_can_be_read_and_a_slip_in_it_is_still_named_by_its_place(tmp_path):
    """As with test.py --detections <(zcat dt.json.gz)."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    record = '{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1, "name": "é"}'
    for last in (record, record.replace(":", "")):
        text = "[" + "".join(f"{record},\n" for _ in range(20_000)) + last + "]"
        writer = threading.Thread(target=pipe.write_bytes, args=[text.encode()], daemon=True)
        writer.start()
        if last == record:
            assert len(read_detections(pipe, TRUTH)) == 20_001
        else:
            with pytest.raises(InputError, match="Expecting ':' delimiter at line 20001, column 13"):
                read_detections(pipe, TRUTH)
        writer.join()


@pytest.mark.parametrize(("bad", "told"), [
    ('"score": NaN', "with score nan"), ('"score": 1e999', "with score inf"), ('"score": true', "with score True"),
    ('"score": "1"', "with score '1'"), ('"score": [1]', "with score [1]"), ('"scare": 1', "has no 'score'"),
    ('"score": 1, "bbox": [1, 2, -3, 4]', "with bbox [1, 2, -3, 4]"),
    ('"score": 1, "bbox": [1, 2, 3]', "with bbox [1, 2, 3]"), ('"score": 1, "image_id": 1.5', "with image_id 1.5")])
def test_a_bad_record_is_named_alike_by_the_fast_way_and_by_json(tmp_path, monkeypatch, bad, told):
    monkeypatch.setattr(stream, "CHUNK", 4096)
    file = tmp_path / "dt.json"
    write_detections(file, DetectionArrays(*(np.ones((3000, *shape)) for shape in ((), (), (4,), ()))))
    lines = file.read_text().splitlines()
    lines[2000] = lines[2000].replace('"score": 1.0', bad)                   # line 0 is the bracket
    file.write_text("\n".join(lines))
    messages = []
    for call in (lambda: read_detections(file, TRUTH), lambda: files.detection_arrays(json.loads(file.read_text()), str(file))):
        with pytest.raises(InputError) as caught:
            call()
        messages.append(str(caught.value))
    assert messages[0] == messages[1] and told in messages[0]
    assert messages[0].startswith(f"{file}: 1 of 3000 detections has ") and ": number 1999 (image 1" in messages[0]


class TruthWriter(Writer):
    """A program that writes annotations; area, iscrowd and id may be missing in all or some."""

    def __init__(self, rng):
        super().__init__(rng)
        optional = rng_sample(rng, ["area", "iscrowd", "id", "difficult", "segmentation", "name"], int(rng.integers(0, 7)))
        self.keys = list(rng.permutation(["image_id", "category_id", "bbox", *optional]))
        self.ids = iter(rng.permutation(10 ** 4).tolist())

    def value(self, key):
        if key == "id":
            return str(next(self.ids))
        if key in ("iscrowd", "difficult"):
            return str(self.rng.integers(0, 2)) if self.rng.random() > self.untidy else str(self.rng.choice(["true", "false"]))
        return super().value(key)

    def record(self):
        text = super().record()
        for key in ("area", "iscrowd", "id"):
            if self.rng.random() < self.untidy and f'"{key}"' in text:
                record = json.loads(text)
                record.pop(key, None)
                text = json.dumps(record)
        return text


@pytest.mark.parametrize("seed", range(100))
def test_ground_truth_reads_as_its_dict(tmp_path, monkeypatch, seed):
    """In any order of the lists, with anything beside them, equal to the arrays made of json's dict."""
    rng = np.random.default_rng(seed)
    if seed % 3:
        monkeypatch.setattr(stream, "CHUNK", int(rng.integers(1, 700)))
    writer = TruthWriter(rng)
    parts = {
        "info": json.dumps({"annotations": [1, 2], "images": "}]", "url": str(rng.choice(STRINGS))}),
        "images": json.dumps([{"file_name": str(rng.choice(STRINGS)), "id": n, "width": 8} for n in range(-3, 60)]),
        "categories": json.dumps([{"id": n, "name": f"ä {n}", "supercategory": None} for n in range(8, -1, -1)]),
        "annotations": writer.text(int(rng.choice([0, 1, 2, 60]))), "licenses": "[]", "version": "12", "year": "-1.5e3"}
    keys = list(rng.permutation(list(parts)))
    text = "{" + ",".join(f'{writer.ends[0].replace("[", "")}"{key}":{parts[key]}' for key in keys) + "}\n"
    path = tmp_path / "gt.json"
    path.write_bytes(text.encode())
    read, expected = read_ground_truth_arrays(path), files.ground_truth_arrays(json.loads(text))
    for name, value in vars(expected).items():
        assert np.array_equal(getattr(read, name), value), name
    # and by hand what a dict per annotation says; an id that is the place of an annotation without one is no clash
    annotations = json.loads(text)["annotations"]
    assert expected.boxes.tolist() == [[float(v) for v in a["bbox"]] for a in annotations]
    assert expected.area.tolist() == [a.get("area", float(a["bbox"][2]) * float(a["bbox"][3])) for a in annotations]
    assert expected.crowd.tolist() == [bool(a.get("iscrowd")) for a in annotations]
    assert expected.annotation_ids.tolist() == [a.get("id", n) for n, a in enumerate(annotations, 1)]
    assert (expected.image_ids[expected.image_index] == [a["image_id"] for a in annotations]).all()


def test_of_equal_keys_the_last_counts_as_with_json(tmp_path):
    path = tmp_path / "gt.json"
    path.write_text('{"images": [{"id": 1}], "annotations": [], "categories": [], "images": [{"id": 7}, {"id": 5}]}')
    assert read_ground_truth_arrays(path).image_ids.tolist() == [5, 7]
    path.write_text('{"images": [{"id": 1}], "annotations": [], "categories": [], "images": null}')
    with pytest.raises(InputError, match="has no list 'images'"):
        read_ground_truth_arrays(path)


def test_an_integer_keeps_its_64_bits(tmp_path):
    ids = [2 ** 53 + 1, 2 ** 62 + 3, -2 ** 63, 10 ** 17 + 7]
    truth = {"images": [{"id": n} for n in ids], "categories": [{"id": 1}], "annotations": []}
    text = ",\n".join(f'{{"image_id": {n}, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}}' for n in ids * 3)
    (tmp_path / "dt.json").write_text(f"[{text}]")
    assert read_detections(tmp_path / "dt.json", truth).image_ids.tolist() == ids * 3


def test_reading_takes_little_more_memory_than_the_arrays(tmp_path):
    """56 bytes a detection; twice that while the parts are joined, and some megabytes for a chunk."""
    count = 100_000
    rng = np.random.default_rng(0)
    file = tmp_path / "dt.json"
    write_detections(file, DetectionArrays(rng.integers(0, 60, count), rng.integers(0, 9, count),
                                           rng.uniform(0, 800, (count, 4)), rng.random(count)))
    tracemalloc.start()
    try:
        assert len(read_detections(file, TRUTH)) == count
        assert tracemalloc.get_traced_memory()[1] < 2 * 56 * count + 25e6
    finally:
        tracemalloc.stop()
