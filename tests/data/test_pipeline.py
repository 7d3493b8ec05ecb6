"""Samples and batches: boxes stay on their objects, order and draws repeat, nothing is seen twice or never."""
import itertools
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from data import Targets, collate
from data.coco import load_coco
from data.loader import EvalDataset, EvalSampler, TrainDataset, TrainSampler, eval_loader, train_loader
from data.transforms import AugmentConfig, letterbox, letterbox_shape, warp_into
from errors import InputError


@pytest.fixture
def source(tiny_set):
    return load_coco(tiny_set.write(), tiny_set.images, training=True)


@pytest.mark.parametrize("size", [96, 64, 160, 224])
def test_round_trip_to_original_pixels(source, size):
    """COCO -> batch -> boxes divided by the scale: the numbers of the file, for sizes that need scaling and padding."""
    seen = 0
    for batch in eval_loader(source, size, batch_size=4, workers=0):
        assert batch.images.shape[2] % 32 == batch.images.shape[3] % 32 == 0
        for k, meta in enumerate(batch.meta):
            index = [r.id for r in source.images].index(meta.image_id)
            boxes = batch.targets.boxes[batch.targets.image_index == k].double().numpy() / (*meta.scale, *meta.scale)
            np.testing.assert_allclose(boxes, source.objects(index)[0], atol=1e-3)
            seen += 1
    assert seen == len(source)


def test_an_image_of_the_right_size_is_not_touched():
    image = np.random.default_rng(0).integers(0, 255, (800, 800, 3), dtype=np.uint8)
    fitted, scale = letterbox(image, 800)
    assert np.array_equal(fitted, image)
    assert scale == (1.0, 1.0)
    for width, height, side in itertools.product((1, 333, 640), (57, 480), (416, 800)):
        fitted, _ = letterbox(np.zeros((height, width, 3), np.uint8), side)
        assert fitted.shape[:2] == letterbox_shape(width, height, side)


