"""A white sheet to draw charts on with OpenCV: lines, boxes and text in pixels, drawn enlarged and averaged down.

OpenCV's stroke fonts are rough at the size of a label. Drawn SCALE times larger and averaged they are smooth.
"""
from collections.abc import Sequence

import cv2
import numpy as np

SCALE = 3
SHIFT = 4                           # fractional bits of coordinates
FONT = cv2.FONT_HERSHEY_SIMPLEX
HAS_OUTLINES = int(cv2.__version__.split(".")[0]) >= 5     # from 5.0 on, an outline font with weights takes its place
INK = (38, 38, 38)
Colour = tuple[int, int, int]       # RGB


class Sheet:
    """Draw in pixels of the finished picture; x to the right, y down, fractions allowed."""

    def __init__(self, width: int, height: int):
        self.width, self.height = width, height
        self._canvas = np.full((height * SCALE, width * SCALE, 3), 255, np.uint8)

    def picture(self) -> np.ndarray:
        """(height, width, 3) uint8 RGB."""
        return cv2.resize(self._canvas, (self.width, self.height), interpolation=cv2.INTER_AREA)

    def lines(self, points: Sequence[tuple[float, float]] | np.ndarray, colour: Colour = INK, width: float = 1.0,
              dash: float = 0.0) -> None:
        """A line through (n, 2) points; `dash` > 0 breaks it into strokes of that length, with gaps half as long."""
        points = np.asarray(points, dtype=np.float64)
        strokes = _strokes(points, dash) if dash else [points]
        fixed = [np.round(s * SCALE * 2**SHIFT).astype(np.int32)[:, None] for s in strokes]
        cv2.polylines(self._canvas, fixed, False, colour, max(1, round(width * SCALE)), cv2.LINE_AA, SHIFT)

    def box(self, x1: float, y1: float, x2: float, y2: float, fill: Colour | None = None, edge: Colour | None = None) -> None:
        """A rectangle between two corners, filled, outlined or both."""
        corners = [(round(min(x1, x2) * SCALE), round(min(y1, y2) * SCALE)),
                   (round(max(x1, x2) * SCALE) - 1, round(max(y1, y2) * SCALE) - 1)]
        if fill is not None and corners[1][0] >= corners[0][0] and corners[1][1] >= corners[0][1]:
            cv2.rectangle(self._canvas, *corners, fill, -1)
        if edge is not None:
            cv2.rectangle(self._canvas, *corners, edge, SCALE)

    def text(self, text: str, x: float, y: float, size: float = 12, colour: Colour = INK, align: str = "left",
             bold: bool = False, upward: bool = False) -> None:
        """Write one line.

        Args:
            x, y: the text's left, centre or right end (`align`), and the middle of its height.
            size: its height in pixels, ascenders and descenders included.
            upward: turned a quarter to the left; then `align` left means that the text starts at y and runs up.
        """
        scale, thickness = _font(size, bold)
        (width, height), base = cv2.getTextSize(text, FONT, scale, thickness)
        margin = thickness
        mask = np.zeros((height + base + 2 * margin, width + 2 * margin), np.uint8)
        cv2.putText(mask, text, (margin, height + margin), FONT, scale, 255, thickness, cv2.LINE_AA)
        offset = {"left": 0.0, "centre": width / 2, "right": float(width)}[align]
        middle = margin + height / 2
        if upward:
            mask = np.ascontiguousarray(np.rot90(mask))
            left, top = x * SCALE - middle, y * SCALE - (width - offset) - margin
        else:
            left, top = x * SCALE - offset - margin, y * SCALE - middle
        self._stamp(mask, round(left), round(top), colour)

    def _stamp(self, mask: np.ndarray, left: int, top: int, colour: Colour) -> None:
        """Blend a colour into the canvas where mask (h, w) uint8 says; what lies outside is cut off."""
        rows, columns = self._canvas.shape[:2]
        y1, y2, x1, x2 = max(top, 0), min(top + mask.shape[0], rows), max(left, 0), min(left + mask.shape[1], columns)
        if y1 >= y2 or x1 >= x2:
            return
        weight = mask[y1 - top : y2 - top, x1 - left : x2 - left, None] / np.float32(255)
        part = self._canvas[y1:y2, x1:x2]
        part[:] = np.round(part * (1 - weight) + np.array(colour, np.float32) * weight)


def text_width(text: str, size: float = 12, bold: bool = False) -> float:
    """How many pixels a line of text is wide."""
    return cv2.getTextSize(text, FONT, *_font(size, bold))[0][0] / SCALE


def _font(size: float, bold: bool) -> tuple[float, int]:
    """OpenCV's scale and thickness: of the stroke, or the weight of an outline font. Both are 21 + 9 units high."""
    thickness = 1 + bold if HAS_OUTLINES else max(1, round(size * SCALE / (11 if bold else 18)))
    return size * SCALE / 30, thickness


def _strokes(points: np.ndarray, dash: float) -> list[np.ndarray]:
    """Cut a line of (n, 2) points into strokes."""
    lengths = np.hypot(*np.diff(points, axis=0).T)
    along = np.concatenate(([0.0], np.cumsum(lengths)))
    strokes = []
    for start in np.arange(0, along[-1], 1.5 * dash):
        stop = min(start + dash, along[-1])
        inner = points[(along > start) & (along < stop)]
        ends = [[np.interp(at, along, points[:, axis]) for axis in (0, 1)] for at in (start, stop)]
        strokes.append(np.concatenate((ends[:1], inner, ends[1:])))
    return strokes
