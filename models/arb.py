"""Auxiliary reversible branch (RS-TinyNet, Section III-C-1, Eqs 10-11): a backbone of two columns.

Column 1, the auxiliary one, reads the image and is supervised in training by a head of its own. Column 2, the main one, reads
the image again, and at each of its five resolutions takes in what column 1 found there and deeper: no level of the main column
depends on its own depth alone. YOLOv9 (Wang et al., ECCV 2024) has this structure; the blocks are YOLO11's.
"""
import torch
from torch import Tensor, nn

from models.backbone import Features, Pyramid, Stages
from models.blocks import C2PSA, GENTLE_START, SPPF, nearest
from models.scaling import Scale


class Tap(nn.Module):
    """A linear view of one level of column 1, cut into a chunk for each level of column 2 down to its own.

    Args:
        widths: channels of the chunks, finest level first.
    """

    def __init__(self, in_channels: int, widths: tuple[int, ...]):
        super().__init__()
        self.widths = widths
        self.conv = nn.Conv2d(in_channels, sum(widths), 1)
        with torch.no_grad():
            for parameter in self.conv.parameters():
                parameter *= GENTLE_START

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W) -> one (B, width, H, W) for each width."""
        return self.conv(x).split(self.widths, 1)


class Fusion(nn.Module):
    """The first half of Eq 10, without parameters of its own, and its inverse, Eq 11.

        y1 = x1 + F(x2),    x1 = y1 - F(x2),    F(x2) = the sum of the chunks for this level, resized to it

    The paper relaxes the second half: column 1 does not read column 2.
    """

    def forward(self, x: Tensor, chunks: list[Tensor]) -> Tensor:
        """x (B, C, H, W) and chunks (B, C, h, w), finest first, each half the size of the one before -> y (B, C, H, W)."""
        return x + self.function(x, chunks)

    def inverse(self, y: Tensor, chunks: list[Tensor]) -> Tensor:
        """y and the chunks that made it -> x."""
        return y - self.function(y, chunks)

    @staticmethod
    def function(like: Tensor, chunks: list[Tensor]) -> Tensor:
        """F: the sum of the chunks, each resized to the size of `like` by nearest neighbour.

        The deepest is resized to the next one's size and added to it, and so on: the same sum, added up where it is small.
        """
        *finer, total = chunks
        for chunk in reversed(finer):
            total = nearest(total, chunk.shape[2:]) + chunk
        return nearest(total, like.shape[2:])


class ReversibleBackbone(nn.Module):
    """Image -> the main column's pyramid for the neck and, beside it, the auxiliary column's for its head.

    Attributes:
        widths: channels of P2..P5, the same in both columns.
    """

    def __init__(self, scale: Scale):
        super().__init__()
        self.auxiliary = Stages(scale)
        self.stages = Stages(scale)
        self.widths = self.stages.widths
        down = self.stages.down_widths
        sources = (down[0], *self.widths)
        self.taps = nn.ModuleList(Tap(channels, down[: k + 1]) for k, channels in enumerate(sources))
        self.fusion = Fusion()
        self.sppf = SPPF(self.widths[3], self.widths[3])
        self.attention = C2PSA(self.widths[3], scale.blocks(2))

    def forward(self, images: Tensor) -> Features:
        """(B, 3, H, W) -> Features."""
        auxiliary = self.auxiliary(images)
        chunks = [tap(level) for tap, level in zip(self.taps, auxiliary, strict=True)]
        levels, x = [], images
        for k, (down, mix) in enumerate(zip(self.stages.down, self.stages.mix, strict=True)):
            x = mix(self.fusion(down(x), [chunk[k] for chunk in chunks[k:]]))
            levels.append(x)
        levels[-1] = self.attention(self.sppf(levels[-1]))
        return Features(Pyramid(*levels[1:]), Pyramid(*auxiliary[1:]))
