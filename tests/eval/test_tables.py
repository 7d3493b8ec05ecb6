"""The paper's tables as data, and ours beside them."""
import tomllib

import pytest

from eval.coco import AITOD, COCO, customized
from eval.scoring import VOC
from eval.tables import PAPER, Result, Subject, Table, all_tables, reproduction, unlike_paper
from eval.wording import bounds, row_name

DATA = tomllib.loads(PAPER.read_text(encoding="utf-8"))
AITOD_KEYS = ("AP", "AP50", "AP75", "AP_vt", "AP_t", "AP_s", "AP_m", "AR1")


def metrics_of(classes, keys, value=0.25):
    return {**dict.fromkeys(keys, value), "per_class": {name: dict.fromkeys(keys, value + k / 100)
                                                        for k, name in enumerate(classes)}}


def column(name, key):
    return [row[DATA[name]["columns"].index(key)] for row in DATA[name]["rows"]]


def test_the_tables_are_whole():
    assert [len(DATA[name]["rows"]) for name in ("aitod", "dior", "ablation")] == [23, 15, 8]
    for name in ("aitod", "dior", "ablation"):
        assert {len(row) for row in DATA[name]["rows"]} == {len(DATA[name]["columns"])}
    assert len(DATA["aitod"]["classes"]) == 8 and len(DATA["dior"]["classes"]) == 20


def test_table_1_agrees_with_the_paper_s_own_differences():
    """Its last row, ours against the best of the others, and the text: our gains over the baseline."""
    keys = DATA["aitod"]["columns"][3:]
    best = [max(v for v in column("aitod", k)[:-1] if v != "-") for k in keys]
    ours, base = (next(r for r in DATA["aitod"]["rows"] if r[0].startswith(n))[3:] for n in ("RS-TinyNet", "YOLOv11m"))
    assert [a - b for a, b in zip(ours, best, strict=True)] == pytest.approx([4.0, 1.5, 6.5, 2.1, 4.2, 3.7, 1.8])
    assert [a - b for a, b in zip(ours, base, strict=True)] == pytest.approx([6.3, 7.3, 8.4, 5.3, 8.0, 3.7, 1.8])


def test_table_2_agrees_with_its_own_means_and_text_but_for_detr_and_one_class():
    wrong = {row[0] for row in DATA["dior"]["rows"] if abs(sum(row[1:-1]) / 20 - row[-1]) > 0.1}
    assert wrong == {"DETR [56]"}
    best = [c for c in DATA["dior"]["columns"][1:-1] if column("dior", c)[-1] == max(column("dior", c))]
    named = ["AT", "BC", "BG", "CM", "ES", "GC", "HB", "OP", "SP", "TC", "VH"]         # as ours alone, in the text
    assert set(named) - set(best) == {"BC"} and set(best) <= set(named)                 # AGMF-Net has 89.7, ours 89.6


def test_table_3_ends_where_table_1_does():
    first, last = DATA["ablation"]["rows"][0], DATA["ablation"]["rows"][-1]
    assert first[3:6] == [27.9, 57.9, 23.1] and last[3:6] == [34.2, 65.2, 31.5]
    assert len({tuple(row[:3]) for row in DATA["ablation"]["rows"]}) == 8


def test_aitod_stands_below_table_1_and_a_model_below_table_3():
    metrics = metrics_of([name.replace("-", "_").upper() for name in DATA["aitod"]["classes"]], AITOD_KEYS)
    files = all_tables(metrics, Subject("dt", 14018), AITOD)
    assert len(files) == 2 and len(files[1].rows) == 24 and files[1].note == ""
    assert files[1].rows[-1] == ("dt", "-", "-", *["25.0"] * 7)
    model = all_tables(metrics, Subject("YOLO11n + ARB", 20, 3_000_000, (False, True, False)), AITOD)
    assert model[2].rows[-1] == ("YOLO11n + ARB", "", "x", "", "25.0", "25.0", "25.0", "3,000,000")
    assert all("Not comparable" in table.note and "20 images" in table.note for table in model[1:])
    coco = metrics_of(DATA["aitod"]["classes"], ("AP", "AP50", "AP_s"))
    assert len(all_tables(coco, Subject("dt", 14018), COCO)) == 1       # other sizes: nothing to compare


