"""AI-TOD put together from a made-up xView: the crops, a run that is killed, and every way in which a part can be wrong."""
import json
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from data import aitod_images, prepare_aitod
from data import aitod_layout as layout
from data.aitod_annotations import counts_table, gather, read_lists
from data.coco import load_coco
from errors import InputError

ROOT = Path(__file__).parents[2]

# Sides with and without a crop across the border, a multiple of the stride, exactly one crop, less than one.
SIZES = {"7": (2000, 1900), "12": (1400, 800), "305": (500, 700)}          # width, height
CROPS = {
    "train": ["7__0_0.png", "7__600_1200.png", "7__1200_1100.png", "12__600_0.png"],
    "val": ["7__1200_600.png"],
    "test": ["12__0_0.png", "305__0_0.png", "7__0_1100.png"],
}
OTHERS = {"train": ["3b444d792.png", "P0019__1.0__600___1200.png"], "val": ["00123__0_0.png"], "test": ["99_00_d_07__0_0.png"]}


def write_tiff(path: Path, rgb: np.ndarray) -> None:
    """A plain TIFF: three bands of 8 bits, no compression, strips of 64 rows behind the directory."""
    height, width, bands = rgb.shape
    strips = [rgb[k : k + 64].tobytes() for k in range(0, height, 64)]
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, None), (259, 3, 1, 1), (262, 3, 1, 2),
               (273, 4, len(strips), None), (277, 3, 1, bands), (278, 4, 1, 64), (279, 4, len(strips), None)]
    at = 8 + 2 + 12 * len(entries) + 4
    start = at + 6 + 8 * len(strips)
    offsets = start + np.cumsum([0, *map(len, strips[:-1])])
    places = {258: at, 273: at + 6, 279: at + 6 + 4 * len(strips)}
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    for tag, kind, count, value in entries:
        inline = struct.pack("<HH", value, 0) if kind == 3 and value is not None else struct.pack("<I", value or places[tag])
        head += struct.pack("<HHI", tag, kind, count) + inline
    tables = struct.pack(f"<I3H{len(strips)}I{len(strips)}I", 0, 8, 8, 8, *offsets, *map(len, strips))
    path.write_bytes(head + tables + b"".join(strips))


