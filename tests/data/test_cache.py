"""The cache: the same pixels and batches as from the files, whatever happens to it, its images or the process that fills it."""
import errno
import itertools
import multiprocessing
import os
import pickle
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

import data.cache
from data.cache import PixelCache, open_cache
from data.coco import load_coco
from data.loader import eval_loader, train_loader
from data.source import Source
from data.transforms import AugmentConfig
from errors import InputError


@pytest.fixture(autouse=True)
def shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for this test alone in the place of /dev/shm."""
    folder = tmp_path / "shm"
    folder.mkdir()
    monkeypatch.setattr(data.cache, "SHARED_MEMORY", folder)
    monkeypatch.setattr(data.cache, "SPARE", 0)
    return folder


def load(tiny: object, name: str = "train.json") -> Source:
    return load_coco(tiny.root / name, tiny.images, training=True)


def cached(tiny: object, kind: str = "disk", name: str = "train.json") -> PixelCache:
    return open_cache(load(tiny, name), kind, tiny.root, tiny.root / "pixel_cache", tiny.root / name)


def files(folder: Path) -> list[str]:
    """The kinds of what a folder and its subfolders hold, but for the lock and the index."""
    return sorted(p.suffix for p in folder.rglob("*.*") if p.suffix != ".json")


def assert_equals_files(cache: PixelCache, source: Source) -> None:
    for index in range(len(source)):
        assert np.array_equal(cache.image(index), cv2.imread(source.images[index].path)), index


@pytest.mark.parametrize("kind", ["disk", "ram"])
def test_pixels_are_those_of_the_files(tiny_set: object, kind: str, capsys: pytest.CaptureFixture) -> None:
    first = cached(tiny_set, kind)
    assert_equals_files(first, load(tiny_set))
    assert "decoding 12 images into" in capsys.readouterr().out
    assert_equals_files(cached(tiny_set, kind), load(tiny_set))
    assert "decoding" not in capsys.readouterr().out


def batches(source: Source, workers: int) -> list[torch.Tensor]:
    """Two epochs of training, one with mosaic and one without, in two sizes, and one of evaluation."""
    loader = train_loader(source, 64, 4, AugmentConfig(multi_scale=0.5), seed=1, mosaic_epochs=1, workers=workers)
    found = []
    for epoch in (0, 1):
        loader.batch_sampler.set_position(epoch, 0)
        found += list(loader)
    found += list(eval_loader(source, 96, batch_size=4, workers=workers))
    return [x for batch in found for x in (batch.images, *vars(batch.targets).values())]


def test_the_same_batches_for_any_number_of_workers_with_every_cache(tiny_set: object) -> None:
    expected = batches(load(tiny_set), workers=0)
    assert len({x.shape for x in expected if x.ndim == 4}) > 2
    for kind, workers in itertools.product(("none", "disk", "ram"), (0, 1, 2)):
        source = load(tiny_set)
        if kind != "none":
            cache = cached(tiny_set, kind)
            source.decoded = cache.image
            if kind == "ram":
                cache.drop_name()
        for one, other in zip(expected, batches(source, workers), strict=True):
            assert torch.equal(one, other), (kind, workers)


def test_memory_is_not_decoded_twice_and_has_no_name_in_the_end(tiny_set: object, shared_memory: Path) -> None:
    """Two ranks open it, both drop its name; a worker that was not forked gets it through the process that has it."""
    one, other = cached(tiny_set, "ram"), cached(tiny_set, "ram")
    assert files(shared_memory) == [".pixels"]
    for cache in (one, other):
        cache.drop_name()
    assert files(shared_memory) == []
    assert_equals_files(pickle.loads(pickle.dumps(other)), load(tiny_set))
    assert_equals_files(one, load(tiny_set))


def test_memory_that_a_killed_run_left_is_freed_but_not_another_s(tiny_set: object, shared_memory: Path) -> None:
    used = cached(tiny_set, "ram")
    left = next(shared_memory.rglob("*.pixels")).with_name(f"{'0' * 32}.pixels")
    left.write_bytes(b"left")
    tiny_set.content["images"].pop()
    tiny_set.content["annotations"] = []
    tiny_set.write(name="fewer.json")
    cached(tiny_set, "ram", "fewer.json")
    assert not left.exists() and used.path.exists()


def test_annotation_files_that_list_the_same_images_share_one_file(tiny_set: object) -> None:
    content = {**tiny_set.content, "images": tiny_set.content["images"][::-1]}
    tiny_set.write(content, "reversed.json")
    one, other = cached(tiny_set), cached(tiny_set, name="reversed.json")
    assert one.path == other.path and files(one.path.parent) == [".pixels"]
    assert_equals_files(other, load(tiny_set, "reversed.json"))


def test_a_data_set_that_moves_keeps_its_cache(tiny_set: object, capsys: pytest.CaptureFixture) -> None:
    cached(tiny_set)
    tiny_set.root = tiny_set.root.rename(tiny_set.root.with_name("elsewhere"))
    capsys.readouterr()
    assert_equals_files(cached(tiny_set), load(tiny_set))
    assert "decoding" not in capsys.readouterr().out


@pytest.mark.parametrize("size", [0, 1000, -1])
def test_a_file_of_another_size_is_filled_again(tiny_set: object, size: int) -> None:
    path = cached(tiny_set).path
    whole = path.stat().st_size
    os.truncate(path, size if size >= 0 else whole - 1)
    assert_equals_files(cached(tiny_set), load(tiny_set))
    assert path.stat().st_size == whole == sum(3 * r.width * r.height for r in load(tiny_set).images)


def test_a_changed_image_makes_another_file_and_the_old_one_goes(tiny_set: object) -> None:
    tiny_set.write({**tiny_set.content, "images": tiny_set.content["images"][5:], "annotations": []}, "other.json")
    other = cached(tiny_set, name="other.json").path
    old = cached(tiny_set)
    record = load(tiny_set).images[3]
    before = old.image(3).copy()
    cv2.imwrite(record.path, before[::-1])
    new = cached(tiny_set)
    assert np.array_equal(new.image(3), before[::-1])
    assert not old.path.exists() and other.exists()         # what another annotation file uses stays
    assert np.array_equal(old.image(3), before)             # a run that has it open goes on
    tiny_set.content["images"].pop()
    tiny_set.content["annotations"] = []
    tiny_set.write()
    assert cached(tiny_set).path != new.path and not new.path.exists()


def test_a_file_of_someone_else_is_left_alone(tiny_set: object) -> None:
    folder = tiny_set.root / "pixel_cache"
    folder.mkdir()
    for name in ("mine.pixels", "index.json"):
        (folder / name).write_text("[not ours")
    assert_equals_files(cached(tiny_set), load(tiny_set))
    assert (folder / "mine.pixels").read_text() == "[not ours"


def fill(tiny: object, news: object, pause: float) -> None:
    """Open the cache and tell the sum of its pixels; for so many seconds nothing happens between two images."""
    source = load(tiny)
    read = source.image

    def image(index: int) -> np.ndarray:
        if index == 6:
            news.send("at work")
            time.sleep(pause)
        return read(index)

    source.image = image
    cache = open_cache(source, "disk", tiny.root, tiny.root / "pixel_cache", tiny.root / "train.json")
    news.send(sum(int(cache.image(k).sum()) for k in range(len(source))))


def start_to_fill(tiny: object, pause: float) -> tuple[object, object]:
    """Another process that does so, and where its news come from."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=fill, args=(tiny, there, pause), daemon=True)
    process.start()
    return process, here