def test_the_figures_of_ai_tod_v2_are_said_not_to_compare():
    """The same test images, 7 % more objects; the two publications of AI-TOD itself differ by 13."""
    metrics = metrics_of(DATA["aitod"]["classes"], AITOD_KEYS)
    model = Subject("RS-TinyNet-m", 14018, 32_159_661, (True, True, True))
    for objects, notes in ((347_617, ["", ""]), (347_630, ["", ""]), (None, ["", ""]), (373_000, ["AI-TOD-v2's"] * 2)):
        tables = all_tables(metrics, model._replace(num_objects=objects), AITOD)[1:]
        assert all(note in table.note and bool(note) == bool(table.note) for note, table in zip(notes, tables, strict=True))


def test_the_short_names_of_dior_s_classes_are_printed():
    """AL, AT ... of Table II, in its order, whatever the order of the figures; AI-TOD's classes have none in the paper."""
    names = DATA["dior"]["classes"]
    metrics = metrics_of(names, ("AP50_voc07", "AP50_voc12", "AP50_coco"))
    metrics["per_class"] = dict(reversed(metrics["per_class"].items()))
    _, table = all_tables(metrics, Subject("dt", 11738), VOC)
    assert table.text().splitlines()[1].split() == [
        "Method", "AL", "AT", "BF", "BC", "BG", "CM", "DM", "EA", "ES", "GC", "GF", "HB", "OP", "SP", "SD", "ST", "TC", "TS",
        "VH", "WM", "mAP50"]
    assert table.rows[-1][1:21] == tuple(f"{25 + k:.1f}" for k in range(20))


def test_figures_of_other_ranges_or_limits_stand_beside_nothing():
    metrics = metrics_of(DATA["aitod"]["classes"], AITOD_KEYS)
    for change in ({"max_dets": (1, 2)}, {"area_ranges": ("vt:0:500", "t:500:600", "s:600:700", "m:700:1e10")}):
        assert len(all_tables(metrics, Subject("dt", 14018), customized(AITOD, **change))) == 1
    assert len(all_tables(metrics, Subject("dt", 14018), customized(AITOD, olrp=True))) == 2
    dior = metrics_of(DATA["dior"]["classes"], AITOD_KEYS)
    assert len(all_tables(dior, Subject("dt", 11738), AITOD)) == 1      # 1,500 detections a class, where COCO has 100


def test_dior_stands_below_table_2_in_each_definition():
    metrics = metrics_of([name.lower() for name in DATA["dior"]["classes"]], ("AP50_voc07", "AP50_voc12", "AP50_coco"))
    _, table = all_tables(metrics, Subject("dt", 11738), VOC)
    assert [row[0] for row in table.rows[-3:]] == ["dt, VOC07", "dt, VOC12", "dt, COCO"]
    assert table.rows[-1][1:] == (*(f"{25 + k:.1f}" for k in range(20)), "25.0")
    by_coco = metrics_of(DATA["dior"]["classes"], ("AP", "AP50", "AP75", "AP_s"))
    assert all_tables(by_coco, Subject("dt", 11738), COCO)[1].ours == 1


