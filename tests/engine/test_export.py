"""An exported file gives what the trained network gives, for any number of images, and says what it needs and finds."""
import importlib
import json
from pathlib import Path

import pytest
import torch

from engine import checkpoint, export
from engine.config import Config
from errors import MachineError
from models import ModelConfig, build_model, decode

YOLO11, RS_TINYNET = {}, {"mdca": True, "arb": True, "pfdh": True}
BOTH = pytest.mark.parametrize("switches", [YOLO11, RS_TINYNET], ids=["yolo11n", "rs_tinynet_n"])
NAMES = ("ship", "véhicule", "a,b")


def trained_looking(folder: Path, switches: dict) -> torch.nn.Module:
    """Write folder/best.pt; returns the network as it is in training, nothing folded, in evaluation mode."""
    torch.manual_seed(0)
    model = build_model(ModelConfig("n", num_classes=3, **switches)).train()
    with torch.no_grad():
        for _ in range(2):
            model(torch.rand(2, 3, 96, 96))
    config = Config().to_dict()
    config["train"]["image_size"] = 96
    checkpoint.save(folder / "best.pt", checkpoint.inference_content(model, NAMES, config, {}))
    return model.eval()


@torch.no_grad()
def assert_equal_outputs(model: torch.nn.Module, run: object, height: int, width: int) -> None:
    """Boxes to 1e-4 px and scores to 1e-4, for one and for three images."""
    for count in (1, 3):
        images = torch.rand(count, 3, height, width)
        for found, expected in zip(run(images), decode(model(images).main), strict=True):
            torch.testing.assert_close(torch.as_tensor(found), expected, rtol=0, atol=1e-4)


def run_file(folder: Path, form: str, *arguments: str) -> int:
    return export.main(["--checkpoint", str(folder / "best.pt"), "--format", form, *arguments])


def torchexport_gives_the_same(folder: Path, switches: dict) -> None:
    model = trained_looking(folder, switches)
    assert run_file(folder, "torchexport", "--image-size", "64", "96", "--output", str(folder / "made/here.pt2")) == 0
    about = {"about.json": ""}
    program = torch.export.load(folder / "made/here.pt2", extra_files=about)
    assert_equal_outputs(model, program.module(), 64, 96)
    about = json.loads(about["about.json"])
    assert about["class_names"] == list(NAMES) and about["image_size"] == [64, 96]
    assert about["strides"] == [4, 8, 16, 32][-len(model.head.strides) :]
    assert [p.name for p in (folder / "made").iterdir()] == ["here.pt2"]


