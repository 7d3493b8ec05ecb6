"""SGD in three groups and the schedule that drives it, as in YOLO11's recipe."""
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from engine.config import TrainConfig


def build_optimizer(model: nn.Module, config: TrainConfig, accumulate: int) -> torch.optim.SGD:
    """SGD with Nesterov momentum; weight decay on convolution weights only.

    Args:
        accumulate: batches per optimizer step; the decay is scaled to the images that a step really sees.
    """
    biases, norms, weights = [], [], []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if name == "bias":
                biases.append(parameter)
            elif isinstance(module, nn.modules.batchnorm._NormBase):
                norms.append(parameter)
            else:
                weights.append(parameter)
    decay = config.weight_decay * config.batch_size * accumulate / config.nominal_batch
    groups = [
        {"params": weights, "weight_decay": decay, "name": "weights"},
        {"params": norms, "weight_decay": 0.0, "name": "norms"},
        {"params": biases, "weight_decay": 0.0, "name": "biases"},
    ]
    return torch.optim.SGD(
        [g for g in groups if g["params"]], lr=config.lr, momentum=config.momentum, nesterov=True, fused=True
    )


class Moment(NamedTuple):
    """What the schedule says at one batch."""

    lr: float
    bias_lr: float
    momentum: float
    accumulate: int         # batches per optimizer step


class Schedule:
    """Linear decay by epoch, with a warm-up by batch.

    The rate of epoch e of E is lr * ((1 - e / E) * (1 - final_lr) + final_lr). During warm-up the weights' rate rises from
    0, the biases' falls from warmup_bias_lr, momentum rises, and so does the number of batches accumulated, from 1.
    A pure function of the position, so that a resumed run needs no state of it.
    """

    def __init__(self, config: TrainConfig, batches_per_epoch: int):
        self.config = config
        self.batches_per_epoch = batches_per_epoch
        self.warmup_batches = round(min(config.warmup_epochs, config.epochs - 1) * batches_per_epoch)
        self.accumulate = max(round(config.nominal_batch / config.batch_size), 1)

    def at(self, epoch: int, batch: int) -> Moment:
        """The moment of one batch, both counted from 0."""
        c = self.config
        lr = c.lr * ((1 - epoch / c.epochs) * (1 - c.final_lr) + c.final_lr)
        done = epoch * self.batches_per_epoch + batch
        if done >= self.warmup_batches:
            return Moment(lr, lr, c.momentum, self.accumulate)

        def ramp(start: float, end: float) -> float:
            return float(np.interp(done, (0, self.warmup_batches), (start, end)))

        accumulate = max(round(ramp(1, c.nominal_batch / c.batch_size)), 1)
        return Moment(ramp(0, lr), ramp(c.warmup_bias_lr, lr), ramp(c.warmup_momentum, c.momentum), accumulate)


def apply(moment: Moment, optimizer: torch.optim.SGD) -> None:
    """Set the optimizer's rates and momentum."""
    for group in optimizer.param_groups:
        group["lr"] = moment.bias_lr if group["name"] == "biases" else moment.lr
        group["momentum"] = moment.momentum