def test_the_table_says_how_its_figures_were_taken():
    """The bounds are the protocols' areas: 64, 256 and 1024, or 1024 and 9216 square pixels."""
    aitod, coco = (metrics_of(["ship"], keys) for keys in (AITOD_KEYS, ("AP", "AP_l")))
    table = all_tables(aitod, Subject("dt", 5), AITOD)[0]
    assert table.title == "dt: 5 images, protocol aitod, in percent"
    assert "0.50, 0.55, ..., 0.95" in table.note and "at most 1,500 detections of a class in an image" in table.note
    assert "very tiny up to 8 px, tiny 8 to 16 px, small 16 to 32 px, medium from 32 px on." in table.note
    assert "AR1, AR100, AR1500:" in table.note and table.note in table.markdown()
    assert table.note.split() == table.text().split()[-len(table.note.split()):]
    assert max(map(len, table.text().splitlines())) <= 100
    own = customized(COCO, area_ranges=("tall:0:500",), max_dets=(7,))
    for protocol, name, note in ((COCO, "protocol coco", "small up to 32 px, medium 32 to 96 px, large from 96 px on"),
                                 (own, "protocol coco with own sizes or limits", "tall up to 22.4 px")):
        table = all_tables(coco, Subject("dt", 5), protocol)[0]
        assert f", {name}, in percent" in table.title and note in table.note
    assert "at most 7 detections" in all_tables(coco, Subject("dt", 5), own)[0].note
    voc = all_tables(metrics_of(["ship"], ("AP50_voc07", "AP50_voc12", "AP50_coco")), Subject("dt", 5), VOC)[0]
    assert "protocol voc" in voc.title and "difficult" in voc.note and "100 of a class" in voc.note


MODULES = [(False, False, False), (False, False, False), (True, False, False), (False, True, False), (False, False, True),
           (True, True, False), (False, True, True), (True, False, True), (True, True, True)]
ENDS = (MODULES[0], MODULES[-1])


def results(modules, metrics, name="run"):
    """Runs of which the last but one is not finished."""
    names = [f"{name} {k}{' + P2' if k == 1 and len(modules) > 2 else ''}" for k in range(len(modules))]
    return [Result(Subject(names[k], 14018, 20_000_000 + k, mods), None if k == len(modules) - 2 else metrics)
            for k, mods in enumerate(modules)]


def test_reproduced_rows_of_table_3_stand_beside_the_paper_s_of_the_same_modules():
    table = reproduction(3, results(MODULES, metrics_of(DATA["aitod"]["classes"], AITOD_KEYS)), [])
    assert table.title == "Table III, reproduced: 8 of 9 runs finished"
    assert table.header == ("Model", "AP", "paper", "AP50", "paper", "AP75", "paper", "Params", "paper")
    assert table.rows[0] == ("run 0", "25.0", "27.9", "25.0", "57.9", "25.0", "23.1", "20,000,000", "20,059,176")
    assert table.rows[1][2::2] == ("-",) * 4                                    # YOLO11m + P2 is not in the paper
    assert [row[2] for row in table.rows[2:]] == ["31.1", "30.6", "28.5", "32.7", "33.4", "32.8", "34.2"]      # typed from it
    assert table.rows[7][1::2] == ("-", "-", "-", "20,000,007")                  # still to come


def test_reproduced_rows_stand_below_tables_1_and_2():
    one = reproduction(1, results(ENDS, metrics_of(DATA["aitod"]["classes"], AITOD_KEYS)), [])
    assert one.ours == 1 and len(one.rows) == 24 and one.rows[-1] == ("run 1", "-", "-", *["25.0"] * 7)
    two = reproduction(2, results(ENDS, metrics_of(DATA["dior"]["classes"], ("AP50_voc07", "AP50_voc12", "AP50_coco"))), [])
    assert [row[0] for row in two.rows[-3:]] == ["run 1, VOC07", "run 1, VOC12", "run 1, COCO"] and two.ours == 3
    assert reproduction(1, [Result(Subject("run", 14018, 1, ENDS[0]))], []).ours == 0


@pytest.mark.parametrize("number", [1, 2, 3])
def test_what_is_not_the_paper_s_experiment_stands_alone_and_says_so(number):
    metrics = metrics_of(["ship"], (*AITOD_KEYS, "AP50_voc07", "AP50_voc12", "AP50_coco"), value=0.01)
    table = reproduction(number, results(MODULES if number == 3 else ENDS, metrics), ["trained on 24 images instead of many"])
    text = table.text() + table.markdown()
    assert "Mechanism only" in table.title and "Mechanism only" in table.note and "trained on 24 images instead" in table.note
    printed = {f"{value:.1f}" for name in ("aitod", "dior", "ablation") for row in DATA[name]["rows"] for value in row
               if isinstance(value, float)} - {"1.0"}
    cells = {cell for row in table.rows for cell in row}
    assert not printed & cells and not any(name in text for name in ("paper ", "Faster R-CNN", "20,059,176"))
    assert cells >= {"1.0", "-", "20,000,000"}


