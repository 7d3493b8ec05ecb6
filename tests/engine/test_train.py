"""train.py from end to end: what a run leaves behind, and that one which was stopped goes on to the same bits."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engine import checkpoint
from engine.trainer import Trainer
from errors import InputError

ROOT = Path(__file__).parents[2]
TIMES = ("images_per_second", "seconds", "validation_seconds", "peak_memory_gib")


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def assert_same(a: object, b: object, where: str = "") -> None:
    """Two trees of plain values and tensors are equal, bit for bit."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for k, pair in enumerate(zip(a, b, strict=True)):
            assert_same(*pair, f"{where}/{k}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert type(a) is type(b) and a == b, where


def stop_at_step(monkeypatch: pytest.MonkeyPatch, number: int, name: signal.Signals = signal.SIGTERM) -> None:
    """This process gets a signal while it does its optimizer step of that number."""
    steps, original = [0], Trainer._optimizer_step

    def step(trainer: Trainer, *arguments: object) -> tuple[bool, bool]:
        steps[0] += 1
        if steps[0] == number:
            os.kill(os.getpid(), name)
        return original(trainer, *arguments)

    monkeypatch.setattr(Trainer, "_optimizer_step", step)


def test_a_run_leaves_what_the_readme_names(tiny_run: object, capsys: pytest.CaptureFixture) -> None:
    assert tiny_run.train("run") == 0
    folder = tiny_run.folder / "run"
    assert {p.name for p in folder.iterdir()} == {
        "best.pt", "last.pt", "log.jsonl", "manifest.json", "pictures", "tensorboard"
    }
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["parameters"] == 2_590_425 and manifest["train"].startswith("12 images, ")
    assert manifest["config"]["train"]["image_size"] == 64
    assert "2,590,425 parameters" in capsys.readouterr().out

    log = records(folder)
    assert [r["epoch"] for r in log] == [0, 1] and [r["step"] for r in log] == [3, 6]
    assert all(np.isfinite(r["loss"]["box"]) and r["loss"]["box"] > 0 for r in log)
    assert all(0 <= r["unassigned_share"] <= 1 and set(r["val"]) >= {"AP", "AP50", "AP_vt", "AR1500"} for r in log)

    pictures = {"training_batch", "assigned_cells", "validation", "precision_recall", "sizes", "confusion"}
    for name in pictures:
        assert cv2.imread(str(folder / "pictures" / f"{name}.png")) is not None
    board = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0}).Reload()
    assert [e.step for e in board.Scalars("loss/box")] == [3, 6]
    assert board.Scalars("val/AP50")[1].value == pytest.approx(log[1]["val"]["AP50"])
    assert set(board.Tags()["images"]) == pictures


@pytest.mark.parametrize(("step", "position"), [(1, (0, 1)), (4, (1, 2))])
def test_a_stopped_run_goes_on_to_the_same_bits(
    tiny_run: object, monkeypatch: pytest.MonkeyPatch, step: int, position: tuple[int, int]
) -> None:
    """Stopped in the warm-up, and in the middle of an epoch after it; workers and a cache on the second leg only."""
    assert tiny_run.train("whole") == 0
    with monkeypatch.context() as patch:
        stop_at_step(patch, step)
        assert tiny_run.train("parts") == 3
    stopped = checkpoint.load(tiny_run.folder / "parts/last.pt")["position"]
    assert (stopped["epoch"], stopped["batch"]) == position
    assert tiny_run.train("parts", "--resume", "train.workers=1", "data.cache=disk", "data.cache_dir=decoded") == 0
    assert len(list(tiny_run.data.root.glob("decoded/*.pixels"))) == 1          # of data.train and data.val, here the same

    whole, parts = (checkpoint.load(tiny_run.folder / name / "last.pt") for name in ("whole", "parts"))
    for key in ("model", "ema", "ema_updates", "optimizer", "position", "best", "generators"):
        assert_same(whole[key], parts[key], key)
    assert_same(*(checkpoint.load(tiny_run.folder / name / "best.pt")["weights"] for name in ("whole", "parts")))
    logs = [[{k: v for k, v in r.items() if k not in TIMES} for r in records(tiny_run.folder / name)]
            for name in ("whole", "parts")]
    assert_same(*logs)


def test_a_run_that_is_complete_stays_as_it_is_and_says_so(tiny_run: object, capsys: pytest.CaptureFixture) -> None:
    assert tiny_run.train("run") == 0
    log, best = ((tiny_run.folder / "run" / name).read_bytes() for name in ("log.jsonl", "best.pt"))
    assert "nothing is left to do" not in capsys.readouterr().out
    assert tiny_run.train("run", "--resume") == 0
    assert "run: has all of its 2 epochs; nothing is left to do" in capsys.readouterr().out
    assert (tiny_run.folder / "run/log.jsonl").read_bytes() == log
    assert (tiny_run.folder / "run/best.pt").read_bytes() == best


