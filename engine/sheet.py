"""A white sheet to draw charts on with OpenCV: lines, boxes and text in pixels, drawn enlarged and averaged down.

OpenCV's stroke fonts are rough at the size of a label. Drawn SCALE times larger and averaged they are smooth.
"""
import unicodedata
from collections import Counter
from collections.abc import Sequence

import cv2
import numpy as np

SCALE = 3
SHIFT = 4                           # fractional bits of coordinates
FONT = cv2.FONT_HERSHEY_SIMPLEX
HAS_OUTLINES = int(cv2.__version__.split(".")[0]) >= 5     # from 5.0 on, an outline font with weights takes its place
LINE = 18                           # pixels from one line of text to the next
INK, GREY, FAINT = (38, 38, 38), (120, 120, 120), (225, 225, 225)
FOUND, MISSED, FIGURE = (74, 124, 176), (212, 212, 212), (196, 78, 24)
LONGEST_NAME = 40                   # characters
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

    def heading(self, title: str, notes: Sequence[str], warning: str = "") -> None:
        """A title, lines that explain below it, and one that must not be overlooked; see heading_size."""
        self.text(title, 16, 22, 15, bold=True)
        for k, note in enumerate(notes):
            self.text(note, 16, 42 + LINE * k, 12, GREY)
        if warning:
            self.text(warning, 16, 42 + LINE * len(notes), 12, FIGURE, bold=True)

    def _stamp(self, mask: np.ndarray, left: int, top: int, colour: Colour) -> None:
        """Blend a colour into the canvas where mask (h, w) uint8 says; what lies outside is cut off."""
        rows, columns = self._canvas.shape[:2]
        y1, y2, x1, x2 = max(top, 0), min(top + mask.shape[0], rows), max(left, 0), min(left + mask.shape[1], columns)
        if y1 >= y2 or x1 >= x2:
            return
        weight = mask[y1 - top : y2 - top, x1 - left : x2 - left, None] / np.float32(255)
        part = self._canvas[y1:y2, x1:x2]
        part[:] = np.round(part * (1 - weight) + np.array(colour, np.float32) * weight)


def heading_size(notes: Sequence[str], warning: str = "") -> tuple[int, int]:
    """How wide the lines below a heading are with their margins, and where the first line after them stands, in pixels."""
    wide = max([text_width(note) for note in notes] + [text_width(warning, bold=True)])
    return round(wide) + 40, 46 + LINE * (len(notes) + bool(warning))


def drawable_names(names: Sequence[str], kind: str = "class") -> list[str]:
    """Names as they can be drawn: all different, not empty, not too long, of letters that OpenCV has.

    The strokes of OpenCV 4 have ASCII only. An accent is dropped then, and what has no like becomes "class 3", by its place
    from 1, or another `kind`. The outlines of OpenCV 5 have most letters.
    """
    drawn = []
    for name in names:
        name = " ".join(name.split())
        if not HAS_OUTLINES:
            plain = [c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c)]
            name = "".join(plain) if all(c.isascii() and c.isprintable() for c in plain) else ""
        drawn.append(name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 3] + "...")
    count = Counter(drawn)
    return [name if name and count[name] == 1 else f"{kind} {k}" for k, name in enumerate(drawn, 1)]


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
