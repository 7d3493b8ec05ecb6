"""Checkpoints: a kill leaves the old or the new file; a file that could run code, or is not one of ours, is refused."""
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

import train
from engine import checkpoint, inert
from engine import config as configs
from errors import InputError
from models import ModelConfig, build_model


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    content = {"a": torch.arange(3), "nested": {"list": [1, 2.5, "x", None, True]}}
    checkpoint.save(tmp_path / "last.pt", content)
    loaded = checkpoint.load(tmp_path / "last.pt")
    assert loaded["nested"] == content["nested"] and torch.equal(loaded["a"], content["a"])
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"a": 1})

    def half_a_file(content: object, file: object) -> None:
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", half_a_file)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(path, {"a": 2})
    assert checkpoint.load(path)["a"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


class Intruder:
    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_file_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path, writer: str) -> None:
    path, trace = tmp_path / "evil.pt", tmp_path / "trace"
    if writer == "torch":
        torch.save({"format": 1, "weights": Intruder(trace)}, path)
    else:
        path.write_bytes(pickle.dumps({"format": 1, "weights": Intruder(trace)}))
    with pytest.raises(InputError, match="evil.pt"):
        checkpoint.load(path)
    assert not trace.exists()


@pytest.mark.parametrize("damage", ["absent", "folder", "empty", "cut", "bit", "text", "foreign", "tensor", "format"])
def test_what_is_not_a_checkpoint_is_named_in_one_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "best.pt"
    checkpoint.save(path, {"weights": {"a": torch.zeros(1000)}})
    if damage == "absent":
        path.unlink()
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-600])
    elif damage == "bit":
        content = bytearray(path.read_bytes())
        content[content.index(bytes(400)) + 200] ^= 1       # of a weight
        path.write_bytes(content)
    elif damage == "text":
        path.write_text("weights")
    else:
        torch.save({"foreign": {"model": 1}, "tensor": torch.zeros(3), "format": {"format": torch.ones(3)}}[damage], path)
    with pytest.raises(InputError, match="best.pt") as caught:
        checkpoint.load(path)
    assert "\n" not in str(caught.value)


def test_a_model_for_inference_gives_the_outputs_of_the_one_that_was_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model(ModelConfig(scale="n", num_classes=3, mdca=True, arb=True, pfdh=True))
    model.train()(torch.rand(2, 3, 64, 64))
    model.eval()
    images = torch.rand(1, 3, 64, 96)
    before = model(images).main
    content = checkpoint.inference_content(model, ("a", "b", "c"), {}, {})
    assert not any(name.startswith("auxiliary_head") for name in content["weights"])
    checkpoint.save(tmp_path / "best.pt", content)
    loaded, saved = checkpoint.load_for_inference(tmp_path / "best.pt")
    after = loaded(images).main
    assert saved["class_names"] == ["a", "b", "c"]
    torch.testing.assert_close(after.class_logits, before.class_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after.box_logits, before.box_logits, rtol=1e-4, atol=1e-4)


def test_a_checkpoint_without_weights_is_named(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "best.pt", {"class_names": ["a"]})
    with pytest.raises(InputError, match="best.pt: holds no weights"):
        checkpoint.load_for_inference(tmp_path / "best.pt")


@pytest.mark.parametrize("weights", [{}, [1], None, 3, {"a": 1}, {0: torch.zeros(2)}, {"a": torch.zeros(2, device="meta")},
                                     {"a": torch.eye(2).to_sparse()}])
def test_what_only_a_forged_file_has_for_weights_is_none(weights: object) -> None:
    for key in ("weights", "ema"):
        with pytest.raises(InputError, match="best.pt: holds no weights"):
            checkpoint.weights_of({key: weights}, "best.pt")


def test_a_forged_container_has_no_methods_of_its_own(tmp_path: Path) -> None:
    """A pickle may give an OrderedDict attributes, and these hide its methods."""
    content = OrderedDict(format=1, weights=OrderedDict(a=torch.ones(2)))
    for forged in (content, content["weights"]):
        forged.get = forged.keys = 1
    torch.save(content, tmp_path / "best.pt")
    for read in (checkpoint.load, lambda path: inert.read(path, "x")):
        loaded = read(tmp_path / "best.pt")
        assert loaded.get("format") == 1 and [*loaded["weights"].keys()] == ["a"]


