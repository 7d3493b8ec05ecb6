"""Pictures for people: boxes on images, truth beside predictions, the cells that objects get."""
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from engine.sheet import drawable_names

# Twelve hues that stay apart on soil, water and roofs; RGB.
COLOURS = (
    (255, 64, 64), (64, 200, 255), (255, 208, 0), (0, 230, 118), (224, 64, 251), (255, 145, 0),
    (41, 98, 255), (198, 255, 0), (255, 138, 200), (0, 191, 165), (188, 143, 80), (179, 157, 255),
)
MISSED = (255, 32, 32)


def colour(label: int) -> tuple[int, int, int]:
    """The RGB colour of a class."""
    return COLOURS[label % len(COLOURS)]


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[int],
    scores: Sequence[float] | None = None,
    class_names: Sequence[str] = (),
    zoom: int = 1,
) -> np.ndarray:
    """Outline boxes in their class's colour, just outside the object so that a tiny one stays visible.

    Args:
        image: (H, W, 3) uint8 RGB; left as it is.
        boxes: (n, 4) xyxy pixels.
        scores: a slightly darker line for a lower score.
        class_names: when given, a legend of the classes present is written at the foot.
        zoom: whole factor of enlargement.
    Returns:
        (H * zoom [+ legend], W * zoom, 3) uint8 RGB.
    """
    canvas = np.ascontiguousarray(np.repeat(np.repeat(image, zoom, 0), zoom, 1))
    boxes, labels = np.asarray(boxes, dtype=np.float64).reshape(-1, 4), np.asarray(labels, dtype=int)
    strength = np.ones(len(boxes)) if scores is None else 0.6 + 0.4 * np.asarray(scores, dtype=float)
    for k in np.argsort(strength, kind="stable"):           # strong ones on top
        x1, y1 = np.floor(boxes[k, :2] * zoom).astype(int) - 1
        x2, y2 = np.ceil(boxes[k, 2:] * zoom).astype(int)
        tint = tuple(int(c * strength[k]) for c in colour(labels[k]))
        cv2.rectangle(canvas, (int(x1), int(y1)), (int(x2), int(y2)), tint, 1)
    if len(class_names):
        canvas = np.concatenate((canvas, legend(sorted(set(labels.tolist())), class_names, canvas.shape[1])))
    return canvas


def legend(labels: Sequence[int], class_names: Sequence[str], width: int) -> np.ndarray:
    """A strip (h, width, 3) that names the colours of the classes."""
    names = drawable_names(class_names)
    rows, x = [[]], 6
    for label in labels:
        (w, _), _ = cv2.getTextSize(names[label], cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)
        if x + w + 24 > width and rows[-1]:
            rows.append([])
            x = 6
        rows[-1].append((label, x))
        x += w + 28
    strip = np.full((18 * len(rows) + 4, width, 3), 24, np.uint8)
    for k, row in enumerate(rows):
        for label, x in row:
            cv2.rectangle(strip, (x, 18 * k + 6), (x + 10, 18 * k + 16), colour(label), -1)
            cv2.putText(strip, names[label], (x + 15, 18 * k + 16), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (230, 230, 230), 1,
                        cv2.LINE_AA)
    return strip


def draw_cells(image: np.ndarray, boxes: np.ndarray, cells: Sequence[np.ndarray], zoom: int = 2) -> list[np.ndarray]:
    """Which cells learn something: one picture for each level, with the boxes that have no cell on any level in red.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (n, 4) xyxy pixels.
        cells: one (k, 3) array for each level: x, y in pixels and the index of the object.
    Returns:
        One (H * zoom, W * zoom, 3) uint8 RGB picture for each level; boxes without a cell on that level are grey.
    """
    learned = {int(i) for level in cells for i in level[:, 2]}
    panels = []
    for level in cells:
        panel = np.ascontiguousarray(np.repeat(np.repeat((image * 0.7).astype(np.uint8), zoom, 0), zoom, 1))
        here = {int(i) for i in level[:, 2]}
        for k, box in enumerate(boxes):
            tint = MISSED if k not in learned else (255, 255, 255) if k in here else (110, 110, 110)
            corner = np.round(box * zoom).astype(int).tolist()
            cv2.rectangle(panel, tuple(corner[:2]), tuple(corner[2:]), tint, 1)
        for x, y, k in level:
            cv2.circle(panel, (int(x * zoom), int(y * zoom)), 2, colour(int(k) + 1), -1, cv2.LINE_AA)
        panels.append(panel)
    return panels


def side_by_side(pictures: Sequence[np.ndarray], captions: Sequence[str] = ()) -> np.ndarray:
    """Pictures (h, w, 3) of any height in one row, six pixels apart, each under its caption."""
    if captions:
        pictures = [np.concatenate((caption(text, p.shape[1]), p)) for text, p in zip(captions, pictures, strict=True)]
    height = max(p.shape[0] for p in pictures)
    padded = [np.pad(p, ((0, height - p.shape[0]), (0, 6), (0, 0)), constant_values=24) for p in pictures]
    return np.concatenate(padded, 1)[:, :-6]


def caption(text: str, width: int) -> np.ndarray:
    """A strip (18, width, 3) with a line of text."""
    strip = np.full((18, width, 3), 24, np.uint8)
    cv2.putText(strip, text, (6, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (230, 230, 230), 1, cv2.LINE_AA)
    return strip


def grid(pictures: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Pictures of any size in rows of `columns`."""
    rows = [side_by_side(pictures[k : k + columns]) for k in range(0, len(pictures), columns)]
    width = max(r.shape[1] for r in rows)
    return np.concatenate([np.pad(r, ((0, 6), (0, width - r.shape[1]), (0, 0)), constant_values=24) for r in rows])[:-6]


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write an RGB picture; the format follows the suffix. Raises OSError where it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done, content = cv2.imencode(path.suffix, picture[..., ::-1])
    if not done:
        raise OSError(f"{path}: the picture could not be written")
    path.write_bytes(content)