def find_rectangles(image, colour):
    """Where the pixels of one pure colour lie: (H, W) bool of RGB (3, H, W)."""
    wanted = torch.tensor(colour[::-1])[:, None, None]
    return ((image.int() - wanted).abs() < 90).all(0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_augmentation_keeps_boxes_on_their_objects(source, tiny_set, seed, mosaic):
    augment = AugmentConfig(mosaic=mosaic, scale=0.4, flip_ud=0.5, hsv_h=0, hsv_s=0, hsv_v=0)
    dataset = TrainDataset(source, 192, augment, seed, mosaic_epochs=10)
    checked = 0
    for index in range(len(source)):
        sample = dataset[0, index]
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
    dataset = TrainDataset(source, 192, augment, seed=2, mosaic_epochs=10)
    checked = 0
    for index in range(len(source)):
        sample = dataset[0, index]
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


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_one_line_from_a_worker_too(source, workers):
    for record in source.images:
        with open(record.path, "wb") as file:
            file.write(b"no image")
    loader = train_loader(source, 64, 4, AugmentConfig(), seed=0, mosaic_epochs=1, workers=workers)
    with pytest.raises(InputError) as caught:
        list(loader)
    assert str(caught.value).endswith(".png: cannot be decoded as an image, or is cut short. Replace the file.")
    assert "\n" not in str(caught.value)


CRASH = """
import os, pathlib, subprocess, sys
from data.coco import load_coco
from data.loader import train_loader
from data.transforms import AugmentConfig

root = pathlib.Path(sys.argv[1])
source = load_coco(root / "train.json", root / "images", training=True)
loader = train_loader(source, 64, 1, AugmentConfig(), seed=0, mosaic_epochs=1, workers=1)
batches = iter(loader)
next(batches)
worker = loader._iterator._workers[0].pid
subprocess.run([sys.executable, "-c", f"import os; os.kill({worker}, 15); os.kill({worker}, 2)"], check=True)
print(1 + len(list(batches)), flush=True)
next(iter(loader))
raise RuntimeError("boom")
"""


def test_workers_outlive_a_scheduler_s_signal_but_not_a_run_that_crashed(tiny_set):
    """SIGTERM and SIGINT from outside cost no batch; a run that raises ends instead of waiting for its workers."""
    done = subprocess.run(
        [sys.executable, "-c", CRASH, str(tiny_set.root)], cwd=Path(__file__).parents[2], capture_output=True,
        text=True, timeout=120,
    )
    assert done.stdout.split() == ["12"], done.stderr
    assert done.returncode == 1
    assert "boom" in done.stderr


def test_what_workers_need_survives_spawn(source):
    """Spawned workers get the data set, the joining and their start by pickle."""
    loader = train_loader(source, 64, 4, AugmentConfig(), seed=1, mosaic_epochs=1, workers=2)
    parts = (loader.dataset, loader.collate_fn, loader.worker_init_fn)
    dataset, join, _ = pickle.loads(pickle.dumps(parts))
    here, there = collate([loader.dataset[0, 3]]), join([dataset[0, 3]])
    assert torch.equal(here.images, there.images)
    assert torch.equal(here.targets.boxes, there.targets.boxes)


def test_rotation_and_shear_enclose_the_object():
    picture = np.full((100, 100, 3), 0, np.uint8)
    picture[40:60, 30:70] = 255
    from data.transforms import random_affine, warp_boxes

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


def test_small_boxes_and_slivers_are_dropped():
    from data.transforms import clip_and_select

    boxes = np.array([[0.0, 0, 0.9, 5], [0, 0, 1, 5], [-95, 0, 5, 10], [-85, 0, 15, 10], [120, 0, 130, 10]])
    clipped, keep = clip_and_select(boxes, 100, min_box_side=1)
    assert keep.tolist() == [False, True, False, True, False]   # too narrow, kept, 5 % visible, 15 % visible, outside
    assert clipped[3].tolist() == [0, 0, 15, 10]


def keys(sampler, epoch, start=0):
    sampler.set_position(epoch, start)
    return list(sampler)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_the_same_global_batches(world_size):
    whole = keys(TrainSampler(37, 8, seed=3), epoch=5)
    shares = [keys(TrainSampler(37, 8, seed=3, rank=r, world_size=world_size), epoch=5) for r in range(world_size)]
    assert [sum(parts, []) for parts in zip(*shares, strict=True)] == whole


def test_every_image_once_an_epoch_in_another_order_each_time():
    sampler = TrainSampler(37, 8, seed=0)
    first, second = ([k for batch in keys(sampler, e) for _, k in batch] for e in (0, 1))
    assert sorted(first[:37]) == sorted(second[:37]) == list(range(37))
    assert first[37:] == first[:3]                          # the last batch is filled from the start
    assert first != second
    assert first != sorted(first)
    assert first != [k for batch in keys(TrainSampler(37, 8, seed=1), 0) for _, k in batch]


def test_an_epoch_goes_on_where_it_stopped():
    sampler = TrainSampler(37, 8, seed=0)
    assert keys(sampler, 2, start=3) == keys(sampler, 2)[3:]


def test_fewer_images_than_a_batch():
    batches = keys(TrainSampler(3, 8, seed=0), 0)
    assert len(batches) == TrainSampler(3, 8, seed=0).batches_per_epoch == 1
    assert sorted(k for _, k in batches[0][:3]) == [0, 1, 2]
    assert len(batches[0]) == 8


def test_a_batch_that_cannot_be_shared_is_named():
    with pytest.raises(InputError, match="train.batch_size: 16 .* 3 processes. Use 15"):
        TrainSampler(37, 16, seed=0, world_size=3)


def test_the_same_batches_for_any_number_of_workers(source):
    batches = []
    for workers in (0, 1, 2):
        loader = train_loader(source, 64, 4, AugmentConfig(), seed=1, mosaic_epochs=1, workers=workers)
        batches.append([])
        for epoch in (0, 1):                                # mosaic in the first, none in the second
            loader.batch_sampler.set_position(epoch, 0)
            batches[-1] += list(loader)
    for one, other in itertools.chain(zip(*batches[:2], strict=True), zip(*batches[1:], strict=True)):
        assert torch.equal(one.images, other.images)
        for name in ("boxes", "labels", "image_index"):
            assert torch.equal(getattr(one.targets, name), getattr(other.targets, name))


def test_mosaic_closes_by_the_epoch_in_the_key(source):
    dataset = TrainDataset(source, 64, AugmentConfig(scale=0, translate=0), seed=0, mosaic_epochs=3)
    spread = [np.mean([len(dataset[epoch, k].labels) for k in range(12)]) for epoch in range(6)]
    single = np.mean([len(source.objects(k)[1]) for k in range(12)])
    assert all(s == pytest.approx(single) for s in spread[3:])
    assert all(s != pytest.approx(single) for s in spread[:3])


def test_the_draws_depend_on_seed_epoch_and_index(source):
    def pictures(seed, epoch):
        return dataset_of(seed)[epoch, 2].image

    def dataset_of(seed):
        return TrainDataset(source, 64, AugmentConfig(), seed, mosaic_epochs=10)

    assert torch.equal(pictures(0, 0), pictures(0, 0))
    assert not torch.equal(pictures(0, 0), pictures(0, 1))
    assert not torch.equal(pictures(0, 0), pictures(1, 0))


def test_targets_are_flat(source):
    dataset = EvalDataset(source, 96)
    same = [k for k, r in enumerate(source.images) if r.width == source.images[4].width]
    batch = collate([dataset[k] for k in same])
    counts = [len(source.objects(k)[1]) for k in same]
    assert 0 in counts
    assert torch.bincount(batch.targets.image_index, minlength=len(same)).tolist() == counts
    assert batch.images.dtype == torch.uint8
    nothing = collate([dataset[4], dataset[4]]).targets
    assert isinstance(nothing, Targets)
    assert nothing.boxes.shape == (0, 4)
    assert nothing.labels.dtype == nothing.image_index.dtype == torch.int64


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_sees_each_image_once_and_mixes_no_shapes(world_size):
    shapes = [(96, 64), (64, 96), (96, 96)] * 7 + [(32, 32)]
    batches = [b for r in range(world_size) for b in EvalSampler(shapes, 4, r, world_size)]
    assert sorted(itertools.chain(*batches)) == list(range(len(shapes)))
    assert all(len({shapes[k] for k in batch}) == 1 and len(batch) <= 4 for batch in batches)


OUT_OF_RANGE = [("scale", 1.5), ("mosaic", -0.1), ("translate", 0.7), ("hsv_h", 2), ("degrees", 200)]


@pytest.mark.parametrize(("key", "value"), OUT_OF_RANGE)
def test_settings_out_of_range_are_named(key, value):
    with pytest.raises(InputError, match=f"augment.{key}: {value}"):
        AugmentConfig(**{key: value})
