"""Charts: what is drawn stands where the figures say, and nothing at all can be drawn too."""
import numpy as np
import pytest

from engine import charts
from engine.charts import FIGURE, FOUND, confusion, draw_charts, precision_recall
from engine.sheet import Sheet
from eval.coco import AITOD, IOU_THRESHOLDS, RECALL_POINTS, Curves
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
                                      ["a class with a long name"] * classes, AITOD))
    assert (picture[:, -8:] == 255).all() and (picture[-4:] == 255).all()       # nothing touches the border


@pytest.fixture
def written(monkeypatch):
    """Every text that is put on a sheet."""
    texts = []
    original = Sheet.text
    monkeypatch.setattr(Sheet, "text", lambda self, text, *a, **k: texts.append(text) or original(self, text, *a, **k))
    return texts


def test_of_a_thousand_classes_those_that_are_confused_are_drawn(written):
    """Class k has k objects, all found; only 7 and 901 are taken for each other. So 7, 901 and the 98 with most objects."""
    counts = np.zeros((1001, 1001), np.int64)
    np.fill_diagonal(counts, np.arange(1001))
    counts[7, 901], counts[901, 7], counts[1000, 1000] = 1, 2, 0
    picture = confusion(Diagnosis(counts, np.ones(3), np.ones(3, bool), [f"class {k}" for k in range(1000)], 0.25))
    assert max(picture.shape) < 3000
    expected = [f"class {k}" for k in (7, *range(901, 1000))]
    assert [text for text in written[::2] if text.startswith("class")] == expected
    assert any(text.endswith("Of 1,000 classes only the 100 that are confused most are drawn.") for text in written)


def test_of_a_thousand_curves_the_best_and_the_worst_are_drawn(written):
    precision = np.tile(np.linspace(0, 1, 1000)[:, None, None], (10, 101, 1, 5, 3))
    picture = precision_recall(Curves(precision, np.ones((10, 1000, 5, 3)), [f"class {k}" for k in range(1000)], AITOD))
    assert max(picture.shape) < 3000
    assert [text for text in written if text.startswith("class")] == [
        f"class {k}" for k in (*range(999, 949, -1), *range(49, -1, -1))]
    assert any(text.endswith("Of 1,000 classes only the 50 best and the 50 worst are drawn.") for text in written)
    assert {"50.0"} <= set(written)                                     # the mean is of all classes


def test_a_curve_runs_through_its_values():
    """Precision 0.5 up to recall 0.6, one class: the line of the mean at half the height, and none after 0.6."""
    precision = np.zeros((len(IOU_THRESHOLDS), len(RECALL_POINTS), 1, 5, 3))
    precision[:, :61] = 0.5
    picture = precision_recall(Curves(precision, np.full((10, 1, 5, 3), 0.6), ["ship"], AITOD))
    side, left, top = 380, 70, 90
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
    top, height = 128, 340
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
