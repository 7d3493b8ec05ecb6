"""What a run survives: signals at any moment, kills, full disks, numbers that are not finite; and its last words."""
import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from torch import multiprocessing

import engine.trainer
from engine import checkpoint, failures
from engine.batchnorm import KeptStatistics
from engine.config import Config, TrainConfig
from engine.distributed import Ranks
from engine.lock import FolderLock
from engine.log import RunLog
from engine.signals import Stopped, StopRequest
from engine.trainer import Trainer
from errors import InputError, MachineError, run
from losses import Criterion, LossTerms
from models import ModelConfig, build_model

ROOT = Path(__file__).parents[2]
DECISIVE = ("model", "ema", "ema_updates", "optimizer", "scaler", "position", "best", "generators", "sums")


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


def same(a: object, b: object) -> bool:
    """Two trees of plain values and tensors are equal, bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else type(a) is type(b) and a == b


def differences(a: object, b: object, where: str) -> list[str]:
    """Where two trees of plain values and tensors differ, and how much: bits, or the place where a run stood."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [line for key in a for line in differences(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [line for k, pair in enumerate(zip(a, b, strict=True)) for line in differences(*pair, f"{where}/{k}")]
    if type(a) is type(b) and same(a, b):
        return []
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and a.shape == b.shape:
        return [f"{where}: {int((a != b).sum())} of {a.numel()} entries, by up to {(a.double() - b.double()).abs().max():.3g}"]
    return [f"{where}: {a!r} and {b!r}"]


def assert_same_end(one: Path, other: Path) -> None:
    """Two runs ended with the same last.pt and best.pt."""
    first, second = (checkpoint.load(folder / "last.pt") for folder in (one, other))
    found = [line for key in DECISIVE for line in differences(first[key], second[key], key)]
    assert not found, f"{len(found)} differences: {found[:5]} ... {found[-5:]}"
    assert same(*(checkpoint.load(folder / "best.pt")["weights"] for folder in (one, other)))


def at_step(monkeypatch: pytest.MonkeyPatch, number: int, act: object) -> None:
    """Call `act(trainer)` before the optimizer step of that number, counted from 1."""
    steps, original = [0], Trainer._optimizer_step

    def step(trainer: Trainer, *arguments: object) -> tuple[bool, bool]:
        steps[0] += 1
        if steps[0] == number:
            act(trainer)
        return original(trainer, *arguments)

    monkeypatch.setattr(Trainer, "_optimizer_step", step)


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_each_of_the_three_signals_saves_and_exits_with_3(
    tiny_run: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, name: signal.Signals
) -> None:
    at_step(monkeypatch, 2, lambda _: os.kill(os.getpid(), name))
    assert tiny_run.train("run") == 3
    assert f"stopped by {name.name} and saved" in capsys.readouterr().out
    assert checkpoint.load(tiny_run.folder / "run/last.pt")["position"]["step"] == 2


