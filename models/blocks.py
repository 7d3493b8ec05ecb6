"""The building blocks of YOLO11, under YOLO's own names (C3k2, SPPF, C2PSA ...; cv1, cv2, m).

The attribute names inside a block are those of published YOLO11 checkpoints, so that models/weights.py only has to
translate the places of the blocks.

Shapes: B images, C channels, H W pixels of the feature map.
"""
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# ARB's taps, PFDH's votes, its residual branches and the random part of its merging convolutions start at this share of their
# usual size. Otherwise the first gradient of RS-TinyNet-n is 450 times that of YOLO11n with the stride-4 level, and clipping
# leaves its heads next to nothing to learn by (docs/decisions.md).
GENTLE_START = 0.03


class Conv(nn.Module):
    """Convolution + BatchNorm + SiLU; "same" padding.

    Args:
        groups: as in nn.Conv2d; `groups=in_channels` makes it depthwise.
        padding: None: half the kernel, so that stride 1 keeps the size.
        bias: give the convolution a bias, which the BatchNorm behind it makes redundant; only PFDH's count asks for it.
        act: False leaves the SiLU out.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        act: bool = True,
        padding: int | None = None,
        bias: bool = False,
    ):
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=bias)
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.03)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out, H / stride, W / stride), rounded up."""
        x = self.bn(self.conv(x))
        if not self.act:
            return x
        return F.silu(x, inplace=not torch.is_grad_enabled())       # in place, backward would need a copy of what it overwrites

    def fold(self) -> None:
        """Fold the BatchNorm, as it is in evaluation, into the convolution. In place; a second call does nothing."""
        if isinstance(self.bn, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv.eval(), self.bn.eval())
            self.bn = nn.Identity()


def nearest(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """(B, C, h, w) -> (B, C, *size) by nearest neighbour, in the precision of x.

    Autocast on a GPU, not on a CPU, would make copies of numbers, and with them the sums and concatenations that they enter,
    float32: a quarter of what RS-TinyNet's forward pass moves.
    """
    if x.shape[2:] == size:
        return x
    device = x.device.type
    autocast = device != "meta" and torch.is_autocast_enabled(device)
    with torch.autocast(device, enabled=False) if autocast else nullcontext():
        return F.interpolate(x, size=size, mode="nearest")


class Bottleneck(nn.Module):
    """Two 3x3 convolutions; the input is added when the widths agree and `shortcut` is on."""

    def __init__(self, in_channels: int, out_channels: int, shortcut: bool = True, expansion: float = 0.5):
        super().__init__()
        hidden = int(out_channels * expansion)
        self.cv1 = Conv(in_channels, hidden, 3)
        self.cv2 = Conv(hidden, out_channels, 3)
        self.add = shortcut and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class C3k(nn.Module):
    """Cross-stage block of three 1x1 convolutions around `depth` full-width bottlenecks."""

    def __init__(self, in_channels: int, out_channels: int, depth: int = 2):
        super().__init__()
        hidden = out_channels // 2
        self.cv1 = Conv(in_channels, hidden)
        self.cv2 = Conv(in_channels, hidden)
        self.cv3 = Conv(2 * hidden, out_channels)
        self.m = nn.Sequential(*(Bottleneck(hidden, hidden, expansion=1.0) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class C3k2(nn.Module):
    """Split in two, send one half through `depth` blocks in a row, concatenate every stage, merge.

    Args:
        c3k: the inner blocks are C3k (True) or Bottleneck (False).
        expansion: width of each half, as a share of out_channels.
    """

    def __init__(self, in_channels: int, out_channels: int, depth: int, c3k: bool, expansion: float = 0.5):
        super().__init__()
        half = int(out_channels * expansion)
        self.cv1 = Conv(in_channels, 2 * half)
        self.cv2 = Conv((2 + depth) * half, out_channels)
        self.m = nn.ModuleList(C3k(half, half) if c3k else Bottleneck(half, half) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        stages = list(self.cv1(x).chunk(2, 1))
        for block in self.m:
            stages.append(block(stages[-1]))
        return self.cv2(torch.cat(stages, 1))


class SPPF(nn.Module):
    """Spatial pyramid pooling: three 5x5 max-pools in a row see 5, 9 and 13 cells."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        hidden = in_channels // 2
        self.cv1 = Conv(in_channels, hidden)
        self.cv2 = Conv(4 * hidden, out_channels)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        stages = [self.cv1(x)]
        for _ in range(3):
            stages.append(self.pool(stages[-1]))
        return self.cv2(torch.cat(stages, 1))


class Attention(nn.Module):
    """Multi-head self-attention over all positions, keys half as wide as values, with a depthwise positional term."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.value_width = channels // heads
        self.key_width = self.value_width // 2
        self.qkv = Conv(channels, channels + 2 * self.key_width * heads, act=False)
        self.proj = Conv(channels, channels, act=False)
        self.pe = Conv(channels, channels, 3, groups=channels, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        B, C, H, W = x.shape
        qkv = self.qkv(x).reshape(B, self.heads, 2 * self.key_width + self.value_width, H * W)
        query, key, value = qkv.split((self.key_width, self.key_width, self.value_width), 2)
        weight = (query.transpose(2, 3) @ key * self.key_width**-0.5).softmax(-1)       # (B, heads, HW, HW)
        mixed = (value @ weight.transpose(2, 3)).reshape(B, C, H, W)
        return self.proj(mixed + self.pe(value.reshape(B, C, H, W)))


class PSABlock(nn.Module):
    """Attention and a two-layer feed-forward, each with a shortcut."""

    def __init__(self, channels: int):
        super().__init__()
        self.attn = Attention(channels, heads=max(channels // 64, 1))
        self.ffn = nn.Sequential(Conv(channels, 2 * channels), Conv(2 * channels, channels, act=False))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        x = x + self.attn(x)
        return x + self.ffn(x)


class C2PSA(nn.Module):
    """Split in two, send one half through `depth` PSABlocks, merge."""

    def __init__(self, channels: int, depth: int):
        super().__init__()
        half = channels // 2
        self.cv1 = Conv(channels, 2 * half)
        self.cv2 = Conv(2 * half, channels)
        self.m = nn.Sequential(*(PSABlock(half) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        keep, attend = self.cv1(x).chunk(2, 1)
        return self.cv2(torch.cat((keep, self.m(attend)), 1))
