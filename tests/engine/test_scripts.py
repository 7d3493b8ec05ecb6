"""test.py and predict.py on a trained checkpoint: files, figures and pictures that agree with each other."""
import json
import os
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

import predict
import test as test_script
from engine import lock
from errors import InputError
from eval.coco import AITOD, evaluate


def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def test_the_detections_that_test_writes_score_to_the_metrics_that_it_writes(
    trained: object, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    best, truth = str(trained.folder / "run/best.pt"), str(trained.data.root / "train.json")
    assert test_script.main(["--checkpoint", best, "--output", str(tmp_path / "a"), "eval.conf=0.0001"]) == 0
    table = capsys.readouterr().out
    assert all(word in table for word in ("12 images", "AP50", "alpha", "beta", "gamma"))
    written = metrics(tmp_path / "a")
    assert set(written["per_class"]) == {"alpha", "beta", "gamma"}
    detections = json.loads((tmp_path / "a/detections.json").read_text())
    assert len(detections) > 100 and {d["category_id"] for d in detections} <= {2, 5, 9}    # the file's own ids

    arguments = ["--ground-truth", truth, "--detections", str(tmp_path / "a/detections.json")]
    assert test_script.main([*arguments, "--protocol", "aitod", "--output", str(tmp_path / "b")]) == 0
    assert metrics(tmp_path / "b") == written
    assert test_script.main([*arguments, "--protocol", "coco", "--output", str(tmp_path / "c")]) == 0
    assert "AP_l" in metrics(tmp_path / "c") and metrics(tmp_path / "c")["AP"] == pytest.approx(written["AP"])
    assert evaluate(json.loads(Path(truth).read_text()), detections, AITOD) == written


def test_what_a_killed_test_left_is_removed_but_not_what_another_writes(trained: object, tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    kept = {f".detections.json.{os.getppid()}.tmp", ".detections.json.mine.tmp", ".last.pt.123.tmp"}
    for name in (*kept, f".detections.json.{ended.pid}.tmp", f".ground_truth.json.{os.getpid()}.tmp"):
        (tmp_path / name).write_text("half")
    assert test_script.main(["--checkpoint", str(trained.folder / "run/best.pt"), "--output", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.glob(".*")} == kept


def test_voc_of_files_and_of_a_checkpoint_agree_and_the_tables_are_written(trained: object, tmp_path: Path) -> None:
    best, truth = str(trained.folder / "run/best.pt"), str(trained.data.root / "train.json")
    arguments = ["--protocol", "voc", "--output", str(tmp_path / "a"), "--markdown", str(tmp_path / "deep/table.md")]
    assert test_script.main(["--checkpoint", best, *arguments, "eval.conf=0.0001"]) == 0
    written = metrics(tmp_path / "a")
    assert set(written) == {"AP50_voc07", "AP50_voc12", "AP50_coco", "per_class"}
    lines = (tmp_path / "deep/table.md").read_text().splitlines()
    assert lines[0] == "### YOLO11n: 12 images, protocol voc, in percent"
    assert lines[2] == "| class | AP50_voc07 | AP50_voc12 | AP50_coco |" and lines[5].startswith("| alpha | ")
    for name in ("precision_recall", "sizes", "confusion"):
        assert cv2.imread(str(tmp_path / f"a/pictures/{name}.png")) is not None

    arguments = ["--ground-truth", truth, "--detections", str(tmp_path / "a/detections.json"), "--protocol", "voc"]
    assert test_script.main([*arguments, "--output", str(tmp_path / "b")]) == 0
    assert metrics(tmp_path / "b") == written


def test_the_average_of_a_last_checkpoint_is_tested_as_the_best_one(trained: object, tmp_path: Path) -> None:
    """Without data.val both hold the same weights."""
    for name in ("best", "last"):
        checkpoint = str(trained.folder / f"run/{name}.pt")
        assert test_script.main(["--checkpoint", checkpoint, "--output", str(tmp_path / name), "eval.conf=0.0001"]) == 0
    assert (tmp_path / "best/detections.json").read_bytes() == (tmp_path / "last/detections.json").read_bytes()


def test_no_figure_depends_on_the_batch_size(trained: object, tmp_path: Path) -> None:
    best = str(trained.folder / "run/best.pt")
    for size in (1, 5):
        arguments = ["--checkpoint", best, "--output", str(tmp_path / str(size)), "eval.conf=0.0001"]
        assert test_script.main([*arguments, f"eval.batch_size={size}"]) == 0
    one, five = ({k: v for k, v in metrics(tmp_path / str(size)).items() if k != "per_class"} for size in (1, 5))
    assert one == pytest.approx(five, abs=1e-3)


def test_images_at_the_cap_of_detections_are_counted(
    trained: object, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["--checkpoint", str(trained.folder / "run/best.pt"), "--output", str(tmp_path)]
    assert test_script.main([*arguments, "eval.conf=0", "eval.max_det=3"]) == 0
    assert "12 image(s) had more than eval.max_det=3 detections" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "detections.json").read_text())) == 36


def test_predict_draws_a_folder_and_its_subfolders_and_writes_coco(trained: object, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    for name, original in (("a.png", "000.png"), ("deep/b.jpg", "001.png"), ("deep/c.TIF", "002.png")):
        suffix = Path(name).suffix.lower()
        picture = cv2.imread(str(trained.data.images / original))
        (source / name).write_bytes(cv2.imencode(suffix, picture)[1].tobytes())
    (source / "notes.txt").write_text("not an image")
    best = str(trained.folder / "run/best.pt")
    assert predict.main(["--checkpoint", best, "--source", str(source), "--output", str(tmp_path / "out"), "--conf", "0"]) == 0

    written = json.loads((tmp_path / "out/detections.json").read_text())
    assert [i["file_name"] for i in written["images"]] == ["a.png", "deep/b.jpg", "deep/c.TIF"]
    assert [c["name"] for c in written["categories"]] == ["alpha", "beta", "gamma"]
    sizes = {i["id"]: (i["width"], i["height"]) for i in written["images"]}
    assert len(written["annotations"]) > 30
    for entry in written["annotations"]:
        x, y, w, h = entry["bbox"]
        width, height = sizes[entry["image_id"]]
        assert min(x, y, w, h) >= 0 and x + w <= width + 1e-4 and y + h <= height + 1e-4
        assert 0 <= entry["score"] <= 1
    pictures = {str(p.relative_to(tmp_path / "out/pictures")) for p in (tmp_path / "out/pictures").rglob("*.png")}
    assert pictures == {"a.png", "deep/b.png", "deep/c.png"}


def test_predict_follows_links_to_folders_and_takes_each_folder_once(trained: object, tmp_path: Path) -> None:
    source, elsewhere = tmp_path / "source", tmp_path / "elsewhere"
    for folder, original in ((source, "000.png"), (elsewhere, "001.png")):
        folder.mkdir()
        (folder / original).write_bytes((trained.data.images / original).read_bytes())
    (source / "more").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(source)
    arguments = ["--checkpoint", str(trained.folder / "run/best.pt"), "--source", str(source)]
    assert predict.main([*arguments, "--output", str(source / "out")]) == 0
    assert predict.main([*arguments, "--output", str(source / "out")]) == 0         # its own pictures are not among them
    written = json.loads((source / "out/detections.json").read_text())
    assert [i["file_name"] for i in written["images"]] == ["000.png", "more/001.png"]


def test_predict_takes_one_image(trained: object, tmp_path: Path) -> None:
    arguments = ["--checkpoint", str(trained.folder / "run/best.pt"), "--source", str(trained.data.images / "003.png")]
    assert predict.main([*arguments, "--output", str(tmp_path)]) == 0
    assert (tmp_path / "pictures/003.png").exists()


@pytest.mark.parametrize("tiles", [[], ["--tile", "64"]])
def test_images_of_twelve_bits_in_sixteen_are_told(
    trained: object, tmp_path: Path, capsys: pytest.CaptureFixture, tiles: list[str]
) -> None:
    """Their upper eight bits are nearly black. Nothing is found in it, and nothing would tell why."""
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for name, brightest in (("a.png", 4096), ("b.tif", 4096), ("c.png", 65536)):
        cv2.imwrite(str(tmp_path / "in" / name), rng.integers(0, brightest, (70, 90, 3), dtype=np.uint16))
    arguments = ["--checkpoint", str(trained.folder / "run/best.pt"), "--source", str(tmp_path / "in"), *tiles]
    assert predict.main([*arguments, "--output", str(tmp_path / "out"), "--conf", "0.99"]) == 0
    assert "2 image(s) show no object and are nearly black" in capsys.readouterr().out
    assert predict.main([*arguments, "--output", str(tmp_path / "out"), "--conf", "0"]) == 0
    assert "nearly black" not in capsys.readouterr().out


def test_pictures_of_one_name_and_two_formats_are_both_kept(trained: object, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    picture = cv2.imread(str(trained.data.images / "000.png"))
    for name in ("a.png", "a.jpg", "b.jpg"):
        cv2.imwrite(str(tmp_path / "in" / name), picture)
    arguments = ["--checkpoint", str(trained.folder / "run/best.pt"), "--source", str(tmp_path / "in")]
    assert predict.main([*arguments, "--output", str(tmp_path / "out"), "eval.conf=0.9"]) == 0
    assert {p.name for p in (tmp_path / "out/pictures").iterdir()} == {"a.png.png", "a.jpg.png", "b.png"}
    assert [p.name for p in (tmp_path / "out").iterdir() if p.name.startswith(".")] == []
    assert json.loads((tmp_path / "out/detections.json").read_text())["annotations"] == []     # eval.conf counts as --conf does


def test_predicting_into_the_source_again_gives_the_same(trained: object, tmp_path: Path) -> None:
    """Pictures of the first run are no images of the second, nor those that a killed run left, which are removed."""
    source, output = tmp_path / "in", tmp_path / "in/deep/out"
    source.mkdir()
    (source / "a.png").write_bytes((trained.data.images / "000.png").read_bytes())
    arguments = ["--checkpoint", str(trained.folder / "run/best.pt"), "--source", str(source), "--output"]
    assert predict.main([*arguments, str(output)]) == 0
    before = {p: p.read_bytes() for p in source.rglob("*") if p.is_file()}
    left = output / ".pictures.abcd_123"
    left.mkdir()
    (left / "1.png").write_bytes(b"half")
    assert predict.main([*arguments, str(output)]) == 0
    assert {p: p.read_bytes() for p in source.rglob("*") if p.is_file()} == before and not left.exists()

    shutil.rmtree(source / "deep")                      # --output is the source itself
    left = source / ".pictures.abcd_123"
    left.mkdir()
    (left / "1.png").write_bytes(b"half")
    assert predict.main([*arguments, str(source)]) == 0
    assert [i["file_name"] for i in json.loads((source / "detections.json").read_text())["images"]] == ["a.png"]
    assert not left.exists()


def test_a_source_within_the_output_is_searched(trained: object, tmp_path: Path) -> None:
    arguments = ["--checkpoint", str(trained.folder / "run/best.pt"), "--source", str(tmp_path / "in"), "--output"]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes((trained.data.images / "000.png").read_bytes())
    assert predict.main([*arguments, str(tmp_path)]) == 0
    assert (tmp_path / "pictures/a.png").exists()


def test_a_second_run_into_one_folder_leaves_the_pictures_of_the_first(
    trained: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = tmp_path / ".pictures.abcd_123"
    waiting.mkdir()
    monkeypatch.setattr(lock, "PATIENCE", 0)
    monkeypatch.setattr(lock.FolderLock, "_taken", lambda self: False)
    with pytest.raises(InputError, match="another run is writing into .*pictures"):
        predict.main(["--checkpoint", str(trained.folder / "run/best.pt"), "--source", str(trained.data.images), "--output",
                      str(tmp_path)])
    assert waiting.exists()
