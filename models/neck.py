"""YOLO11's path-aggregation neck: semantics down, details up again; with or without the stride-4 (P2) level."""
import torch
from torch import Tensor, nn

from models.backbone import Pyramid
from models.blocks import C3k2, Conv, nearest
from models.scaling import Scale


class Neck(nn.Module):
    """P2..P5 of the backbone -> the levels that the head reads, finest first.

    Args:
        widths: channels of the backbone's P2, P3, P4, P5.
        p2: add the stride-4 level to the outputs (494,792 parameters net at scale m).
        attention: placed on the P2 output, before both its readers (MDCA); nn.Identity() otherwise.

    Attributes:
        widths: channels of the outputs.
    """

    def __init__(self, scale: Scale, widths: tuple[int, ...], p2: bool, attention: nn.Module):
        super().__init__()
        depth = scale.blocks(2)
        b2, b3, b4, b5 = widths
        n2, n3, n4, n5 = (scale.channels(c) for c in (128, 256, 512, 1024))
        self.top4 = C3k2(b5 + b4, n4, depth, scale.c3k)
        self.top3 = C3k2(n4 + b3, n3, depth, scale.c3k)
        if p2:
            self.top2 = C3k2(n3 + b2, n2, depth, scale.c3k)
            self.attention = attention
            self.down3 = Conv(n2, n2, 3, 2)
            self.out3 = C3k2(n2 + n3, n3, depth, scale.c3k)
        self.down4 = Conv(n3, n3, 3, 2)
        self.out4 = C3k2(n3 + n4, n4, depth, scale.c3k)
        self.down5 = Conv(n4, n4, 3, 2)
        self.out5 = C3k2(n4 + b5, n5, depth, c3k=True)
        self.p2 = p2
        self.widths = (n2, n3, n4, n5) if p2 else (n3, n4, n5)

    def forward(self, features: Pyramid) -> list[Tensor]:
        """Pyramid -> [P2,] P3, P4, P5, each (B, C, H / stride, W / stride)."""
        p2, p3, p4, p5 = features
        top4 = self.top4(torch.cat((_double(p5), p4), 1))
        out3 = top3 = self.top3(torch.cat((_double(top4), p3), 1))
        finest = []
        if self.p2:
            out2 = self.attention(self.top2(torch.cat((_double(top3), p2), 1)))
            out3 = self.out3(torch.cat((self.down3(out2), top3), 1))
            finest = [out2]
        out4 = self.out4(torch.cat((self.down4(out3), top4), 1))
        out5 = self.out5(torch.cat((self.down5(out4), p5), 1))
        return [*finest, out3, out4, out5]


def _double(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2H, 2W), nearest neighbour."""
    return nearest(x, (2 * x.shape[2], 2 * x.shape[3]))
