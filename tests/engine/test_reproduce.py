"""The way to a table of the paper: what is run and what is left out, signals, stops, and what may stand beside the paper."""
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine import config as configs
from engine import measure, reproduce
from engine.distributed import Ranks
from engine.reproduce import Children, duration
from engine.reproduction import CONFIGS, ROOT, DataFacts, Run, obstacles, plan
from engine.signals import StopRequest
from errors import InputError
from eval.tables import DATA_SETS
from models.table3 import ROWS

ARGUMENTS = ["data.train=train.json", "data.test=train.json", "model.scale=n", "train.epochs=2", "train.image_size=64",
             "train.batch_size=4", "train.workers=0", "train.device=cpu", "train.amp=off"]


def settings(tiny_set: object) -> list[str]:
    return [f"data.root={tiny_set.root}", *ARGUMENTS]


def test_the_runs_of_table_3_are_its_rows_and_those_of_tables_1_and_2_its_ends():
    files = [ROOT / f"configs/aitod/{name}.toml" for name in CONFIGS[3]]
    assert [configs.load(file).model for file in files] == [model for _, model, _ in ROWS]
    for number in (1, 2):
        found = [configs.load(ROOT / f"configs/{DATA_SETS[number]}/{name}.toml").model for name in CONFIGS[number]]
        assert found == [ROWS[0][1], ROWS[-1][1]]


def test_a_plan_names_the_commands_and_knows_how_far_a_run_is(tiny_set, tmp_path):
    """12 pictures, 4 a batch, 2 epochs."""
    runs = plan(3, tmp_path, 1, settings(tiny_set))
    run = runs[2]
    assert [one.subject.name for one in runs] == [
        "YOLO11n", "YOLO11n + P2", "YOLO11n + MDCA", "YOLO11n + ARB", "YOLO11n + PFDH", "YOLO11n + MDCA + ARB",
        "YOLO11n + ARB + PFDH", "YOLO11n + MDCA + PFDH", "RS-TinyNet-n"]
    folder = str(tmp_path / "aitod/ablation_mdca")
    assert run.train_command == [sys.executable, "train.py", "--config", "configs/aitod/ablation_mdca.toml", "--output", folder,
                                 "--resume", *settings(tiny_set)]
    assert run.test_command[1:] == ["test.py", "--checkpoint", f"{folder}/best.pt", "--split", "test", "--output",
                                    f"{folder}/test", *settings(tiny_set)]
    shared = replace(run, gpus=8).train_command
    assert shared[1:7] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "8", "train.py"]
    assert run.batches == run.batches_left == 6 and run.metrics is None
    run.folder.mkdir(parents=True)
    (run.folder / "log.jsonl").write_text('{"epoch": 0, "step": 3, "seconds": 2.5}\n{"epoch": 1, "st')
    assert run.batches_left == 3 and run.seconds == 2.5
    assert plan(3, tmp_path, 1, [*settings(tiny_set), "train.max_steps=5"])[2].batches_left == 2


def test_a_finished_run_is_one_of_these_settings_and_data(tiny_set, tmp_path):
    def found(*more):
        return plan(1, tmp_path, 1, [*settings(tiny_set), *more])[0].metrics

    run = plan(1, tmp_path, 1, settings(tiny_set))[0]
    (run.folder / "test").mkdir(parents=True)
    (run.folder / "test/metrics.json").write_text('{"AP": 0.5}')
    assert found() is None                              # tested, but perhaps not what was trained last
    run.finish()
    assert found() == found("train.workers=3", "data.cache=disk", "train.device=auto") == {"AP": 0.5}
    assert found("train.epochs=3") is found("eval.nms=0.6") is found("train.max_steps=1") is None
    tiny_set.content["images"].pop()
    tiny_set.content["annotations"] = [a for a in tiny_set.content["annotations"] if a["image_id"] != 111]
    tiny_set.write()
    assert found() is None
    assert plan(3, tmp_path, 1, settings(tiny_set))[0].folder == run.folder        # Tables I and III share it


PAPER = {
    1: (("airplane", "bridge", "storage-tank", "ship", "swimming-pool", "vehicle", "person", "wind-mill"),
        14018, 14018, 347617),
    2: (("airplane", "airport", "baseballfield", "basketballcourt", "bridge", "chimney", "dam", "Expressway-Service-area",
         "Expressway-toll-station", "golffield", "groundtrackfield", "harbor", "overpass", "ship", "stadium", "storagetank",
         "tenniscourt", "trainstation", "vehicle", "windmill"), 11725, 11738, 124445),
}


