"""AI-TOD put together from a made-up xView: the crops, a run that is killed, and every way in which a part can be wrong."""
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from data import aitod_images, prepare_aitod
from data import aitod_layout as layout
from data.coco import load_coco
from errors import InputError

ROOT = Path(__file__).parents[2]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_every_image_is_there_and_the_splits_are_those_of_the_files(parts, capsys):
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in parts.root.rglob("*") if p.is_file()}
    assert parts.run() == 0
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in before} == before
    assert {p.name for p in (parts.output / "images").iterdir()} == set(parts.names(*parts.CROPS))
    for name in parts.ALL_CROPS:
        # As AI-TOD's tool writes them: what OpenCV reads as blue is xView's red.
        assert (cv2.imread(str(parts.output / "images" / name)) == parts.expected(name)).all(), name
    for split, names in parts.OTHERS.items():
        for name in names:
            assert (parts.output / "images" / name).samefile(parts.root / "wo_xview/images" / split / name)
    for split in parts.CROPS:
        target = parts.output / "annotations" / f"aitod_{split}_v1.json"
        assert target.read_bytes() == parts.annotation(split).read_bytes()
        source = load_coco(target, parts.output / "images", training=True)
        assert [Path(r.path).name for r in source.images] == parts.CROPS[split] + parts.OTHERS[split]
        assert source.image(0).shape == (800, 800, 3)
    trainval = load_coco(parts.output / "annotations/aitod_trainval_v1.json", parts.output / "images", training=True)
    assert len(trainval) == 8 and len(trainval.boxes) == sum(3 + k for k in range(6)) + sum(3 + k for k in range(2))
    said = capsys.readouterr().out
    assert "configs/aitod/rs_tinynet_m.toml data.root=" in said and "red and blue of the crops are exchanged" in said


def test_natural_colours(parts):
    assert parts.run("--natural-colours", "--workers", "1") == 0
    for name in parts.ALL_CROPS:
        assert (cv2.imread(str(parts.output / "images" / name))[..., ::-1] == parts.expected(name)).all()
    assert "was begun with --natural-colours" in parts.refused()


def test_a_scene_is_decoded_once_and_a_second_run_makes_nothing(parts, monkeypatch):
    read = []
    original = aitod_images.read_scene
    monkeypatch.setattr(aitod_images, "read_scene", lambda path: read.append(path.name) or original(path))
    assert parts.run() == 0
    assert sorted(read) == ["12.tif", "305.tif", "7.tif"]
    made = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in parts.output.rglob("*.*")}
    assert parts.run() == 0
    assert len(read) == 3 and {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in parts.output.rglob("*.*")} == made


def test_killed_and_started_again_it_is_as_if_nothing_had_happened(parts, coco):
    numbers = [str(k) for k in range(40, 64)]           # enough work for the kill to come in its midst
    for number in numbers:
        parts.write_tiff(parts.tiff(number), parts.scenes["12"])
    extra = [f"{number}__{x}_0.png" for number in numbers for x in (0, 600)]
    parts.annotation("train").write_text(json.dumps(coco(parts.CROPS["train"] + parts.OTHERS["train"] + extra)))
    command = [sys.executable, "-m", "data.prepare_aitod", "--xview", parts.root / "xView", "--aitod", parts.root / "wo_xview",
               "--annotations", parts.root / "annotations", "--output", parts.output, "--workers", "1"]
    child = subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while child.poll() is None and len(list(parts.output.glob("images/*.png"))) < 6:
        time.sleep(0.002)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    there = sorted((parts.output / "images").iterdir())
    assert 6 <= len(there) < len(extra) and not list(parts.output.glob("annotations/*"))
    assert all(cv2.imread(str(p)).shape == (800, 800, 3) for p in there)       # none is half written
    # What a power cut may leave under a crop's name, and a kill beside it.
    there[0].write_bytes(there[0].read_bytes()[:-400])
    there[1].write_bytes(b"")
    (parts.output / prepare_aitod.WORKSHOP).mkdir(exist_ok=True)
    (parts.output / prepare_aitod.WORKSHOP / "123").write_bytes(b"half")
    whole = {p: p.stat().st_mtime_ns for p in there[2:]}
    assert parts.run() == 0
    assert {p: p.stat().st_mtime_ns for p in whole} == whole                    # not made again
    assert parts.run(output=parts.root / "undisturbed") == 0
    assert contents(parts.output) == contents(parts.root / "undisturbed")
    assert not (parts.output / prepare_aitod.WORKSHOP).exists()


def test_an_interrupt_from_the_keyboard_is_told_and_the_same_command_goes_on(parts, monkeypatch, capsys):
    original = aitod_images.write_whole

    def interrupted(path, *rest):
        original(path, *rest)
        raise KeyboardInterrupt

    monkeypatch.setattr(aitod_images, "write_whole", interrupted)
    assert parts.run("--workers", "1") == 3
    assert "the same command goes on" in capsys.readouterr().err
    assert not (parts.output / prepare_aitod.WORKSHOP).exists()
    monkeypatch.undo()
    assert parts.run() == 0