def test_max_steps_ends_a_run_with_everything_saved(tiny_run: object) -> None:
    assert tiny_run.train("run", "train.max_steps=2") == 0
    assert [r["step"] for r in records(tiny_run.folder / "run")] == [2]
    assert checkpoint.load(tiny_run.folder / "run/last.pt")["position"]["batch"] == 2
    assert (tiny_run.folder / "run/best.pt").exists()
    assert tiny_run.train("run", "--resume", "train.max_steps=0") == 0
    assert [r["step"] for r in records(tiny_run.folder / "run")] == [3, 6]


def test_a_resumed_run_logs_every_epoch_once_with_the_losses_of_the_whole_epoch(tiny_run: object) -> None:
    """Stopped between two epochs, and inside one: log.jsonl and TensorBoard are those of a run that was never stopped."""
    def logged(name: str) -> tuple[list, list]:
        lines = [json.loads(line) for line in (tiny_run.folder / name / "log.jsonl").read_text().splitlines()]
        board = EventAccumulator(str(tiny_run.folder / name / "tensorboard")).Reload()
        events = [(e.step, round(e.value, 5)) for e in board.Scalars("loss/cls")]
        return [(line["epoch"], line["step"], round(line["loss"]["cls"], 5)) for line in lines], events

    assert tiny_run.train("whole", "train.nominal_batch=4") == 0
    for steps in (3, 4):
        name = f"stopped at {steps}"
        assert tiny_run.train(name, "train.nominal_batch=4", f"train.max_steps={steps}") == 0
        assert tiny_run.train(name, "train.nominal_batch=4", "--resume") == 0
        assert logged(name) == logged("whole")


@pytest.mark.parametrize("steps", [1, 4])
def test_max_steps_does_not_cut_the_batches_of_an_optimizer_step(tiny_run: object, steps: int) -> None:
    """Two batches are a step, and three an epoch: a run that it paused goes on to the same bits."""
    gathered = ("train.nominal_batch=8", "train.warmup_epochs=0")
    assert tiny_run.train("whole", *gathered) == 0
    assert tiny_run.train("parts", *gathered, f"train.max_steps={steps}") == 0
    position = checkpoint.load(tiny_run.folder / "parts/last.pt")["position"]
    assert position["step"] == steps + 1
    assert tiny_run.train("parts", *gathered, "--resume") == 0
    whole, parts = (checkpoint.load(tiny_run.folder / name / "last.pt") for name in ("whole", "parts"))
    for key in ("model", "ema", "optimizer"):
        assert_same(whole[key], parts[key], key)


def test_an_existing_run_is_neither_overwritten_nor_mixed(tiny_run: object) -> None:
    assert tiny_run.train("run", "train.max_steps=1") == 0
    before = {p: p.read_bytes() for p in (tiny_run.folder / "run").rglob("*") if p.is_file()}
    with pytest.raises(InputError, match=r"holds a run already.*--resume"):
        tiny_run.train("run")
    with pytest.raises(InputError, match=r"train\.lr \(was 0\.01, now 0\.02\)"):
        tiny_run.train("run", "--resume", "train.lr=0.02")
    assert {p: p.read_bytes() for p in (tiny_run.folder / "run").rglob("*") if p.is_file()} == before


def test_a_checkpoint_of_an_older_version_is_refused_and_says_how_to_use_it(tiny_run: object) -> None:
    assert tiny_run.train("run", "train.max_steps=1") == 0
    path = tiny_run.folder / "run/last.pt"
    content = checkpoint.load(path)
    checkpoint.save(path, {**content, "sums": content["sums"][:-1]})
    with pytest.raises(InputError, match=r"last.pt: was written by an older version .* with --weights"):
        tiny_run.train("run", "--resume", "train.max_steps=2")
    assert tiny_run.train("other", "--weights", str(path), "train.max_steps=1") == 0


def test_of_equal_averages_the_last_is_the_best(tiny_run: object) -> None:
    """As where val holds nothing that counts, and AP is undefined."""
    tiny_run.data.write({**tiny_run.data.content, "annotations": []}, "empty.json")
    assert tiny_run.train("run", "data.val=empty.json") == 0
    assert checkpoint.load(tiny_run.folder / "run/best.pt")["progress"]["epoch"] == 1


def test_without_validation_best_is_the_last_average(tiny_run: object) -> None:
    assert tiny_run.train("run", "data.val=") == 0
    last, best = (checkpoint.load(tiny_run.folder / "run" / f"{name}.pt") for name in ("last", "best"))
    assert_same(last["ema"], best["weights"])
    assert "val" not in records(tiny_run.folder / "run")[-1]


def test_by_voc_the_line_the_log_and_the_choice_of_best_follow_the_area_under_the_curve(
    tiny_run: object, capsys: pytest.CaptureFixture
) -> None:
    assert tiny_run.train("run", "eval.protocol=voc", "train.epochs=1", "train.close_mosaic=0") == 0
    value = records(tiny_run.folder / "run")[0]["val"]
    assert set(value) == {"AP50_voc07", "AP50_voc12", "AP50_coco"}
    assert f"AP50_voc12 {value['AP50_voc12']:.3f}  AP50_voc07 {value['AP50_voc07']:.3f}" in capsys.readouterr().out
    assert checkpoint.load(tiny_run.folder / "run/best.pt")["progress"]["AP50_voc12"] == value["AP50_voc12"]
    assert checkpoint.load(tiny_run.folder / "run/last.pt")["best"] == value["AP50_voc12"]