def planned(number, *overrides, **facts):
    """A table's runs as if the paper's data were there."""
    files = [ROOT / f"configs/{DATA_SETS[number]}/{name}.toml" for name in CONFIGS[number]]
    facts = DataFacts(*PAPER[2 if number == 2 else 1])._replace(**facts)
    return [Run(file, configs.load(file, list(overrides)), Path("none"), facts, overrides, 1) for file in files]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_only_the_paper_s_recipe_on_its_data_is_its_experiment(number):
    harmless = ("data.root=/x", "data.test=other.json", "train.seed=3", "train.amp=fp16", "train.workers=2", "data.cache=disk")
    assert obstacles(number, planned(number)) == obstacles(number, planned(number, *harmless)) == []
    changed = planned(number, "train.epochs=2", "model.scale=n")
    assert obstacles(number, changed) == ["the settings model.scale=n, train.epochs=2"]
    for change in ("train.batch_size=32", "eval.nms=0.5", "data.val=val.json", "assigner.min_box_side=16", "loss.box=5",
                   "train.max_steps=9", "augment.mosaic=0", "data.classes=ship"):
        assert len(obstacles(number, planned(number, change))) == 1, change
    trained = PAPER[2 if number == 2 else 1][1]
    assert obstacles(number, planned(number, train_images=24))[0].startswith("trained on 24 images instead of ")
    assert f"{trained:,}" in obstacles(number, planned(number, train_images=24))[0]
    assert "tested on 24 images" in obstacles(number, planned(number, test_images=24))[0]


@pytest.mark.parametrize(("side", "seconds"), [(64, 1.0), (576, 4.0)])
def test_the_time_of_a_step_is_that_of_the_trainer_s_own_steps(tiny_run, monkeypatch, side, seconds):
    """A clock that is asked once a step and goes by seconds. On a CPU a batch of four images of 576 px is four steps of one."""
    clock = iter(range(1000))
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    config = configs.load(tiny_run.config, ["train.max_steps=1", f"train.image_size={side}"])
    with StopRequest() as stop:
        assert measure.measure(config, Ranks("cpu"), stop) == seconds
    assert next(clock) < 6
    assert not (tiny_run.folder / "runs").exists() and not list(tiny_run.folder.rglob("*.pt"))


CHILD = """
import signal, sys, time
signal.signal(signal.{heard}, lambda *_: sys.exit({code}))
open(sys.argv[1], "w").close()
time.sleep(60)
"""


@pytest.mark.parametrize(("sent", "heard"), [("SIGTERM", "SIGTERM"), ("SIGINT", "SIGINT"), ("SIGUSR1", "SIGTERM"),
                                             ("SIGHUP", "SIGTERM")])
@pytest.mark.parametrize("code", [3, 1])
def test_a_signal_reaches_the_child_and_ends_the_whole_with_3(tmp_path, sent, heard, code):
    """Whatever code the child has then: train.py 3, torchrun 1."""
    ready = tmp_path / "ready"

    def send():
        while not ready.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), getattr(signal, sent))

    before = signal.signal(getattr(signal, sent), signal.SIG_DFL)      # a shell's background jobs ignore SIGINT
    thread = threading.Thread(target=send)
    with Children() as children:
        thread.start()
        assert children.call([sys.executable, "-c", CHILD.format(heard=heard, code=code), str(ready)]) == 3
        assert children.call([sys.executable, "-c", f"open({str(tmp_path / 'late')!r}, 'w')"]) == 3
    thread.join()
    assert not (tmp_path / "late").exists() and signal.signal(getattr(signal, sent), before) == signal.SIG_DFL


def test_ctrl_c_while_steps_are_timed_prints_no_traceback(tiny_set, tmp_path, monkeypatch, capfd):
    """A process that does not handle signals yet, as while it imports torch."""
    ready = tmp_path / "ready"
    code = f"import time; open({str(ready)!r}, 'w').close(); time.sleep(60)"
    monkeypatch.setattr(reproduce, "launcher", lambda gpus: [sys.executable, "-c", code])

    def send():
        while not ready.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=send)
    with Children() as children:
        thread.start()
        assert reproduce.measured(children, plan(1, tmp_path, 1, settings(tiny_set))[:1]) == ({}, 3)
    thread.join()
    signal.signal(signal.SIGINT, before)
    assert capfd.readouterr().err == ""


