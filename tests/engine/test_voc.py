"""A VOC set from train.py to test.py: the same commands and files as for COCO, and a ground truth to score again."""
import json
import re
from pathlib import Path

import pytest

import test as test_script
import train
from errors import run

ROOT = Path(__file__).parents[2]
SMALL = ["train.image_size=64", "train.batch_size=4", "train.epochs=1", "train.workers=0", "train.device=cpu", "train.amp=off"]


def settings(voc: object, *more: str) -> list[str]:
    return [
        f"data.root={voc.root}", "data.train=ImageSets/Main/trainval.txt", "data.val=", "data.test=ImageSets/Main/test.txt",
        "data.images=JPEGImages", "model.scale=n", *SMALL, *more,
    ]


def test_a_step_of_training_and_a_test(tiny_voc: object, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The DIOR config itself, with other names of classes: train.txt and val.txt stand for trainval.txt."""
    config, output = str(ROOT / "configs/dior/yolo11m.toml"), tmp_path / "run"
    extra = ["data.classes=Alpha,beta,gamma", "train.max_steps=1"]
    assert train.main(["--config", config, "--output", str(output), *settings(tiny_voc, *extra)]) == 0
    printed = capsys.readouterr().out
    boxes = sum(len(tiny_voc.objects(k)) for k in range(10))
    assert re.search(rf"train +10 images, {boxes} boxes, 3 classes.*; listed in .*train.txt and .*val.txt", printed)

    tested = tmp_path / "test"
    arguments = ["--checkpoint", str(output / "best.pt"), "--output", str(tested), "eval.conf=0.0001"]
    assert test_script.main(arguments) == 0
    metrics = json.loads((tested / "metrics.json").read_text())
    assert set(metrics["per_class"]) == {"Alpha", "beta", "gamma"} and 0 <= metrics["AP50_voc12"] <= 1
    truth = json.loads((tested / "ground_truth.json").read_text())
    assert [i["file_name"] for i in truth["images"]] == ["010.png", "011.png"]
    assert [a["bbox"] for a in truth["annotations"]] == [list(o[1:]) for k in (10, 11) for o in tiny_voc.objects(k)]
    detections = json.loads((tested / "detections.json").read_text())
    assert {d["category_id"] for d in detections} <= {1, 2, 3} and {d["image_id"] for d in detections} == {1, 2}

    again = ["--ground-truth", str(tested / "ground_truth.json"), "--detections", str(tested / "detections.json")]
    assert test_script.main([*again, "--protocol", "voc", "--output", str(tmp_path / "again")]) == 0
    assert json.loads((tmp_path / "again/metrics.json").read_text()) == metrics


def test_validation_on_a_voc_list(tiny_voc: object, tmp_path: Path) -> None:
    config = str(ROOT / "configs/dior/yolo11m_dev.toml")
    more = ["data.train=ImageSets/Main/train.txt", "data.val=ImageSets/Main/val.txt", "data.classes=", "eval.protocol=aitod"]
    assert train.main(["--config", config, "--output", str(tmp_path / "run"), *settings(tiny_voc, *more)]) == 0
    record = json.loads((tmp_path / "run/log.jsonl").read_text())
    assert 0 <= record["val"]["AP"] <= 1
    assert (tmp_path / "run/pictures/validation.png").exists()


def test_what_is_wrong_is_one_line_and_starts_no_run(
    tiny_voc: object, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """DIOR's classes are declared: a set with others is not trained on in silence."""
    arguments = ["--config", str(ROOT / "configs/dior/yolo11m.toml"), "--output", str(tmp_path / "run"), *settings(tiny_voc)]
    for change, words in (([], "000.xml: object 1 is a '"), (["data.train="], "VOC image list")):
        with pytest.raises(SystemExit) as caught:
            run(lambda change=change: train.main([*arguments, *change]))
        lines = capsys.readouterr().err.splitlines()
        assert caught.value.code == 2 and len(lines) == 1 and words in lines[0], lines
    assert not (tmp_path / "run").exists()
