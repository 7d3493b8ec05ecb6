"""--weights: YOLO11 as Ultralytics writes it starts every row of Table III; other files are refused in one line."""
import os
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from engine import inert
from engine.starting_weights import read_starting_weights
from errors import InputError, run
from models import ModelConfig, build_model
from models.table3 import ROWS
from models.weights import load_partial, place
from tests.engine.ultralytics_file import detection_model, network, stand_ins, write


def refused(capsys: pytest.CaptureFixture, tiny_run: object, path: Path, *settings: str) -> str:
    """The one line with which train.py refuses a file, exit code 2, nothing written."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        run(lambda: tiny_run.train("refused", "--weights", str(path), *settings))
    lines = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2 and len(lines) == 1 and lines[0].startswith(f"error: {path}: "), lines
    assert not (tiny_run.folder / "refused").exists()
    return lines[0]


def test_a_published_checkpoint_gives_every_tensor_of_the_network_that_it_holds(tmp_path: Path) -> None:
    ours = write(tmp_path / "yolo11n.pt")
    given = read_starting_weights(tmp_path / "yolo11n.pt", ModelConfig("n"))
    assert given.origin == "YOLO11n of Ultralytics for 80 classes"
    assert not any(name.split(".")[0] == "ultralytics" for name in sys.modules)
    assert all(v.dtype in (torch.float32, torch.int64) for v in given.state.values())
    fresh = build_model(ModelConfig("n", num_classes=80))
    fresh.load_state_dict(given.state)      # strict: every name, none more
    for name, value in ours.float().state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name]), name


@pytest.mark.parametrize("form", ["ema", "network", "state dict", "wrapped state dict"])
def test_the_average_of_a_training_and_bare_networks_are_read_too(tmp_path: Path, form: str) -> None:
    path, ours = tmp_path / "last.pt", network()
    with stand_ins() as make:
        whole = detection_model(ours, make)
        state = whole.state_dict()
        other = {"model": make("DetectionModel")}       # empty: the average is the one to take
        torch.save({"ema": {**other, "ema": whole, "epoch": 3}, "network": whole, "state dict": state,
                    "wrapped state dict": {"model": state}}[form], path)
    given = read_starting_weights(path, ModelConfig("n"))
    assert given.state.keys() == ours.state_dict().keys()
    assert torch.equal(given.state["neck.top3.cv1.conv.weight"], ours.neck.top3.cv1.conv.weight.float())


def test_our_last_and_best_checkpoints_are_read_by_it_as_torch_reads_them(trained: object) -> None:
    for name in ("best.pt", "last.pt"):
        path = trained.folder / "run" / name
        ours, torchs = inert.read(path, "x"), torch.load(path, weights_only=True)
        assert ours.keys() == torchs.keys()
        for key in {"weights", "ema", "model"} & ours.keys():
            assert all(torch.equal(ours[key][k], v) and ours[key][k].dtype == v.dtype for k, v in torchs[key].items())
        given = read_starting_weights(path, ModelConfig("n"))
        assert given.origin == "of train.py" and len(given.state) == 499


# What stays fresh in each row, by hand: of YOLO11m's 649 tensors the neck of the stride-4 level has 114 no counterpart (top2
# and out3 54 each, down3 6), MDCA 3, the taps 5 x 2, PFDH its all. A Conv is 6 tensors, a plain convolution 2.
P2_HEAD = ({"box.0"}, {"cls.0"})
WIDE = {f"cls.{k}.{j}" for k in (1, 2, 3) for j in ("0.1", "1", "2")}        # class branches are 128 wide, not 256
BEHIND_PFDH = {"box.2.0", "box.3.0", "cls.1.0.1", "cls.1.1", "cls.1.2", "cls.2", "cls.3"}     # which is 256 wide everywhere
CLASSES = {f"cls.{k}.2" for k in range(3)}
FRESH = {
    "YOLO11m": CLASSES,
    "YOLO11m + P2": {"neck", "head", *WIDE},
    "MDCA": {"neck", "head", "MDCA", *WIDE},
    "ARB": {"taps", "auxiliary head", *CLASSES},
    "PFDH": {"neck", "head", "PFDH", "box.1.0", "box.2.0", "box.3.0", "cls.1", "cls.2", "cls.3"},
    "MDCA + ARB": {"neck", "head", "MDCA", "taps", "auxiliary head", *WIDE},
    "ARB + PFDH": {"neck", "head", "PFDH", "taps", "auxiliary head", *BEHIND_PFDH},
    "MDCA + PFDH": {"neck", "head", "MDCA", "PFDH", *BEHIND_PFDH},
    "MDCA + ARB + PFDH": {"neck", "head", "MDCA", "PFDH", "taps", "auxiliary head", *BEHIND_PFDH},
}
PLACES = {
    "neck": ("neck.top2.", "neck.down3.", "neck.out3."), "head": ("head.box.0.", "head.cls.0."), "MDCA": ("neck.attention.",),
    "PFDH": ("fusion.",), "taps": ("backbone.taps.",), "auxiliary head": ("auxiliary_head.",),
}


@pytest.mark.parametrize("row", FRESH)
def test_each_row_of_table_iii_says_what_starts_from_scratch(row: str) -> None:
    config = next(config for name, config, _ in ROWS if name == row)
    with torch.device("meta"):
        state = build_model(ModelConfig("m", num_classes=80)).state_dict()
        model = build_model(config)
        report = load_partial(model, place(state, config))
    fresh = tuple(place for what in FRESH[row] for place in PLACES.get(what, (f"head.{what}.",)))
    expected = {name for name in model.state_dict() if name.startswith(fresh)}
    assert {*report.missing, *report.reshaped} == expected
    assert set(report.matched) == model.state_dict().keys() - expected
    assert report.left_over == ()
    text = str(report)
    assert f"{len(report.matched)} of {len(model.state_dict())} loaded" in text
    for what, (label, words) in {
        "neck": ("neck", "down3, out3, top2 (no counterpart in the file)"), "MDCA": ("MDCA", "all"), "PFDH": ("PFDH", "all"),
        "taps": ("ARB, taps", "all"), "auxiliary head": ("auxiliary head", "all"),
        "head": ("head, boxes", "box.0 (no counterpart"), "cls.2.2": ("head, classes", "cls.2.2"),
    }.items():
        line = next((line for line in text.splitlines() if line.strip().startswith(label)), "")
        assert (what in FRESH[row]) == (words in line), text


def test_every_row_is_named() -> None:
    assert FRESH.keys() == {name for name, _, _ in ROWS}


def test_both_columns_of_arb_start_from_the_backbone_and_levels_go_by_their_strides(tmp_path: Path) -> None:
    ours = write(tmp_path / "yolo11n.pt").float().state_dict()
    config = ModelConfig("n", num_classes=5, arb=True, mdca=True)
    model = build_model(config)
    load_partial(model, read_starting_weights(tmp_path / "yolo11n.pt", config).state)
    loaded = model.state_dict()
    stages = [k for k in ours if k.startswith("backbone.stages.")]
    assert len(stages) == 31 * 6        # convolutions with their BatchNorm
    for name in stages:
        assert torch.equal(loaded[name], ours[name]) and torch.equal(loaded[name.replace("stages", "auxiliary")], ours[name])
    for name in (k for k in ours if k.startswith(("backbone.sppf.", "backbone.attention."))):
        assert torch.equal(loaded[name], ours[name])
    for level in range(3):      # the file's first level has stride 8, as the second here
        for layer in ("1.conv.weight", "2.bias"):
            assert torch.equal(loaded[f"head.box.{level + 1}.{layer}"], ours[f"head.box.{level}.{layer}"])


def test_a_layer_is_taken_whole_or_not_at_all() -> None:
    model = build_model(ModelConfig("n", pfdh=True))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    given = place(network().float().state_dict(), ModelConfig("n", pfdh=True))
    assert given["head.box.2.0.conv.weight"].shape != before["head.box.2.0.conv.weight"].shape
    assert given["head.box.2.0.bn.weight"].shape == before["head.box.2.0.bn.weight"].shape
    load_partial(model, given)
    after = model.state_dict()
    assert torch.equal(after["head.box.2.0.bn.weight"], before["head.box.2.0.bn.weight"])
    assert torch.equal(after["head.box.2.1.bn.weight"], given["head.box.2.1.bn.weight"])


def test_a_network_with_the_stride_4_level_starts_one_without() -> None:
    source, config = build_model(ModelConfig("n", p2=True)), ModelConfig("n")
    model = build_model(config)
    load_partial(model, place(source.state_dict(), config))
    assert torch.equal(model.head.box[0][1].conv.weight, source.head.box[1][1].conv.weight)


def test_training_starts_from_it(tiny_run: object, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    ours = write(tmp_path / "yolo11n.pt", model=None)       # a checkpoint without any weights first
    assert "holds no weights" in refused(capsys, tiny_run, tmp_path / "yolo11n.pt")
    ours = write(tmp_path / "yolo11n.pt").float()
    assert tiny_run.train("run", "--weights", str(tmp_path / "yolo11n.pt"), "train.max_steps=1", "train.lr=0",
                          "train.warmup_bias_lr=0") == 0
    out = capsys.readouterr().out
    assert "YOLO11n of Ultralytics for 80 classes" in out and "ARB" not in out
    best = inert.read(tiny_run.folder / "run/best.pt", "x")["weights"]
    assert torch.equal(best["neck.out5.cv1.conv.weight"], ours.neck.out5.cv1.conv.weight)      # a rate of 0 keeps it


def test_files_of_other_networks_are_named(tmp_path: Path, tiny_run: object, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "other.pt"
    write(path, scale="s")
    assert "holds YOLO11s, but model.scale is n. Name yolo11n.pt, or set model.scale=s" in refused(capsys, tiny_run, path)
    write(path, kind="SegmentationModel")
    assert "holds a SegmentationModel" in refused(capsys, tiny_run, path)
    with stand_ins() as make:
        state = detection_model(network(), make).state_dict()
    for change, words in (
        ({"model.23.proto.cv1.conv.weight": torch.zeros(2, 3)}, "head.proto.cv1.conv.weight is 2 x 3 there and missing in"),
        ({"model.24.conv.weight": torch.zeros(2)}, "'model.24.conv.weight' is not a weight of a YOLO11 detection model"),
        ({"model.0.conv.weight": torch.zeros(7, 3, 3, 3)}, "its first layer has 7 channels"),
        ({"model.9.cv1.conv.weight": torch.zeros(5, 3, 1, 1)}, "backbone.sppf.cv1.conv.weight is 5 x 3 x 1 x 1 there"),
        ({"model.0.conv.weight": torch.tensor(0.0)}, "first or last convolution is missing or malformed"),
        ({"model.23.cv3.0.2.bias": torch.tensor(0.0)}, "first or last convolution is missing or malformed"),
        ({"model.23.cv3.0.2.bias": torch.zeros(0)}, "first or last convolution is missing or malformed"),
        ({"a\x1b[31m\nb": torch.zeros(2)}, r"'a\x1b[31m\nb' is not a weight"),
        ({"model.23.\x1b": torch.zeros(2)}, r"head.\x1b is 2 there"),
        ({"format": torch.ones(3)}, "'format' is not a weight"),
        ({"model.10.cv1.bn.bias": torch.full((256,), torch.nan)}, "not finite, first in backbone.attention.cv1.bn.bias"),
        ({"optimizer": {}}, "holds no weights"),
    ):
        torch.save({**state, **change}, path)
        assert words in refused(capsys, tiny_run, path)
    torch.save({k: v for k, v in state.items() if not k.startswith("model.0.")}, path)
    assert "first or last convolution is missing" in refused(capsys, tiny_run, path)
    # YOLOv8 has 23 layers, Detect at 22, and a C2f at 12, where YOLO11 has no weights.
    eight = {k.replace("model.13.", "model.12.").replace("model.23.", "model.22."): v for k, v in state.items()}
    torch.save(eight, path)
    assert "'model.12." in refused(capsys, tiny_run, path)
    for content in ({}, {"model": None}, [1, 2], {"model": {"a": 1}}, torch.zeros(3), {"model": "yolo11n"}):
        torch.save(content, path)
        assert "holds no weights" in refused(capsys, tiny_run, path)


def test_a_planted_call_ends_training_before_it_began(
    tmp_path: Path, tiny_run: object, capsys: pytest.CaptureFixture
) -> None:
    class Planted:
        def __reduce__(self) -> tuple:
            return os.system, (f"touch {tmp_path / 'trace'}",)

    write(tmp_path / "a.pt", train_args=Planted())
    assert f"asks for {os.name}.system, which could run code; nothing was run" in refused(capsys, tiny_run, tmp_path / "a.pt")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("damage", ["absent", "folder", "empty", "cut", "bit", "text", "random", "zip", "compressed", "big"])
def test_damaged_files_are_named(tmp_path: Path, tiny_run: object, capsys: pytest.CaptureFixture, damage: str) -> None:
    path = tmp_path / "yolo11n.pt"
    write(path)
    content = path.read_bytes()
    if damage == "absent":
        path.unlink()
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    elif damage == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "hello")
    elif damage in ("compressed", "big"):
        with zipfile.ZipFile(path) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if damage == "compressed" else zipfile.ZIP_STORED) as archive:
            for name, value in entries.items():
                archive.writestr(name, b"big" if name.endswith("byteorder") and damage == "big" else value)
    else:
        middle = len(content) // 2
        path.write_bytes({
            "empty": b"", "cut": content[:middle], "text": b"<html>404</html>", "random": os.urandom(5000),
            "bit": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        }[damage])
    words = {"absent": "no such", "folder": "is a folder", "cut": "not a readable", "bit": "check sum",
             "compressed": "is compressed", "big": "byte order"}
    line = refused(capsys, tiny_run, path)
    assert words.get(damage, "not a file that torch.save wrote") in line


@pytest.mark.parametrize("content", [{}, {"weights": {}}, {"weights": [1]}, {"weights": {"a": torch.zeros(2)}},
                                     {"weights": {"a": torch.zeros(2)}, "model_config": {"scale": ["n"]}}])
def test_a_checkpoint_of_ours_tells_its_scale_and_holds_weights(tmp_path: Path, content: dict) -> None:
    torch.save({"format": 1, **content}, tmp_path / "best.pt")
    with pytest.raises(InputError, match="best.pt: (holds no weights|does not tell its network's scale)"):
        read_starting_weights(tmp_path / "best.pt", ModelConfig("n"))


def test_modules_inside_themselves_end(tmp_path: Path) -> None:
    with stand_ins() as make:
        loop = make("DetectionModel")
        object.__setattr__(loop, "_modules", {"again": loop})
        torch.save(loop, tmp_path / "loop.pt")
    with pytest.raises(InputError, match="modules inside themselves"):
        read_starting_weights(tmp_path / "loop.pt", ModelConfig("n"))
