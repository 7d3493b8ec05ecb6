"""Tools side by side on one image, with places enlarged: what is drawn of a comparison, and how.

Boxes are outlines one pixel outside of what they enclose, drawn after scaling, and carry no text: with hundreds in an image
text would cover it. What a colour means, and how many boxes have it, stands once above each view.
"""
from typing import NamedTuple

import cv2
import numpy as np

from engine.comparison import Found, ImageOutcome, Region
from engine.drawing import COLOURS, colour
from engine.sheet import GREY, INK, Colour, Sheet, drawable_names, text_width

# Apart for people without red, green or blue cones, too: at least 50 in CIELAB (tests/engine/test_compare.py).
HIT, MISSED, FALSE = (64, 200, 255), (255, 230, 0), (245, 35, 75)
FADED, DARKENED = 0.35, 0.85    # what an image keeps of its colours and its light where boxes tell of hits and misses
GAP, MARGIN = 10, 14    # pixels
CAPTION, HEADING = 44, 62
MOST_COLUMNS = 4
WIDTHS = {1: 900, 2: 800, 3: 640, 4: 480}       # of a view, by how many stand in a row
PLACES = {1: 2, 2: 2, 3: 1, 4: 1}       # enlarged, side by side below each view
FEWEST_TIMES = 1.5      # a place is shown apart where that enlarges it at least so much
BOLD_FROM = 4.0         # times enlarged, from which on lines are two pixels wide


class Layer(NamedTuple):
    """Boxes (n, 4) xyxy pixels of one colour; `outside`: around others of the same size."""

    boxes: np.ndarray
    colour: Colour
    outside: bool = False


class View(NamedTuple):
    """One tool's view of the image.

    Args:
        entries: what stands below the title: a colour, or None, and a text.
        layers: the last one on top.
    """

    title: str
    entries: list[tuple[Colour | None, str]]
    layers: list[Layer]


def outcomes(seen: ImageOutcome, image: np.ndarray, name: str, score: float, regions: list[Region]) -> np.ndarray:
    """Hits, misses and false alarms of each tool, as in the paper's Fig. 3.

    Args:
        image: (H, W, 3) uint8 RGB.
        name: of the image.
        score: from which on detections are shown.
        regions: to enlarge, as far as there is room.
    Returns:
        (h, w, 3) uint8 RGB.
    """
    # a missed object around a detection of another class, so that both are seen
    views = [View(tool.name, _counts(tool),
                  [Layer(tool.hits, HIT), Layer(tool.missed, MISSED, outside=True), Layer(tool.false, FALSE)])
             for tool in seen.tools]
    note = f"Detections with a score of {score:g} or more. Hit: an object of the same class, at IoU 0.5 or more."
    return _compose(_faded(image), views, _title(name, seen), note, regions)


def classes(seen: ImageOutcome, image: np.ndarray, name: str, score: float, regions: list[Region],
            class_names: list[str]) -> np.ndarray:
    """The objects and each tool's detections in the colours of their classes, as in the paper's Fig. 4; else as `outcomes`."""
    tints = _tints(sorted({*seen.labels.tolist(), *(label for tool in seen.tools for label in tool.labels.tolist())}))
    names = drawable_names(class_names)
    views = [_by_class("truth", seen.boxes, seen.labels, tints, names)]
    views += [_by_class(tool.name, tool.boxes[order], tool.labels[order], tints, names)
              for tool in seen.tools for order in [np.argsort(tool.scores, kind="stable")]]
    note = f"Detections with a score of {score:g} or more, in the colours of their classes."
    return _compose(image, views, _title(name, seen), note, regions)


def _counts(tool: Found) -> list[tuple[Colour | None, str]]:
    alarms = f"{len(tool.false):,} false alarm{'s' if len(tool.false) != 1 else ''}"
    return [(HIT, f"{len(tool.hits):,} hit"), (MISSED, f"{len(tool.missed):,} missed"), (FALSE, alarms)]


def _by_class(title: str, boxes: np.ndarray, labels: np.ndarray, tints: dict[int, Colour], names: list[str]) -> View:
    present = [label for label in tints if (labels == label).any()]
    return View(title, [(tints[k], f"{(labels == k).sum():,} {names[k]}") for k in present] or [(None, "nothing")],
                [Layer(boxes[labels == k], tints[k]) for k in present])


def _tints(present: list[int]) -> dict[int, Colour]:
    """A colour for each class of the image: its usual one, unless another class of the image has it."""
    tints = {}
    for label in present:
        free = [tint for tint in COLOURS if tint not in tints.values()]
        tints[label] = colour(label) if colour(label) in free or not free else free[0]
    return tints


def _title(name: str, seen: ImageOutcome) -> str:
    objects = int(seen.solid.sum())
    return f"{drawable_names([name])[0]}: {objects:,} object{'s' if objects != 1 else ''}"


