"""Augmentation of boxes and pixels by one matrix, and the letterbox of evaluation.

Coordinates are continuous: pixel i covers [i, i + 1], so a box and what it encloses move alike. OpenCV counts from
pixel centres instead; `_to_pixel_centres` is the only place that knows.

Shapes: H W pixels of a picture, s side of the network's input, n objects.
"""
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from errors import InputError

GREY = 114              # what lies beyond every picture
MIN_VISIBLE = 0.1       # share of a warped box's area that must remain inside the output
STRIP = 120_000         # bytes that are varied in colour at a time: they stay in the cache, and no new pages are asked for


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
    multi_scale: float = 0.0        # the side varies from batch to batch by up to +- this share
    min_box_side: float = 1.0       # a box with a shorter side after the warp is dropped, in pixels

    def __post_init__(self):
        limits = {"degrees": 180, "shear": 89, "min_box_side": float("inf"), "scale": 0.99, "translate": 0.5,
                  "multi_scale": 0.9}
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


def warp_into(output: np.ndarray, picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Draw a picture (H, W, 3) into the output (h, w, 3), in place, touching only the rectangle where it lands.

    Without rotation and shear the picture is stretched, several times as fast as a warp: a piece of whole pixels of the
    picture fills a rectangle of whole pixels of the output. For this its edges move by up to half a pixel of each.

    Returns:
        The (3, 3) matrix by which it was drawn. Boxes have to follow this one.
    """
    if not (matrix[0, 1] or matrix[1, 0]):
        return _stretch_into(output, picture, matrix)
    drawn, (height, width) = matrix, picture.shape[:2]
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
        return drawn
    move = np.eye(3)
    move[:2, 2] = -x1, -y1
    region = np.ascontiguousarray(output[y1:y2, x1:x2])
    cv2.warpAffine(
        picture, _to_pixel_centres(move @ matrix)[:2], (int(x2 - x1), int(y2 - y1)), dst=region,
        flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_TRANSPARENT,
    )
    output[y1:y2, x1:x2] = region
    return drawn


class _Span(NamedTuple):
    """What is visible along one axis: whole pixels of the output, those of the picture that fill them, and how."""

    start: int      # output
    stop: int
    first: int      # picture
    last: int
    scale: float    # output = scale * picture + shift
    shift: float


def _span(scale: float, shift: float, length: int, side: int) -> _Span | None:
    """The span nearest to `scale * x + shift` for a picture of `length` px; None when nothing is visible of it.

    Where `scale` is negative, it is found for a picture that is not mirrored and fills the same pixels of the output.
    """
    low, high = (round(end) for end in sorted((shift, shift + scale * length)))
    start, stop = max(low, 0), min(high, side)
    if start >= stop:
        return None
    wanted = (high - low) / length
    first, last = round((start - low) / wanted), round((stop - low) / wanted)
    if first == last:       # less than a pixel of the picture
        first = min(first, length - 1)
        last = first + 1
    drawn = (stop - start) / (last - first)
    if scale > 0:
        return _Span(start, stop, first, last, drawn, start - drawn * first)
    # A mirrored picture counts its pixels from the other end.
    return _Span(start, stop, length - last, length - first, -drawn, stop + drawn * (length - last))


def _stretch_into(output: np.ndarray, picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """warp_into for a matrix that has a diagonal and a shift only; negative entries of the diagonal mirror."""
    x = _span(matrix[0, 0], matrix[0, 2], picture.shape[1], output.shape[1])
    y = _span(matrix[1, 1], matrix[1, 2], picture.shape[0], output.shape[0])
    if x is None or y is None:
        return matrix
    region = output[y.start : y.stop, x.start : x.stop]
    # Below half the size linear interpolation would skip pixels.
    how = cv2.INTER_LINEAR if max(abs(x.scale), abs(y.scale)) > 0.5 else cv2.INTER_AREA
    cv2.resize(picture[y.first : y.last, x.first : x.last], region.shape[1::-1], dst=region, interpolation=how)
    if x.scale < 0 or y.scale < 0:
        cv2.flip(region, 1 if y.scale > 0 else 0 if x.scale > 0 else -1, dst=region)
    return np.array(((x.scale, 0, x.shift), (0, y.scale, y.shift), (0, 0, 1)))


def _to_pixel_centres(matrix: np.ndarray) -> np.ndarray:
    half = np.array(((1, 0, 0.5), (0, 1, 0.5), (0, 0, 1)))
    back = np.array(((1, 0, -0.5), (0, 1, -0.5), (0, 0, 1)))
    return back @ matrix @ half


def warp_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Boxes (n, 4) xyxy that enclose the warped boxes, not clipped."""
    low, high = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64)
    turn = matrix[:2, :2].T
    centre, reach = (low + high) / 2 @ turn + matrix[:2, 2], (high - low) / 2 @ np.abs(turn)
    return np.concatenate((centre - reach, centre + reach), 1)


