"""The YOLO11 backbone: five stride-2 convolutions, a C3k2 behind each but the first, SPPF and attention at the end."""
from typing import NamedTuple

from torch import Tensor, nn

from models.blocks import C2PSA, SPPF, C3k2, Conv
from models.scaling import Scale


class Pyramid(NamedTuple):
    """Feature maps at strides 4, 8, 16 and 32, each (B, C, H / stride, W / stride)."""

    p2: Tensor
    p3: Tensor
    p4: Tensor
    p5: Tensor


class Features(NamedTuple):
    """What a backbone gives: the pyramid that the neck reads and, with ARB, the auxiliary column's."""

    main: Pyramid
    auxiliary: Pyramid | None


class Stages(nn.Module):
    """The nine layers shared by every backbone here: `down[k]` halves the resolution to stride 2^(k+1), `mix[k]` follows.

    `mix[0]` is empty: YOLO11 has no block at stride 2.

    Attributes:
        down_widths: channels after each of the five stride-2 convolutions.
        widths: channels of P2, P3, P4, P5.
    """

    def __init__(self, scale: Scale):
        super().__init__()
        self.down_widths = tuple(scale.channels(c) for c in (64, 128, 256, 512, 1024))
        self.widths = tuple(scale.channels(c) for c in (256, 512, 512, 1024))
        depth = scale.blocks(2)
        sources = (3, self.down_widths[0], *self.widths[:3])
        self.down = nn.ModuleList(Conv(a, b, 3, 2) for a, b in zip(sources, self.down_widths, strict=True))
        shallow = {"c3k": scale.c3k, "expansion": 0.25}
        deep = {"c3k": True, "expansion": 0.5}
        self.mix = nn.ModuleList([nn.Identity()])
        for before, after, how in zip(self.down_widths[1:], self.widths, (shallow, shallow, deep, deep), strict=True):
            self.mix.append(C3k2(before, after, depth, **how))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in 0..1, H and W multiples of 32 -> maps at strides 2, 4, 8, 16 and 32."""
        levels, x = [], images
        for down, mix in zip(self.down, self.mix, strict=True):
            x = mix(down(x))
            levels.append(x)
        return levels


class Backbone(nn.Module):
    """Image -> P2, P3, P4, P5."""

    def __init__(self, scale: Scale):
        super().__init__()
        self.stages = Stages(scale)
        self.widths = self.stages.widths
        self.sppf = SPPF(self.widths[3], self.widths[3])
        self.attention = C2PSA(self.widths[3], scale.blocks(2))

    def forward(self, images: Tensor) -> Features:
        """(B, 3, H, W) -> Features without an auxiliary pyramid."""
        levels = self.stages(images)
        levels[-1] = self.attention(self.sppf(levels[-1]))
        return Features(Pyramid(*levels[1:]), None)