def _faded(image: np.ndarray) -> np.ndarray:
    """Nearly grey and a little darker, so that only boxes are bright and have colours."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    return np.round(DARKENED * (FADED * image + (1 - FADED) * grey)).astype(np.uint8)


def _compose(image: np.ndarray, views: list[View], title: str, note: str, regions: list[Region]) -> np.ndarray:
    """A heading, then the views in rows, each with its caption above and the enlarged places below."""
    rows = -(-len(views) // MOST_COLUMNS)
    columns = -(-len(views) // rows)
    wide, places = WIDTHS[columns], PLACES[columns]
    scale = min(wide / image.shape[1], 1.25 * wide / image.shape[0])
    inner = (wide - GAP * (places - 1)) // places
    regions = [region for region in regions[:places] if inner / region[2] >= FEWEST_TIMES * scale]
    captions = [_caption(view, wide) for view in views]
    tallest = max(len(caption) for caption in captions)
    blocks = [np.concatenate((_padded(caption, tallest), _shown(image, view, wide, scale, inner, regions)))
              for caption, view in zip(captions, views, strict=True)]
    height = len(blocks[0])
    width = 2 * MARGIN + columns * wide + (columns - 1) * GAP
    head = Sheet(width, HEADING)
    head.text(title, MARGIN, 22, 17, bold=True)
    head.text(note, MARGIN, 44, 13, GREY)
    canvas = np.full((HEADING + rows * (height + GAP) + MARGIN - GAP, width, 3), 255, np.uint8)
    canvas[:HEADING] = head.picture()
    for k, block in enumerate(blocks):
        y, x = HEADING + k // columns * (height + GAP), MARGIN + k % columns * (wide + GAP)
        canvas[y : y + len(block), x : x + wide] = block
    return canvas


def _shown(image: np.ndarray, view: View, wide: int, scale: float, inner: int, regions: list[Region]) -> np.ndarray:
    """The image with a view's boxes, and the enlarged places below; (h, wide, 3)."""
    whole = draw_layers(_resized(image, scale), view.layers, scale, (0, 0), 1)
    for k, (x, y, side) in enumerate(regions, 1):
        _mark(whole, [v * scale for v in (x, y, x + side, y + side)], str(k))
    parts = [_centred(whole, wide)]
    if regions:
        strip = np.full((inner + GAP, wide, 3), 255, np.uint8)
        for k, (x, y, side) in enumerate(regions):
            zoom = inner / side
            close = cv2.resize(image[y : y + side, x : x + side], (inner, inner), interpolation=cv2.INTER_CUBIC)
            draw_layers(close, view.layers, zoom, (x, y), 1 + (zoom >= BOLD_FROM))
            _mark(close, (0, 0, inner - 1, inner - 1), str(k + 1))
            strip[GAP:, k * (inner + GAP) : k * (inner + GAP) + inner] = close
        parts.append(strip)
    return np.concatenate(parts)


def draw_layers(canvas: np.ndarray, layers: list[Layer], scale: float, offset: tuple[int, int], thickness: int) -> np.ndarray:
    """Outline boxes on a (h, w, 3) picture, in place; returns it.

    Args:
        scale: pixels of the canvas for one of the boxes'.
        offset: x, y of the canvas's corner in the boxes' pixels.
        thickness: of a line, outwards.
    """
    for boxes, tint, outside in layers:
        shifted = (boxes - np.array(offset * 2)) * scale
        inside = (shifted[:, 2:] > 0).all(1) & (shifted[:, :2] < np.array(canvas.shape[1::-1])).all(1)
        low, high = np.floor(shifted[inside, :2]).astype(int), np.ceil(shifted[inside, 2:]).astype(int) - 1
        first = 1 + thickness * outside
        for out in range(first, first + thickness):
            for (x1, y1), (x2, y2) in zip((low - out).tolist(), (high + out).tolist(), strict=True):
                cv2.rectangle(canvas, (x1, y1), (x2, y2), tint, 1)
    return canvas


def _resized(image: np.ndarray, scale: float) -> np.ndarray:
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def _centred(picture: np.ndarray, wide: int) -> np.ndarray:
    left = (wide - picture.shape[1]) // 2
    return np.pad(picture, ((0, 0), (left, wide - picture.shape[1] - left), (0, 0)), constant_values=255)


def _padded(picture: np.ndarray, height: int) -> np.ndarray:
    return np.pad(picture, ((0, height - len(picture)), (0, 0), (0, 0)), constant_values=255)


def _mark(picture: np.ndarray, corners: tuple[float, float, float, float], text: str) -> None:
    """A white frame with a number above its corner, or in it where there is no room."""
    x1, y1, x2, y2 = (round(v) for v in corners)
    for out, tint in ((1, INK), (0, (255, 255, 255))):
        cv2.rectangle(picture, (x1 - out, y1 - out), (x2 + out, y2 + out), tint, 1)
    tag = Sheet(16, 16)
    tag.text(text, 8, 8, 13, align="centre", bold=True)
    top = y1 - 17 if y1 >= 17 else y1
    corner = picture[top : top + 16, x1 : x1 + 16]
    corner[:] = tag.picture()[: corner.shape[0], : corner.shape[1]]


def _caption(view: View, wide: int) -> np.ndarray:
    """(CAPTION or more, wide, 3): the title, and below it the entries in as many lines as they need."""
    lines, x = [[]], 0.0
    for tint, text in view.entries:
        needed = text_width(text, 13) + (18 if tint else 0)
        if x + needed > wide and lines[-1]:
            lines.append([])
            x = 0.0
        lines[-1].append((tint, text, x))
        x += needed + 18
    sheet = Sheet(wide, CAPTION + 18 * (len(lines) - 1))
    sheet.text(view.title, 0, 11, 15, bold=True)
    for row, line in enumerate(lines):
        y = 31 + 18 * row
        for tint, text, x in line:
            if tint:
                sheet.box(x, y - 6, x + 12, y + 6, tint, GREY)
            sheet.text(text, x + (18 if tint else 0), y, 13)
    return sheet.picture()