def test_weights_of_another_run_are_taken_as_far_as_they_fit(tiny_run: object, capsys: pytest.CaptureFixture) -> None:
    assert tiny_run.train("first", "train.max_steps=1") == 0
    weights = str(tiny_run.folder / "first/best.pt")
    capsys.readouterr()
    assert tiny_run.train("second", "--weights", weights, "train.max_steps=1", "train.lr=0", "train.warmup_bias_lr=0") == 0
    assert "499 of 499 loaded" in capsys.readouterr().out
    first, second = (checkpoint.load(tiny_run.folder / name / "best.pt")["weights"] for name in ("first", "second"))
    kernels = [name for name in first if name.endswith("conv.weight")]
    assert kernels and all(torch.equal(first[name], second[name]) for name in kernels)      # a rate of 0 keeps them
    still = ("train.lr=0", "train.warmup_bias_lr=0")
    assert tiny_run.train("second", "--weights", weights, "--resume", "train.max_steps=2", *still) == 0
    manifests = [json.loads((tiny_run.folder / name / "manifest.json").read_text()) for name in ("first", "second")]
    assert [manifest["started_from"] for manifest in manifests] == ["scratch", f"{weights}: of train.py"]      # resumed, too
    with pytest.raises(InputError, match="first/best.pt: holds a network of scale n, but model.scale is s"):
        tiny_run.train("wider", "--weights", weights, "train.max_steps=1", "model.scale=s")
    assert not (tiny_run.folder / "wider").exists()


def test_batches_without_any_object_train(tiny_run: object) -> None:
    """Only image 4 of twelve is empty; without mosaic and one image a batch, some batches hold no object."""
    assert tiny_run.train("run", "augment.mosaic=0", "train.batch_size=1", "train.epochs=1", "data.val=") == 0
    assert np.isfinite(records(tiny_run.folder / "run")[0]["loss"]["cls"])


def test_bf16_trains_and_fp16_on_a_cpu_is_refused_in_one_line_that_names_bf16(tiny_run: object) -> None:
    assert tiny_run.train("bf16", "train.amp=bf16", "train.max_steps=2") == 0
    loss = records(tiny_run.folder / "bf16")[0]["loss"]
    assert all(np.isfinite(value) for value in loss.values())
    weights = checkpoint.load(tiny_run.folder / "bf16/best.pt")["weights"].values()
    assert all(w.dtype in (torch.float32, torch.int64) for w in weights)
    with pytest.raises(InputError, match="bf16") as caught:
        tiny_run.train("fp16", "train.amp=fp16")
    assert "\n" not in str(caught.value) and not (tiny_run.folder / "fp16").exists()


def test_a_gradient_that_is_not_finite_is_skipped_and_counted(tiny_run: object, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = Trainer._optimizer_step, [0]

    def step(trainer: Trainer, *arguments: object) -> tuple[bool, bool]:
        calls[0] += 1
        if calls[0] != 2:
            return original(trainer, *arguments)
        next(trainer.raw_model.parameters()).grad.fill_(float("nan"))
        before = {k: v.clone() for k, v in trainer.raw_model.named_parameters()}
        result = original(trainer, *arguments)
        assert all(torch.equal(before[k], v) for k, v in trainer.raw_model.named_parameters())
        return result

    monkeypatch.setattr(Trainer, "_optimizer_step", step)
    assert tiny_run.train("run") == 0
    assert [r["skipped_steps"] for r in records(tiny_run.folder / "run")] == [1, 1]
    weights = checkpoint.load(tiny_run.folder / "run/best.pt")["weights"].values()
    assert all(torch.isfinite(w).all() for w in weights)


def test_ctrl_c_of_a_real_process_with_workers_leaves_a_run_that_can_go_on(tiny_run: object) -> None:
    """As a terminal sends it: to the whole process group, the workers included."""
    folder = tiny_run.folder / "run"
    command = [sys.executable, "train.py", "--config", str(tiny_run.config), "--output", str(folder), "train.epochs=200",
               "train.workers=2", "train.validate_every=500"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               start_new_session=True)
    deadline = time.monotonic() + 120
    while process.poll() is None and not (folder / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 3, err
    assert "go on with --resume" in out and "Traceback" not in err
    position = checkpoint.load(folder / "last.pt")["position"]
    assert position["step"] == 3 * position["epoch"] + position["batch"] > 0
    resumed = subprocess.run([*command, "--resume", f"train.max_steps={position['step'] + 1}"], cwd=ROOT,
                             capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    epochs = [r["epoch"] for r in records(folder)]
    assert epochs == list(range(len(epochs)))


def test_settings_and_options_may_stand_in_any_order(tiny_run: object) -> None:
    assert tiny_run.train("run", "train.max_steps=1", "--resume", "train.epochs=1") == 0
    assert checkpoint.load(tiny_run.folder / "run/last.pt")["config"]["train"]["epochs"] == 1
