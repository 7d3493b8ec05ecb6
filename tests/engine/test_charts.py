"""Charts: what is drawn stands where the figures say, and nothing at all can be drawn too."""
import numpy as np
import pytest

from engine import charts, sheet
from engine.charts import FIGURE, FOUND, confusion, draw_charts, precision_recall
from engine.drawing import legend
from engine.sheet import Sheet, drawable_names, text_width
from engine.size_chart import sizes
from eval.coco import AITOD, COCO, IOU_THRESHOLDS, RECALL_POINTS, Curves, customized
from eval.diagnosis import Diagnosis
from eval.files import detection_arrays
from eval.scoring import PROTOCOLS, score


def truth(count, classes=2):
    return {"images": [{"id": 1}], "categories": [{"id": k + 1, "name": f"class {k}"} for k in range(classes)],
            "annotations": [{"id": k + 1, "image_id": 1, "category_id": k % classes + 1, "bbox": [30 * k, 0, 10, 10],
                             "area": 100} for k in range(count)]}


def is_colour(picture, colour):
    """(H, W) bool, to rounding."""
    return (np.abs(picture.astype(int) - colour) <= 3).all(2)


@pytest.mark.parametrize("protocol", ["aitod", "coco", "voc"])
@pytest.mark.parametrize(("objects", "detections"), [(0, 0), (0, 3), (3, 0), (40, 40)])
def test_every_case_is_drawn(protocol, objects, detections):
    found = detection_arrays([{"image_id": 1, "category_id": 1, "bbox": [30 * k, 0, 10, 10], "score": 0.5}
                              for k in range(detections)])
    pictures = draw_charts(score(truth(objects), found, PROTOCOLS[protocol]))
    assert set(pictures) == {"precision_recall", "sizes", "confusion"}
    for picture in pictures.values():
        assert picture.dtype == np.uint8 and picture.shape[2] == 3 and picture.mean() < 255


@pytest.mark.parametrize("classes", [1, 8, 20, 90])
def test_any_number_of_classes_has_room(classes):
    picture = precision_recall(Curves(np.full((10, 101, classes, 5, 3), 0.5), np.full((10, classes, 5, 3), 0.5),
                                      [f"a class with a long name {k}" for k in range(classes)], AITOD))
    assert (picture[:, -8:] == 255).all() and (picture[-4:] == 255).all()       # nothing touches the border


@pytest.fixture
def placed(monkeypatch):
    """Every text that is put on a sheet and its rectangle: (text, x1, y1, x2, y2), the height that of capitals."""
    texts = []
    original = Sheet.text

    def text(self, text, x, y, size=12, colour=(0, 0, 0), align="left", bold=False, upward=False):
        width, half = text_width(text, size, bold), 0.37 * size
        start = {"left": 0, "centre": -width / 2, "right": -width}[align]
        along, across = (x + start, x + start + width), (y - half, y + half)
        if upward:
            along, across = (x - half, x + half), (y - start - width, y - start)
        texts.append((text, along[0], across[0], along[1], across[1]))
        original(self, text, x, y, size, colour, align, bold, upward)

    monkeypatch.setattr(Sheet, "text", text)
    return texts


def texts_of(placed):
    return [text for text, *_ in placed]


def curves_of(protocol, classes=1):
    shape = 10, 101, classes, len(protocol.area_ranges), len(protocol.max_dets)
    return Curves(np.full(shape, 0.5), np.full((10, *shape[2:]), 0.5), [f"class {k}" for k in range(classes)], protocol)


def diagnosis_of(area, confusion=((1, 0), (0, 0)), names=("ship",), used=1, highest=0.9):
    area = np.asarray(area, float)
    return Diagnosis(np.array(confusion), area, np.arange(len(area)) % 2 == 0, list(names), 0.25, used, highest)


NARROW = ("a_range_of_a_long_name:60:70", "another:70:80", "b:80:81", "over:65:400", "apart:1e4:1e5", "small:0:60")


@pytest.mark.parametrize("protocol", [AITOD, COCO, customized(COCO, NARROW)])
@pytest.mark.parametrize("area", [(64, 70), (1, 4e6), (1024, 9216), (75,), ()])
def test_no_two_texts_of_the_picture_of_sizes_overlap(placed, protocol, area):
    """Ranges from a hair to the whole width, some on top of others."""
    picture = sizes(diagnosis_of(np.repeat(area, 400_000)), curves_of(protocol))
    assert all(x1 >= 0 and y1 >= 0 and x2 <= picture.shape[1] and y2 <= picture.shape[0] for _, x1, y1, x2, y2 in placed)
    for k, (one, *a) in enumerate(placed):
        for other, *b in placed[k + 1 :]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (one, other)


