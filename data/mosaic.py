"""Mosaic: four pictures that meet in one point, warped straight into the output (Bochkovskiy et al., YOLOv4, 2020)."""
import numpy as np

from data.transforms import GREY, AugmentConfig, clip_and_select, fit_matrix, random_affine, warp_boxes, warp_into


def place_single(width: int, height: int, side: int) -> np.ndarray:
    """(3, 3) matrix that fits one picture into a side x side canvas, centred."""
    matrix = fit_matrix(width, height, side)
    matrix[:2, 2] = (side - matrix[0, 0] * width) / 2, (side - matrix[1, 1] * height) / 2
    return matrix


def place_in_mosaic(sizes: list[tuple[int, int]], side: int, centre: np.ndarray) -> list[np.ndarray]:
    """Matrices that put four pictures (width, height) around a point of a virtual canvas of twice the side.

    The pictures are left of and above the point, right above, left below and right below; they never overlap.
    """
    matrices = []
    for k, (width, height) in enumerate(sizes):
        matrix = fit_matrix(width, height, side)
        size = matrix[0, 0] * width, matrix[1, 1] * height
        matrix[0, 2] = centre[0] - (size[0] if k % 2 == 0 else 0)
        matrix[1, 2] = centre[1] - (size[1] if k < 2 else 0)
        matrices.append(matrix)
    return matrices


def compose(
    output: np.ndarray, pictures: list[tuple[np.ndarray, np.ndarray, np.ndarray]], rng: np.random.Generator,
    config: AugmentConfig,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a training picture from one or four (image BGR, boxes (n, 4), labels (n,)).

    Args:
        output: (s, s, 3) uint8 BGR, overwritten.
    Returns:
        Boxes (m, 4) float32 xyxy, labels (m,).
    """
    side = len(output)
    sizes = [(image.shape[1], image.shape[0]) for image, _, _ in pictures]
    if len(pictures) == 1:
        canvas, placed = side, [place_single(*sizes[0], side)]
    else:
        canvas = 2 * side
        placed = place_in_mosaic(sizes, side, rng.uniform(0.5 * side, 1.5 * side, 2))
    affine = random_affine(rng, config, canvas, side)

    output.fill(GREY)
    boxes, labels = [], []
    for (image, own_boxes, own_labels), place in zip(pictures, placed, strict=True):
        drawn = warp_into(output, image, affine @ place)
        boxes.append(warp_boxes(own_boxes, drawn))
        labels.append(own_labels)
    clipped, keep = clip_and_select(np.concatenate(boxes), side, config.min_box_side)
    return clipped[keep].astype(np.float32), np.concatenate(labels)[keep]