def scene_pixels(width: int, height: int, seed: int) -> np.ndarray:
    """(H, W, 3) RGB that differs everywhere, and from red to blue."""
    y, x = np.mgrid[:height, :width].astype(np.uint32)
    return np.stack([x * 7 + y + seed, x + y * 5 + x * y // 97, y * 3 + 100 + seed * x], 2).astype(np.uint8) | 1


def coco(names: list[str], boxes: int = 3, classes=layout.CLASSES) -> dict:
    """An annotation file; image k holds k + `boxes` objects."""
    content = {"images": [], "annotations": [], "categories": [{"id": k, "name": n} for k, n in enumerate(classes, 1)]}
    for k, name in enumerate(names):
        content["images"].append({"id": k, "file_name": name, "width": 800, "height": 800})
        for n in range(k + boxes):
            content["annotations"].append({"id": len(content["annotations"]) + 1, "image_id": k, "category_id": 1 + n % 8,
                                           "bbox": [10 * n, 5, 6, 7], "area": 42, "iscrowd": 0})
    return content


class Parts:
    """xView, AI-TOD_wo_xview and annotation files in folders of their own."""

    def __init__(self, root: Path):
        self.root, self.output = root, root / "out"
        (root / "xView/train_images").mkdir(parents=True)
        self.scenes = {n: scene_pixels(*size, seed=int(n)) for n, size in SIZES.items()}
        for number, rgb in self.scenes.items():
            write_tiff(self.tiff(number), rgb)
        (root / "annotations").mkdir()
        for split in CROPS:
            folder = root / "wo_xview/images" / split           # as the tool's guide says
            folder.mkdir(parents=True)
            for k, name in enumerate(OTHERS[split]):
                cv2.imwrite(str(folder / name), np.full((800, 800, 3), 40 + 30 * k, np.uint8))
            # An odd layout, which a rewritten file would lose.
            text = json.dumps(coco(CROPS[split] + OTHERS[split]), indent=1).replace("\n", "\r\n") + "\n\n"
            self.annotation(split).write_bytes(text.encode())

    def tiff(self, number: str) -> Path:
        return self.root / f"xView/train_images/{number}.tif"

    def annotation(self, split: str) -> Path:
        return self.root / f"annotations/aitod_{split}_v1.json"

    def run(self, *more: str, output: Path | None = None, **without: bool) -> int:
        """The command; `aitod=False` leaves an option out."""
        options = {"xview": self.root / "xView", "aitod": self.root / "wo_xview", "annotations": self.root / "annotations",
                   "output": output or self.output, "workers": 2}
        given = [text for key, value in options.items() if without.get(key, True) for text in (f"--{key}", str(value))]
        return prepare_aitod.main([*given, *more])

    def refused(self, *more: str, **without: bool) -> str:
        """The one line that the command refuses with."""
        with pytest.raises(InputError) as caught:
            self.run(*more, **without)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def expected(self, name: str) -> np.ndarray:
        """A crop's RGB by slicing, black beyond the border."""
        number, _, place = name.removesuffix(".png").partition("__")
        x, y = map(int, place.split("_"))
        pixels = np.zeros((800, 800, 3), np.uint8)
        inside = self.scenes[number][y : y + 800, x : x + 800]
        pixels[: len(inside), : len(inside[0])] = inside
        return pixels


@pytest.fixture
def parts(tmp_path):
    return Parts(tmp_path)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_every_image_is_there_and_the_splits_are_those_of_the_files(parts, capsys):
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in parts.root.rglob("*") if p.is_file()}
    assert parts.run() == 0
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in before} == before
    assert {p.name for p in (parts.output / "images").iterdir()} == set(sum([CROPS[s] + OTHERS[s] for s in CROPS], []))
    for name in sum(CROPS.values(), []):
        # As AI-TOD's tool writes them: what OpenCV reads as blue is xView's red.
        assert (cv2.imread(str(parts.output / "images" / name)) == parts.expected(name)).all(), name
    for split, names in OTHERS.items():
        for name in names:
            assert (parts.output / "images" / name).samefile(parts.root / "wo_xview/images" / split / name)
    for split in CROPS:
        target = parts.output / "annotations" / f"aitod_{split}_v1.json"
        assert target.read_bytes() == parts.annotation(split).read_bytes()
        source = load_coco(target, parts.output / "images", training=True)
        assert [Path(r.path).name for r in source.images] == CROPS[split] + OTHERS[split]
        assert source.image(0).shape == (800, 800, 3)
    trainval = load_coco(parts.output / "annotations/aitod_trainval_v1.json", parts.output / "images", training=True)
    assert len(trainval) == 8 and len(trainval.boxes) == sum(3 + k for k in range(6)) + sum(3 + k for k in range(2))
    said = capsys.readouterr().out
    assert "configs/aitod/rs_tinynet_m.toml data.root=" in said and "red and blue of the crops are exchanged" in said


def test_natural_colours(parts):
    assert parts.run("--natural-colours", "--workers", "1") == 0
    for name in sum(CROPS.values(), []):
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


def test_killed_and_started_again_it_is_as_if_nothing_had_happened(parts):
    numbers = [str(k) for k in range(40, 64)]           # enough work for the kill to come in its midst
    for number in numbers:
        write_tiff(parts.tiff(number), parts.scenes["12"])
    extra = [f"{number}__{x}_0.png" for number in numbers for x in (0, 600)]
    parts.annotation("train").write_text(json.dumps(coco(CROPS["train"] + OTHERS["train"] + extra)))
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
    for split, names in OTHERS.items():
        for name in names:
            copy, source = parts.output / "images" / name, parts.root / "wo_xview/images" / split / name
            assert copy.read_bytes() == source.read_bytes() and not copy.samefile(source)


def test_images_are_found_in_any_layout_and_a_damaged_copy_gives_way_to_a_whole_one(parts):
    home = parts.root / "wo_xview"
    for split, names in OTHERS.items():
        (home / split / "images").mkdir(parents=True)
        for name in names:
            (home / "images" / split / name).rename(home / split / "images" / name)
    first = OTHERS["train"][0]
    (home / "a").mkdir()
    (home / "a" / first).write_bytes((home / "train/images" / first).read_bytes()[:100])
    (parts.root / "xView/train_images").rename(parts.root / "xView/unpacked")
    parts.output = home / "ready"           # its own images are not taken for sources
    assert parts.run() == 0
    assert (parts.output / "images" / first).samefile(home / "train/images" / first)
    (parts.output / "images" / first).unlink()
    (home / "train/images" / first).unlink()
    assert f"{first}: is no whole PNG of 800 x 800 px" in parts.refused()


