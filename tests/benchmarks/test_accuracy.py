"""benchmarks/accuracy.py: what it plans, refuses, carries out and prints; the trainings themselves are train.py's."""
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import accuracy, accuracy_peer
from benchmarks.accuracy_run import Clock, is_trained, precision, yolo_set
from errors import InputError

ROOT = Path(__file__).parents[2]
METRICS = {"AP": 0.2, "AP50": 0.4, "AP75": 0.1, "AP_vt": -1, "AP_t": 0.3, "AR1": 0.5, "per_class": {}}


class Bench:
    """A folder of configs that hold the tiny set, and one for runs."""

    def __init__(self, tiny_set: object, folder: Path):
        self.data, self.folder, self.configs = tiny_set, folder / "accuracy", folder / "configs"
        self.configs.mkdir()
        for name in ("yolo11n", "other"):
            (self.configs / f"{name}.toml").write_text(
                '[data]\ntrain = "train.json"\nval = "train.json"\ntest = "train.json"\n'
                '[model]\nscale = "n"\n[train]\nepochs = 1\nbatch_size = 4\nimage_size = 64\nworkers = 0\ndevice = "cpu"\n'
            )

    def plan(self, *rows: str, seeds: tuple[int, ...] = (0,), settings: tuple[str, ...] = ()) -> list[accuracy.Run]:
        return accuracy.plan(list(rows), list(seeds), self.folder, self.configs, [f"data.root={self.data.root}", *settings])

    def finish(self, job: accuracy.Run, seconds: float = 1.0, **metrics: float) -> None:
        """What a finished run leaves, but for its weights."""
        for folder in ("test", "train"):
            (job.folder / folder).mkdir(parents=True)
        job.metrics.write_text(json.dumps({**METRICS, **metrics}))
        (job.folder / "test/detections.json").write_text("[]")
        (job.folder / "train/manifest.json").write_text(
            json.dumps({"parameters": 1234567, "gflops": 2.5, "versions": {"code": "abc"}}))
        (job.folder / "train/log.jsonl").write_text("".join(
            json.dumps({"images_per_second": rate, "seconds": 1800 * seconds, "validation_seconds": 900}) + "\n"
            for rate in (1, 8, 3)))


@pytest.fixture
def bench(tiny_set: object, tmp_path: Path) -> Bench:
    return Bench(tiny_set, tmp_path)


def test_the_commands_of_the_docs_are_understood() -> None:
    texts = [accuracy.__doc__, *((ROOT / "docs" / name).read_text() for name in ("results.md", "reproduce.md"))]
    commands = [c for text in texts for c in re.findall(r"python -m benchmarks\.accuracy ((?:[^\\\n]|\\\n)*)", text)]
    assert len(commands) >= 3
    for command in commands:
        options = accuracy.arguments().parse_intermixed_args(shlex.split(command.replace("\\\n", " ")))
        assert options.settings and all("=" in setting for setting in options.settings)
        assert not any(re.match(r"\w+\.\w+=", row) for row in options.rows)


def test_a_row_has_the_settings_of_the_call_then_its_own_then_the_seed(bench: Bench) -> None:
    first, second = bench.plan("yolo11n", "yolo11n,loss.box=3,train.lr=0.2", seeds=(7,), settings=("train.lr=0.1",))
    assert (first.config.train.lr, first.config.loss.box, first.config.train.seed) == (0.1, 7.5, 7)
    assert (second.config.train.lr, second.config.loss.box, second.config.train.seed) == (0.2, 3, 7)
    assert first.folder != second.folder


