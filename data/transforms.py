"""Augmentation of boxes and pixels by one matrix, and the letterbox of evaluation.

Coordinates are continuous: pixel i covers [i, i + 1], so a box and what it encloses move alike. OpenCV counts from
pixel centres instead; `_to_pixel_centres` is the only place that knows.

Shapes: H W pixels of a picture, s side of the network's input, n objects.
"""
from dataclasses import dataclass

import cv2
import numpy as np

from errors import InputError

GREY = 114              # what lies beyond every picture
MIN_VISIBLE = 0.1       # share of a warped box's area that must remain inside the output


@dataclass(frozen=True)
class AugmentConfig:
    """How strongly training pictures are varied (YOLO11's recipe, but for min_box_side, which is 2 there)."""

    mosaic: float = 1.0             # probability of joining four pictures
    degrees: float = 0.0            # rotation, up to +- this
    translate: float = 0.1          # shift of the centre, up to +- this share of the side
    scale: float = 0.5              # zoom by 1 +- this
    shear: float = 0.0              # degrees, up to +- this
    flip_lr: float = 0.5            # probability
    flip_ud: float = 0.0            # probability
    hsv_h: float = 0.015            # hue, saturation and value, up to +- this share
    hsv_s: float = 0.7
    hsv_v: float = 0.4
    min_box_side: float = 1.0       # a box with a shorter side after the warp is dropped, in pixels

    def __post_init__(self):
        limits = {"degrees": 180, "shear": 89, "min_box_side": float("inf"), "scale": 0.99, "translate": 0.5}
        for name, value in vars(self).items():
            high = limits.get(name, 1)
            if not 0 <= value <= high:
                raise InputError(f"augment.{name}: {value} is outside 0..{high}.")


def fit_matrix(width: int, height: int, side: int) -> np.ndarray:
    """(3, 3) matrix that makes the longer side of a picture `side` pixels long."""
    ratio = side / max(width, height)
    return np.diag((ratio, ratio, 1.0))


def random_affine(rng: np.random.Generator, config: AugmentConfig, canvas: float, side: int) -> np.ndarray:
    """(3, 3) matrix from a virtual square canvas to the output: rotate, zoom, shear about its centre, shift, flip."""
    angle = np.deg2rad(rng.uniform(-config.degrees, config.degrees))
    zoom = rng.uniform(1 - config.scale, 1 + config.scale)
    shear = np.tan(np.deg2rad(rng.uniform(-config.shear, config.shear, 2)))
    shift = rng.uniform(0.5 - config.translate, 0.5 + config.translate, 2) * side
    flip = np.where(rng.random(2) < (config.flip_lr, config.flip_ud), -1.0, 1.0)

    cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
    turn = np.array(((1, shear[0]), (shear[1], 1))) @ np.array(((cos, sin), (-sin, cos)))
    matrix = np.eye(3)
    matrix[:2, :2] = turn
    matrix[:2, 2] = shift - turn @ (canvas / 2, canvas / 2)
    mirror = np.eye(3)
    mirror[:2, :2] = np.diag(flip)
    mirror[:2, 2] = np.where(flip < 0, side, 0)
    return mirror @ matrix


def warp_into(output: np.ndarray, picture: np.ndarray, matrix: np.ndarray) -> None:
    """Draw a picture (H, W, 3) into the output (s, s, 3), in place, touching only the rectangle where it lands."""
    height, width = picture.shape[:2]
    zoom = np.sqrt(abs(np.linalg.det(matrix[:2, :2])))
    if zoom < 0.5:      # linear interpolation would skip pixels: average them first
        size = max(round(width * zoom), 1), max(round(height * zoom), 1)
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        matrix = matrix @ np.diag((width / small.shape[1], height / small.shape[0], 1.0))
        picture, (height, width) = small, small.shape[:2]
    corners = matrix[:2] @ np.array(((0, width, 0, width), (0, 0, height, height), (1, 1, 1, 1)))
    side = np.array((output.shape[1], output.shape[0]))
    x1, y1 = np.clip(np.floor(corners.min(1)).astype(int), 0, side)
    x2, y2 = np.clip(np.ceil(corners.max(1)).astype(int), 0, side)
    if x1 >= x2 or y1 >= y2:
        return
    move = np.eye(3)
    move[:2, 2] = -x1, -y1
    region = np.ascontiguousarray(output[y1:y2, x1:x2])
    cv2.warpAffine(
        picture, _to_pixel_centres(move @ matrix)[:2], (int(x2 - x1), int(y2 - y1)), dst=region,
        flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_TRANSPARENT,
    )
    output[y1:y2, x1:x2] = region


