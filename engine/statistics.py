"""BatchNorm's running statistics, which the forward pass has changed before anyone knows that its numbers are not finite."""
import torch
from torch import nn


class KeptStatistics:
    """A copy of a model's running means and variances as of the last good step."""

    def __init__(self, model: nn.Module):
        self.live = [buffer for name, buffer in model.named_buffers() if "running_" in name]
        self.kept = [buffer.clone() for buffer in self.live]

    def keep(self) -> None:
        """The present ones are good."""
        torch._foreach_copy_(self.kept, self.live)

    def put_back(self) -> None:
        """The present ones are not: return to those of the last good step."""
        torch._foreach_copy_(self.live, self.kept)