@pytest.mark.parametrize(("row", "words"), [
    ("none", "no such config"),
    ("yolo11n,assigner.min_box_sid=3", "Did you mean"),
    ("ultralytics:other", "the peer has no other"),
    ("ultralytics:yolo11n,assigner.min_box_side=3", "cannot be told assigner.min_box_side"),
    ("ultralytics:yolo11n,data.val=", "data.val"),
    ("yolo11n,data.test=list.txt", "data.test"),
])
def test_what_cannot_be_trained_is_refused_before_anything_is(bench: Bench, row: str, words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        bench.plan("yolo11n", row)
    assert not bench.folder.exists()


def test_a_folder_of_another_budget_is_refused_and_a_finished_run_is_taken_as_it_is(bench: Bench) -> None:
    (job,) = bench.plan("yolo11n")
    job.folder.mkdir(parents=True)
    (job.folder / "config.json").write_text(json.dumps(job.config.to_dict()))
    bench.finish(job)
    accuracy.carry_out(*bench.plan("yolo11n", settings=("train.workers=1",)), None)
    with pytest.raises(InputError, match="was begun with train.max_steps=0. Give the same"):
        bench.plan("yolo11n", settings=("train.max_steps=3",))
    with pytest.raises(InputError, match="data.classes: cannot be told to the peer"):
        bench.plan("ultralytics:yolo11n", settings=("data.classes=alpha",))
    with pytest.raises(InputError, match=r"config.json: was written with other settings: train.epochs \(was 1, now 300\)"):
        bench.plan("yolo11n", settings=("train.epochs=300",))


def test_the_table_has_mean_and_standard_deviation_and_the_cost_with_validation(bench: Bench) -> None:
    runs = bench.plan("yolo11n", "other", "yolo11n,loss.box=3", seeds=(0, 1))
    for job, ap in zip([runs[0], runs[3], runs[1]], (0.2, 0.3, 0.123), strict=True):
        bench.finish(job, AP=ap)
    assert runs[0].row == runs[3].row == "yolo11n"
    header, _, first, second = accuracy.table(runs).splitlines()
    assert header == "| row | seeds | AP | AP50 | AP75 | AP_vt | AP_t | lab. | parameters | GFLOPs | img/s | hours |"
    deviation = f"{np.sqrt(((0.2 - 0.25) ** 2 + (0.3 - 0.25) ** 2) / 1) * 100:.1f}"
    assert first == (f"| yolo11n | 2 | 25.0 ± {deviation} | 40.0 ± 0.0 | 10.0 ± 0.0 | – | 30.0 ± 0.0 | – | 1,234,567 | 2.5 "
                     "| 3.0 | 2.25 |")
    assert second == "| other | 1 | 12.3 | 40.0 | 10.0 | – | 30.0 | – | 1,234,567 | 2.5 | 3.0 | 2.25 |"
    assert accuracy.revisions(runs) == ["abc"]
    assert accuracy.table(bench.plan("yolo11n", seeds=(5,))) == ""


def test_on_images_that_name_their_labelled_classes_other_detections_are_no_false_alarms(bench: Bench) -> None:
    content = json.loads((bench.data.root / "train.json").read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    for image in content["images"]:
        image["labelled_categories"] = sorted({names[a["category_id"]] for a in content["annotations"]
                                               if a["image_id"] == image["id"]})
    bench.data.write(content)
    (job,) = bench.plan("yolo11n")
    bench.finish(job)
    right = [{"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.5}
             for a in content["annotations"]]
    wrong = [{"image_id": image["id"], "category_id": number, "bbox": [1, 1, 9, 9], "score": 0.9}
             for image in content["images"] for number in names if names[number] not in image["labelled_categories"]]
    (job.folder / "test/detections.json").write_text(json.dumps(right + wrong))
    assert wrong and accuracy.labelled_ap(job) == pytest.approx(1)


def test_a_run_that_fails_leaves_the_others_alone_and_names_its_log(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def carry_out(job: accuracy.Run, _: None) -> None:
        if job.row == "other":
            raise InputError("other: ended with code 2. See log.txt; the same command goes on.")
        bench.finish(job)

    monkeypatch.setattr(accuracy, "carry_out", carry_out)
    runs = bench.plan("other", "yolo11n")
    assert accuracy.carry_out_all(runs, None, 1) == 1
    assert runs[1].metrics.exists() and "See log.txt" in capsys.readouterr().err


@pytest.mark.parametrize(("code", "error"), [(3, accuracy.Interrupted), (-2, accuracy.Interrupted), (2, InputError)])
def test_a_training_that_was_stopped_is_told_from_one_that_failed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, code: int, error: type
) -> None:
    monkeypatch.setattr(accuracy.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=code))
    with pytest.raises(error):
        accuracy.carry_out(*bench.plan("yolo11n"), None)


def test_a_run_that_is_interrupted_ends_those_that_wait(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []

    def carry_out(job: accuracy.Run, _: None) -> None:
        begun.append(job.row)
        raise accuracy.Interrupted

    monkeypatch.setattr(accuracy, "carry_out", carry_out)
    with pytest.raises(KeyboardInterrupt):
        accuracy.carry_out_all(bench.plan("yolo11n", "other"), None, 1)
    assert begun == ["yolo11n"]


def test_ctrl_c_begins_no_run_that_waits(tmp_path: Path) -> None:
    """As in a terminal, the whole group is interrupted: the training that runs ends, and no other begins."""
    code = (
        "import signal, subprocess, sys\nfrom pathlib import Path\nfrom benchmarks import accuracy\n"
        # A shell's background jobs inherit that the signal is ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "training = 'import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(60)'\n"
        "def carry_out(job, _):\n"
        "    child = [sys.executable, '-c', training, f'{sys.argv[1]}/{job.row}']\n"
        "    if subprocess.run(child, stderr=subprocess.DEVNULL).returncode == -signal.SIGINT:\n"
        "        raise accuracy.Interrupted\n"
        "accuracy.carry_out = carry_out\n"
        "jobs = [accuracy.Run(row, 0, Path(row), Path(row), ()) for row in ('first', 'second')]\n"
        "accuracy.carry_out_all(jobs, None, 1)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, start_new_session=True,
                               stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "first").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) != 0
    assert [p.name for p in tmp_path.iterdir()] == ["first"]


def test_what_the_peer_can_be_told_reaches_it(bench: Bench) -> None:
    (job,) = bench.plan("ultralytics:yolo11n,augment.scale=0.2,loss.box=3", settings=("train.amp=bf16", "eval.conf=0.01"))
    python, script, case = accuracy_peer.command("python", job.row, job.config, job.folder)
    case = json.loads(case)
    assert (python, Path(script).name, case["model"]) == ("python", "accuracy_run.py", "yolo11n")
    told = case["training"]
    expected = {"scale": 0.2, "box": 3, "amp": "bf16", "device": "cpu", "imgsz": 64, "batch": 4, "nbs": 64, "seed": 0}
    assert {name: told[name] for name in expected} == expected
    assert case["testing"] == {"conf": 0.01, "iou": 0.7, "max_det": 3000}


@pytest.mark.parametrize(("device", "gpu", "expected"), [(0, True, "bf16"), (None, True, "bf16"), ("cpu", True, False),
                                                         (None, False, False)])
def test_the_peer_is_not_told_of_bf16_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, device: int | str | None, gpu: bool, expected: object
) -> None:
    """It would refuse to train."""
    monkeypatch.setattr("benchmarks.accuracy_run.torch.cuda.is_available", lambda: gpu)
    assert precision({"amp": "bf16"} | ({} if device is None else {"device": device})) == expected


def test_the_peer_reads_the_set_with_boxes_that_are_clipped_and_of_some_area(tiny_set: object, tmp_path: Path) -> None:
    content = json.loads((tiny_set.root / "train.json").read_text())
    image = content["images"][0]
    content["annotations"] = [
        {"id": 1, "image_id": image["id"], "category_id": 5, "bbox": [-4, 10, 12, 20], "iscrowd": 0},
        {"id": 2, "image_id": image["id"], "category_id": 9, "bbox": [5, 5, 0, 9], "iscrowd": 0},
        {"id": 3, "image_id": image["id"], "category_id": 9, "bbox": [5, 5, 9, 9], "iscrowd": 1},
    ]
    tiny_set.write(content)
    case = {"data": str(tiny_set.root), "images": "images", "splits": {"train": "train.json", "test": "train.json"}}
    described = json.loads(yolo_set(case, tmp_path / "set").read_text())
    assert described["names"] == ["alpha", "beta", "gamma"] and described["train"] == "images/train"
    lines = (tmp_path / f"set/labels/train/{image['id']}.txt").read_text().splitlines()
    width, height = image["width"], image["height"]
    assert len(lines) == 1
    np.testing.assert_allclose([float(v) for v in lines[0].split()], [1, 4 / width, 20 / height, 8 / width, 20 / height],
                               atol=1e-7)
    assert len(list((tmp_path / "set/images/train").iterdir())) == len(content["images"])


def test_the_peer_learns_the_classes_by_name_however_a_file_lists_them(tiny_set: object, tmp_path: Path) -> None:
    """Ours are alpha, beta, gamma, as train.json numbers them; test.json lists and numbers them otherwise."""
    content, numbers = tiny_set.content, {2: 70, 5: 60, 9: 50}
    tiny_set.write({**content, "categories": content["categories"][::-1]})
    tiny_set.write({
        **content, "annotations": [{**a, "category_id": numbers[a["category_id"]]} for a in content["annotations"]],
        "categories": [{**c, "id": numbers[c["id"]]} for c in content["categories"]]}, "test.json")
    case = {"data": str(tiny_set.root), "images": "images", "splits": {"train": "train.json", "test": "test.json"}}
    assert json.loads(yolo_set(case, tmp_path / "set").read_text())["names"] == ["alpha", "beta", "gamma"]
    for image in content["images"]:
        expected = [tiny_set.IDS.index(a["category_id"]) for a in content["annotations"] if a["image_id"] == image["id"]]
        for split in ("train", "test"):
            lines = (tmp_path / f"set/labels/{split}/{image['id']}.txt").read_text().splitlines()
            assert [int(line.split()[0]) for line in lines] == expected
    assert json.loads((tmp_path / "set/ids.json").read_text()) == [70, 60, 50]


def test_the_peers_clock_counts_an_epoch_once_and_leaves_its_last_test_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("benchmarks.accuracy_run.time.perf_counter", lambda: now[0])

    class Trainer:
        epoch = 0

    def epoch(clock: Clock, number: int, training: float, validation: float) -> None:
        Trainer.epoch = number
        clock.start(Trainer)
        now[0] += training
        clock.trained(Trainer)
        now[0] += validation
        clock.validated(Trainer)

    clock = Clock(tmp_path / "seconds.jsonl")
    epoch(clock, 0, 3, 1)
    epoch(clock, 1, 3, 1)
    clock = Clock(tmp_path / "seconds.jsonl")           # resumed: its own clock begins anew, and epoch 1 is trained again
    now[0] = 0
    epoch(clock, 1, 4, 2)
    clock.validated(Trainer)
    assert clock.epochs() == [{"epoch": 0, "training": 3, "all": 4}, {"epoch": 1, "training": 4, "all": 6}]


@pytest.mark.parametrize(("epoch", "trained"), [(-1, True), (24, True), (23, False)])
def test_a_peer_that_was_stopped_after_its_last_epoch_is_not_trained_again(tmp_path: Path, epoch: int, trained: bool) -> None:
    torch.save({"epoch": epoch}, tmp_path / "last.pt")
    assert is_trained(tmp_path / "last.pt", 25) is trained
    assert not is_trained(tmp_path / "none.pt", 25)