def test_commands_can_be_pasted_and_help_names_the_command(tmp_path, capsys):
    run = replace(planned(1)[0], folder=tmp_path / "a folder")
    assert reproduce.train_and_test(SimpleNamespace(call=lambda command, output: 0 if output is None else 1), run) == 1
    train, test = capsys.readouterr().out.splitlines()
    assert f"--output '{run.folder}'" in train
    assert f"--output '{run.folder / 'test'}'" in test and test.endswith(f" > '{run.folder / 'test.txt'}'")
    with pytest.raises(SystemExit):
        measure.main(["--help"])
    assert capsys.readouterr().out.startswith("usage: python -m engine.measure ")


def test_the_codes_of_children_and_what_they_print(tmp_path):
    with Children() as children:
        for code, ours in ((0, 0), (1, 1), (2, 2), (3, 3)):
            script = f"import sys; print('hello'); sys.exit({code})"
            assert children.call([sys.executable, "-c", script], tmp_path / "out") == ours
        assert (tmp_path / "out").read_text() == "hello\n"
        assert children.call([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]) == 1
        assert children.call([sys.executable, "-c", "import errors"]) == 0              # wherever it is called from
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Children():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN                    # as nohup wants it
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_plan_says_beforehand_what_the_table_will_be():
    """None of the folders exists, so that every run has a time to wait for."""
    def note(*overrides):
        runs = planned(1, *overrides)
        return reproduce.plan_table(1, runs, {run.file: 1.0 for run in runs}).text()

    assert "Mechanism only" not in note()
    assert '"Mechanism only"' in note("train.epochs=2") and "the settings train.epochs=2." in note("train.epochs=2")


def test_durations_have_the_unit_that_suits():
    assert [duration(s) for s in (0, 59, 89, 90, 5399, 5400, 3.6e6)] == ["0 s", "59 s", "89 s", "1.5 min", "90.0 min", "1.5 h",
                                                                         "1,000.0 h"]


def command(tiny_set, folder, *more):
    return ["--table", "1", "--output", str(folder), *more, *settings(tiny_set)]


@pytest.mark.slow
def test_one_row_from_nothing_to_its_table(tiny_set, tmp_path, capfd, monkeypatch):
    """Timed, trained, tested; then there is nothing left to do."""
    folder = tmp_path / "out"
    assert reproduce.main(command(tiny_set, folder, "--only", "yolo11m")) == 0
    printed = capfd.readouterr().out
    assert printed.index("s/batch") < printed.index("$ python train.py") < printed.index("$ python test.py")
    plan_line = next(line.split() for line in printed.splitlines() if line.startswith("YOLO11n "))
    assert plan_line[:4] == ["YOLO11n", "to", "do", "6"] and float(plan_line[4]) > 0
    metrics = json.loads((folder / "aitod/yolo11m/test/metrics.json").read_text())
    text, marked = (folder / "table1.txt").read_text(), (folder / "table1.md").read_text()
    assert text in printed and "Mechanism only" in text and "Mechanism only" in marked and "1 of 2 runs" in marked
    ours = next(line.split() for line in text.splitlines() if line.startswith("YOLO11n"))
    assert ours[1:] == [f"{100 * metrics[k]:.1f}" if metrics[k] >= 0 else "-" for k in
                        ("AP", "AP50", "AP75", "AP_vt", "AP_t", "AP_s", "AP_m")] + ["2,590,425"]
    assert not any(name in printed for name in ("Faster R-CNN", "RS-TinyNet (Ours)", "34.2"))

    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("a process was started"))
    assert reproduce.main(command(tiny_set, folder, "--only", "yolo11m")) == 0
    again = capfd.readouterr().out
    assert "finished in" in again and text in again and "$ python" not in again


