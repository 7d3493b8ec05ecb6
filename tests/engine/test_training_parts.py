"""The schedule, the optimizer's groups, the average and the log: what each does at each moment of a run."""
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from engine.config import TrainConfig
from engine.ema import WeightAverage
from engine.log import RunLog
from engine.optimizer import Moment, Schedule, apply, build_optimizer
from models import ModelConfig, build_model


def test_the_rate_falls_linearly_by_epoch_to_its_final_share() -> None:
    schedule = Schedule(TrainConfig(epochs=10, lr=0.1, final_lr=0.01, warmup_epochs=0), batches_per_epoch=7)
    rates = [schedule.at(e, b).lr for e in range(10) for b in (0, 6)]
    expected = [0.1 * (1 - 0.99 * e / 10) for e in range(10) for _ in (0, 6)]
    assert rates == pytest.approx(expected)


def test_warm_up_ramps_rates_momentum_and_accumulation() -> None:
    config = TrainConfig(epochs=100, lr=0.01, warmup_epochs=2, batch_size=16, nominal_batch=64)
    schedule = Schedule(config, batches_per_epoch=10)
    first, half, after = schedule.at(0, 0), schedule.at(1, 0), schedule.at(2, 0)
    assert first == Moment(lr=0.0, bias_lr=0.1, momentum=0.8, accumulate=1)
    epoch_1 = 0.01 * (1 - 0.99 / 100)
    assert half.lr == pytest.approx(epoch_1 / 2) and half.bias_lr == pytest.approx((0.1 + epoch_1) / 2)
    assert half.momentum == pytest.approx((0.8 + 0.937) / 2) and half.accumulate == 2      # round(2.5), ties to even
    assert after == Moment(*[pytest.approx(0.01 * (1 - 0.99 * 2 / 100))] * 2, momentum=0.937, accumulate=4)


def test_a_short_run_ends_its_warm_up_before_its_last_epoch() -> None:
    schedule = Schedule(TrainConfig(epochs=2, warmup_epochs=3), batches_per_epoch=5)
    assert schedule.at(1, 0).momentum == 0.937
    assert Schedule(TrainConfig(epochs=1, warmup_epochs=3), batches_per_epoch=5).at(0, 0).lr == 0.01


@pytest.mark.parametrize("batch, accumulate, scale", [(16, 4, 1.0), (64, 1, 1.0), (128, 1, 2.0)])
def test_decay_acts_on_convolution_weights_only_and_follows_the_images_of_a_step(
    batch: int, accumulate: int, scale: float
) -> None:
    model = build_model(ModelConfig(scale="n", mdca=True, arb=True, pfdh=True))
    config = TrainConfig(batch_size=batch)
    assert Schedule(config, 10).accumulate == accumulate
    groups = {g["name"]: g for g in build_optimizer(model, config, accumulate).param_groups}
    assert groups["weights"]["weight_decay"] == pytest.approx(5e-4 * scale)
    assert groups["norms"]["weight_decay"] == groups["biases"]["weight_decay"] == 0
    names = {id(p): n for n, p in model.named_parameters()}
    kernels = {n for m, module in model.named_modules() if isinstance(module, (nn.Conv1d, nn.Conv2d)) for n in [f"{m}.weight"]}
    listed = {g: {names[id(p)] for p in groups[g]["params"]} for g in groups}
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert listed["weights"] == kernels & trainable
    assert all(n.endswith(".bias") for n in listed["biases"])
    assert sum(map(len, listed.values())) == len(trainable) and set.union(*listed.values()) == trainable


def test_biases_have_a_rate_of_their_own() -> None:
    optimizer = build_optimizer(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)), TrainConfig(), 1)
    apply(Moment(lr=0.3, bias_lr=0.7, momentum=0.5, accumulate=1), optimizer)
    rates = {g["name"]: (g["lr"], g["momentum"]) for g in optimizer.param_groups}
    assert rates == {"weights": (0.3, 0.5), "norms": (0.3, 0.5), "biases": (0.7, 0.5)}


def test_the_average_follows_its_formula_statistics_included() -> None:
    model = nn.BatchNorm1d(3)
    average = WeightAverage(model, decay=0.9, time_constant=4)
    expected = {k: v.numpy().copy() for k, v in model.state_dict().items()}
    rng = np.random.default_rng(0)
    for update in range(1, 5):
        new = {k: rng.normal(size=3).astype(np.float32) for k in ("weight", "bias", "running_mean", "running_var")}
        model.load_state_dict({**{k: torch.from_numpy(v) for k, v in new.items()}, "num_batches_tracked": torch.tensor(update)})
        average.update()
        decay = 0.9 * (1 - math.exp(-update / 4))
        expected.update({k: decay * expected[k] + (1 - decay) * v for k, v in new.items()}, num_batches_tracked=update)
    for name, value in average.model.state_dict().items():
        np.testing.assert_allclose(value.numpy(), expected[name], rtol=1e-5, err_msg=name)
    assert not average.model.training and not any(p.requires_grad for p in average.model.parameters())


def test_a_resumed_log_takes_back_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    for epoch in range(3):
        log.epoch({"epoch": epoch, "step": epoch, "loss": {"box": 1.0}})
    log.close()
    with open(log.path, "a") as file:
        file.write('{"epoch": 3, "st')             # a kill in the middle of a line
    RunLog(tmp_path, first_epoch=2).close()
    assert [json.loads(line)["epoch"] for line in log.path.read_text().splitlines()] == [0, 1]