def test_the_bounds_of_ranges_stand_at_the_axis_and_in_the_table(placed):
    """COCO's 96 px is no power of two; 500 square pixels are a square of 22.4 px; no object is as large as 96."""
    sizes(diagnosis_of((100, 90_000)), curves_of(COCO))
    assert {"32", "96", "up to 32 px", "32 to 96 px", "from 96 px on"} <= set(texts_of(placed))
    placed.clear()
    sizes(diagnosis_of((100, 2000)), curves_of(customized(COCO, ("low:0:500", "large:9216:1e10"))))
    assert {"22.4", "up to 22.4 px", "from 96 px on"} <= set(texts_of(placed)) and "96" not in texts_of(placed)


def test_an_object_on_the_bound_of_a_range_is_counted_by_its_area(placed):
    """In floats sqrt(500) squared is not 500. The rows: all, then 0..500, then 500 and larger."""
    assert np.sqrt(500.0) ** 2 != 500
    sizes(diagnosis_of((500.0, 500.0, 9.0)), curves_of(customized(COCO, ("low:0:500", "high:500:1e10"))))
    texts = texts_of(placed)
    for name, objects, share in (("all sizes", "3", "100%"), ("low", "3", "100%"), ("high", "2", "67%")):
        row = len(texts) - 1 - texts[::-1].index(name)
        assert texts[row + 2 : row + 4] == [objects, share]


def test_pictures_say_when_no_detection_is_strong_enough(placed):
    """0.2 at most: below 0.25. And when there are none at all."""
    for score_, words in ((0.2, "No detection scores 0.25 or more (the highest 0.2)"), (None, "There are no detections."),
                          (0.5, None)):
        boxes = [] if score_ is None else [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "score": score_}]
        placed.clear()
        draw_charts(score(truth(2), detection_arrays(boxes), AITOD))
        said = [text for text in texts_of(placed) if text.startswith(("No detection", "There are no"))]
        assert len(said) == (2 if words else 0) and all(text.startswith(words) for text in said)      # sizes and confusion


def test_pictures_name_the_protocol_and_its_limit(placed):
    draw_charts(score(truth(2), detection_arrays([]), PROTOCOLS["voc"]))
    notes = [text for text in texts_of(placed) if text.startswith("Protocol")]
    assert len(notes) == 2 and all("voc" in note and "at most 100 detections" in note and "difficult" in note for note in notes)


def test_names_that_strokes_cannot_draw_become_numbers(monkeypatch, placed):
    names = ["\u98de\u673a", "avi\u00f3n", "ship", "", "two\nlines", "twin", "tw\u00edn", "x" * 90]
    monkeypatch.setattr(sheet, "HAS_OUTLINES", False)                               # OpenCV 4
    assert drawable_names(names) == ["class 1", "avion", "ship", "class 4", "two lines", "class 6", "class 7", "x" * 37 + "..."]
    confusion(diagnosis_of((), np.eye(9, dtype=int), names))
    assert {"class 1", "Class names that cannot be drawn are numbers here, in the order of the category ids."} <= set(
        texts_of(placed))
    assert (legend([0], names, 200) == legend([0], ["class 1"], 200)).all()
    monkeypatch.setattr(sheet, "HAS_OUTLINES", True)
    assert drawable_names(names[:3]) == names[:3]


def test_of_a_thousand_classes_those_that_are_confused_are_drawn(placed):
    """Class k has k objects, all found; only 7 and 901 are taken for each other. So 7, 901 and the 98 with most objects."""
    counts = np.zeros((1001, 1001), np.int64)
    np.fill_diagonal(counts, np.arange(1001))
    counts[7, 901], counts[901, 7], counts[1000, 1000] = 1, 2, 0
    picture = confusion(diagnosis_of((), counts, [f"class {k}" for k in range(1000)]))
    assert max(picture.shape) < 3000
    expected = [f"class {k}" for k in (7, *range(901, 1000))]
    assert [text for text in texts_of(placed) if text.startswith("class")][::2] == expected
    assert "Of 1,000 classes only the 100 that are confused most are drawn." in texts_of(placed)


@pytest.mark.parametrize(("classes", "has_counts"), [(25, True), (26, False)])
def test_counts_stand_in_the_cells_of_up_to_25_classes(placed, classes, has_counts):
    confusion(diagnosis_of((), np.full((classes + 1, classes + 1), 123), [f"class {k}" for k in range(classes)]))
    assert ("123" in texts_of(placed)) == has_counts


