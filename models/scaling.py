"""YOLO11's compound scaling: how depth and width follow from one letter."""
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """One of YOLO11's five sizes."""

    depth: float            # multiplies the number of blocks in a stage
    width: float            # multiplies the number of channels
    max_channels: int       # before multiplication
    c3k: bool               # C3k inside every C3k2, not only inside the deep ones

    def channels(self, nominal: int) -> int:
        """Channels for a nominal width, a multiple of 8."""
        return -int(-min(nominal, self.max_channels) * self.width // 8) * 8

    def blocks(self, nominal: int) -> int:
        """Blocks in a stage for a nominal depth, at least one."""
        return max(round(nominal * self.depth), 1)


SCALES = {
    "n": Scale(0.50, 0.25, 1024, c3k=False),
    "s": Scale(0.50, 0.50, 1024, c3k=False),
    "m": Scale(0.50, 1.00, 512, c3k=True),
    "l": Scale(1.00, 1.00, 512, c3k=True),
    "x": Scale(1.00, 1.50, 512, c3k=True),
}
