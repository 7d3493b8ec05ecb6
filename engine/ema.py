"""Exponential moving average of the weights, which is what is validated and kept."""
import copy
import math

import torch
from torch import nn


class WeightAverage:
    """Keep an average of every floating-point entry of a model's state, BatchNorm statistics included.

        average <- d * average + (1 - d) * model,    d = decay * (1 - exp(-updates / time_constant))

    Args:
        model: whose weights are averaged. It stays on its device and keeps its tensors, as training and load_state_dict do.
    Attributes:
        model: the averaged model, in evaluation mode.
        updates: how often it was updated.
    """

    def __init__(self, model: nn.Module, decay: float, time_constant: float):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.time_constant = time_constant
        self.updates = 0
        # Once, as a walk over all modules at each step would take longer than the arithmetic.
        states = [list(m.state_dict().values()) for m in (self.model, model)]
        self._floats = [[x for x in state if x.is_floating_point()] for state in states]
        self._counts = [[x for x in state if not x.is_floating_point()] for state in states]     # of batches, by BatchNorm

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's present weights into the average."""
        self.updates += 1
        decay = self.decay * (1 - math.exp(-self.updates / self.time_constant))
        torch._foreach_lerp_(*self._floats, 1 - decay)
        if self._counts[0]:
            torch._foreach_copy_(*self._counts)