def test_a_cell_has_the_colour_of_the_share_that_tells_of_trouble(monkeypatch):
    """90 of 100 ships are found, 10 are called buoys, of which there are 10, all found: half the buoys that are seen are ships.

    Shares by hand. Ship found: 90 of 100 objects, 90 of 90 predictions. Ship as buoy: 10 of 100, 10 of 20, as false alarms are
    none. Buoy found: 10 of 10, 10 of 20.
    """
    weights = {}
    monkeypatch.setattr(charts, "_blend", lambda tint, weight: weights.setdefault((tint, float(weight)), (1, 2, 3)))
    confusion(diagnosis_of((), [[90, 10, 0], [0, 10, 0], [0, 0, 0]], ("ship", "buoy")))
    assert {weight for tint, weight in weights if tint == FOUND} == {0.9, 0.5}
    assert {weight for tint, weight in weights if tint == FIGURE} == {0.5, 0.0}


def test_of_a_thousand_curves_the_best_and_the_worst_have_names(placed, monkeypatch):
    lines = []
    original = Sheet.lines
    monkeypatch.setattr(Sheet, "lines", lambda self, points, colour=(0, 0, 0), *a: (lines.append(colour),
                                                                                   original(self, points, colour, *a)))
    precision = np.tile(np.linspace(0.1, 1, 1000)[:, None, None], (10, 101, 1, 5, 3))
    picture = precision_recall(Curves(precision, np.ones((10, 1000, 5, 3)), [f"class {k}" for k in range(1000)], AITOD))
    assert max(picture.shape) < 3000
    assert [text for text in texts_of(placed) if text.startswith("class")] == [
        f"class {k}" for k in (*range(999, 987, -1), *range(11, -1, -1))]
    assert "Of 1,000 classes the 12 best and the 12 worst have colours; the others are faint." in texts_of(placed)
    assert "55.0" in texts_of(placed)                                   # the mean is of all classes
    assert lines.count(charts.BEYOND) == 2 * 976                        # at both IoUs


def test_no_two_classes_share_colour_and_dashes_up_to_24(monkeypatch):
    drawn = []
    monkeypatch.setattr(Sheet, "lines", lambda self, points, colour=(0, 0, 0), width=1.0, dash=0.0: drawn.append(
        (colour, dash)))
    precision_recall(curves_of(AITOD, 24))
    assert len({style for style in drawn if drawn.count(style) == 3}) == 25     # two curves and the legend; with the mean


def test_a_curve_runs_through_its_values():
    """Precision 0.5 up to recall 0.6, one class: the line of the mean at half the height, and none after 0.6."""
    precision = np.zeros((len(IOU_THRESHOLDS), len(RECALL_POINTS), 1, 5, 3))
    precision[:, :61] = 0.5
    picture = precision_recall(Curves(precision, np.full((10, 1, 5, 3), 0.6), ["ship"], AITOD))
    side, left, top = 380, 70, 112
    dark = (picture[top : top + side - 5, left + 5 : left + side] < 60).all(2)
    rows, columns = np.nonzero(dark)
    assert abs(rows - side / 2).max() <= 3
    assert columns.max() + 5 == pytest.approx(0.6 * side, abs=3)


def test_bars_and_ap_have_the_heights_of_their_figures():
    """40 objects of 10 px, a quarter found: the bar is blue up to a quarter of 40; AP of tiny objects as a line."""
    found = detection_arrays([{"image_id": 1, "category_id": k % 2 + 1, "bbox": [30 * k, 0, 10, 10], "score": 0.5}
                              for k in range(10)])
    scored = score(truth(40), found, PROTOCOLS["aitod"])
    picture = draw_charts(scored)["sizes"]
    top, height = 144, 340
    bar = is_colour(picture[top : top + height], FOUND)
    line = is_colour(picture[top : top + height, 76:876], FIGURE)
    covered = bar.any(1) | (is_colour(picture[top : top + height], FIGURE).sum(1) > 100)
    assert covered.sum() == pytest.approx(height * 10 / 40, abs=4)
    rows = np.nonzero(line.sum(1) > 100)[0]
    assert rows.mean() == pytest.approx(height * (1 - scored.metrics["AP_t"]), abs=3)


def test_text_stands_where_it_is_put():
    sheet = Sheet(200, 100)
    sheet.text("level", 150, 20, align="right")
    sheet.text("upright", 30, 90, upward=True)
    picture = sheet.picture()
    rows, columns = np.nonzero((picture[:, 60:] < 128).all(2))
    assert columns.max() + 60 == pytest.approx(149, abs=2) and rows.mean() == pytest.approx(20, abs=3)
    rows, columns = np.nonzero((picture[:, :60] < 128).all(2))
    assert rows.max() == pytest.approx(89, abs=3) and columns.mean() == pytest.approx(30, abs=3)
    assert np.ptp(rows) > 2 * np.ptp(columns)


def test_short_counts():
    assert [charts._short(n) for n in (7, 9999, 12_345, 306_678, 2_500_000)] == ["7", "9999", "12.3k", "307k", "2.5M"]