def test_what_a_test_set_differs_in_from_the_paper_s():
    classes = {1: DATA["aitod"]["classes"], 2: DATA["dior"]["classes"], 3: DATA["aitod"]["classes"]}
    assert [unlike_paper(k, classes[k], n, 347_617) for k, n in ((1, 14018), (2, 11738), (3, 14018))] == [[], [], []]
    assert unlike_paper(3, ["ship"], 24, 100) == [
        "classes other than AI-TOD's", "tested on 24 images instead of 14,018", "tested on 100 objects instead of 347,617"]
    assert unlike_paper(1, classes[2], 14018, 347_630) == ["classes other than AI-TOD's"]       # 13 more: a later version


def test_bounds_in_pixels():
    assert [bounds(area) for area in ((0, 64), (64, 500), (10_000, 1e9), (1024, 1e10), (0, 1e10))] == [
        "up to 8 px", "8 to 22.4 px", "100 to 31,622.8 px", "from 32 px on", "any"]


def test_olrp_has_a_table_with_all_its_parts_and_the_score():
    metrics = metrics_of(["ship", "harbour"], ("AP", "oLRP", "oLRP_Loc", "oLRP_FP", "oLRP_FN"))
    for name, score in (("ship", 0.375), ("harbour", -1.0)):
        metrics["per_class"][name]["oLRP_score"] = score
    own, olrp = all_tables(metrics, Subject("dt", 5), customized(COCO, olrp=True))
    assert own.header == ("class", "AP")
    assert olrp.header == ("class", "oLRP", "oLRP_Loc", "oLRP_FP", "oLRP_FN", "oLRP_score")
    assert olrp.rows == [("all", "25.0", "25.0", "25.0", "25.0", "-"), ("ship", "25.0", "25.0", "25.0", "25.0", "0.375"),
                         ("harbour", "26.0", "26.0", "26.0", "26.0", "-")]
    assert "lower is better" in olrp.title and "Lower is better" in olrp.note


@pytest.mark.parametrize(("path", "name"), [
    ("/a/yolo11n/detections.json", "yolo11n"), ("/a/yolo11n/test/detections.json", "yolo11n"),
    ("/a/retina/results.bbox.json", "retina"), ("/a/fcos/coco_instances_results.json", "fcos"),
    ("/a/b/best_predictions_2.json", "b"), ("/a/b/yolo_results.json", "yolo_results"),
    ("/a/b/rfla.json", "rfla"), ("/a/b/rfla.json.gz", "rfla"), ("/a/b/dt.json.gz", "b"), ("/dt.json", "dt")])
def test_a_row_is_named_after_the_folder_when_the_file_has_a_name_that_any_tool_gives(path, name):
    assert row_name(path) == name


def test_other_classes_have_one_table():
    assert len(all_tables(metrics_of(["ship", "harbour"], AITOD_KEYS), Subject("dt", 5), AITOD)) == 1


def test_text_is_aligned_and_markdown_is_a_table():
    table = Table("Title", ("class", "AP", "AP50"), [("ship", "7.1", "-"), ("all | any", "12.3", "45.6")], ours=1, note="Note.")
    assert table.text().splitlines() == [
        "Title",
        "class        AP  AP50",
        "---------------------",
        "ship        7.1     -",
        "---------------------",
        "all | any  12.3  45.6",
        "Note."]
    assert table.markdown().splitlines() == [
        "### Title", "",
        "| class | AP | AP50 |",
        "| :--- | ---: | ---: |",
        "| ship | 7.1 | - |",
        "| **all \\| any** | **12.3** | **45.6** |",
        "", "Note."]
