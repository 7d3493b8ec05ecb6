"""Exponential moving average of the weights, which is what is validated and kept."""
import copy
import math

import torch
from torch import nn


class WeightAverage:
    """Keep an average of every floating-point entry of a model's state, BatchNorm statistics included.

        average <- d * average + (1 - d) * model,    d = decay * (1 - exp(-updates / time_constant))

    Attributes:
        model: the averaged model, in evaluation mode.
        updates: how often it was updated.
    """

    def __init__(self, model: nn.Module, decay: float, time_constant: float):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.time_constant = time_constant
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the model's present weights into the average."""
        self.updates += 1
        decay = self.decay * (1 - math.exp(-self.updates / self.time_constant))
        pairs = list(zip(self.model.state_dict().values(), model.state_dict().values(), strict=True))
        floating = [(mine, new) for mine, new in pairs if mine.is_floating_point()]
        torch._foreach_lerp_([m for m, _ in floating], [n for _, n in floating], 1 - decay)
        for mine, new in pairs:
            if not mine.is_floating_point():
                mine.copy_(new)