def test_a_process_killed_while_it_fills_the_cache_leaves_no_harm(tiny_set: object) -> None:
    process, news = start_to_fill(tiny_set, pause=60)
    assert news.recv() == "at work"
    assert files(tiny_set.root / "pixel_cache") == [".partial"]
    process.kill()
    process.join()
    assert_equals_files(cached(tiny_set), load(tiny_set))
    assert files(tiny_set.root / "pixel_cache") == [".pixels"]


def test_of_two_processes_one_fills_the_cache_and_both_have_it(tiny_set: object) -> None:
    first = start_to_fill(tiny_set, pause=0.5)
    assert first[1].recv() == "at work"
    second = start_to_fill(tiny_set, pause=0.5)
    total = sum(int(cv2.imread(r.path).sum()) for r in load(tiny_set).images)
    assert [news.recv() for _, news in (first, second)] == [total, total]       # the second was never at work


@pytest.mark.parametrize(("kind", "remedy"), [("disk", "data.cache_dir"), ("ram", "data.cache=disk")])
def test_too_little_space_is_told_before_anything_is_decoded(
    tiny_set: object, monkeypatch: pytest.MonkeyPatch, kind: str, remedy: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=12_345))
    monkeypatch.setattr(data.cache, "_gigabytes", lambda size: f"{size} bytes")
    with pytest.raises(InputError) as caught:
        cached(tiny_set, kind)
    message = str(caught.value)
    size, folder = 12 * 3 * 96 * 64, tiny_set.root / "pixel_cache" if kind == "disk" else data.cache.SHARED_MEMORY
    needs = f"data.cache: {kind} needs {size} bytes for 12 decoded images"
    for part in (needs, f"{folder}", "has 12345 bytes free", remedy, "data.cache=none"):
        assert part in message, message
    assert "\n" not in message and files(folder) == []


def test_twenty_seven_gigabytes_are_called_so() -> None:
    assert data.cache._gigabytes(14_018 * 3 * 800 * 800) == "26.9 GB"       # AI-TOD's trainval set


def test_a_disk_that_fills_up_meanwhile_is_told_too(tiny_set: object, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", no_space)
    with pytest.raises(InputError, match=r"data.cache: disk needs .*\(No space left on device\).*data.cache_dir"):
        cached(tiny_set)
    assert files(tiny_set.root / "pixel_cache") == []


def test_a_folder_that_cannot_be_used_is_told(tiny_set: object) -> None:
    (tiny_set.root / "pixel_cache").write_text("a file")
    with pytest.raises(InputError, match="pixel_cache, which cannot be used .*data.cache_dir"):
        cached(tiny_set)


def test_a_folder_that_someone_else_keeps_closed_is_told(tiny_set: object, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(data.cache, "FileIO", closed)       # as mode 700 does, but for root
    with pytest.raises(InputError, match=r"pixel_cache, which cannot be used \(Permission denied\)\. .*data.cache_dir"):
        cached(tiny_set)


def test_an_image_that_is_broken_is_told_as_without_a_cache(tiny_set: object) -> None:
    Path(load(tiny_set).images[2].path).write_bytes(b"no image")
    with pytest.raises(InputError, match="002.png: cannot be decoded"):
        cached(tiny_set)
    assert files(tiny_set.root / "pixel_cache") == []
