"""Progressive fusion detection head (RS-TinyNet, Section III-C-2, Eq 12): levels join one at a time, finest first.

The structure is that of AFPN (Yang et al., SMC 2023) over P2..P5, with adaptive spatial fusion (Liu et al., ASFF, 2019).
Inside, a level is an eighth as wide as in the neck, and what carries it from end to end is linear: on so few channels an
activation loses what it folds, as in the narrow ends of MobileNetV2's blocks (Sandler et al., CVPR 2018). The activations stand
in the residual branches, the votes and the paths between levels (docs/decisions.md).
"""
import torch
from torch import Tensor, nn

from models.blocks import GENTLE_START, Conv

NARROWEST = 16          # channels inside; an eighth of scale m's P2. At scale n four would have to say all that P2 knows
VOTE = 8                # channels from which an input's weight at a pixel is computed
RESIDUAL_BLOCKS = 4     # behind each fusion
OWN_VOTE = 3.0          # head start of a level's own map when training begins: of four it weighs 0.87, of two 0.95


class AdaptiveFusion(nn.Module):
    """Weigh n maps against each other at every pixel.

        Z_uv = sum_i w_uv^(i) F_uv^(i),    sum_i w_uv^(i) = 1                                 (12)

    It starts near the identity: each level keeps almost only its own map. A level that starts as the mean of all, through
    random convolutions, three times in a row, does not tell the heads where anything is (docs/decisions.md).

    Args:
        own: which of the maps is the level's own.
    """

    def __init__(self, channels: int, inputs: int, own: int):
        super().__init__()
        self.votes = nn.ModuleList(Conv(channels, VOTE) for _ in range(inputs))
        self.weigh = nn.Conv2d(VOTE * inputs, inputs, 1)
        self.merge = Conv(channels, channels, 3, act=False)
        with torch.no_grad():
            self.weigh.weight *= GENTLE_START
            self.weigh.bias.zero_()[own] = OWN_VOTE
            weight = self.merge.conv.weight
            weight.mul_(GENTLE_START).add_(nn.init.dirac_(torch.empty_like(weight)))

    def forward(self, maps: list[Tensor]) -> Tensor:
        """n maps (B, C, H, W) -> (B, C, H, W)."""
        weights = self.weights(maps)
        return self.merge(sum(weights[:, i : i + 1] * x for i, x in enumerate(maps)))

    def weights(self, maps: list[Tensor]) -> Tensor:
        """(B, n, H, W), which sum to 1 over n."""
        votes = [vote(x) for vote, x in zip(self.votes, maps, strict=True)]
        return self.weigh(torch.cat(votes, 1)).softmax(1)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with bias and BatchNorm, and a shortcut that nothing bends (He et al., ECCV 2016).

    A SiLU behind the sum, where AFPN has a ReLU, would halve small values in each of the twelve blocks in a row: what
    the neck found is lost on the way, and the detector learns no more than how often objects occur (docs/decisions.md).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.cv1 = Conv(channels, channels, 3, bias=True)
        self.cv2 = Conv(channels, channels, 3, act=False, bias=True)
        nn.init.constant_(self.cv2.bn.weight, GENTLE_START)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x + self.cv2(self.cv1(x))


class Resize(nn.Module):
    """Bring a map from one level to another: a 1x1 convolution and bilinear interpolation up, a strided convolution down.

    Args:
        levels_up: how many levels finer the target is; negative: coarser.
    """

    def __init__(self, in_channels: int, out_channels: int, levels_up: int):
        super().__init__()
        factor = 2 ** abs(levels_up)
        if levels_up > 0:
            self.path = nn.Sequential(Conv(in_channels, out_channels), nn.Upsample(scale_factor=factor, mode="bilinear"))
        else:
            self.path = Conv(in_channels, out_channels, factor, factor, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H * 2^levels_up, W * 2^levels_up)."""
        return self.path(x)


class FusionStage(nn.Module):
    """Each of the finest n levels receives all n, its own and the others resized, and digests them.

    Args:
        widths: channels of the n levels.
    """

    def __init__(self, widths: tuple[int, ...]):
        super().__init__()
        self.resize = nn.ModuleList(
            nn.ModuleList(nn.Identity() if i == k else Resize(widths[i], widths[k], i - k) for i in range(len(widths)))
            for k in range(len(widths))
        )
        self.fuse = nn.ModuleList(AdaptiveFusion(w, len(widths), own=k) for k, w in enumerate(widths))
        self.digest = nn.ModuleList(nn.Sequential(*(ResidualBlock(w) for _ in range(RESIDUAL_BLOCKS))) for w in widths)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """n maps, finest first -> n maps of the same shapes."""
        return [
            digest(fuse([move(x) for move, x in zip(moves, levels, strict=True)]))
            for moves, fuse, digest in zip(self.resize, self.fuse, self.digest, strict=True)
        ]


class PFDH(nn.Module):
    """Neck levels -> levels of one width for Detect: P2 and P3 meet first, then P4 joins, then P5.

    Args:
        widths: channels of the neck's P2..P5.
        out_channels: of every output.
    """

    def __init__(self, widths: tuple[int, ...], out_channels: int):
        super().__init__()
        inner = tuple(max(w // 8, NARROWEST) for w in widths)
        # The first two convolutions are one linear map in two factors; Table III's count has both.
        self.enter = nn.ModuleList(
            nn.Sequential(Conv(w, n, act=False), Conv(n, n, act=False)) for w, n in zip(widths, inner, strict=True)
        )
        self.stages = nn.ModuleList(FusionStage(inner[:n]) for n in range(2, len(widths) + 1))
        self.leave = nn.ModuleList(Conv(n, out_channels) for n in inner)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """(B, widths[i], H_i, W_i), finest first -> (B, out_channels, H_i, W_i)."""
        levels = [enter(x) for enter, x in zip(self.enter, features, strict=True)]
        for stage in self.stages:
            n = len(stage.fuse)
            levels[:n] = stage(levels[:n])
        return [leave(x) for leave, x in zip(self.leave, levels, strict=True)]
