"""Where the tiles of large images lie, for predicting and testing on them (engine/tiles.py) as for training (data/cut.py)."""
from dataclasses import dataclass

import numpy as np

from errors import InputError

SMALLEST = 32           # side of a tile, pixels: one cell of the coarsest level
LEAST_MARGIN = 2.0      # pixels


@dataclass(frozen=True)
class Tiling:
    """How images are cut, in pixels: --tile and --overlap. An image that is no larger than a tile stays whole."""

    tile: int
    overlap: int

    def __post_init__(self):
        if self.tile < SMALLEST:
            raise InputError(f"--tile: {self.tile} is too small. Use {SMALLEST} or more.")
        if not 0 <= self.overlap < self.tile:
            raise InputError(f"--overlap: {self.overlap} is outside 0..{self.tile - 1}, as --tile is {self.tile}. Use more "
                             f"than the size of an object, such as {self.tile // 4}.")

    def cuts(self, width: int, height: int) -> bool:
        """Whether an image is larger than a tile."""
        return max(width, height) > self.tile

    def grid(self, width: int, height: int) -> "Grid":
        """The tiles of an image."""
        return Grid(_starts(width, self), _starts(height, self), min(self.tile, width), min(self.tile, height), self.overlap)


def tiling(tile: int | None, overlap: int | None) -> Tiling | None:
    """What --tile and --overlap ask for; None without --tile."""
    if tile is None and overlap is not None:
        raise InputError(f"--overlap: {overlap} needs --tile. Name a tile's side too, such as --tile {max(4 * overlap, 800)}.")
    return None if tile is None else Tiling(tile, tile // 4 if overlap is None else overlap)


@dataclass(frozen=True)
class Grid:
    """The tiles of one image, numbered row by row. All have one size, so that they share batches.

    Args:
        xs, ys: where the columns and the rows begin, ascending, in pixels of the image.
        width, height: of a tile, pixels.
        overlap: of neighbours, at least, pixels.
    """

    xs: np.ndarray
    ys: np.ndarray
    width: int
    height: int
    overlap: int

    @property
    def margin(self) -> float:
        """Pixels. A box this near to an inner border counts as cut. Views that differ by less count as equal: two looks at one
        object differ by far less, so that never do two tiles leave it to each other. Small, as where views are equal both tiles
        have their say, and what one of them sees wrongly stays."""
        return max(self.overlap / 16, LEAST_MARGIN)

    def __len__(self) -> int:
        return len(self.xs) * len(self.ys)


def _starts(length: int, how: Tiling) -> np.ndarray:
    """Where tiles begin along one side of an image.

    The last one is moved back to end at the border, as data/aitod_layout.py does: padded instead, it would show little but
    grey, and an object at the border little of its surroundings.
    """
    last = max(length - how.tile, 0)
    return np.array([*range(0, last, how.tile - how.overlap), last])