def test_a_name_from_a_file_reaches_no_terminal_as_a_code(tmp_path: Path) -> None:
    name = "a\x1b[31m\nerror: fake"
    with pytest.raises(InputError) as caught:
        checkpoint.weights_of({"weights": {name: torch.tensor([torch.nan])}}, "best.pt")
    assert r"first in a\x1b[31m\nerror: fake." in str(caught.value)
    with zipfile.ZipFile(tmp_path / "best.pt", "w") as archive:
        archive.writestr(name, b"content")
    (tmp_path / "best.pt").write_bytes((tmp_path / "best.pt").read_bytes().replace(b"content", b"another"))
    with pytest.raises(InputError) as caught:
        checkpoint.load(tmp_path / "best.pt")
    assert r"check sum of a\x1b[31m\nerror: fake tells" in str(caught.value)


def test_a_checkpoint_of_another_version_of_the_code_is_named_in_one_line(trained: object, tmp_path: Path) -> None:
    content, path = checkpoint.load(trained.folder / "run/best.pt"), tmp_path / "best.pt"
    weights, version = content["weights"], "written by another version of this code"
    first, *_, last = weights
    for change, words in (
        ({"weights": {k: v for k, v in weights.items() if k not in (first, last)}}, rf"{version}, as 2 of .* {first}\."),
        ({"weights": {**weights, last: torch.zeros(5)}}, rf"{version}, as 1 of .* {last}\."),
        ({"weights": {**weights, "future.a": torch.zeros(5)}}, rf"{version}, as 1 of .* future\.a\."),
        ({"model_config": {**content["model_config"], "future": 1}}, rf"{version} \(settings: unknown key 'model.future'\)"),
        ({"model_config": {**content["model_config"], "scale": ["n"]}}, version),
        ({"config": {"train": {"future": 1}}}, rf"{version} \(settings: unknown key 'train.future'\)"),
        ({"config": {1: 2}}, version),
        ({"model_config": None}, "holds no model_config"),
        ({"config": None}, "holds no config"),
        ({"class_names": None}, "holds no class_names"),
        ({"class_names": content["class_names"][1:]}, r"does not name the \d classes"),
    ):
        checkpoint.save(path, {**content, **change})
        with pytest.raises(InputError, match=rf"^{path}: .*{words}") as caught:
            checkpoint.load_for_inference(path)
        assert "\n" not in str(caught.value)
    checkpoint.save(path, {**content, "config": {}})        # older than every key
    assert checkpoint.load_for_inference(path)[1]["config"] == configs.Config().to_dict()


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    weights = {"a": torch.zeros(3), "count": torch.tensor(2), "b": torch.tensor([0, torch.nan])}
    with pytest.raises(InputError, match="best.pt: holds numbers that are not finite, first in b"):
        checkpoint.weights_of({"weights": weights}, "best.pt")
    with pytest.raises(InputError, match="first in b"):
        checkpoint.weights_of({"ema": weights}, "best.pt")


def test_a_file_that_holds_no_run_is_not_resumed_from(trained: object, tmp_path: Path) -> None:
    content = checkpoint.load(trained.folder / "run/last.pt")
    again = ["--config", str(trained.config), "--output", str(tmp_path), "--resume", "train.epochs=1", "data.val="]
    newer = {**content, "position": {**content["position"], "future": 1}}
    best = checkpoint.load(trained.folder / "run/best.pt")
    for other, words in ((best, "holds no model"), (newer, "newer version of this code .future.")):
        checkpoint.save(tmp_path / "last.pt", other)
        with pytest.raises(InputError, match=rf"last.pt: .*{words}.*another --output, from best.pt with --weights"):
            train.main(again)
    network = {f"future.{name}": value for name, value in content["model"].items()}
    checkpoint.save(tmp_path / "last.pt", {**content, "model": network})
    with pytest.raises(InputError, match=r"last.pt: was written by another version of this code"):
        train.main(again)
    for key in content.keys() - {"format", "seconds", "data_fingerprint", "versions", "model_config", "started_from"}:
        checkpoint.save(tmp_path / "last.pt", {k: v for k, v in content.items() if k != key})
        with pytest.raises(InputError, match=f"holds no {key}"):
            train.main(again)


def test_a_run_older_than_a_key_goes_on_with_its_default(trained: object, tmp_path: Path) -> None:
    content = checkpoint.load(trained.folder / "run/last.pt")
    del content["config"]["data"]["annotations"]
    checkpoint.save(tmp_path / "last.pt", content)
    again = ["--config", str(trained.config), "--output", str(tmp_path), "--resume", "train.epochs=1", "data.val="]
    with pytest.raises(InputError, match="data.annotations .was 'Annotations', now 'xml'."):
        train.main([*again, "data.annotations=xml"])
    assert train.main(again) == 0