def test_torchexport_of_yolo11(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torchexport_gives_the_same(tmp_path, YOLO11)
    assert "equals PyTorch on 1 and 3 images: boxes to " in capsys.readouterr().out


@pytest.mark.slow
def test_torchexport_of_rs_tinynet(tmp_path: Path) -> None:
    torchexport_gives_the_same(tmp_path, RS_TINYNET)


@pytest.mark.slow
@BOTH
def test_onnx_gives_the_same(tmp_path: Path, switches: dict) -> None:
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = trained_looking(tmp_path, switches)
    assert run_file(tmp_path, "onnx") == 0
    session = onnxruntime.InferenceSession(tmp_path / "best.onnx", providers=["CPUExecutionProvider"])
    assert_equal_outputs(model, lambda images: session.run(None, {"images": images.numpy()}), 96, 96)
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["class_names"]) == list(NAMES) and json.loads(facts["image_size"]) == [96, 96]
    assert json.loads(facts["strides"]) == list(model.head.strides) and "RGB" in facts["input"]
    cells = sum((96 // s) ** 2 for s in model.head.strides)
    assert [x.shape for x in (*session.get_inputs(), *session.get_outputs())] == [
        ["batch", 3, 96, 96], ["batch", cells, 4], ["batch", cells, 3]]
    graph = onnx.load(tmp_path / "best.onnx").graph
    assert not any(node.op_type == "BatchNormalization" for node in graph.node)
    assert {p.name for p in tmp_path.iterdir()} == {"best.pt", "best.onnx"}


@pytest.mark.slow
def test_the_older_exporter_gives_the_same(tmp_path: Path) -> None:
    """torch has two; the one of TorchScript, where torch still has it, cannot pool to MDCA's grid."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    model = trained_looking(tmp_path, YOLO11)
    deployed, _ = checkpoint.load_for_inference(tmp_path / "best.pt")
    torch.onnx.export(export.Detector(deployed), (torch.zeros(2, 3, 64, 64),), tmp_path / "old.onnx", dynamo=False,
                      input_names=["images"], dynamic_axes={"images": {0: "batch"}})
    session = onnxruntime.InferenceSession(tmp_path / "old.onnx", providers=["CPUExecutionProvider"])
    assert_equal_outputs(model, lambda images: session.run(None, {"images": images.numpy()}), 64, 64)


@pytest.mark.parametrize("error", [1e-2, float("nan")])
def test_a_file_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: float) -> None:
    trained_looking(tmp_path, YOLO11)
    (tmp_path / "best.pt2").write_text("earlier")
    network, _ = checkpoint.load_for_inference(tmp_path / "best.pt")

    def wrong(images: torch.Tensor) -> tuple:
        boxes, scores = decode(network(images).main)
        return boxes, scores + error * (len(images) == 3)

    monkeypatch.setattr(export, "capture", lambda *_: None)
    monkeypatch.setattr(export, "write_torchexport", lambda _, __, path: path.write_text("new"))
    monkeypatch.setattr(export, "run_torchexport", lambda _: wrong)
    with pytest.raises(MachineError, match="differs from PyTorch"):
        run_file(tmp_path, "torchexport")
    assert (tmp_path / "best.pt2").read_text() == "earlier"
    assert {p.name for p in tmp_path.iterdir()} == {"best.pt", "best.pt2"}
    error = 0
    assert run_file(tmp_path, "torchexport") == 0 and (tmp_path / "best.pt2").read_text() == "new"


@pytest.mark.parametrize(("output", "words"), [
    ("best.pt", "best.pt is the checkpoint itself"), ("link.onnx", "link.onnx is the checkpoint itself"),
    ("new.pt", "new.pt ends as checkpoints do"), ("notes.txt", "notes.txt is there and looks like no earlier export")])
@pytest.mark.parametrize("form", ["onnx", "torchexport"])
def test_neither_the_checkpoint_nor_a_file_of_another_kind_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, output: str, words: str
) -> None:
    for name in ("best.pt", "notes.txt"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "link.onnx").hardlink_to(tmp_path / "best.pt")
    monkeypatch.setattr(export, "require", lambda _: None)
    with pytest.raises(export.InputError, match=f"^--output: .*{words}.*{export.ENDINGS[form]}"):
        run_file(tmp_path, form, "--output", str(tmp_path / output))
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == dict.fromkeys(("best.pt", "notes.txt", "link.onnx"), "mine")


def test_a_checkpoint_whose_name_ends_as_an_export_is_not_replaced_by_default(tmp_path: Path) -> None:
    trained_looking(tmp_path, YOLO11)
    (tmp_path / "best.pt").rename(tmp_path / "best.pt2")
    with pytest.raises(export.InputError, match="best.pt2 is the checkpoint itself"):
        export.main(["--checkpoint", str(tmp_path / "best.pt2"), "--format", "torchexport"])


def test_a_file_that_does_not_run_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained_looking(tmp_path, YOLO11)
    monkeypatch.setattr(export, "capture", lambda *_: None)
    monkeypatch.setattr(export, "write_torchexport", lambda _, __, path: path.write_text("no archive"))
    with pytest.raises(MachineError, match="does not run .*nothing was kept. torch"):
        run_file(tmp_path, "torchexport")
    assert [p.name for p in tmp_path.iterdir()] == ["best.pt"]


@pytest.mark.parametrize(("source", "target"), [((5, 5), (16, 24)), ((5, 5), (40, 15)), ((4, 6), (8, 24)), ((3, 7), (3, 7))])
def test_resizing_for_onnx_is_that_of_torch(source: tuple[int, int], target: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *source)
    expected = torch.nn.functional.interpolate(x, size=target, mode="nearest")
    assert torch.equal(export.resize_nearest(x, list(target), None), expected)


def test_missing_packages_are_named_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.import_module

    def without(name: str) -> object:
        if name in ("onnx", "onnxscript"):
            raise ImportError(name)
        return there(name) if name != "onnxruntime" else None

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(export.InputError, match="--format onnx: needs onnx, onnxscript, not.*requirements-export.txt"):
        export.main(["--checkpoint", "nowhere.pt"])