def test_a_link_to_a_folder_or_file_is_followed(parts):
    real, name = parts.root / "elsewhere", OTHERS["val"][0]
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
    (parts.root / "wo_xview/images/val" / OTHERS["val"][0]).unlink()
    message = parts.refused()
    assert "7 of 12 images have no source" in message
    assert "2 scene(s) of xView (6 crops), such as 7.tif, 305.tif" in message
    assert f"1 image(s) of AI-TOD_wo_xview, such as {OTHERS['val'][0]}" in message and "--partial" in message
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
    parts.tiff("7").write_bytes(kept)
    assert parts.run() == 0
    assert contents(parts.output) == contents(parts.root / "whole")


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BAD_SCENES = {
    "cut short": (truncated, "12.tif: is no whole TIFF"),
    "empty": (lambda path: path.write_bytes(b""), "12.tif: is no whole TIFF"),
    "not an image": (lambda path: path.write_bytes(b"<html>log in first</html>"), "12.tif: is no whole TIFF"),
    "16 bits": (lambda path: cv2.imwrite(str(path), np.ones((800, 1400, 3), np.uint16)), r"three of uint8.*own file"),
    "one band": (lambda path: cv2.imwrite(str(path), np.ones((800, 1400), np.uint8)), r"has 1 band\(s\) of uint8, not three"),
    "another size": (lambda path: write_tiff(path, scene_pixels(1200, 800, 3)),
                     r"12.tif: is 1200 x 800 px, so that it has no crop at 600, 0 \(12__600_0.png\)"),
    "half of it lost": (lambda path: write_tiff(path, np.repeat(np.eye(1, 1400, dtype=np.uint8)[0][None, :, None],
                                                                 800, 0).repeat(3, 2)), r"black from 600, 0 on"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD_SCENES.values(), ids=BAD_SCENES.keys())
def test_a_bad_scene_is_named_and_the_others_are_made(parts, capfd, spoil, message):
    spoil(parts.tiff("12"))
    with pytest.raises(InputError, match=message) as caught:
        parts.run()
    assert "\n" not in str(caught.value) and "the same command" in str(caught.value)
    made = {p.name for p in (parts.output / "images").iterdir()}
    assert made >= set(sum([CROPS[s] + OTHERS[s] for s in CROPS], [])) - {"12__0_0.png", "12__600_0.png"}
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


def test_a_large_compressed_scene(tmp_path):
    rgb = np.repeat(np.repeat(scene_pixels(650, 600, 1), 8, 0), 8, 1)           # 5200 x 4800
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
    assert len(list((parts.output / "images").iterdir())) == 3
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


def test_an_annotation_file_is_never_replaced(parts):
    assert parts.run() == 0
    parts.annotation("test").write_text(json.dumps(coco(CROPS["test"], boxes=1)))
    assert "aitod_test_v1.json: is there already, with other content" in parts.refused()


BAD_FILES = {
    "absent": (None, "cannot be read .No such file"),
    "not JSON": (b"{", "is not JSON"),
    "binary": (b"\xff\xfe\x81", "is not JSON"),
    "a list": ([1], "not a COCO annotation file"),
    "no size": ({"images": [{"id": 1, "file_name": "a.png"}], "annotations": [], "categories": []}, "not a COCO annotation"),
    "other classes": (coco(["a.png"], classes=["plane", "ship"]), "has the classes plane, ship, not just AI-TOD's eight"),
    "a stray category": (coco(["a.png"], boxes=9) | {"annotations": [{"id": 1, "image_id": 0, "category_id": 9}]},
                         "annotation of category 9"),
    "a way out": (coco(["../a.png"]), "'../a.png', which leaves the image folder"),
    "without xView": (coco([f"{k:04x}d.png" for k in range(1869)], boxes=-1869), "1,869 images without xView alone"),
    "no split": (coco(["a.png"]), "neither its images nor its name tell which split"),
}


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_annotation_file_is_named(parts, content, message):
    path = parts.root / "annotations/odd.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(InputError, match=message) as caught:
        parts.run("--annotations", str(path))
    assert "odd.json" in str(caught.value) and "\n" not in str(caught.value)
    assert parts.run() == 0                     # in a folder it is passed over


def test_two_files_for_one_split_must_be_equal(parts, capsys):
    twin = parts.root / "annotations/small_train_v1_1.0.json"
    twin.write_bytes(parts.annotation("train").read_bytes())
    assert parts.run() == 0
    twin.write_text(json.dumps(coco(CROPS["train"])))
    assert "are both AI-TOD train, and differ" in parts.refused()


FAMILIES = {        # names under which the files are passed on, and what they are
    "aitod_train": (1, "train"), "aitod_trainval": (1, "trainval"), "aitod_test": (1, "test"), "aitod_val_v1": (1, "val"),
    "small_trainval_v1_1.0": (1, "trainval"), "small_test_v1_1.0": (1, "test"), "small_trainval_v2_2.0": (2, "trainval"),
    "small_test_v2_2.0": (2, "test"), "small_train_v2_1.0": (2, "train"), "small_val_v2_1.0": (2, "val"),
    "aitod_trainval_v1_1.0": (1, "trainval"), "aitod_training_v1.0": (1, "train"), "aitod_validation_v1.0": (1, "val"),
    "aitodv2_train": (2, "train"), "aitodv2_trainval": (2, "trainval"), "aitodv2_test": (2, "test"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_families_of_names_are_known(tmp_path, name):
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(coco(["1__0_0.png"])))
    (found,), notes = gather([path], {})
    assert (found.version, found.split) == FAMILIES[name] and not notes


def test_a_complete_file_is_known_by_what_it_holds(tmp_path, monkeypatch):
    """All names are wrong, or say nothing; the numbers are small ones in the place of the published."""
    monkeypatch.setattr(layout, "IMAGES", {"train": 60, "val": 20, "trainval": 80, "test": 80})
    monkeypatch.setattr(layout, "BOXES", {split: (200,) * 8 for split in layout.SPLITS})
    for split, wrong in (("train", "aitod_test"), ("val", "x"), ("trainval", "aitod_train_v2"), ("test", "y")):
        parts = [split] if split != "trainval" else ["train", "val"]
        names = [f"{name}.png" for part in parts for name in layout.WITNESSES[part]]
        names += [f"{k:04x}d.png" for k in range(layout.IMAGES[split] - len(names))]
        content = coco(names, boxes=-len(names))
        path = tmp_path / f"{wrong}.json"
        for boxes, version, remarks in ((1601, 1, {"aitod_test": 1, "aitod_train_v2": 2}),
                                        (1714, 2, {"aitod_test": 1, "aitod_train_v2": 1})):
            content["annotations"] = [{"category_id": 1}] * boxes
            path.write_text(json.dumps(content))
            (found,), notes = gather([path], {})
            assert (found.version, found.split) == (version, split)
            assert len(notes) == remarks.get(wrong, 0)


def test_the_official_lists_tell_the_split(parts, capsys):
    folder = parts.root / "aitod_xview"
    folder.mkdir()
    for split in ("train", "val", "test"):
        (folder / f"aitod_xview_{split}.txt").write_text(str(CROPS[split]))          # a Python list in one line
        parts.annotation(split).rename(parts.root / f"annotations/{'abc'[len(split) % 3]}.json")
    (folder / "xview_class_labels.txt").write_text("11:Fixed-wing Aircraft")
    assert parts.run("--lists", str(folder)) == 0
    assert {p.name for p in (parts.output / "annotations").iterdir()} == {
        f"aitod_{split}_v1.json" for split in ("train", "val", "trainval", "test")}
    assert read_lists([folder])["trainval"] == set(CROPS["train"] + CROPS["val"])
    for bad, told in ((parts.root, "holds no aitod_xview_"), (folder / "aitod_xview_all.txt", "cannot be read"),
                      (folder / "xview_class_labels.txt", "train, val, trainval or test")):
        assert told in parts.refused("--lists", str(bad))


def test_trainval_is_made_of_train_and_val_where_it_is_missing(parts):
    assert parts.run() == 0
    train, val, both = (json.loads((parts.output / "annotations" / f"aitod_{s}_v1.json").read_text())
                        for s in ("train", "val", "trainval"))
    name = {i["id"]: i["file_name"] for i in both["images"]}
    assert len(name) == len(both["images"]) == 8 and list(name.values()) == [
        i["file_name"] for part in (train, val) for i in part["images"]]
    assert len({a["id"] for a in both["annotations"]}) == len(train["annotations"]) + len(val["annotations"])
    apart = [({i["id"]: i["file_name"] for i in part["images"]}[a["image_id"]], a["bbox"], a["category_id"])
             for part in (train, val) for a in part["annotations"]]
    assert [(name[a["image_id"]], a["bbox"], a["category_id"]) for a in both["annotations"]] == apart
    parts.annotation("trainval").write_text(json.dumps(both, indent=2))         # a published one is taken as it is
    assert parts.run(output=parts.root / "second") == 0
    kept = parts.root / "second/annotations/aitod_trainval_v1.json"
    assert kept.read_bytes() == parts.annotation("trainval").read_bytes()


def test_both_versions_share_the_images(parts, capsys):
    assert parts.run() == 0
    images = {p: p.stat().st_mtime_ns for p in (parts.output / "images").iterdir()}
    for split in ("trainval", "test"):
        names = sum([CROPS[s] + OTHERS[s] for s in (("train", "val") if split == "trainval" else ("test",))], [])
        (parts.root / f"small_{split}_v2_2.0.json").write_text(json.dumps(coco(names, boxes=5)))
    capsys.readouterr()
    assert parts.run("--annotations", *(str(parts.root / f"small_{s}_v2_2.0.json") for s in ("trainval", "test"))) == 0
    assert {p: p.stat().st_mtime_ns for p in (parts.output / "images").iterdir()} == images
    assert {p.name for p in (parts.output / "annotations").iterdir()} == {
        f"aitod_{s}_v1.json" for s in ("train", "val", "trainval", "test")} | {"aitodv2_trainval.json", "aitodv2_test.json"}
    said = capsys.readouterr().out
    assert "configs/aitod_v2/rs_tinynet_m.toml data.root=" in said
    assert "for configs/aitod_v2/rs_tinynet_m_dev.toml the annotations of train, val are missing" in said
    boxes = sum(5 + k for k in range(8)) + sum(5 + k for k in range(4))
    assert f"752,746 boxes together; here {boxes}." in said


def test_counts_stand_beside_the_published_ones(parts):
    files, _ = gather([parts.root / "annotations"], {})
    lines = counts_table(1, files).splitlines()
    rows = {line[:14].strip(): line[14:].split() for line in lines}
    assert rows["AI-TOD"][::2] == ["train", "val", "trainval", "test"]
    assert rows["images"] == ["6", "11,214*", "2", "2,804*", "8", "14,018*", "4", "14,018*"]
    # Images of a split hold 3, 4, 5 ... boxes, whose classes count up from airplane.
    assert rows["airplane"] == ["6", "623*", "2", "170*", "8", "793*", "4", "745*"]
    assert rows["wind-mill"] == ["1", "176*", "0", "67*", "1", "243*", "0", "290*"]
    assert rows["boxes"] == ["33", "282,589*", "7", "70,426*", "40", "353,015*", "18", "347,630*"]
    equal = files[0]._replace(images=dict.fromkeys(range(11_214)), boxes=layout.BOXES["train"])
    assert "*" not in counts_table(1, [equal])


def test_the_published_numbers_agree_with_each_other():
    """Totals as AI-TOD's paper, its issue 15 and the copies of its lists give them."""
    totals = {split: sum(counts) for split, counts in layout.BOXES.items()}
    assert totals == {"train": 282_589, "val": 70_426, "trainval": 353_015, "test": 347_630}
    assert [a + b for a, b in zip(layout.BOXES["train"], layout.BOXES["val"], strict=True)] == list(layout.BOXES["trainval"])
    assert sum(layout.FIRST_BOXES.values()) == 700_621
    for numbers in (layout.IMAGES, layout.CROPS):
        assert numbers["train"] + numbers["val"] == numbers["trainval"]
    assert layout.IMAGES["trainval"] + layout.IMAGES["test"] == 28_036
    assert all(layout.crop_of(f"{name}.png") for names in layout.WITNESSES.values() for name in names)
    assert len(set(sum(layout.WITNESSES.values(), ()))) == 24


def test_crops_begin_every_600_px_and_the_last_one_ends_at_the_border():
    assert layout.crop_starts(3819) == [0, 600, 1200, 1800, 2400, 3000, 3019]       # 1815__3000_1200, 1815__3019_600
    assert layout.crop_starts(3018) == [0, 600, 1200, 1800, 2218, 2400]             # 871__600_2400 crosses the border
    assert layout.crop_starts(1400) == [0, 600] and layout.crop_starts(2000) == [0, 600, 1200]
    assert layout.crop_starts(800) == layout.crop_starts(500) == [0]
    assert layout.crop_starts(801) == [0, 1]


@pytest.mark.parametrize(("name", "crop"), [
    ("1815__3019_600.png", ("1815", 3019, 600)), ("trainval/7__0_0.png", ("7", 0, 0)), ("00123__0_0.png", None),
    ("P0019__1.0__600___1200.png", None), ("7__0_0.jpg", None), ("7_0_0.png", None), ("3b444d792.png", None),
])
def test_a_crop_is_told_by_its_name(name, crop):
    assert layout.crop_of(name) == crop