def clip_and_select(boxes: np.ndarray, side: int, min_box_side: float) -> tuple[np.ndarray, np.ndarray]:
    """Clip boxes (n, 4) to the output; choose those that remain large and visible enough.

    Returns:
        Clipped boxes (n, 4) and a mask (n,).
    """
    clipped = boxes.clip(0, side)
    before, after = boxes[:, 2:] - boxes[:, :2], clipped[:, 2:] - clipped[:, :2]
    keep = (after >= min_box_side).all(1) & (after.prod(1) > MIN_VISIBLE * before.prod(1))
    return clipped, keep


def jitter_colours(picture: np.ndarray, planes: np.ndarray, rng: np.random.Generator, config: AugmentConfig) -> None:
    """Vary hue, saturation and value of a BGR picture (H, W, 3) by one factor each, into RGB planes (3, H, W)."""
    hue, saturation, value = rng.uniform(-1, 1, 3) * (config.hsv_h, config.hsv_s, config.hsv_v)
    if not (hue or saturation or value):
        split_rgb(picture, planes)
        return
    # OpenCV's hue counts 180 to the circle. Thirds of it are turns of the three channels; less than a third is added, as the
    # sum (below 240) fits a byte, and the conversion back takes it modulo 180.
    thirds, rest = divmod(round(hue * 180) % 180, 60)
    turned = [planes[(k + thirds) % 3] for k in range(3)]
    height, width = picture.shape[:2]
    rows = min(max(STRIP // (3 * width), 1), height)
    hsv, parts = np.empty((rows, width, 3), np.uint8), list(np.empty((3, rows, width), np.uint8))
    for y in range(0, height, rows):
        y = min(y, height - rows)           # the last strip may do some rows again
        cv2.cvtColor(picture[y : y + rows], cv2.COLOR_BGR2HSV, dst=hsv)
        cv2.split(hsv, parts)
        cv2.add(parts[0], float(rest), dst=parts[0])
        cv2.convertScaleAbs(parts[1], dst=parts[1], alpha=1 + saturation)           # rounds, and stops at 255
        cv2.convertScaleAbs(parts[2], dst=parts[2], alpha=1 + value)
        rgb = cv2.cvtColor(cv2.merge(parts, dst=hsv), cv2.COLOR_HSV2RGB)
        cv2.split(rgb, [plane[y : y + rows] for plane in turned])


def split_rgb(picture: np.ndarray, planes: np.ndarray) -> None:
    """BGR (H, W, 3), as OpenCV has it, into RGB planes (3, H, W), as the network wants it."""
    cv2.split(picture, [planes[2], planes[1], planes[0]])


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


def fitted_planes(picture: np.ndarray, side: int) -> tuple[np.ndarray, tuple[float, float]]:
    """A picture (H, W, 3), BGR, as the network sees it in evaluation.

    Returns:
        RGB planes (3, h, w) and the scale along x and y, as of `letterbox`.
    """
    image, scale = letterbox(picture, side)
    planes = np.empty((3, *image.shape[:2]), np.uint8)
    split_rgb(image, planes)
    return planes, scale


def letterbox_shape(width: int, height: int, side: int) -> tuple[int, int]:
    """(height, width) of what `letterbox` returns."""
    ratio = side / max(width, height)
    new_width, new_height = max(round(width * ratio), 1), max(round(height * ratio), 1)
    return new_height + -new_height % 32, new_width + -new_width % 32