def _to_pixel_centres(matrix: np.ndarray) -> np.ndarray:
    half = np.array(((1, 0, 0.5), (0, 1, 0.5), (0, 0, 1)))
    back = np.array(((1, 0, -0.5), (0, 1, -0.5), (0, 0, 1)))
    return back @ matrix @ half


def warp_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Boxes (n, 4) xyxy that enclose the warped boxes, not clipped."""
    corners = boxes[:, (0, 1, 2, 1, 0, 3, 2, 3)].reshape(-1, 4, 2)
    warped = corners @ matrix[:2, :2].T + matrix[:2, 2]
    return np.concatenate((warped.min(1), warped.max(1)), 1)


def clip_and_select(boxes: np.ndarray, side: int, min_box_side: float) -> tuple[np.ndarray, np.ndarray]:
    """Clip boxes (n, 4) to the output; choose those that remain large and visible enough.

    Returns:
        Clipped boxes (n, 4) and a mask (n,).
    """
    clipped = boxes.clip(0, side)
    before, after = boxes[:, 2:] - boxes[:, :2], clipped[:, 2:] - clipped[:, :2]
    keep = (after >= min_box_side).all(1) & (after.prod(1) > MIN_VISIBLE * before.prod(1))
    return clipped, keep


def jitter_colours(image: np.ndarray, rng: np.random.Generator, config: AugmentConfig) -> np.ndarray:
    """Vary hue, saturation and value of a BGR picture by one factor each, through lookup tables."""
    gain = rng.uniform(-1, 1, 3) * (config.hsv_h, config.hsv_s, config.hsv_v)
    if not gain.any():
        return image
    ramp = np.arange(256)
    tables = ((ramp + gain[0] * 180) % 180, (ramp * (1 + gain[1])).clip(0, 255), (ramp * (1 + gain[2])).clip(0, 255))
    table = np.stack(tables, -1).astype(np.uint8)[None]                     # (1, 256, 3)
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    return cv2.cvtColor(cv2.LUT(hsv, table), cv2.COLOR_HSV2BGR)


def letterbox(image: np.ndarray, side: int) -> tuple[np.ndarray, tuple[float, float]]:
    """Fit a picture (H, W, 3) for evaluation: longer side `side` px, grey to the right and below up to multiples of 32.

    A picture whose longer side has the right length is not touched, so an 800 x 800 picture is tested as it is.

    Returns:
        The picture and the scale along x and y.
    """
    height, width = image.shape[:2]
    ratio = side / max(width, height)
    new_width, new_height = max(round(width * ratio), 1), max(round(height * ratio), 1)
    if (new_width, new_height) != (width, height):
        how = cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR
        image = cv2.resize(image, (new_width, new_height), interpolation=how)
    right, below = -new_width % 32, -new_height % 32
    if right or below:
        image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT, value=(GREY, GREY, GREY))
    return image, (new_width / width, new_height / height)


def letterbox_shape(width: int, height: int, side: int) -> tuple[int, int]:
    """(height, width) of what `letterbox` returns."""
    ratio = side / max(width, height)
    new_width, new_height = max(round(width * ratio), 1), max(round(height * ratio), 1)
    return new_height + -new_height % 32, new_width + -new_width % 32
