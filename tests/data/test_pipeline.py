"""Samples and batches: boxes find back to their image, order and draws repeat, nothing is seen twice or never."""
import itertools
import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from data import Targets, collate
from data.coco import load_coco
from data.loader import EvalDataset, EvalSampler, TrainDataset, TrainSampler, eval_loader, train_loader
from data.pixels import read_image
from data.source import ImageRecord, Source
from data.transforms import AugmentConfig, letterbox, letterbox_shape
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


@pytest.mark.parametrize(("width", "height", "shape"), [
    (800, 800, (800, 800)), (800, 600, (608, 800)), (416, 800, (800, 416)), (1600, 1000, (512, 800)), (400, 399, (800, 800)),
])
def test_a_tested_image_is_padded_to_the_next_multiple_of_32_and_no_further(tmp_path, width, height, shape):
    """800 px stay 800, where others make 832 of them."""
    picture = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    nothing = np.zeros(0, np.int64)
    record = ImageRecord(1, str(tmp_path / "a.png"), width, height)
    source = Source(("a",), (1,), [record], np.zeros((0, 4), np.float32), nothing, np.array((0, 0)))
    (batch,) = eval_loader(source, 800, batch_size=4, workers=0)
    assert batch.images.shape == (1, 3, *shape)
    if 800 in (width, height):
        assert np.array_equal(batch.images[0, :, :height, :width], picture[..., ::-1].transpose(2, 0, 1))
        assert (batch.images[0, :, height:] == 114).all() and (batch.images[0, :, :, width:] == 114).all()


def test_an_image_of_the_right_size_is_not_touched():
    image = np.random.default_rng(0).integers(0, 255, (800, 800, 3), dtype=np.uint8)
    fitted, scale = letterbox(image, 800)
    assert np.array_equal(fitted, image)
    assert scale == (1.0, 1.0)
    for width, height, side in itertools.product((1, 333, 640), (57, 480), (416, 800)):
        fitted, _ = letterbox(np.zeros((height, width, 3), np.uint8), side)
        assert fitted.shape[:2] == letterbox_shape(width, height, side)


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


def test_a_tiff_that_is_no_picture_is_told_how_to_become_one(tmp_path):
    cv2.imwrite(str(tmp_path / "heights.tif"), np.zeros((8, 8), np.float32))
    with pytest.raises(InputError, match="gdal_translate"):
        read_image(tmp_path / "heights.tif")


