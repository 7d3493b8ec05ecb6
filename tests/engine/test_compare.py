"""Comparing tools on the same images: counts made by hand, colours where they belong, and the images and places chosen."""
import json
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import test as test_script
from engine import checkpoint, compare, comparison_sheet, sheet
from engine.compare import main
from engine.comparison import count, difference, judge, outcome, regions
from engine.comparison_sheet import CAPTION, FALSE, GAP, HEADING, HIT, MARGIN, MISSED, Layer, draw_layers
from engine.drawing import COLOURS
from errors import InputError
from eval.files import detection_arrays, ground_truth_arrays

SHIP, CAR = 3, 7                # category ids
GREY = (90, 90, 90)


def truth_of(objects, images=3):
    """Objects as (image, category, box, marks)."""
    return {
        "images": [{"id": 10 * k, "file_name": f"{'ba'[k % 2]}/{k}.png"} for k in range(1, images + 1)],
        "categories": [{"id": SHIP, "name": "ship"}, {"id": CAR, "name": "car"}],
        "annotations": [{"id": k, "image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3], **marks}
                        for k, (image, category, box, marks) in enumerate(objects, 1)],
    }


def found(*detections):
    return [dict(zip(("image_id", "category_id", "bbox", "score"), d, strict=True)) for d in detections]


# Image 10 holds all that can happen; 20 is empty; on 30 the tools differ by one object.
OBJECTS = [
    (10, SHIP, [10, 10, 20, 20], {}), (10, SHIP, [100, 20, 10, 10], {}), (10, CAR, [20, 100, 8, 8], {}),
    (10, CAR, [150, 100, 30, 30], {"iscrowd": 1}), (30, CAR, [50, 50, 6, 6], {}),
]
FIRST = found(
    (10, SHIP, [10, 10, 20, 20], 0.9),      # hit
    (10, SHIP, [10, 10, 20, 19], 0.8),      # the same object again: false
    (10, SHIP, [20, 100, 8, 8], 0.7),       # of the wrong class: false, and the car is missed
    (10, CAR, [150, 100, 10, 10], 0.6),     # in a crowd: neither
    (10, SHIP, [100, 20, 10, 10], 0.2),     # too weak: the ship is missed
    (10, SHIP, [60, 60, 10, 10], 0.5),      # of nothing: false
    (30, CAR, [50, 50, 6, 6], 0.25),        # just strong enough
)
SECOND = found((10, SHIP, [10, 10, 20, 20], 0.9), (20, CAR, [5, 5, 9, 9], 0.9))


@pytest.fixture
def verdicts():
    truth = ground_truth_arrays(truth_of(OBJECTS))
    return truth, [judge(name, truth, detection_arrays(d), 0.25) for name, d in (("one", FIRST), ("two", SECOND))]


def test_counts_of_a_case_made_by_hand(verdicts):
    truth, (first, second) = verdicts
    assert count(truth, first).tolist() == [[1, 2, 3], [0, 0, 0], [1, 0, 0]]        # hit, missed, false
    assert count(truth, second).tolist() == [[1, 2, 0], [0, 0, 1], [0, 1, 0]]
    assert difference(truth, [first, second]).tolist() == [3, 1, 1]                 # false alarms; one; the car of image 30
    assert difference(truth, [first]).tolist() == [5, 0, 0]
    assert first.false.sum() + first.hit.sum() == len(first.boxes) - 1              # the one in the crowd


class Files:
    """A folder with images, a ground truth and detections."""

    def __init__(self, folder: Path, content: dict = None, size: tuple[int, int] = (200, 150)):
        self.folder, self.content = folder, content or truth_of(OBJECTS)
        for image in self.content["images"]:
            path = folder / "images" / image["file_name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            image["width"], image["height"] = size
            cv2.imwrite(str(path), np.full((size[1], size[0], 3), GREY, np.uint8))
        (folder / "gt.json").write_text(json.dumps(self.content))

    def detections(self, name: str, detections: list[dict]) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(detections))
        return str(path)

    def compare(self, *arguments: str) -> int:
        return main(["--ground-truth", str(self.folder / "gt.json"), "--images", str(self.folder / "images"),
                     "--output", str(self.folder / "out"), *arguments])

    def picture(self, name: str) -> np.ndarray:
        """(h, w, 3) RGB."""
        return cv2.imread(str(self.folder / "out" / name))[..., ::-1]


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


def rows(text: str) -> dict[tuple[str, str], list[int]]:
    """The counts that were printed, by image and tool."""
    lines = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]
    return {(line[0], line[1]): [int(number.replace(",", "")) for number in line[2:]]
            for line in lines if len(line) == 5 and line[2].isdigit()}


