"""The picture of a scene with its objects: as it is or, of a scene too large to look at, an overview and close-ups."""
import cv2
import numpy as np

from data.raster import Scene
from engine.drawing import caption, draw_boxes, grid, legend, side_by_side

LARGEST = 4000          # pixels of the longer side up to which a scene is drawn as it is
OVERVIEW = 3000         # pixels of the longer side of an overview
CLOSE = 1000            # pixels of the side of a close-up, at the scene's own scale
CLOSE_UPS = 3
LETTERS = 3             # times as large as in other pictures, as this one is scaled down to be looked at
MARK = (255, 255, 255)


def draw_scene(
    scene: Scene, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, names: list[str]
) -> np.ndarray:
    """Draw detections.

    Args:
        boxes: (n, 4) xyxy pixels of the scene.
    Returns:
        (h, w, 3) uint8 RGB. A small scene is enlarged. One beyond LARGEST becomes an overview of OVERVIEW px, and beside it
        (below it, where it is wider than high) stand those CLOSE_UPS places at full size that hold the most objects.
    """
    longer = max(scene.width, scene.height)
    if longer <= LARGEST:
        return draw_boxes(_rgb(scene.rows(0, scene.height)), boxes, labels, scores, names, zoom=max(1, round(800 / longer)))
    scale = OVERVIEW / longer
    width, height = (max(round(side * scale), 1) for side in (scene.width, scene.height))
    overview = draw_boxes(_rgb(scene.reduced(width, height)), boxes * scale, labels, scores)
    close_ups = []
    for number, (x, y, w, h) in enumerate(crowded_places(scene.width, scene.height, boxes), 1):
        moved = boxes - (x, y, x, y)
        inside = (moved[:, :2] < (w, h)).all(1) & (moved[:, 2:] > 0).all(1)
        piece = draw_boxes(_rgb(scene.piece(x, y, w, h)), moved[inside], labels[inside], scores[inside])
        title = f"{number}: from {x:,}, {y:,}; {inside.sum():,} objects"
        close_ups.append(np.concatenate((_enlarged(caption(title, -(-w // LETTERS)), w), piece)))
        corner, end = (np.array(((x, y), (x + w, y + h))) * scale).astype(int).tolist()
        cv2.rectangle(overview, corner, end, MARK, 2)
        cv2.putText(overview, str(number), (corner[0] + 12, corner[1] + 60), cv2.FONT_HERSHEY_SIMPLEX, 2, MARK, 4, cv2.LINE_AA)
    title = f"{scene.width:,} x {scene.height:,} px, shown at {scale:.1%}; {len(boxes):,} objects"
    strip = -(-width // LETTERS)
    foot = legend(sorted(set(labels.tolist())), names, strip)
    overview = np.concatenate((_enlarged(caption(title, strip), width), overview, _enlarged(foot, width)))
    if not close_ups:
        return overview
    if width < height:
        return side_by_side([overview, grid(close_ups, columns=1)])
    return grid([overview, side_by_side(close_ups)], columns=1)


def crowded_places(width: int, height: int, boxes: np.ndarray) -> list[tuple[int, int, int, int]]:
    """x, y, width and height of up to CLOSE_UPS squares of a scene that hold the most objects, none without one; all apart."""
    columns, rows = -(-width // CLOSE), -(-height // CLOSE)
    cell = (((boxes[:, :2] + boxes[:, 2:]) / 2) // CLOSE).astype(int).clip(0, (columns - 1, rows - 1))
    counts = np.bincount(cell[:, 1] * columns + cell[:, 0], minlength=columns * rows)
    places = []
    for k in np.argsort(-counts, kind="stable")[:CLOSE_UPS].tolist():
        if counts[k]:
            y, x = (CLOSE * i for i in divmod(k, columns))
            places.append((x, y, min(CLOSE, width - x), min(CLOSE, height - y)))
    return places


def _enlarged(strip: np.ndarray, width: int) -> np.ndarray:
    """A strip of text LETTERS times as large, cut to a width."""
    return cv2.resize(strip, None, fx=LETTERS, fy=LETTERS, interpolation=cv2.INTER_CUBIC)[:, :width]


def _rgb(picture: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(picture[..., ::-1])