def test_a_dry_run_prints_what_is_left_and_writes_nothing(tiny_set, tmp_path, capfd):
    """One run is finished, the other trained and not tested, so that no step is to be timed."""
    first, second = plan(1, tmp_path / "out", 1, settings(tiny_set))
    for run in (first, second):
        (run.folder / "test").mkdir(parents=True)
        (run.folder / "log.jsonl").write_text('{"epoch": 1, "step": 6, "seconds": 100}\n')
    (first.folder / "test/metrics.json").write_text("{}")
    first.finish()
    before = sorted(tmp_path.rglob("*"))
    assert reproduce.main(command(tiny_set, tmp_path / "out", "--dry-run")) == 0
    lines = capfd.readouterr().out.splitlines()
    assert "Mechanism only" in "\n".join(lines)
    assert [line.split()[:3] for line in lines[3:5]] == [["YOLO11n", "finished", "in"], ["RS-TinyNet-n", "to", "be"]]
    assert [line.split()[1] for line in lines[-2:]] == ["train.py", "test.py"]
    assert all("ablation_mdca_arb_pfdh" in line for line in lines[-2:])
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_with_other_settings_is_refused_before_anything_is_done(tiny_set, tmp_path, capfd):
    first, second = plan(1, tmp_path / "out", 1, settings(tiny_set))
    for run in (first, second):
        run.folder.mkdir(parents=True)
        (run.folder / "last.pt").touch()
        (run.folder / "log.jsonl").write_text('{"epoch": 1, "step": 6, "seconds": 100}\n')
        (run.folder / "manifest.json").write_text(json.dumps({"config": run.config.to_dict()}))
    arguments = command(tiny_set, tmp_path / "out", "--dry-run")
    assert reproduce.main([*arguments, "train.max_steps=7", "train.workers=1"]) == 0       # what train.py would go on with
    for more in ([], ["--only", "ablation_mdca_arb_pfdh"]):
        with pytest.raises(InputError, match=r"last.pt: .*train.seed \(was 0, now 1\).*another --output") as caught:
            reproduce.main([*arguments, *more, "train.seed=1"])
    assert str(second.folder) in str(caught.value)
    (second.folder / "last.pt").unlink()        # stopped before anything was saved: begins anew
    assert reproduce.main([*arguments, *more, "train.seed=1"]) == 0


def test_only_what_another_try_can_mend_is_said_to_go_on(capsys):
    for code in (1, 2, 3):
        assert reproduce.explain("YOLO11m", code) == code
        assert ("the same command goes on" in capsys.readouterr().out) == (code != 2)


@pytest.mark.slow
def test_the_nine_rows_of_table_3_in_miniature(tiny_set, tmp_path, capfd):
    arguments = ["--table", "3", "--output", str(tmp_path / "out"), *settings(tiny_set)]
    assert reproduce.main(arguments) == 0
    text = (tmp_path / "out/table3.txt").read_text()
    assert "9 of 9 runs finished" in text and text.count("Mechanism only") == 2
    assert [line.split("  ")[0] for line in text.splitlines()[3:12]] == [
        "YOLO11n", "YOLO11n + P2", "YOLO11n + MDCA", "YOLO11n + ARB", "YOLO11n + PFDH", "YOLO11n + MDCA + ARB",
        "YOLO11n + ARB + PFDH", "YOLO11n + MDCA + PFDH", "RS-TinyNet-n"]
    assert not any(figure in text for figure in ("27.9", "34.2", "20,059,176", "paper  "))
    capfd.readouterr()
    # The ends of Table I are among them.
    assert reproduce.main(command(tiny_set, tmp_path / "out")) == 0
    assert "2 of 2 runs finished" in (tmp_path / "out/table1.txt").read_text()
    # Other settings would make it another run.
    with pytest.raises(InputError, match="train.lr .was 0.01, now 0.1."):
        reproduce.main([*command(tiny_set, tmp_path / "out", "--only", "yolo11m"), "train.lr=0.1"])


@pytest.mark.slow
def test_a_stopped_run_ends_the_whole_with_3_and_the_same_command_goes_on(tiny_set, tmp_path):
    folder = tmp_path / "out"
    arguments = [sys.executable, "-m", "engine.reproduce", *command(tiny_set, folder, "--only", "yolo11m"), "train.epochs=200"]
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               start_new_session=True)
    deadline = time.monotonic() + 200
    while process.poll() is None and not (folder / "aitod/yolo11m/last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGUSR1)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 3, err
    assert "the same command goes on" in out and "$ python test.py" not in out
    assert not (folder / "table1.txt").exists()
    stopped = len((folder / "aitod/yolo11m/log.jsonl").read_text().splitlines())
    assert 0 < stopped < 200
    done = subprocess.run([*arguments, f"train.max_steps={3 * stopped + 4}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "batches left" in done.stdout and "1 of 2 runs finished" in done.stdout
