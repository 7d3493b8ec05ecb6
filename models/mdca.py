"""Multi-dimensional collaborative attention (RS-TinyNet, Section III-B, Eqs 1-8)."""
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from errors import InputError
from models.blocks import nearest

COMBINATIONS = {"sum": torch.add, "product": torch.mul}        # of the channel and the spatial map


class MDCA(nn.Module):
    """Reweight channels, locally and globally, and positions; both branches read the same input.

        z_local   = LAP_{s x s}(X)                  z_global = GAP(X)                         (1, 2)
        a_local   = sigmoid(Conv1D(z_local))        a_global = sigmoid(Conv1D(z_global))      (3, 4)
        A_channel = Reshape((1 - lambda) a_global + lambda a_local)                           (5)
        A_spatial = sigmoid(Conv_3x3([mean_c(X), max_c(X)]))                                  (6-8)
        Y = X A_channel + X A_spatial

    Read to the letter, Eq 1 averages the cells of the grid away and equals global pooling; here the grid is kept, and Eq 5
    resizes it to H x W by PyTorch's nearest neighbour: row y takes cell floor(y s / H), which float32 puts one row off at a few
    sizes that are no multiples of 8, such as 205. The convolutions run along the channels, the same one in every cell. How the
    two maps combine is open in the paper: their sum, as each is about one half at the start, begins near Y = X; with "product",
    Y = X A_channel A_spatial, which begins near X / 4.

    Args:
        kernel: odd width of the 1-D convolutions, in channels.
        grid: s, cells along each side.
        local_weight: lambda.
        combine: "sum" or "product".
    """

    def __init__(self, kernel: int = 3, grid: int = 5, local_weight: float = 0.5, combine: str = "sum"):
        super().__init__()
        check_mdca(kernel, combine)
        self.grid = grid
        self.local_weight = local_weight
        self.combine = COMBINATIONS[combine]
        self.mix_local = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)
        self.mix_global = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)
        self.mix_space = nn.Conv2d(2, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W), any H and W."""
        a_local = _along_channels(self.mix_local, adaptive_avg_pool2d(x, self.grid)).sigmoid()          # (B, C, s, s)
        a_global = _along_channels(self.mix_global, x.mean((2, 3), keepdim=True)).sigmoid()             # (B, C, 1, 1)
        channel = (1 - self.local_weight) * a_global + self.local_weight * a_local
        channel = nearest(channel, x.shape[2:])
        spatial = self.mix_space(torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)).sigmoid()
        return x * self.combine(channel, spatial)


def check_mdca(kernel: int, combine: str) -> None:
    """Raises InputError, which names the setting, where MDCA cannot be built so."""
    if kernel < 1 or kernel % 2 == 0:
        raise InputError(f"model.mdca_kernel: {kernel} is not an odd number of channels. Use 1, 3, 5, ...")
    if combine not in COMBINATIONS:
        raise InputError(f"model.mdca_combine: '{combine}' is not one of {', '.join(COMBINATIONS)}.")


def _along_channels(mix: nn.Conv1d, z: Tensor) -> Tensor:
    """Convolve along the channels of each cell: (B, C, h, w) -> (B, C, h, w)."""
    B, C, h, w = z.shape
    rows = z.permute(0, 2, 3, 1).reshape(B * h * w, 1, C)
    return mix(rows).reshape(B, h, w, C).permute(0, 3, 1, 2)
