"""Drawing training pictures: boxes stay on their objects, pixels lie where the matrix says, colours vary as they should."""
import colorsys

import numpy as np
import pytest
import torch

from data.coco import load_coco
from data.loader import TrainDataset
from data.mosaic import compose
from data.transforms import AugmentConfig, clip_and_select, jitter_colours, random_affine, warp_boxes, warp_into


@pytest.fixture
def source(tiny_set):
    return load_coco(tiny_set.write(), tiny_set.images, training=True)


def find_rectangles(image, colour):
    """Where the pixels of one pure colour lie: (H, W) bool of RGB (3, H, W)."""
    wanted = torch.tensor(colour[::-1])[:, None, None]
    return ((image.int() - wanted).abs() < 90).all(0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_augmentation_keeps_boxes_on_their_objects(source, tiny_set, seed, mosaic):
    augment = AugmentConfig(mosaic=mosaic, scale=0.4, flip_ud=0.5, hsv_h=0, hsv_s=0, hsv_v=0)
    dataset = TrainDataset(source, augment, seed, mosaic_epochs=10)
    checked = 0
    for index in range(len(source)):
        sample = dataset[0, index, 192]
        painted = torch.zeros(3, 192, 192, dtype=torch.bool)
        for label, colour in enumerate(tiny_set.COLOURS):
            painted[label] = find_rectangles(sample.image, colour)
        covered = torch.zeros_like(painted)
        for box, label in zip(sample.boxes, sample.labels, strict=True):
            x1, y1, x2, y2 = box.tolist()
            inner = painted[label, int(np.ceil(y1 + 1)) : int(y2 - 1), int(np.ceil(x1 + 1)) : int(x2 - 1)]
            if inner.numel() > 8:
                assert inner.float().mean() > 0.97          # the box holds its object up to a pixel at the edges
                checked += 1
            x1, y1 = max(int(x1) - 1, 0), max(int(y1) - 1, 0)
            covered[label, y1 : int(y2) + 2, x1 : int(x2) + 2] = True
        stray = (painted & ~covered)[:, 8:-8, 8:-8]         # at the border slivers of objects lie that lost their box
        assert stray.sum() == 0
    assert checked > 12


@pytest.mark.parametrize("degrees", [0, 12])
def test_every_edge_of_a_box_lies_on_its_object(source, tiny_set, degrees):
    """Find whole rectangles again by their colour after mosaic, affine and flips: 1.5 px at each of four edges."""
    augment = AugmentConfig(degrees=degrees, shear=degrees / 3, scale=0.4, flip_ud=0.5, hsv_h=0, hsv_s=0, hsv_v=0)
    dataset = TrainDataset(source, augment, seed=2, mosaic_epochs=10)
    checked = 0
    for index in range(len(source)):
        sample = dataset[0, index, 192]
        around = sample.boxes.numpy() + np.array((-4, -4, 4, 4))
        for k, (x1, y1, x2, y2) in enumerate(around.astype(int).tolist()):
            meets = (around[:, :2] < around[k, 2:]).all(1) & (around[:, 2:] > around[k, :2]).all(1)
            if min(x1, y1) < 0 or max(x2, y2) > 192 or meets.sum() > 1:
                continue                                    # cut by the border, or beside another
            colour = tiny_set.COLOURS[sample.labels[k]]
            rows, columns = find_rectangles(sample.image, colour)[y1:y2, x1:x2].nonzero(as_tuple=True)
            found = (x1 + columns.min(), y1 + rows.min(), x1 + columns.max() + 1, y1 + rows.max() + 1)
            assert np.abs(np.array(found) - sample.boxes[k].numpy()).max() <= 1.5
            checked += 1
    assert checked >= 10


def test_rotation_and_shear_enclose_the_object():
    picture = np.full((100, 100, 3), 0, np.uint8)
    picture[40:60, 30:70] = 255
    for seed in range(5):
        matrix = random_affine(np.random.default_rng(seed), AugmentConfig(degrees=45, shear=10, scale=0.2), 100, 100)
        output = np.zeros((100, 100, 3), np.uint8)
        warp_into(output, picture, matrix)
        rows, columns = np.nonzero(output[..., 0] > 127)
        found = np.array((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        expected = warp_boxes(np.array([[30.0, 40, 70, 60]]), matrix)[0].clip(0, 100)
        assert np.abs(found - expected).max() < 1.5


def test_a_shift_by_whole_pixels_moves_pixels_exactly():
    picture = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    output = np.zeros((64, 64, 3), np.uint8)
    warp_into(output, picture, np.array(((1.0, 0, 5), (0, 1, 7), (0, 0, 1))))
    np.testing.assert_array_equal(output[7:27, 5:35], picture)
    assert output.sum() == picture.sum()


@pytest.mark.parametrize("seed", range(40))
def test_a_stretched_picture_lies_where_its_matrix_says(seed):
    """A picture of 2 x + y + 3 stretched at random: linear interpolation keeps that, so each pixel tells where it is from."""
    rng = np.random.default_rng(seed)
    width, height = rng.integers(20, 60, 2)
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    picture = np.repeat((2 * x + y + 3)[..., None], 3, 2).astype(np.uint8)
    scale = rng.uniform(0.55, 1.9, 2) * rng.choice((-1, 1), 2)
    wanted = np.array(((scale[0], 0, rng.uniform(-40, 90)), (0, scale[1], rng.uniform(-40, 90)), (0, 0, 1)))
    output = np.zeros((64, 70, 3), np.uint8)
    drawn = warp_into(output, picture, wanted)

    rows, columns = np.nonzero(output[..., 0])
    corners = [np.sort(m[:2, :2] @ np.array(((0, width), (0, height))) + m[:2, 2:]) for m in (wanted, drawn)]
    inside = np.clip(corners[0].T, 0, (70, 64))
    if not (inside[1] - inside[0] > 1).all():
        return                                              # nothing to be seen, or hardly
    found = np.array(((columns.min(), rows.min()), (columns.max() + 1, rows.max() + 1)))
    assert np.abs(found - inside).max() <= 0.5              # it covers what was wanted, to the nearest pixel
    if (inside[1] - inside[0] > 20).all():                  # and the picture within has moved by as much
        source = np.linalg.inv(wanted) @ np.vstack((found.T, (1, 1)))
        assert np.abs(drawn @ source - wanted @ source).max() <= 0.5 * np.abs(scale).max() + 0.5
    source = np.linalg.inv(drawn) @ np.stack((columns + 0.5, rows + 0.5, np.ones(len(rows))))
    expected = 2 * (source[0] - 0.5) + source[1] - 0.5 + 3
    # Beyond the middle of the outermost pixels there is nothing to interpolate with.
    edge = (rows == found[0, 1]) | (rows == found[1, 1] - 1) | (columns == found[0, 0]) | (columns == found[1, 0] - 1)
    assert np.abs(output[rows, columns, 0] - expected)[~edge].max(initial=0) < 0.8


def test_the_pictures_of_a_mosaic_meet_without_a_gap():
    none = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    for seed in range(20):
        pictures = [(np.full((s, s, 3), 200 + k, np.uint8), *none) for k, s in enumerate((70, 90, 64, 50))]
        output = np.empty((96, 96, 3), np.uint8)
        compose(output, pictures, np.random.default_rng(seed), AugmentConfig(scale=0, translate=0))
        assert (output != 114).all()                        # four squares of the whole side around a point inside


@pytest.mark.parametrize(("hsv_h", "seed"), [(0.0, 0), (0.015, 1), (0.3, 2), (1.0, 3), (1.0, 4), (1.0, 5)])
def test_colours_vary_as_the_hexagon_of_hues_says(hsv_h, seed):
    """Beside Python's colorsys, within what hues of 2 degrees and saturations of 8 bits can tell."""
    colours = np.random.default_rng(7).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    planes = np.empty((3, 40, 50), np.uint8)
    jitter_colours(colours, planes, np.random.default_rng(seed), AugmentConfig(hsv_h=hsv_h))
    hue, saturation, value = np.random.default_rng(seed).uniform(-1, 1, 3) * (hsv_h, 0.7, 0.4)
    expected = []
    for blue, green, red in colours.reshape(-1, 3) / 255:
        h, s, v = colorsys.rgb_to_hsv(red, green, blue)
        expected.append(colorsys.hsv_to_rgb((h + hue) % 1, min(s * (1 + saturation), 1), min(v * (1 + value), 1)))
    error = np.abs(planes.reshape(3, -1).T - 255 * np.array(expected))
    assert error.mean() < 2 and error.max() < 11            # 255 / 30 for each step of hue


def test_without_jitter_colours_are_those_of_the_picture():
    picture = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    planes = np.empty((3, 300, 400), np.uint8)
    jitter_colours(picture, planes, np.random.default_rng(0), AugmentConfig(hsv_h=0, hsv_s=0, hsv_v=0))
    assert np.array_equal(planes, picture[..., ::-1].transpose(2, 0, 1))


def test_small_boxes_and_slivers_are_dropped():
    boxes = np.array([[0.0, 0, 0.9, 5], [0, 0, 1, 5], [-95, 0, 5, 10], [-85, 0, 15, 10], [120, 0, 130, 10]])
    clipped, keep = clip_and_select(boxes, 100, min_box_side=1)
    assert keep.tolist() == [False, True, False, True, False]   # too narrow, kept, 5 % visible, 15 % visible, outside
    assert clipped[3].tolist() == [0, 0, 15, 10]