def test_where_links_are_not_possible_images_are_copied(parts, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(aitod_images.os, "link", refuse)
    assert parts.run() == 0
    for split, names in parts.OTHERS.items():
        for name in names:
            copy, source = parts.output / "images" / name, parts.root / "wo_xview/images" / split / name
            assert copy.read_bytes() == source.read_bytes() and not copy.samefile(source)


def test_images_are_found_in_any_layout_and_a_damaged_copy_gives_way_to_a_whole_one(parts):
    home = parts.root / "wo_xview"
    for split, names in parts.OTHERS.items():
        (home / split / "images").mkdir(parents=True)
        for name in names:
            (home / "images" / split / name).rename(home / split / "images" / name)
    first = parts.OTHERS["train"][0]
    (home / "a").mkdir()
    (home / "a" / first).write_bytes((home / "train/images" / first).read_bytes()[:100])
    (parts.root / "xView/train_images").rename(parts.root / "xView/unpacked")
    parts.output = home / "ready"           # its own images are not taken for sources
    assert parts.run() == 0
    assert (parts.output / "images" / first).samefile(home / "train/images" / first)
    (parts.output / "images" / first).unlink()
    (home / "train/images" / first).unlink()
    assert f"{first}: is no whole PNG of 800 x 800 px" in parts.refused()


def test_two_different_files_for_one_scene_are_named(parts):
    (parts.root / "xView/val_images").mkdir()
    parts.write_tiff(parts.root / "xView/val_images/12.tif", parts.scenes["305"])
    assert parts.run() == 0                 # train_images comes first
    parts.output = parts.root / "second"
    (parts.root / "xView/train_images").rename(parts.root / "xView/other")
    assert "are different files for scene 12" in parts.refused()
    for path in parts.root.glob("xView/*/*.tif"):
        path.unlink()
    (parts.root / "xView/train_images.tgz").write_bytes(b"packed")
    assert "Unpack" in parts.refused() and "train_images.tgz first" in parts.refused()


def test_a_link_to_a_folder_or_file_is_followed(parts):
    real, name = parts.root / "elsewhere", parts.OTHERS["val"][0]
    (parts.root / "wo_xview").rename(real)
    (parts.root / "wo_xview").mkdir()
    (parts.root / "wo_xview/images").symlink_to(real / "images")
    (real / "images/val" / name).rename(parts.root / name)
    (real / "images/val" / name).symlink_to(parts.root / name)
    assert parts.run() == 0
    assert not (parts.output / "images" / name).is_symlink()
    assert (parts.output / "images" / name).samefile(parts.root / name)


def test_finished_crops_serve_where_their_scene_is_missing(parts):
    """As in the mirror of AI-TOD that holds all images."""
    assert parts.run(output=parts.root / "mirror") == 0
    whole = contents(parts.root / "mirror")
    (parts.root / "wo_xview").rename(parts.root / "unused")
    (parts.root / "mirror").rename(parts.root / "wo_xview")
    assert parts.run(xview=False) == 0
    assert contents(parts.output) == whole
    parts.output = parts.root / "natural"
    assert "3 scene(s) of xView (8 crops)" in parts.refused("--natural-colours", xview=False)      # those are not


def test_what_is_missing_is_told_with_the_place_to_get_it(parts, capsys):
    parts.tiff("7").unlink()
    parts.tiff("305").unlink()
    (parts.root / "wo_xview/images/val" / parts.OTHERS["val"][0]).unlink()
    message = parts.refused()
    assert "7 of 12 images have no source" in message
    assert "2 scene(s) of xView (6 crops), such as 7.tif, 305.tif" in message
    assert f"1 image(s) of AI-TOD_wo_xview, such as {parts.OTHERS['val'][0]}" in message and "--partial" in message
    said = capsys.readouterr().out
    assert all(hint in said for hint in ("xviewdataset.org (an account is needed)", ".tar", "jwwangchn/AI-TOD"))
    assert not parts.output.exists()


def test_partial_makes_the_rest_and_a_later_run_completes_it(parts, capsys):
    assert parts.run(output=parts.root / "whole") == 0
    kept = parts.tiff("7").read_bytes()
    parts.tiff("7").unlink()
    assert parts.run("--partial") == 1
    assert "5 of 12 images were not made: 1 scene(s) of xView (5 crops), such as 7.tif" in capsys.readouterr().out
    assert len(list((parts.output / "images").iterdir())) == 7
    parts.tiff("7").write_bytes(kept[:-5000])
    assert parts.run("--partial") == 1
    said = capsys.readouterr().out
    assert "5 of 12 images were not made: " in said and "7.tif: is no whole TIFF" in said
    parts.tiff("7").write_bytes(kept)
    assert parts.run() == 0
    assert contents(parts.output) == contents(parts.root / "whole")


def truncated(path, parts):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def half_black(path, parts):
    rgb = parts.scene_pixels(1400, 800, 3)
    rgb[:, 600:] = 0
    parts.write_tiff(path, rgb)


BAD_SCENES = {
    "cut short": (truncated, "12.tif: is no whole TIFF"),
    "empty": (lambda path, _: path.write_bytes(b""), "12.tif: is no whole TIFF"),
    "not an image": (lambda path, _: path.write_bytes(b"<html>log in first</html>"), "12.tif: is no whole TIFF"),
    "16 bits": (lambda path, _: cv2.imwrite(str(path), np.ones((800, 1400, 3), np.uint16)), r"three of uint8.*own file"),
    "one band": (lambda path, _: cv2.imwrite(str(path), np.ones((800, 1400), np.uint8)), r"1 band\(s\) of uint8, not three"),
    "another size": (lambda path, parts: parts.write_tiff(path, parts.scene_pixels(1200, 800, 3)),
                     r"12.tif: is 1200 x 800 px, so that it has no crop at 600, 0 \(12__600_0.png\)"),
    "half of it lost": (half_black, r"12.tif: is black from 600, 0 on \(12__600_0.png\)"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD_SCENES.values(), ids=BAD_SCENES.keys())
def test_a_bad_scene_is_named_and_the_others_are_made(parts, capfd, spoil, message):
    spoil(parts.tiff("12"), parts)
    with pytest.raises(InputError, match=message) as caught:
        parts.run()
    assert "\n" not in str(caught.value) and "the same command" in str(caught.value)
    made = {p.name for p in (parts.output / "images").iterdir()}
    assert made >= set(parts.names(*parts.CROPS)) - {"12__0_0.png", "12__600_0.png"}
    assert "12__600_0.png" not in made and not (parts.output / "annotations").exists()
    assert "TIFF_Error" not in capfd.readouterr().err           # OpenCV's own words


def test_a_scene_beyond_opencv_s_limit_names_the_variable_that_lifts_it(parts):
    code = "from errors import run; from data.prepare_aitod import main; run(main)"
    command = [sys.executable, "-c", code, "--xview", parts.root / "xView", "--aitod", parts.root / "wo_xview", "--annotations",
               parts.root / "annotations", "--output", parts.output]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=300,
                          env={"OPENCV_IO_MAX_IMAGE_PIXELS": "2000000", "PATH": ""})
    assert done.returncode == 2 and "Traceback" not in done.stderr
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: 5 of 12 images were not made: ") and "7.tif" in error       # 3.8 million pixels
    assert "Set the environment variable OPENCV_IO_MAX_IMAGE_PIXELS" in error


def test_a_large_compressed_scene(parts, tmp_path):
    rgb = np.repeat(np.repeat(parts.scene_pixels(650, 600, 1), 8, 0), 8, 1)           # 5200 x 4800
    cv2.imwrite(str(tmp_path / "1.tif"), rgb[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 5])      # LZW
    scene = aitod_images.Scene(tmp_path / "1.tif", [(layout.Crop("1", 4400, 4000), tmp_path / "1.png")])
    assert scene.make(tmp_path, natural=True) == []
    assert (cv2.imread(str(tmp_path / "1.png"))[..., ::-1] == rgb[4000:, 4400:]).all()


def test_no_room_is_told_before_anything_is_written(parts, monkeypatch):
    usage = prepare_aitod.shutil.disk_usage(parts.root)
    monkeypatch.setattr(prepare_aitod.shutil, "disk_usage", lambda _: usage._replace(free=9_000_000))
    assert "about 0.0 GB are needed" in parts.refused()      # 8 crops of 1.3 MB
    assert not parts.output.exists()
    monkeypatch.setattr(prepare_aitod.shutil, "disk_usage", lambda _: usage._replace(free=12_000_000))
    assert parts.run() == 0


def test_a_disk_that_fills_up_ends_the_run_in_one_line(parts, monkeypatch):
    original = aitod_images.os.fsync
    calls = []

    def full(number):
        calls.append(number)
        if len(calls) > 3:
            raise OSError(28, "No space left on device")
        original(number)

    monkeypatch.setattr(aitod_images.os, "fsync", full)
    message = parts.refused("--workers", "1")
    assert "cannot be written (No space left on device)" in message and "what is done stays" in message
    assert len([p for p in (parts.output / "images").iterdir() if layout.crop_of(p.name)]) == 3
    monkeypatch.undo()
    assert parts.run() == 0


def test_only_a_folder_of_its_own_is_written_to_by_one_run_at_a_time(parts):
    parts.output.mkdir()
    with prepare_aitod._hold(parts.output, natural=False):
        assert "another run is at work" in parts.refused()
    (parts.root / "thesis").mkdir()
    (parts.root / "thesis/chapter.txt").write_text("do not lose me")
    parts.output = parts.root / "thesis"
    assert "holds something that this tool did not make" in parts.refused()
    parts.output = parts.root / "thesis/chapter.txt"
    assert "is a file" in parts.refused()
