"""train.precise_batchnorm: statistics of the averaged weights, taken anew from training images."""
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import multiprocessing, nn

import engine.trainer
from data import Batch, Targets
from data.coco import load_coco
from data.loader import statistics_loader
from data.transforms import AugmentConfig
from engine import checkpoint
from engine.batchnorm import take_statistics
from engine.distributed import Ranks
from engine.signals import Stopped, StopRequest
from tests.engine.test_distributed import free_port


class TwoLayers(nn.Module):
    """Two 1x1 convolutions with BatchNorm, and a third BatchNorm that evaluation does not pass."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.first, self.norm1 = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, eps=1e-3)
        self.second, self.norm2 = nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2, eps=1e-3)
        self.auxiliary = nn.BatchNorm2d(2)
        for norm in (self.norm1, self.norm2, self.auxiliary):
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias)
            nn.init.normal_(norm.running_mean)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm2(self.second(self.norm1(self.first(images)).relu()))


def batches() -> list[Batch]:
    """Of 3, 1 and 2 images, each batch of a brightness and a shape of its own."""
    rng = np.random.default_rng(0)
    shapes = [(3, 3, 6, 5), (1, 3, 4, 9), (2, 3, 7, 3)]
    return [Batch(torch.from_numpy(rng.integers(0, 60 * (k + 2), shape, dtype=np.uint8)), Targets.none(), [])
            for k, shape in enumerate(shapes)]


def by_hand(model: TwoLayers) -> dict[str, np.ndarray]:
    """Means and unbiased variances of the two layers, by NumPy in float64."""
    state = {name: value.double().numpy() for name, value in model.state_dict().items()}

    def convolve(x: np.ndarray, name: str) -> np.ndarray:
        return np.einsum("oc,bchw->bohw", state[f"{name}.weight"][:, :, 0, 0], x) + state[f"{name}.bias"][:, None, None]

    found = {name: 0 for name in ("norm1.running_mean", "norm1.running_var", "norm2.running_mean", "norm2.running_var")}
    for batch in batches():
        share = len(batch.images) / 6
        x = convolve(batch.images.numpy().astype(float) / 255, "first")
        found["norm1.running_mean"] += share * x.mean((0, 2, 3))
        found["norm1.running_var"] += share * x.var((0, 2, 3), ddof=1)
        x = (x - x.mean((0, 2, 3), keepdims=True)) / np.sqrt(x.var((0, 2, 3), keepdims=True) + 1e-3)
        x = x * state["norm1.weight"][:, None, None] + state["norm1.bias"][:, None, None]
        x = convolve(np.maximum(x, 0), "second")
        found["norm2.running_mean"] += share * x.mean((0, 2, 3))
        found["norm2.running_var"] += share * x.var((0, 2, 3), ddof=1)
    return found


def changed(before: dict, after: dict) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_statistics_are_the_means_of_the_batches_by_their_images_and_nothing_else_changes() -> None:
    model = TwoLayers().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = by_hand(model)
    take_statistics(model, batches(), Ranks("cpu"))
    for name, value in expected.items():
        np.testing.assert_allclose(model.state_dict()[name].numpy(), value, rtol=2e-5, atol=1e-6, err_msg=name)
    assert changed(before, model.state_dict()) == set(expected)
    assert not any(module.training for module in model.modules())
    taken = {name: value.clone() for name, value in model.state_dict().items()}
    model(torch.rand(2, 3, 8, 8))
    assert not changed(taken, model.state_dict())           # evaluation measures no longer


def test_a_second_time_gives_the_same_bits() -> None:
    model = TwoLayers().eval()
    take_statistics(model, batches(), Ranks("cpu"))
    once = {name: value.clone() for name, value in model.state_dict().items()}
    take_statistics(model, batches(), Ranks("cpu"))
    assert not changed(once, model.state_dict())


def test_a_stop_on_the_way_leaves_the_model_as_it_was() -> None:
    model = TwoLayers().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def interrupted():
        yield batches()[0]
        os.kill(os.getpid(), signal.SIGTERM)
        yield batches()[1]
        yield batches()[2]

    class Loader:
        __len__ = lambda _: 3                               # noqa: E731
        __iter__ = lambda _: interrupted()                  # noqa: E731

    with StopRequest() as stop:
        stop.defer()
        with pytest.raises(Stopped):
            take_statistics(model, Loader(), Ranks("cpu"), stop)
    assert not changed(before, model.state_dict())


def take_part(rank: int, port: int, folder: str, given: list[Batch]) -> None:
    """One of two processes, which take turns in taking a batch; each writes its model."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    with Ranks("cpu") as ranks:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(TwoLayers().eval())
        take_statistics(model, given[rank::2], ranks)
        torch.save(model.state_dict(), Path(folder) / f"{rank}.pt")


