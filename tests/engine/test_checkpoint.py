"""Checkpoints: a kill leaves the old or the new file; a file that could run code, or is not one of ours, is refused."""
import os
import pickle
from pathlib import Path

import pytest
import torch

import train
from engine import checkpoint
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


@pytest.mark.parametrize("damage", ["absent", "folder", "empty", "cut", "bit", "text", "foreign", "tensor"])
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
        torch.save({"model": 1} if damage == "foreign" else torch.zeros(3), path)
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
    for key in content.keys() - {"format", "seconds", "data_fingerprint", "versions", "model_config"}:
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
