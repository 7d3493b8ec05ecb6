"""Bad input: one line that names the culprit and the remedy, exit code 2, no traceback, and no file changed."""
import copy
import json
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

import predict
import test as test_script
import train
from engine import compare, export, predictor, reproduce
from errors import run


def fail(capsys: pytest.CaptureFixture, main: Callable, arguments: list[str]) -> str:
    """Run a script that must refuse; returns the line that it prints."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        run(lambda: main(arguments))
    error = capsys.readouterr().err
    assert caught.value.code == 2
    lines = [line for line in error.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("error: "), error
    return lines[0]


def edit(content: dict, **changes: object) -> dict:
    """A copy whose third annotation differs."""
    content = copy.deepcopy(content)
    content["annotations"][2].update(changes)
    return content


ANNOTATIONS = {
    "undeclared category": (dict(category_id=77), ("category 77", "2, 5, 9", "data.classes")),
    "three numbers": (dict(bbox=[1, 2, 3]), ("annotation 3", "four finite numbers")),
    "text": (dict(bbox=[1, 2, "3", 4]), ("annotation 3", "four finite numbers")),
    "not a number": (dict(bbox=[1, 2, float("nan"), 4]), ("annotation 3", "four finite numbers")),
    "infinite": (dict(bbox=[1, 2, 3, float("inf")]), ("annotation 3", "four finite numbers")),
    "negative width": (dict(bbox=[9, 9, -3, 4]), ("annotation 3", "negative")),
    "unknown image": (dict(image_id=4242), ("annotation 3", "4242")),
}


@pytest.mark.parametrize("case", ANNOTATIONS)
def test_annotations_that_cannot_be_true(tiny_run: object, capsys: pytest.CaptureFixture, case: str) -> None:
    changes, words = ANNOTATIONS[case]
    tiny_run.data.write(edit(tiny_run.data.content, **changes))
    line = fail(capsys, lambda a: tiny_run.train("run", *a), [])
    assert all(word in line for word in ("train.json", *words)), line
    assert not (tiny_run.folder / "run").exists()


def outside(content: dict) -> dict:
    content = copy.deepcopy(content)
    content["images"][1]["file_name"] = "../secret.png"
    return content


def test_a_file_name_that_leaves_the_image_folder(tiny_run: object, capsys: pytest.CaptureFixture) -> None:
    (tiny_run.data.root / "secret.png").write_bytes((tiny_run.data.images / "000.png").read_bytes())
    tiny_run.data.write(outside(tiny_run.data.content))
    line = fail(capsys, lambda a: tiny_run.train("run", *a), [])
    assert "../secret.png" in line and "train.json" in line


def test_an_empty_image_folder(tiny_run: object, capsys: pytest.CaptureFixture) -> None:
    for picture in tiny_run.data.images.iterdir():
        picture.unlink()
    line = fail(capsys, lambda a: tiny_run.train("run", *a), [])
    assert str(tiny_run.data.images) in line and "data.images" in line
    empty = tiny_run.folder / "empty"
    empty.mkdir()
    line = fail(capsys, predict.main, ["--checkpoint", "none.pt", "--source", str(empty)])
    assert str(empty) in line


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("damage", ["cut", "text", "empty", "size"])
def test_a_broken_picture_is_named_whether_a_worker_meets_it_or_not(
    tiny_run: object, capsys: pytest.CaptureFixture, workers: int, damage: str
) -> None:
    victim = tiny_run.data.images / "007.png"
    if damage == "size":
        victim.write_bytes((tiny_run.data.images / "001.png").read_bytes())
        for image in tiny_run.data.content["images"]:
            image["width"], image["height"] = (50, 50) if image["file_name"] == "007.png" else (
                image["width"], image["height"])
        tiny_run.data.write()
    else:
        victim.write_bytes({"cut": victim.read_bytes()[:600], "text": b"<html>404</html>", "empty": b""}[damage])
    line = fail(capsys, lambda a: tiny_run.train("run", *a), [f"train.workers={workers}"])
    assert "007.png" in line and "Replace the file" in line


def test_a_jpeg_that_is_cut_short_does_not_become_a_grey_picture(
    tiny_run: object, capsys: pytest.CaptureFixture
) -> None:
    victim = tiny_run.data.images / "007.jpg"
    picture = cv2.imread(str(tiny_run.data.images / "007.png"))
    content = cv2.imencode(".jpg", picture)[1].tobytes()
    victim.write_bytes(content[: len(content) // 2])
    tiny_run.data.content["images"][7]["file_name"] = "007.jpg"
    tiny_run.data.write()
    assert "007.jpg" in fail(capsys, lambda a: tiny_run.train("run", *a), ["train.workers=1"])


@pytest.mark.parametrize(("override", "words"), [
    ("data.train=nowhere.json", ("nowhere.json", "does not exist")),
    ("data.root=/nowhere", ("/nowhere", "data.root")),
    ("data.images=nowhere", ("nowhere", "data.images")),
    ("train.epoch=3", ("train.epoch", "train.epochs")),
    ("trian.epochs=3", ("trian", "train")),
    ("train.epochs=many", ("train.epochs", "many")),
    ("train.image_size=100", ("train.image_size", "96 or 128")),
    ("train.batch_size=0", ("train.batch_size",)),
    ("train.device=gpu", ("train.device", "cuda")),
    ("train.amp=fp16", ("train.amp", "bf16")),
    ("data.classes=alpha,betta", ("betta", "beta")),
    ("model.scale=q", ("model.scale", "n")),
])
def test_settings_that_cannot_be_meant(
    tiny_run: object, capsys: pytest.CaptureFixture, override: str, words: tuple[str, ...]
) -> None:
    line = fail(capsys, lambda a: tiny_run.train("run", *a), [override])
    assert all(word in line for word in words), line
    assert not (tiny_run.folder / "run").exists()


@pytest.mark.parametrize("settings", [["train.image_size=32"], ["augment.multi_scale=0.5"]])
def test_one_cell_is_too_few_for_batchnorm(tiny_run: object, capsys: pytest.CaptureFixture, settings: list[str]) -> None:
    arguments = ["train.batch_size=1", *settings]
    assert "train.batch_size: 1 is one image at a time" in fail(capsys, lambda a: tiny_run.train("run", *a), arguments)


def test_configs_that_are_not_there_or_not_toml(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert "absent.toml" in fail(capsys, train.main, ["--config", str(tmp_path / "absent.toml")])
    (tmp_path / "broken.toml").write_text("[train\nepochs = 3")
    assert "broken.toml" in fail(capsys, train.main, ["--config", str(tmp_path / "broken.toml")])
    (tmp_path / "orphan.toml").write_text('base = "gone.toml"\n')
    assert "gone.toml" in fail(capsys, train.main, ["--config", str(tmp_path / "orphan.toml")])


def test_bad_input_to_test_leaves_earlier_results(trained: object, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "metrics.json").write_text("earlier")
    (tmp_path / "detections.json").write_text("earlier")
    best, truth, output = str(trained.folder / "run/best.pt"), str(trained.data.root / "train.json"), str(tmp_path)
    (tmp_path / "dt.json").write_text(json.dumps([{"image_id": 1, "category_id": 2, "bbox": [0, 0, 1, 1], "score": 0.5}]))
    cases = [
        (["--checkpoint", str(tmp_path / "none.pt")], "none.pt"),
        (["--checkpoint", best, "--split", "test", "data.test="], "data.test"),
        (["--checkpoint", best, "eval.cnof=0.1"], "eval.conf"),
        (["--checkpoint", best, "data.classes=alpha"], "best.pt detects alpha, beta, gamma"),
        (["--ground-truth", truth], "--detections"),
        (["--ground-truth", truth, "--detections", str(tmp_path / "none.json")], "none.json"),
        (["--ground-truth", truth, "--detections", str(tmp_path / "dt.json")], "image"),
        (["--ground-truth", truth, "--detections", str(tmp_path / "dt.json"), "--protocol", "voc"], "image"),
        (["--checkpoint", best, "eval.protocol=vox"], "aitod, coco, voc"),
        (["--checkpoint", best, "--markdown", str(tmp_path)], "table.md"),
        (["--checkpoint", best, "--tile", "16"], "--tile: 16 is too small. Use 32"),
        (["--checkpoint", best, "--tile", "800", "--overlap", "800"], "--overlap: 800 is outside 0..799"),
        (["--checkpoint", best, "--overlap", "200"], "--overlap: 200 needs --tile"),
        (["--ground-truth", truth, "--detections", str(tmp_path / "dt.json"), "--tile", "800"], "--tile"),
        ([], "--checkpoint"),
    ]
    for arguments, word in cases:
        assert word in fail(capsys, test_script.main, [*arguments, "--output", output])
    assert (tmp_path / "metrics.json").read_text() == (tmp_path / "detections.json").read_text() == "earlier"


def test_bad_input_to_predict(trained: object, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    best = str(trained.folder / "run/best.pt")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    for source in (tmp_path / "absent.png", broken):
        arguments = ["--checkpoint", best, "--source", str(source), "--output", str(tmp_path / "out")]
        assert source.name in fail(capsys, predict.main, arguments)
    (tmp_path / "latin").mkdir()
    with open(os.fsencode(tmp_path / "latin") + b"/\xe4.png", "wb") as file:
        file.write((trained.data.images / "000.png").read_bytes())
    assert "\\udce4.png: its name is not UTF-8. Rename the file." in fail(
        capsys, predict.main, ["--checkpoint", best, "--source", str(tmp_path / "latin"), "--output", str(tmp_path / "out")])
    images = ["--checkpoint", best, "--source", str(trained.data.images), "--output", str(tmp_path / "out")]
    for flags, words in ((["--conf", "2"], "eval.conf"), (["--tile", "31"], "--tile: 31"), (["--overlap", "9"], "--tile"),
                         (["--tile", "64", "--overlap", "64"], "--overlap: 64 is outside 0..63"),
                         (["--tile", "64", "--overlap", "-1"], "--overlap: -1"),
                         (["b.png", "eval.conf=0.5"], "b.png: --source takes one image or a folder")):
        assert words in fail(capsys, predict.main, [*images, *flags])
    assert broken.name in fail(capsys, predict.main, ["--checkpoint", best, "--source", str(broken), "--tile", "64", "--output",
                                                      str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_bad_input_to_compare(trained: object, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    best, root = str(trained.folder / "run/best.pt"), trained.data.root
    files = ["--ground-truth", str(root / "train.json"), "--images", str(root / "images")]
    (tmp_path / "dt.json").write_text(json.dumps([{"image_id": 100, "category_id": 2, "bbox": [0, 0, 1, 1], "score": 0.5}]))
    (tmp_path / "other.json").write_text(json.dumps([{"image_id": 1, "category_id": 2, "bbox": [0, 0, 1, 1], "score": 0.5}]))
    (tmp_path / "file").write_text("mine")
    found = ["--detections", str(tmp_path / "dt.json")]
    cases = [
        (files, "--detections"),
        (found, "--ground-truth"),
        ([*found, *files[:2]], "--images"),
        ([*found, *files[2:]], "--ground-truth"),
        ([*found, *files[:3], str(tmp_path / "none")], "--images"),
        ([*found, *files[:3], str(tmp_path)], "Set --images to their folder"),
        ([*found, *files, "--only", "none.png"], "none.png"),
        ([*found, *files, "--names", "a", "b"], "--names: 2 for 1 tools"),
        ([*found, *files, "--conf", "2"], "--conf"),
        ([*found, *files, "--number", "0"], "--number"),
        ([*found, *files, "train.device=cpu"], "train.device=cpu"),
        ([*found, *files, "--split", "val"], "--split"),
        ([*files, "--detections", str(tmp_path / "other.json")], "image 1"),
        ([*files, "--detections", str(tmp_path / "none.json")], "none.json"),
        (["--checkpoint", str(tmp_path / "none.pt")], "none.pt"),
        (["--checkpoint", best, "data.test="], "data.test"),
        (["--checkpoint", best, "--only", "000.png", "eval.cnof=0.1"], "eval.conf"),
    ]
    for arguments, word in cases:
        line = fail(capsys, compare.main, [*arguments, "--output", str(tmp_path / "out")])
        assert word in line, (arguments, line)
    assert "--output" in fail(capsys, compare.main, [*found, *files, "--output", str(tmp_path / "file")])
    assert (tmp_path / "file").read_text() == "mine" and not list(tmp_path.rglob("*.png"))


def test_bad_input_to_reproduce(tiny_set: object, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "file").write_text("mine")
    data = [f"data.root={tiny_set.root}", "data.train=train.json", "data.test=train.json", "train.device=cpu"]
    cases = [
        (["data.root=/nowhere"], "data.train"),
        ([*data, "data.test=none.json"], "data.test"),
        ([*data, "train.epoch=2"], "train.epochs"),
        ([*data, "--gpus", "0"], "--gpus: 0"),
        ([*data, "--gpus", "3"], "train.batch_size=16"),
        ([*data, "--gpus", "512", "train.device=auto"], "torch sees"),
        ([*data, "--only", "yolo11m,yolo12m"], "yolo12m"),
    ]
    for arguments, word in cases:
        line = fail(capsys, reproduce.main, ["--table", "3", *arguments, "--output", str(tmp_path / "out")])
        assert word in line, (arguments, line)
    assert "--output" in fail(capsys, reproduce.main, ["--table", "3", *data, "--output", str(tmp_path / "file")])
    assert [p.name for p in tmp_path.iterdir() if p.name != "tiny"] == ["file"] and (tmp_path / "file").read_text() == "mine"


def test_bad_input_to_export(trained: object, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    best, torchexport = str(trained.folder / "run/best.pt"), ["--format", "torchexport"]
    (tmp_path / "file").write_text("mine")
    for arguments, words in (
        (["--checkpoint", "none.pt"], "none.pt: no such checkpoint"),
        (["--checkpoint", best, "--image-size", "100"], "--image-size: 100 is neither a side nor"),
        (["--checkpoint", best, "--image-size", "64", "64", "64"], "--image-size: 64 64 64"),
        (["--checkpoint", best, "--image-size", "0"], "--image-size: 0"),
        (["--checkpoint", best, "--output", str(tmp_path)], f"{tmp_path / 'best.pt2'}"),
        (["--checkpoint", best, "--output", str(tmp_path / "file/x.pt2")], "cannot be a folder"),
    ):
        assert words in fail(capsys, export.main, [*arguments, *torchexport])
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "mine"


def test_settings_that_would_only_fail_later(tiny_run: object, capsys: pytest.CaptureFixture) -> None:
    for setting, word in (("train.momentum=0", "outside 0..1"), ("train.momentum=1.5", "outside 0..1"),
                          ("train.ema_decay=2", "outside 0..1"), ("train.ema_updates=0", "not above 0"),
                          ("train.clip_norm=-5", "not above 0"), ("train.warmup_bias_lr=-1", "too small"),
                          (f"train.seed={10**22}", "too many digits"), (f"assigner.topk={10**19}", "too many digits"),
                          ("eval.limits=1,10 eval.protocol=voc", "eval.protocol is voc")):
        line = fail(capsys, lambda a: tiny_run.train("run", *a), setting.split())
        assert setting.split("=")[0] in line and word in line, line


def test_a_file_in_the_place_of_the_output_folder(trained: object, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "file").write_text("mine")
    best, output = str(trained.folder / "run/best.pt"), ["--output", str(tmp_path / "file")]
    scripts = ((train.main, ["--config", str(trained.config)]), (test_script.main, ["--checkpoint", best]),
               (predict.main, ["--checkpoint", best, "--source", str(trained.data.images)]))
    for main, arguments in scripts:
        assert "--output" in fail(capsys, main, [*arguments, *output])
    assert (tmp_path / "file").read_text() == "mine"


def test_a_broken_picture_leaves_the_predictions_as_they_were(
    trained: object, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in ("a.png", "b.png"):
        (source / name).write_bytes((trained.data.images / "000.png").read_bytes())
    arguments = ["--checkpoint", str(trained.folder / "run/best.pt"), "--source", str(source), "--output", str(output)]
    assert predict.main(arguments) == 0
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(output.rglob("*")) if p.is_file()}
    (source / "c.png").write_bytes(b"broken")
    assert "c.png" in fail(capsys, predict.main, arguments)
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(output.rglob("*")) if p.is_file()} == before


def two_pictures(trained: object, folder: Path) -> Path:
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes((trained.data.images / "000.png").read_bytes())
    return folder


@pytest.mark.parametrize("link", [None, Path.symlink_to, Path.hardlink_to], ids=["itself", "symlink", "hardlink"])
def test_no_picture_is_drawn_over_an_image(
    trained: object, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, link: Callable | None
) -> None:
    """Neither where images lie in folders that are called as those of the results, nor where a link leads to them."""
    monkeypatch.chdir(tmp_path)
    for folder, main in (("pictures", predict.main), ("outcomes", compare.main), ("classes", compare.main)):
        source = two_pictures(trained, tmp_path / folder if link is None else tmp_path / f"in_{folder}")
        if link:
            (tmp_path / folder).mkdir()
            link(tmp_path / folder / "b.png", source / "b.png")
        before = (source / "b.png").read_bytes()
        images = ["--source", str(source)]
        if main is compare.main:
            truth = {**trained.data.content, "images": [{**trained.data.content["images"][k], "id": k, "file_name": name}
                                                        for k, name in enumerate(("a.png", "b.png"))], "annotations": []}
            (tmp_path / "gt.json").write_text(json.dumps(truth))
            images = ["--ground-truth", "gt.json", "--images", str(source)]
        line = fail(capsys, main, ["--checkpoint", str(trained.folder / "run/best.pt"), *images, "--output", "."])
        assert f"{folder}/{'b' if link else 'a'}.png would be written over" in line
        assert (source / "b.png").read_bytes() == before and not Path("detections.json").exists()
        for path in (tmp_path / folder).iterdir():
            path.unlink()
        (tmp_path / folder).rmdir()


@pytest.mark.parametrize(("place", "is_folder", "words"), [
    ("pictures", False, "pictures is a file"), ("detections.json", True, "detections.json is a folder"),
    ("pictures/b.png", True, "b.png is a folder"), ("pictures/deep", False, "deep is a file")])
def test_places_of_predictions_are_looked_at_before_the_work(
    trained: object, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, place: str,
    is_folder: bool, words: str,
) -> None:
    source = two_pictures(trained, tmp_path / "in")
    (source / "deep").mkdir()
    (source / "deep/c.png").write_bytes((source / "a.png").read_bytes())
    taken = tmp_path / "out" / place
    taken.parent.mkdir(parents=True)
    taken.mkdir() if is_folder else taken.write_text("mine")
    monkeypatch.setattr(predictor, "detect_scene", None)            # no detection begins
    arguments = ["--checkpoint", str(trained.folder / "run/best.pt"), "--source", str(source)]
    line = fail(capsys, predict.main, [*arguments, "--output", str(tmp_path / "out")])
    assert line.startswith("error: --output: ") and words in line


@pytest.mark.parametrize(("place", "is_folder", "words"), [
    ("outcomes", False, "outcomes is a file"), ("classes", False, "classes is a file"), ("classes/011.png", True, "folder")])
def test_places_of_a_comparison_are_looked_at_before_the_work(
    trained: object, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, place: str,
    is_folder: bool, words: str,
) -> None:
    taken = tmp_path / "out" / place
    taken.parent.mkdir(parents=True)
    taken.mkdir() if is_folder else taken.write_text("mine")
    monkeypatch.setattr(compare, "predict_source", None)               # no detection begins
    for chosen in ([], ["--only", "011.png"]):
        line = fail(capsys, compare.main, ["--checkpoint", str(trained.folder / "run/best.pt"), *chosen, "--output",
                                           str(tmp_path / "out")])
        assert line.startswith("error: --output: ") and words in line


@pytest.mark.parametrize("tile", [[], ["--tile", "64"]], ids=["fitted", "tiled"])
def test_images_that_turn_out_to_be_broken_are_named_and_the_others_are_done(
    trained: object, tmp_path: Path, capsys: pytest.CaptureFixture, tile: list[str]
) -> None:
    source, output = two_pictures(trained, tmp_path / "in"), tmp_path / "out"
    whole = (source / "b.png").read_bytes()
    for name in ("a.png", "c.png"):
        (source / name).write_bytes(whole[: len(whole) // 2])       # begin as images do
    arguments = ["--checkpoint", str(trained.folder / "run/best.pt"), "--source", str(source), "--output", str(output), *tile]
    line = fail(capsys, predict.main, [*arguments, "--conf", "0"])
    assert f"{source / 'a.png'}: " in line and f"Nor can be used: {source / 'c.png'}." in line
    assert line.endswith(f"The results of the other 1 image(s) are in {output}.")
    written = json.loads((output / "detections.json").read_text())
    assert [(i["id"], i["file_name"]) for i in written["images"]] == [(2, "b.png")]
    assert {a["image_id"] for a in written["annotations"]} == {2}
    assert [p.name for p in (output / "pictures").iterdir()] == ["b.png"]

    (source / "b.png").unlink()                                     # nothing is left to be done, and nothing changes
    assert "c.png" in fail(capsys, predict.main, [*arguments, "--conf", "0"])
    assert json.loads((output / "detections.json").read_text()) == written


def test_files_that_are_no_images_are_named_before_the_work(
    trained: object, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = two_pictures(trained, tmp_path / "in")
    for name in ("c.png", *(f"d{k}.tif" for k in range(10))):
        (source / name).write_bytes(b"<html>")
    (source / "e.jpg").write_bytes(b"")
    monkeypatch.setattr(predictor, "detect_scene", None)            # no detection begins
    arguments = ["--checkpoint", str(trained.folder / "run/best.pt"), "--source", str(source)]
    line = fail(capsys, predict.main, [*arguments, "--output", str(tmp_path / "out")])
    assert "c.png: does not begin as an image" in line and line.endswith("d7.tif and 3 more.")
    assert not (tmp_path / "out").exists()


def test_a_truth_that_cannot_be_scored_leaves_the_results_as_they_were(
    trained: object, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    broken = edit(trained.data.content, area=None)
    (tmp_path / "test.json").write_text(json.dumps(broken))
    arguments = ["--checkpoint", str(trained.folder / "run/best.pt"), "--output", str(tmp_path)]
    (tmp_path / "detections.json").write_text("mine")
    assert "area" in fail(capsys, test_script.main, [*arguments, f"data.test={tmp_path / 'test.json'}"])
    assert (tmp_path / "detections.json").read_text() == "mine"


def test_resuming_with_other_data_is_refused(tiny_run: object, capsys: pytest.CaptureFixture) -> None:
    assert tiny_run.train("run", "train.max_steps=2") == 0
    content = copy.deepcopy(tiny_run.data.content)
    content["images"] = content["images"][:8]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] < 108]
    tiny_run.data.write(content)
    assert "data.train: holds other images" in fail(capsys, lambda a: tiny_run.train("run", *a), ["--resume"])