@pytest.mark.parametrize("count", [3, 1])
def test_two_ranks_that_share_the_batches_unequally_have_the_statistics_of_one_process(tmp_path: Path, count: int) -> None:
    alone = TwoLayers().eval()
    take_statistics(alone, batches()[:count], Ranks("cpu"))
    multiprocessing.spawn(take_part, (free_port(), str(tmp_path), batches()[:count]), nprocs=2)
    for rank in range(2):
        for name, value in torch.load(tmp_path / f"{rank}.pt", weights_only=True).items():
            torch.testing.assert_close(value, alone.state_dict()[name], rtol=1e-6, atol=1e-7, msg=f"{name} of rank {rank}")


@pytest.mark.parametrize("workers", [0, 1])
def test_the_loader_draws_the_same_images_each_time_without_mosaic_and_ranks_share_them(tiny_set: object, workers: int) -> None:
    source = load_coco(tiny_set.root / "train.json", tiny_set.images, training=True)

    def draw(rank: int = 0, world_size: int = 1, times: int = 1) -> list[list[Batch]]:
        loader = statistics_loader(source, 64, 4, AugmentConfig(mosaic=1), seed=5, count=10, workers=workers, rank=rank,
                                   world_size=world_size)
        return [[Batch(b.images.clone(), b.targets, b.meta) for b in loader] for _ in range(times)]

    first, second = draw(times=2)
    assert [len(b.images) for b in first] == [4, 4, 2]
    assert len({meta.image_id for b in first for meta in b.meta}) == 10
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.images, other.images)
    own = {image["id"]: sum(a["image_id"] == image["id"] for a in tiny_set.content["annotations"])
           for image in tiny_set.content["images"]}
    for batch in first:                                     # with mosaic there would be objects of four images
        counts = torch.bincount(batch.targets.image_index, minlength=len(batch.meta)).tolist()
        assert all(count <= own[meta.image_id] for count, meta in zip(counts, batch.meta, strict=True))
    shared = [draw(rank, 2)[0] for rank in range(2)]
    for one, other in zip(first, [shared[0][0], shared[1][0], shared[0][1]], strict=True):
        assert torch.equal(one.images, other.images)


def test_a_last_batch_of_a_single_image_is_left_out(tiny_set: object) -> None:
    source = load_coco(tiny_set.root / "train.json", tiny_set.images, training=True)

    def sizes(count: int) -> list[int]:
        return [len(b.images) for b in statistics_loader(source, 64, 4, AugmentConfig(), 0, count, workers=0)]

    assert (sizes(9), sizes(10), sizes(1)) == ([4, 4], [4, 4, 2], [1])


def test_best_and_last_have_the_statistics(tiny_run: object) -> None:
    once = "train.validate_every=9"         # at the end alone, so that best.pt is of the last epoch
    assert tiny_run.train("plain", once) == 0
    assert tiny_run.train("precise", once, "train.precise_batchnorm=12") == 0
    plain, precise = (checkpoint.load(tiny_run.folder / name / "last.pt") for name in ("plain", "precise"))
    assert not changed(plain["model"], precise["model"])
    different = changed(plain["ema"], precise["ema"])
    assert different and all("running_" in name for name in different)
    assert len(different) == sum("running_" in name for name in plain["ema"])       # this network has no auxiliary head
    best = checkpoint.load(tiny_run.folder / "precise/best.pt")["weights"]
    assert not changed(best, {name: precise["ema"][name] for name in best})


def test_training_does_not_see_them(tiny_run: object) -> None:
    """They are taken after the first epoch, and the second is the same with them and without."""
    assert tiny_run.train("plain") == 0
    assert tiny_run.train("precise", "train.precise_batchnorm=12") == 0
    plain, precise = (checkpoint.load(tiny_run.folder / name / "last.pt") for name in ("plain", "precise"))
    assert not changed(plain["model"], precise["model"])
    averaged = {name for name in plain["ema"] if "running_" not in name}
    assert not averaged & changed(plain["ema"], precise["ema"])
    logs = [[json.loads(line) for line in (tiny_run.folder / name / "log.jsonl").read_text().splitlines()]
            for name in ("plain", "precise")]
    assert [r["loss"] for r in logs[0]] == [r["loss"] for r in logs[1]]


def test_without_validation_the_last_average_has_them_too(tiny_run: object) -> None:
    assert tiny_run.train("validated", "train.precise_batchnorm=12", "train.validate_every=9") == 0
    assert tiny_run.train("alone", "train.precise_batchnorm=12", "data.val=") == 0
    validated, alone = (checkpoint.load(tiny_run.folder / name / "best.pt")["weights"] for name in ("validated", "alone"))
    assert not changed(validated, alone)


def test_a_run_stopped_while_statistics_are_taken_goes_on_to_the_same_bits(
    tiny_run: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = "train.precise_batchnorm=8"
    assert tiny_run.train("whole", setting) == 0
    original = engine.trainer.take_statistics

    def stopped(*arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(engine.trainer, "take_statistics", stopped)
        assert tiny_run.train("parts", setting) == 3
    assert tiny_run.train("parts", setting, "--resume") == 0
    whole, parts = (checkpoint.load(tiny_run.folder / name / "last.pt") for name in ("whole", "parts"))
    for key in ("model", "ema"):
        assert not changed(whole[key], parts[key]), key