def test_boxes_stand_around_their_objects_in_the_colour_of_their_outcome(files):
    """Two views of 800 px side by side, so that a pixel of the image is 4 of the picture; lines just outside."""
    arguments = ["--detections", files.detections("one.json", FIRST), files.detections("two.json", SECOND)]
    assert files.compare(*arguments, "--only", "1.png") == 0
    picture = files.picture("outcomes/a/1.png")
    top, left = HEADING + CAPTION, (MARGIN, MARGIN + 800 + GAP)
    assert tuple(picture[top + 4 * 30, left[0] + 4 * 20]) == HIT                 # below; its other sides share the second one's
    assert tuple(picture[top + 4 * 29, left[0] + 4 * 20]) == FALSE
    assert tuple(picture[top + 4 * 60 - 1, left[0] + 4 * 65]) == FALSE
    assert tuple(picture[top + 4 * 20 - 2, left[0] + 4 * 105]) == MISSED         # around what stands there already
    assert tuple(picture[top + 4 * 104, left[0] + 4 * 20 - 1]) == FALSE          # taken for a ship,
    assert tuple(picture[top + 4 * 104, left[0] + 4 * 20 - 2]) == MISSED         # so that the car is missed
    assert tuple(picture[top + 4 * 15, left[1] + 4 * 10 - 1]) == HIT
    assert tuple(picture[top + 4 * 104, left[1] + 4 * 20 - 1]) not in (FALSE, HIT)
    for inside in ((15, 15), (65, 65), (160, 110)):                             # nothing is drawn within, nor on the crowd
        assert len(set(picture[top + 4 * inside[1], left[0] + 4 * inside[0]].tolist())) == 1

    picture = files.picture("classes/a/1.png")                                  # three views of 640 px: 3.2 each
    ship, car = COLOURS[0], COLOURS[1]
    truth, one = MARGIN, MARGIN + 640 + GAP
    assert tuple(picture[top + 48, truth + 32 - 1]) == tuple(picture[top + 48, one + 32 - 1]) == ship
    assert tuple(picture[top + 333, truth + 64 - 1]) == car and tuple(picture[top + 333, one + 64 - 1]) == ship
    assert tuple(picture[top + 400, truth + 480 - 1]) == car                     # the crowd is an object, too


def distance(one, other, cones):
    """CIELAB distance as seen by someone whose vision a matrix of linear RGB describes."""
    lab = []
    for colour in (one, other):
        c = np.array(colour) / 255
        c = np.clip(cones @ np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4), 0, 1)
        xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ c / (0.9505, 1, 1.089)
        f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        lab.append(np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])]))
    return np.linalg.norm(lab[0] - lab[1])