def test_a_signal_before_the_first_step_leaves_nothing_and_exits_with_3(
    tiny_run: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(engine.trainer, "build_model", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    assert tiny_run.train("run") == 3
    assert "stopped by SIGTERM before the first step" in capsys.readouterr().out
    assert not (tiny_run.folder / "run").exists()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_signals_that_come_twice_change_nothing_but_a_second_ctrl_c_interrupts(capsys: pytest.CaptureFixture) -> None:
    """torchrun passes on what a scheduler sends to all processes of a job, the ranks among them."""
    with StopRequest() as stop:
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop
        with pytest.raises(SystemExit) as caught:
            run(lambda: os.kill(os.getpid(), signal.SIGINT))
    assert caught.value.code == 130 and capsys.readouterr().err == "interrupted\n"


def test_a_run_stopped_while_it_validates_goes_on_with_the_validation(
    tiny_run: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tiny_run.train("whole") == 0
    original = Trainer._validate

    def validate(trainer: Trainer) -> dict | None:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_validate", validate)
        assert tiny_run.train("parts") == 3
        assert not (tiny_run.folder / "parts/best.pt").exists()
        position = checkpoint.load(tiny_run.folder / "parts/last.pt")["position"]
        assert (position["epoch"], position["batch"], position["ended"]) == (0, 3, False)
    assert tiny_run.train("parts", "--resume") == 0
    assert_same_end(tiny_run.folder / "whole", tiny_run.folder / "parts")
    logs = [[json.loads(line) for line in (tiny_run.folder / name / "log.jsonl").read_text().splitlines()]
            for name in ("whole", "parts")]
    assert [[(r["epoch"], r["step"], r["loss"], r["val"]) for r in log] for log in logs] == \
        [[(r["epoch"], r["step"], r["loss"], r["val"]) for r in logs[0]]] * 2


@pytest.mark.parametrize("step", [2, 4])
def test_killed_at_any_step_a_run_goes_on_from_the_last_timed_checkpoint(
    tiny_run: object, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """In the warm-up a step takes one batch, then two; a checkpoint after each, and the kill comes during the next."""
    def kill(_: Trainer) -> None:
        raise Killed

    assert tiny_run.train("whole") == 0
    with monkeypatch.context() as patch:
        at_step(patch, step, kill)
        with pytest.raises(Killed):
            tiny_run.train("parts", "train.save_minutes=1e-9")
    left = checkpoint.load(tiny_run.folder / "parts/last.pt")["position"]
    assert left["step"] == {2: 1, 4: 3}[step]
    assert tiny_run.train("parts", "--resume") == 0
    assert_same_end(tiny_run.folder / "whole", tiny_run.folder / "parts")


def test_left_overs_of_a_killed_write_are_removed(tiny_run: object) -> None:
    assert tiny_run.train("run", "train.max_steps=1") == 0
    (tiny_run.folder / "run/.last.pt.123.tmp").write_bytes(b"half")
    assert tiny_run.train("run", "--resume", "train.max_steps=2") == 0
    assert not list((tiny_run.folder / "run").glob(".*"))


def test_numbers_that_are_not_finite_reach_neither_weights_nor_statistics_nor_the_average(
    tiny_run: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The second batch overflows inside the network, as fp16 does: its forward spoils BatchNorm before the loss tells."""
    original, calls, kept = Trainer._optimizer_step, [0], {}
    original_loss, losses = Criterion.__call__, []

    def loss(criterion: Criterion, *arguments: object) -> LossTerms:
        terms = original_loss(criterion, *arguments)
        losses.append(float(terms.cls))
        return terms

    def step(trainer: Trainer, *arguments: object) -> tuple[bool, bool]:
        calls[0] += 1
        spoiled = not all(torch.isfinite(b).all() for b in trainer.raw_model.buffers())
        result = original(trainer, *arguments)
        if calls[0] in (1, 2):
            kept[calls[0]] = {k: v.clone() for k, v in trainer.raw_model.state_dict().items() if "num_batches" not in k}
            assert spoiled == (calls[0] == 2)
        return result

    def spoil(module: torch.nn.Module, inputs: tuple) -> tuple:
        return (inputs[0] * torch.inf,) if calls[0] == 1 and module.training else inputs

    def build(config: ModelConfig) -> torch.nn.Module:
        model = build_model(config)
        model.register_forward_pre_hook(spoil)
        return model

    monkeypatch.setattr(Trainer, "_optimizer_step", step)
    monkeypatch.setattr(engine.trainer, "build_model", build)
    monkeypatch.setattr(Criterion, "__call__", loss)
    assert tiny_run.train("run") == 0
    assert same(kept[1], kept[2])
    log = [json.loads(line) for line in (tiny_run.folder / "run/log.jsonl").read_text().splitlines()]
    assert [r["skipped_steps"] for r in log] == [1, 1]
    assert np.isfinite(losses[:3]).tolist() == [True, False, True]
    assert log[0]["loss"]["cls"] == pytest.approx((losses[0] + losses[2]) / 2)         # the mean of those that were
    assert "skipped steps 1" in capsys.readouterr().out
    saved = checkpoint.load(tiny_run.folder / "run/last.pt")
    assert all(torch.isfinite(v).all() for name in ("model", "ema") for v in saved[name].values())


def test_bad_steps_in_a_row_end_the_run_and_name_the_images(
    tiny_run: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    original = Trainer._optimizer_step

    def step(trainer: Trainer, *arguments: object) -> tuple[bool, bool]:
        if trainer.position.step > 1:
            next(trainer.raw_model.parameters()).grad[0] = torch.nan
        return original(trainer, *arguments)

    monkeypatch.setattr(Trainer, "_optimizer_step", step)
    with pytest.raises(SystemExit) as caught:
        run(lambda: tiny_run.train("run", "train.max_bad_steps=2", "train.save_minutes=1e-9"))
    assert caught.value.code == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "train.max_bad_steps" in line and "2 steps in a row" in line and "train.lr" in line
    note = json.loads((tiny_run.folder / "run/bad_batch.json").read_text())
    assert note["step"] == 3 and len(note["files"]) == 4 and all(Path(name).is_file() for name in note["files"])
    weights = checkpoint.load(tiny_run.folder / "run/last.pt")["model"].values()
    assert all(torch.isfinite(w).all() for w in weights)


def test_statistics_come_back() -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3))
    kept = KeptStatistics(model)
    model(torch.rand(2, 3, 4, 4))
    kept.keep()
    before = {k: v.clone() for k, v in model.state_dict().items() if "running" in k}
    model(torch.full((2, 3, 4, 4), torch.inf))
    kept.put_back()
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())


def test_a_full_disk_is_reported_and_survived_until_the_last_checkpoint(
    tiny_run: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    original, calls = checkpoint.save, []

    def save(path: Path, content: dict) -> None:
        calls.append(path.name)
        if len(calls) in (3, 4):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(path, content)

    monkeypatch.setattr(checkpoint, "save", save)
    assert tiny_run.train("run", "train.save_minutes=1e-9") == 0
    assert capsys.readouterr().out.count("No space left on device); the previous one stands") == 2

    def full(path: Path, content: dict) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(InputError, match=r"best\.pt: could not be written .*Make room and go on with --resume"):
        tiny_run.train("full", "train.epochs=1", "train.close_mosaic=0")


def test_a_run_stopped_while_it_validates_does_not_claim_to_be_saved_on_a_full_disk(
    tiny_run: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def full(path: Path, content: dict) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(InputError, match=r"last\.pt: could not be written .*Make room"):
        tiny_run.train("run")
    assert "and saved in" not in capsys.readouterr().out


def test_a_disk_that_is_full_for_a_while_costs_pictures_and_curves_but_no_line_of_the_log(
    tiny_run: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Nothing can be written from the second step until the second epoch's last, the first epoch's end included."""
    full = [False]

    def at_times(original: Callable) -> Callable:
        def write(*arguments: object) -> object:
            if full[0]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(*arguments)
        return write

    for owner, name in ((os, "fsync"), (Path, "write_bytes"), (EventFileWriter, "flush"), (EventFileWriter, "add_event")):
        monkeypatch.setattr(owner, name, at_times(getattr(owner, name)))
    at_step(monkeypatch, 2, lambda _: full.__setitem__(0, True))
    at_step(monkeypatch, 5, lambda _: full.__setitem__(0, False))
    assert tiny_run.train("run") == 0
    out = capsys.readouterr().out
    assert not full[0]
    for name in ("last.pt", "best.pt", "log.jsonl", "tensorboard", "pictures/validation.png"):
        assert f"run/{name}: could not be written (No space left on device)" in out, out
    log = [json.loads(line) for line in (tiny_run.folder / "run/log.jsonl").read_text().splitlines()]
    assert [(r["epoch"], r["step"]) for r in log] == [(0, 3), (1, 6)]
    board = EventAccumulator(str(tiny_run.folder / "run/tensorboard")).Reload()
    assert [e.step for e in board.Scalars("loss/box")] == [6]
    assert checkpoint.load(tiny_run.folder / "run/last.pt")["position"]["epoch"] == 2
    assert (tiny_run.folder / "run/best.pt").exists() and not list((tiny_run.folder / "run").rglob(".*"))


def test_a_line_that_is_cut_while_it_is_written_leaves_the_log_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    log = RunLog(tmp_path)
    log.epoch({"epoch": 0, "step": 1})
    with monkeypatch.context() as patch:
        def fail(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(os, "fsync", fail)        # the line is in the file by then
        log.epoch({"epoch": 1, "step": 2})
        assert (tmp_path / "log.jsonl").read_text() == '{"epoch": 0, "step": 1}\n'
        log.close()
        with pytest.raises(SystemExit) as caught:
            run(lambda: os.fsync(0))            # where nobody else expects it, too
    assert caught.value.code == 2 and "could not be written (No space left on device)" in capsys.readouterr().err
    log.epoch({"epoch": 2, "step": 3})
    lines = [json.loads(line)["epoch"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == [0, 1, 2]


def test_lines_of_a_log_that_are_no_records_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(b'{"epoch": 0}\n12\n{"a": 1}\n\xff\x00\n{"epoch": 1}\n{"epoch": 2}\n{"epo')
    RunLog(tmp_path, first_epoch=2)
    assert (tmp_path / "log.jsonl").read_text() == '{"epoch": 0}\n{"epoch": 1}\n'


def test_a_resumed_run_cannot_lose_its_log_to_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines that stay are written beside, as all others are."""
    RunLog(tmp_path).epoch({"epoch": 0, "step": 1})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        RunLog(tmp_path, first_epoch=1)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["log.jsonl"]
    assert (tmp_path / "log.jsonl").read_text() == '{"epoch": 0, "step": 1}\n'


def test_a_write_that_the_system_cuts_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    """A file may grow to 100 kB and no more, which fails in the middle of torch's writer as a full disk does."""
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"a": 1})
    code = f"""
import resource, signal, sys, torch
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from engine import checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoint.save(Path({str(path)!r}), {{"a": torch.zeros(1_000_000)}})
except OSError as error:
    print("OSError", error.strerror)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith("OSError"), done.stderr
    assert checkpoint.load(path)["a"] == 1 and [p.name for p in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize(("error", "kind", "words"), [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 80 GiB"),
     InputError, ("train.batch_size", "8 images of 800 px", "2.50 GIB more", "train.amp=bf16")),
    (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call."),
     InputError, ("train.batch_size", "8 images of 800 px", "train.amp=bf16")),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
     InputError, ("train.batch_size", "8 images of 800 px", "train.amp=bf16")),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out "
                  "of shared memory. Please try to raise your shared memory limit."),
     InputError, ("train.workers", "/dev/shm", "--shm-size", "train.workers=0")),
    (RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nRuntimeError: unable to write to file "
                  "</torch_1_2>: No space left on device (28)"), InputError, ("train.workers", "/dev/shm")),
    (RuntimeError("unable to open shared memory object </torch_1_2> in read-write mode: No space left on device (28)"),
     InputError, ("train.workers", "/dev/shm")),
    (RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2>: Success (0)"),
     InputError, ("train.workers", "/dev/shm")),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
     InputError, ("train.workers", "lower", "--resume")),
    (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"),
     InputError, ("train.workers", "lower", "--resume")),
    (RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
                  "RuntimeError: shape '[3, 8]' is invalid for input of size 23"), None, ()),
    (RuntimeError("No valid triton configs. OutOfResources: out of resource: shared memory, Required: 262144, Hardware limit: "
                  "232448. Reducing block sizes or `num_stages` may help."), None, ()),
    (RuntimeError("[/pytorch/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1"),
     MachineError, ("process of this run was lost", "--resume")),
    (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), None, ()),
])
def test_failures_of_the_machine_are_one_line(error: RuntimeError, kind: type | None, words: tuple[str, ...]) -> None:
    config = Config(train=TrainConfig(batch_size=16, image_size=800))
    with pytest.raises(kind or RuntimeError) as caught, failures.in_one_line(config, world_size=2):
        raise error
    if isinstance(error, torch.OutOfMemoryError):
        with pytest.raises(InputError, match="^eval.batch_size: 16 images .*Lower eval.batch_size.$"), \
                failures.in_one_line(config, training=False):
            raise error
    if kind:
        assert "\n" not in str(caught.value) and all(word in str(caught.value) for word in words), caught.value
    else:
        assert caught.value is error


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux counts the memory of a process")
def test_every_epoch_logs_its_peak_memory(trained: object) -> None:
    record = json.loads((trained.folder / "run/log.jsonl").read_text().splitlines()[0])
    own = int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) / 2**20
    assert 0.1 < record["peak_memory_gib"] <= own + 0.001


class GPUs(Ranks):
    """Ranks with GPUs, as far as synchronize_batchnorm looks."""

    def __init__(self, count: int):
        self.world_size, self.device = count, torch.device("cuda", 0)


@pytest.mark.parametrize(("mode", "ranks", "expected"), [
    ("auto", 1, False), ("auto", 2, False), ("auto", 4, True), ("on", 2, True), ("on", 1, False), ("off", 4, False)])
def test_batchnorm_is_synchronized_on_gpus_with_fewer_than_8_images_each(mode: str, ranks: int, expected: bool) -> None:
    model = build_model(ModelConfig(scale="n", num_classes=2, arb=True))
    names, weights = list(model.state_dict()), model.state_dict()
    GPUs(ranks).synchronize_batchnorm(model, mode, batch_size=16)
    kinds = {type(m) for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)}
    assert kinds == {torch.nn.SyncBatchNorm if expected else torch.nn.BatchNorm2d}
    assert list(model.state_dict()) == names and same(dict(model.state_dict()), dict(weights))
    if expected:
        with pytest.raises(InputError, match="^train.compile: .*train.sync_batchnorm=off.* 8 images"):
            GPUs(ranks).synchronize_batchnorm(model, mode, batch_size=16, compiled=True)
    else:
        GPUs(ranks).synchronize_batchnorm(model, mode, batch_size=16, compiled=True)


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), True), ((8, 0), False), ((9, 0), False)])
def test_bf16_is_known_to_be_slow_on_gpus_before_ampere(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert GPUs(1).lacks_bf16() is expected and not Ranks("cpu").lacks_bf16()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux counts the memory of a process")
def test_the_criterion_of_a_dense_batch_with_the_stride_4_level_stays_small() -> None:
    """Batch 16 at 800 px, 53,125 cells, an image of 3,000 objects: under 2 GB above the inputs and their gradients."""
    code = f"""
import sys, torch
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from data import Targets
from losses import AssignerConfig, Criterion, LossConfig, TaskAlignedAssigner
from models import ModelConfig, build_model
from models.head import HeadOutput
torch.manual_seed(0)
model = build_model(ModelConfig(scale="n", num_classes=8, p2=True)).eval()
with torch.no_grad():
    anchors = model(torch.zeros(1, 3, 800, 800)).main.anchors
    bins = model(torch.zeros(1, 3, 64, 64)).main.bins
cells = len(anchors.points)
assert cells == 53125, cells
logits = torch.randn(16, cells, 64, requires_grad=True), torch.randn(16, cells, 8, requires_grad=True)
counts = [3000] + [200] * 15
corner = torch.rand(sum(counts), 2) * 780
boxes = torch.cat((corner, corner + 2 + torch.rand(sum(counts), 2) * 18), 1)
targets = Targets(boxes, torch.randint(8, (sum(counts),)), torch.arange(16).repeat_interleave(torch.tensor(counts)))
for x in logits:
    x.grad = torch.zeros_like(x)
def memory(name):
    return int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0])
Path("/proc/self/clear_refs").write_text("5")                      # VmHWM, the most, starts anew
before = memory("VmRSS")
criterion = Criterion(LossConfig(), TaskAlignedAssigner(8, **vars(AssignerConfig(min_box_side=8))))
criterion(HeadOutput(*logits, anchors, bins), None, targets).total.backward()
print((memory("VmHWM") - before) / 2**20)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    gigabytes = float(done.stdout) * 1.073741824
    print(f"{gigabytes:.2f} GB")
    assert 0.1 < gigabytes < 2


def hold(folder: str, held: object, end: object) -> None:
    """Another process that trains there."""
    lock = FolderLock(Path(folder))
    lock.take()
    held.set()
    end.wait(60)
    lock.release()


def test_a_second_run_in_a_folder_is_refused_before_it_writes_and_may_go_on_when_the_first_has_ended(
    tiny_run: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.lock.PATIENCE", 0.3)
    assert tiny_run.train("run", "train.max_steps=1") == 0

    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (tiny_run.folder / "run").rglob("*") if path.is_file()}

    before = content()
    context = multiprocessing.get_context("spawn")
    held, end = context.Event(), context.Event()
    other = context.Process(target=hold, args=(str(tiny_run.folder / "run"), held, end))
    other.start()
    assert held.wait(60)
    with pytest.raises(InputError, match=r"--output: another run is writing into .*run\. Stop it, or name another folder"):
        tiny_run.train("run", "--resume")
    lock = tiny_run.folder / "run/.lock"
    assert content() == {**before, lock: b""}
    end.set()
    other.join(60)
    assert tiny_run.train("run", "--resume") == 0
    assert not lock.exists()


def save_and_leave(folder: str, content: str, held: object) -> None:
    """Another process that trains there, and saves and ends a second after it was asked to."""
    lock = FolderLock(Path(folder))
    lock.take()
    held.set()
    time.sleep(1)
    os.replace(content, Path(folder, "last.pt"))
    lock.release()


def test_a_run_that_is_started_while_another_ends_goes_on_from_what_that_one_saves(
    tiny_run: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run.folder / "run"
    assert tiny_run.train("run", "train.max_steps=1") == 0
    first = (run / "last.pt").read_bytes()
    assert tiny_run.train("run", "--resume", "train.max_steps=3") == 0
    (run / "last.pt").rename(run / "later.pt")
    (run / "last.pt").write_bytes(first)
    steps = []
    monkeypatch.setattr(Trainer, "fit", lambda trainer: steps.append(trainer.position.step) or trainer.lock.release() or 0)
    held = multiprocessing.get_context("spawn").Event()
    other = multiprocessing.get_context("spawn").Process(target=save_and_leave, args=(str(run), str(run / "later.pt"), held))
    other.start()
    assert held.wait(60)
    assert tiny_run.train("run", "--resume") == 0
    other.join(60)
    assert steps == [3]


@pytest.mark.parametrize("begun", [False, True])
def test_a_checkpoint_that_another_run_writes_while_this_one_starts_is_not_overwritten(
    tiny_run: object, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    """The other one begins after this one has looked for a checkpoint, and ends before it takes the folder."""
    run, content = tiny_run.folder / "run", {}
    assert tiny_run.train("run", "train.max_steps=1") == 0
    if not begun:
        (run / "last.pt").unlink()

    def meanwhile(config: ModelConfig) -> torch.nn.Module:
        (run / "beside").write_bytes(b"another's")
        os.replace(run / "beside", run / "last.pt")
        content.update({path: path.read_bytes() for path in run.rglob("*") if path.is_file()})
        return build_model(config)

    monkeypatch.setattr(engine.trainer, "build_model", meanwhile)
    with pytest.raises(InputError, match=r"another run wrote .*run/last\.pt while this one was starting\..*--resume"):
        tiny_run.train("run", "--resume")
    assert content == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