CRASH = """
import multiprocessing, os, pathlib, subprocess, sys
from data.coco import load_coco
from data.loader import train_loader
from data.transforms import AugmentConfig

multiprocessing.set_start_method(sys.argv[2])
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


@pytest.mark.parametrize("start", ["fork", "forkserver"])      # Python's default until 3.13, and from 3.14 on
def test_workers_outlive_a_scheduler_s_signal_but_not_a_run_that_crashed(tiny_set, start):
    """SIGTERM and SIGINT from outside cost no batch; a run that raises ends instead of waiting for its workers."""
    done = subprocess.run(
        [sys.executable, "-c", CRASH, str(tiny_set.root), start], cwd=Path(__file__).parents[2], capture_output=True,
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
    here, there = (join(d.__getitems__([(0, 3, 64)])) for d in (loader.dataset, dataset))
    assert torch.equal(here.images, there.images)
    assert torch.equal(here.targets.boxes, there.targets.boxes)


def keys(sampler, epoch, start=0):
    sampler.set_position(epoch, start)
    return list(sampler)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_the_same_global_batches(world_size):
    whole = keys(TrainSampler(37, 8, 3, 64), epoch=5)
    shares = [keys(TrainSampler(37, 8, 3, 64, rank=r, world_size=world_size), epoch=5) for r in range(world_size)]
    assert [sum(parts, []) for parts in zip(*shares, strict=True)] == whole


def test_every_image_once_an_epoch_in_another_order_each_time():
    sampler = TrainSampler(37, 8, 0, 64)
    first, second = ([k for batch in keys(sampler, e) for _, k, *_ in batch] for e in (0, 1))
    assert sorted(first[:37]) == sorted(second[:37]) == list(range(37))
    assert first[37:] == first[:3]                          # the last batch is filled from the start
    assert first != second
    assert first != sorted(first)
    assert first != [k for batch in keys(TrainSampler(37, 8, 1, 64), 0) for _, k, *_ in batch]


def test_an_epoch_goes_on_where_it_stopped():
    sampler = TrainSampler(37, 8, 0, 64)
    assert keys(sampler, 2, start=3) == keys(sampler, 2)[3:]


def test_fewer_images_than_a_batch():
    batches = keys(TrainSampler(3, 8, 0, 64), 0)
    assert len(batches) == TrainSampler(3, 8, 0, 64).batches_per_epoch == 1
    assert sorted(k for _, k, *_ in batches[0][:3]) == [0, 1, 2]
    assert len(set(batches[0])) == len(batches[0]) == 8


def test_an_image_that_comes_again_is_drawn_anew(source):
    """Twelve images fill a batch of 32 with 32 pictures, the same whenever they are drawn; the first twelve as ever."""
    loader = train_loader(source, 64, 32, AugmentConfig(), seed=1, mosaic_epochs=9, workers=0)
    once, again = (next(iter(loader)).images for _ in range(2))
    assert torch.equal(once, again) and len({image.numpy().tobytes() for image in once}) == 32
    few = train_loader(source, 64, 12, AugmentConfig(), seed=1, mosaic_epochs=9, workers=0)
    assert torch.equal(once[:12], next(iter(few)).images)


def test_a_batch_that_cannot_be_shared_is_named():
    with pytest.raises(InputError, match="train.batch_size: 16 .* 3 processes. Use 15"):
        TrainSampler(37, 16, 0, 64, world_size=3)


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


def test_memory_is_used_again_only_when_a_batch_is_gone(source):
    """A part of a batch that someone keeps stays as it was; otherwise three places for each worker do."""
    alone = train_loader(source, 64, 2, AugmentConfig(), seed=1, mosaic_epochs=9, workers=0)
    loader = train_loader(source, 64, 2, AugmentConfig(), seed=1, mosaic_epochs=9, workers=1)
    kept, places = [], set()
    for epoch in range(4):
        for each in (alone, loader):
            each.batch_sampler.set_position(epoch, 0)
        others = iter(loader)
        for one in alone:
            other = None            # gone before the worker is asked for another; zip() would hold it until that has come
            other = next(others)
            assert torch.equal(one.images, other.images)
            places.add(other.images.data_ptr())
            if epoch == 1 and len(kept) < 2:
                kept.append((one.images[1, 2].clone(), other.images[1, 2]))
    assert len(places) <= 3 + len(kept) and len(kept) == 2
    assert all(torch.equal(*pair) for pair in kept)


@pytest.mark.parametrize(("size", "share", "sides"), [
    (800, 0.0, {800}), (800, 0.1, {736, 768, 800, 832, 864}), (640, 0.2, set(range(512, 769, 32))), (32, 0.9, {32}),
])
def test_the_side_of_a_batch_varies_within_its_share(size, share, sides):
    batches = [b for e in range(12) for b in keys(TrainSampler(37, 8, 5, size, share), epoch=e)]
    found = [{side for _, _, side, *_ in batch} for batch in batches]
    assert all(len(one) == 1 for one in found) and set.union(*found) == sides


def test_the_sides_are_the_same_on_all_ranks_and_after_a_stop_but_not_in_all_epochs():
    def sides(epoch, rank=0, world_size=1, start=0):
        sampler = TrainSampler(37, 8, 5, 320, 0.5, rank=rank, world_size=world_size)
        return [batch[0][2] for batch in keys(sampler, epoch, start)]

    assert sides(3) == sides(3, rank=0, world_size=2) == sides(3, rank=1, world_size=2)
    assert sides(3, start=2) == sides(3)[2:]
    assert sides(3) != sides(4)


def test_batches_of_several_sizes_hold_samples_of_their_size(source):
    loader = train_loader(source, 96, 4, AugmentConfig(multi_scale=0.4), seed=2, mosaic_epochs=9, workers=0)
    dataset, found = loader.dataset, set()
    for epoch in range(4):
        loader.batch_sampler.set_position(epoch, 0)
        for keys_of_batch, batch in zip(loader.batch_sampler, loader, strict=True):
            side = keys_of_batch[0][2]
            assert batch.images.shape == (4, 3, side, side)
            assert torch.equal(batch.images[1], dataset[keys_of_batch[1]].image)
            found.add(side)
    assert found == {64, 96, 128}


@pytest.mark.gpu
def test_batches_are_bytes_in_pinned_memory(source):
    for loader in (train_loader(source, 64, 4, AugmentConfig(), 0, 9, workers=1, pin_memory=True),
                   eval_loader(source, 96, 4, workers=1, pin_memory=True)):
        for batch in loader:
            assert batch.images.is_pinned() and batch.targets.boxes.is_pinned() and batch.images.dtype == torch.uint8
            arrived = batch.to(torch.device("cuda"), non_blocking=True)
            assert arrived.images.dtype == torch.uint8 and torch.equal(arrived.images.cpu(), batch.images)


def test_mosaic_closes_by_the_epoch_in_the_key(source):
    dataset = TrainDataset(source, AugmentConfig(scale=0, translate=0), seed=0, mosaic_epochs=3)
    spread = [np.mean([len(dataset[epoch, k, 64].labels) for k in range(12)]) for epoch in range(6)]
    single = np.mean([len(source.objects(k)[1]) for k in range(12)])
    assert all(s == pytest.approx(single) for s in spread[3:])
    assert all(s != pytest.approx(single) for s in spread[:3])


def test_the_draws_depend_on_seed_epoch_and_index(source):
    def pictures(seed, epoch):
        return dataset_of(seed)[epoch, 2, 64].image

    def dataset_of(seed):
        return TrainDataset(source, AugmentConfig(), seed, mosaic_epochs=10)

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


OUT_OF_RANGE = [("scale", 1.5), ("mosaic", -0.1), ("translate", 0.7), ("hsv_h", 2), ("degrees", 200), ("multi_scale", 1)]


@pytest.mark.parametrize(("key", "value"), OUT_OF_RANGE)
def test_settings_out_of_range_are_named(key, value):
    with pytest.raises(InputError, match=f"augment.{key}: {value}"):
        AugmentConfig(**{key: value})