# Machado, Oliveira, Fernandes 2009: no red, no green, no blue cones
VISIONS = {
    "all": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("vision", VISIONS)
def test_the_three_colours_are_far_apart_for_everyone(vision):
    """A just noticeable difference is about 2.3."""
    assert min(distance(a, b, np.array(VISIONS[vision])) for a, b in combinations((HIT, MISSED, FALSE), 2)) > 50


@pytest.mark.parametrize("tools", [1, 2, 3, 5])
def test_hundreds_of_objects_leave_the_image_to_be_seen(tmp_path, tools):
    """900 objects of 6 px in 800 px: a frame of one pixel each, no text; the picture is as wide as the tools need."""
    objects = [(10, SHIP, [26 * (k % 30) + 9, 26 * (k // 30) + 9, 6, 6], {}) for k in range(900)]
    files = Files(tmp_path, truth_of(objects, images=1), size=(800, 800))
    paths = [files.detections(f"{t}.json", found(*((10, SHIP, box, 0.9) for _, _, box, _ in objects[:: t + 1])))
             for t in range(tools)]
    assert files.compare("--detections", *paths) == 0
    picture = files.picture("outcomes/a/1.png")
    columns = {1: 1, 2: 2, 3: 3, 5: 3}[tools]
    wide = {1: 900, 2: 800, 3: 640}[columns]
    assert picture.shape[1] == 2 * MARGIN + columns * wide + (columns - 1) * GAP
    view = picture[HEADING + CAPTION :][:wide, MARGIN : MARGIN + wide]
    plain = (np.abs(view - 0.85 * np.array(GREY)) < 2).all(2)
    assert 0.7 < plain.mean() < 0.97
    assert (view[..., 0] != view[..., 2])[~plain].mean() > 0.9                  # lines, not white or black text


def test_an_image_without_objects_and_detections_is_drawn(files, capsys):
    empty = files.detections("empty.json", [])
    assert files.compare("--detections", empty, "--only", "b/2.png", "a/1.png") == 0
    picture = files.picture("outcomes/b/2.png")
    assert len(picture) < HEADING + CAPTION + 700 + 40                            # 900 x 675 px, and nothing is enlarged
    assert files.picture("classes/b/2.png").shape[1] > 1600
    assert rows(capsys.readouterr().out) == {("b/2.png", "empty"): [0, 0, 0], ("a/1.png", "empty"): [0, 3, 0]}


def test_the_images_on_which_the_tools_differ_most_are_chosen(files, capsys):
    arguments = ["--detections", files.detections("one.json", FIRST), files.detections("two.json", SECOND)]
    assert files.compare(*arguments, "--number", "2") == 0
    assert sorted(p.relative_to(files.folder / "out").as_posix() for p in (files.folder / "out").rglob("*.png")) == [
        "classes/a/1.png", "classes/b/2.png", "outcomes/a/1.png", "outcomes/b/2.png"]
    assert rows(capsys.readouterr().out) == {
        ("all", "one"): [2, 2, 3], ("all", "two"): [1, 3, 1], ("a/1.png", "one"): [1, 2, 3], ("a/1.png", "two"): [1, 2, 0],
        ("b/2.png", "one"): [0, 0, 0], ("b/2.png", "two"): [0, 0, 1]}


def test_the_place_that_is_enlarged_is_where_tools_differ_and_else_where_objects_are_dense():
    dense = [(10, SHIP, [20 + 9 * (k % 5), 20 + 9 * (k // 5), 6, 6], {}) for k in range(25)]
    pair = [(10, SHIP, [400, 300, 6, 6], {}), (10, SHIP, [412, 300, 6, 6], {})]
    truth = ground_truth_arrays(truth_of(dense + pair, images=1))
    boxes = detection_arrays(found(*((10, SHIP, box, 0.9) for _, _, box, _ in dense + pair)))
    alike, fewer = judge("a", truth, boxes, 0.5), judge("b", truth, detection_arrays(found(
        *((10, SHIP, box, 0.9) for _, _, box, _ in dense))), 0.5)

    def centre_is_in(box, place):
        return all(low <= c < low + place[2] for c, low in zip((box[0] + 3, box[1] + 3), place, strict=False))

    first, second = regions(outcome(truth, [alike, fewer], 0), 600, 450, most=2)
    assert first[2] == second[2] == 72                                            # twelve times 6 px
    assert all(centre_is_in(box, first) for _, _, box, _ in pair) and all(centre_is_in(box, second) for _, _, box, _ in dense)
    assert centre_is_in(dense[0][2], regions(outcome(truth, [alike, alike], 0), 600, 450, most=1)[0])
    for x, y, side in regions(outcome(truth, [alike, fewer], 0), 460, 310, most=5):
        assert 0 <= x <= 460 - side and 0 <= y <= 310 - side


def test_lines_lie_around_a_box_and_boxes_out_of_the_view_are_left_out():
    canvas = draw_layers(np.zeros((30, 40, 3), np.uint8), [Layer(np.array([[105.0, 53.0, 107, 55], [0, 0, 9, 9]]), HIT)], 5.0,
                         (100, 50), thickness=2)
    drawn = (canvas == HIT).all(2)
    expected = np.zeros_like(drawn)
    expected[13:27, 23:37] = True           # 25..35 and 15..25, two pixels further out,
    expected[15:25, 25:35] = False          # and nothing within
    assert np.array_equal(drawn, expected)


def test_images_are_named_in_full_or_in_part_and_unknown_ones_are_refused(files):
    one = files.detections("one.json", FIRST)
    assert files.compare("--detections", one, "--only", "3", "a/3.png", "1.png") == 0       # one twice, and another
    assert len(list((files.folder / "out/outcomes").rglob("*.png"))) == 2
    with pytest.raises(InputError, match=r"--only: none of the 3 images is called 4.png. Did you mean .*\.png"):
        files.compare("--detections", one, "--only", "4.png")
    files.content["images"][1]["file_name"] = "b/1.png"
    files = Files(files.folder, files.content)
    with pytest.raises(InputError, match="1.png could be a/1.png or b/1.png"):
        files.compare("--detections", one, "--only", "1.png")
    assert files.compare("--detections", one, "--only", "a/1.png") == 0


def test_tools_have_names_of_their_own(files, capsys, monkeypatch):
    """After the folder of a file that any tool may have written, of equal names the second gets a number, or as asked for."""
    paths = [files.detections(name, SECOND) for name in ("x/detections.json", "y.json", "z/y.json")]
    assert files.compare("--detections", *paths, "--only", "1") == 0
    assert [tool for _, tool in rows(capsys.readouterr().out)] == ["x", "y", "y 2"]
    assert files.compare("--detections", *paths, "--names", "Faster R-CNN", "YOLO11m", "ours", "--only", "1") == 0
    assert [tool for _, tool in rows(capsys.readouterr().out)] == ["Faster R-CNN", "YOLO11m", "ours"]
    monkeypatch.setattr(sheet, "HAS_OUTLINES", False)
    assert files.compare("--detections", paths[0], "--names", "检测", "--only", "1") == 0
    assert [tool for _, tool in rows(capsys.readouterr().out)] == ["tool 1"]
    with pytest.raises(InputError, match="--names: 1 for 3 tools"):
        files.compare("--detections", *paths, "--names", "one")


def test_classes_of_one_image_that_would_share_a_colour_do_not():
    assert comparison_sheet._tints([1, 13, 2]) == {1: COLOURS[1], 13: COLOURS[0], 2: COLOURS[2]}
    tints = comparison_sheet._tints(list(range(15)))
    assert len(set(tints.values())) == len(COLOURS)


def test_a_checkpoint_counts_as_the_file_of_its_detections_does(trained, tmp_path, capsys):
    best, root = str(trained.folder / "run/best.pt"), trained.data.root
    assert test_script.main(["--checkpoint", best, "--output", str(tmp_path / "test"), "eval.conf=0.01"]) == 0
    both = ["--detections", str(tmp_path / "test/detections.json"), "--checkpoint", best, "--names", "file", "model"]
    both += ["--conf", "0.01"]
    capsys.readouterr()
    for where in (["--split", "test"], ["--ground-truth", str(root / "train.json"), "--images", str(root / "images")]):
        for chosen in (["--number", "2"], ["--only", "003.png", "004.png"]):
            assert main([*both, "train.workers=0", *where, *chosen, "--output", str(tmp_path / "out")]) == 0
            printed = rows(capsys.readouterr().out)
            assert len(printed) == (6 if chosen[0] == "--number" else 4)
            for image, tool in printed:
                assert printed[image, tool] == printed[image, "file"]
            assert sum(map(sum, printed.values())) > 0


def test_a_checkpoint_sees_large_images_in_tiles_as_in_test(trained, tmp_path, capsys):
    best, tiles = str(trained.folder / "run/best.pt"), ["--tile", "64", "--overlap", "16"]      # of images of 96 x 64
    assert test_script.main(["--checkpoint", best, "--output", str(tmp_path / "test"), *tiles, "eval.conf=0.001"]) == 0
    arguments = ["--detections", str(tmp_path / "test/detections.json"), "--checkpoint", best, "--names", "file", "model",
                 "--conf", "0.001", "--output", str(tmp_path / "out"), "train.workers=0"]
    capsys.readouterr()
    for chosen, lines in ((["--number", "2"], 6), (["--only", "003.png", "004.png"], 4)):
        assert main([*arguments, *chosen, *tiles]) == 0
        cut = rows(capsys.readouterr().out)
        assert len(cut) == lines and all(cut[image, tool] == cut[image, "file"] for image, tool in cut)
        assert main([*arguments, *chosen]) == 0
        whole = rows(capsys.readouterr().out)
        assert chosen[0] == "--only" or whole["all", "model"] != whole["all", "file"]


def test_a_voc_list_serves_as_the_split_of_a_checkpoint(trained, tiny_voc, tmp_path, capsys):
    settings = [f"data.root={tiny_voc.root}", "data.test=ImageSets/Main/test.txt", "data.images=JPEGImages"]
    arguments = ["--checkpoint", str(trained.folder / "run/best.pt"), *settings, "--names", "run", "--output",
                 str(tmp_path / "out")]
    assert main(arguments) == 0
    printed = rows(capsys.readouterr().out)
    objects = sum(len(tiny_voc.objects(k)) for k in tiny_voc.SPLITS["test"])
    hit, missed, _ = printed["all", "run"]
    assert hit + missed == objects
    assert sorted(p.name for p in (tmp_path / "out/outcomes").iterdir()) == ["010.png", "011.png"]


def test_a_checkpoint_of_other_classes_is_refused(trained, files):
    with pytest.raises(InputError, match="knows alpha, beta, gamma, of which the ground truth names none .it has ship, car"):
        files.compare("--checkpoint", str(trained.folder / "run/best.pt"))


@pytest.mark.parametrize("wrong", ["absent", "text", "classes"])
def test_all_checkpoints_are_looked_at_before_the_first_detects(trained, tmp_path, monkeypatch, wrong):
    best, other = trained.folder / "run/best.pt", tmp_path / f"{wrong}.pt"
    if wrong == "text":
        other.write_text("no checkpoint")
    if wrong == "classes":
        content = checkpoint.load(best)
        checkpoint.save(other, {**content, "class_names": ["x", "y", "z"]})
    monkeypatch.setattr(compare, "predict_source", None)               # no detection begins
    with pytest.raises(InputError, match=f"{wrong}.pt: "):
        main(["--checkpoint", str(best), str(other), "--split", "test", "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_gpu_without_memory_is_one_line(trained, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")

    monkeypatch.setattr(compare, "predict_source", fail)
    with pytest.raises(InputError, match="^eval.batch_size: .* images of 64 px do not fit"):
        main(["--checkpoint", str(trained.folder / "run/best.pt"), "--output", str(tmp_path / "out")])


def test_classes_that_only_one_side_knows_are_named(trained, tmp_path, capsys):
    """A name spelt otherwise would make all its objects missed, and nothing would tell."""
    root, best = trained.data.root, str(trained.folder / "run/best.pt")
    truth = json.loads((root / "train.json").read_text())
    arguments = ["--images", str(root / "images"), "--checkpoint", best, "--only", "000.png", "--output", str(tmp_path / "out")]
    assert main(["--ground-truth", str(root / "train.json"), *arguments]) == 0
    assert best not in capsys.readouterr().out
    truth["categories"][1]["name"] = "Beta"
    truth["categories"] += [{"id": 100 + k, "name": f"more{k}"} for k in range(9)]
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    assert main(["--ground-truth", str(tmp_path / "gt.json"), *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"{best}: does not know Beta, {', '.join(f'more{k}' for k in range(7))} and 2 more; their objects count as " \
           "missed" in lines
    assert f"{best}: knows beta too, which the ground truth does not name; these detections are left out" in lines
