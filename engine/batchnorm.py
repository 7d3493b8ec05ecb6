"""BatchNorm's running statistics: kept from steps that are not finite, and taken anew for the averaged weights.

Those that training leaves are moving averages over batches of its own size, under weights that have changed since. With few
images in a batch they are far from what the weights see: "precise BatchNorm" (Wu and Johnson, arXiv:2105.07576, section 3)
runs the finished weights over larger batches, and keeps the mean of these batches' statistics.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from engine.distributed import Ranks
from engine.evaluator import batches_of
from engine.signals import StopRequest


class KeptStatistics:
    """A copy of a model's running means and variances as of the last good step: the forward pass changes them before anyone
    knows that its numbers are not finite."""

    def __init__(self, model: nn.Module):
        self.live = [buffer for name, buffer in model.named_buffers() if "running_" in name]
        self.kept = [buffer.clone() for buffer in self.live]

    def keep(self) -> None:
        """The present ones are good."""
        torch._foreach_copy_(self.kept, self.live)

    def put_back(self) -> None:
        """The present ones are not: return to those of the last good step."""
        torch._foreach_copy_(self.live, self.kept)


@torch.no_grad()
def take_statistics(model: nn.Module, loader: DataLoader, ranks: Ranks, stop: StopRequest | None = None) -> None:
    """Set running means and variances to those of a loader's batches, each weighted by its images.

    Within a batch each layer normalises by that batch's own statistics, as in training. Layers that evaluation does not
    pass, those of an auxiliary head, keep theirs.

    Args:
        model: in evaluation mode, in float32; nothing else of it changes.
        loader: its batches are this rank's share, and any number.
        stop: looked at between batches.
    Raises:
        Stopped: on all ranks, as one of them was asked to stop; the model is as it was.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    # (3, C) of each: mean, variance, and how many images they are of. In float64, whose rounding leaves no trace of how the
    # batches were shared.
    sums = {norm: torch.zeros(3, norm.num_features, dtype=torch.float64, device=ranks.device) for norm in norms}

    def normalise_by_batch(norm: _BatchNorm, inputs: tuple[Tensor], _: Tensor) -> Tensor:
        own = torch.ones(3, norm.num_features, device=ranks.device)
        # With a momentum of 1 the first two become the batch's mean and unbiased variance.
        output = F.batch_norm(inputs[0], own[0], own[1], norm.weight, norm.bias, training=True, momentum=1.0, eps=norm.eps)
        sums[norm] += own * len(inputs[0])
        return output

    hooks = [norm.register_forward_hook(normalise_by_batch) for norm in norms]
    try:
        for batch in batches_of(loader, ranks, "statistics", stop):
            model(batch.images.to(torch.float32, memory_format=torch.channels_last) / 255)
    finally:
        for hook in hooks:
            hook.remove()
    totals = ranks.all_sum(torch.cat(list(sums.values()), 1)).split([norm.num_features for norm in norms], 1)
    for norm, (mean, variance, images) in zip(norms, totals, strict=True):
        if images[0]:
            norm.running_mean.copy_(mean / images)
            norm.running_var.copy_(variance / images)
