"""From an image of any size to its objects: tiles in batches, the files that are written, and the picture."""
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

import predict
import test as test_script
from data import Batch
from data.coco import load_coco
from data.raster import Georeference, Scene
from data.tiling import Tiling
from engine import checkpoint, geojson, scenes
from engine.config import EvalConfig
from engine.overview import crowded_places, draw_scene
from engine.postprocess import Detections
from engine.scenes import cut, detect_large, detect_tiled
from errors import InputError
from tests import standin

COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200))         # RGB


class Finder:
    """A detector that finds rectangles by their colour, and of cut ones the part inside."""

    def __init__(self) -> None:
        self.batches = []

    def __call__(self, batch: Batch) -> tuple[list[Detections], int]:
        self.batches.append(tuple(batch.images.shape))
        found = []
        for planes, meta in zip(batch.images.numpy(), batch.meta, strict=True):
            assert (planes[:, meta.height :] == 114).all() and (planes[:, :, meta.width :] == 114).all()
            boxes, labels = [], []
            for label, colour in enumerate(COLOURS):
                mask = (planes == np.array(colour)[:, None, None]).all(0).astype(np.uint8)
                count, _, stats, _ = cv2.connectedComponentsWithStats(mask)
                boxes += [(x, y, x + w, y + h) for x, y, w, h, _ in stats[1:count].tolist()]
                labels += [label] * (count - 1)
            found.append(Detections(torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4), torch.full((len(boxes),), 0.5),
                                    torch.tensor(labels, dtype=torch.int64)))
        return found, 0


def painted(width: int, height: int, count: int, largest: int, seed: int = 0) -> tuple[np.ndarray, list[tuple]]:
    """A BGR picture with rectangles that do not touch, and these."""
    rng = np.random.default_rng(seed)
    picture, taken, truth = np.full((height, width, 3), 90, np.uint8), np.zeros((height, width), bool), []
    for _ in range(count):
        w, h = (int(v) for v in rng.integers(2, largest, 2))
        x, y, label = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1)), int(rng.integers(3))
        if not taken[y : y + h, x : x + w].any():
            picture[y : y + h, x : x + w] = COLOURS[label][::-1]
            taken[max(y - 3, 0) : y + h + 3, max(x - 3, 0) : x + w + 3] = True
            truth.append((x, y, x + w, y + h, label))
    return picture, sorted(truth)


@pytest.mark.parametrize(("size", "tile", "overlap"), [((700, 500), 128, 32), ((333, 901), 100, 50), ((50, 400), 128, 40)])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_each_painted_rectangle_is_found_once(size: tuple[int, int], tile: int, overlap: int, batch_size: int) -> None:
    picture, truth = painted(*size, count=150, largest=45)
    look, done = Finder(), []
    (boxes, scores, labels), capped = detect_tiled(look, Scene(picture), Tiling(tile, overlap), batch_size, 0.7, done.append)
    assert sorted((*b, k) for b, k in zip(boxes.tolist(), labels.tolist(), strict=True)) == truth
    assert len(truth) > 15 and (scores == 0.5).all() and capped == 0
    tiles = len(Tiling(tile, overlap).grid(*size))
    assert sum(done) == sum(shape[0] for shape in look.batches) == tiles
    assert {shape[0] for shape in look.batches[:-1]} <= {batch_size}                # full ones, across the rows of tiles
    assert len({shape[1:] for shape in look.batches}) == 1 and all(side % 32 == 0 for side in look.batches[0][2:])


def test_a_scene_gives_what_its_parts_give_alone() -> None:
    """Pictures pasted side by side, whose seams the tiles' borders cross anywhere."""
    scene, alone = np.full((480, 630, 3), 90, np.uint8), []
    for k in range(12):
        x, y = 160 * (k % 4), 160 * (k // 4)
        part = np.full((160, 150, 3), 90, np.uint8)
        part[5:155, 5:145] = painted(140, 150, 60, largest=40, seed=k)[0]
        scene[y : y + 160, x : x + 150] = part
        (boxes, _, labels), _ = detect_tiled(Finder(), Scene(part), Tiling(160, 40), 1, 0.7, int)
        alone += [(*(b + (x, y, x, y)).tolist(), label) for b, label in zip(boxes, labels.tolist(), strict=True)]
    (boxes, _, labels), _ = detect_tiled(Finder(), Scene(scene), Tiling(128, 40), 8, 0.7, int)
    assert sorted((*b, k) for b, k in zip(boxes.tolist(), labels.tolist(), strict=True)) == sorted(alone)
    assert len(alone) > 150


def test_tiles_are_pieces_of_the_image_at_its_own_scale() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (150, 333, 3), dtype=np.uint8)
    tiles = list(cut(Scene(picture), Tiling(100, 30).grid(333, 150)))
    assert [(n, x, y) for n, x, y, _ in tiles][:6] == [(0, 0, 0), (1, 70, 0), (2, 140, 0), (3, 210, 0), (4, 233, 0), (5, 0, 50)]
    for _, x, y, planes in tiles:
        assert planes.shape == (3, 128, 128)
        assert np.array_equal(planes[:, :100, :100], picture[y : y + 100, x : x + 100, ::-1].transpose(2, 0, 1))


def test_geojson_holds_the_outlines_in_degrees_and_the_boxes_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    standin.install(monkeypatch)
    boxes, scores, labels = np.array([[10.0, 20, 30, 25], [0, 0, 1, 1]]), np.array([0.5, 0.25]), np.array([1, 0])
    for up in (-0.5, 0.5):          # the second image lies upside down on the map
        place = Georeference("EPSG:3857", (0.5, 0.0, 1000.0, 0.0, up, 2000.0))
        texts, lost = geojson.features("a.tif", place, boxes, scores, labels, ["ship", "tank"])
        content = json.loads(geojson.collection(texts))
        assert content["type"] == "FeatureCollection" and len(content["features"]) == 2 and lost == 0
        first = content["features"][0]
        assert first["properties"] == {"image": "a.tif", "class": "tank", "score": 0.5, "bbox": [10, 20, 20, 5],
                                       "crs": "EPSG:3857", "crs_bounds": [1005, min(2000 + up * y for y in (20, 25)), 1015,
                                                                          max(2000 + up * y for y in (20, 25))]}
        (ring,) = first["geometry"]["coordinates"]
        assert len(ring) == 5 and ring[0] == ring[-1]
        area = sum(ring[k][0] * ring[k + 1][1] - ring[k + 1][0] * ring[k][1] for k in range(4)) / 2
        degree = 180 / np.pi / standin.RADIUS
        assert area == pytest.approx(10 * 2.5 * degree**2, rel=1e-3)                # above 0: anticlockwise
    monkeypatch.setattr(Georeference, "degrees", lambda self, points: np.full(points.shape, np.inf))
    assert geojson.features("a.tif", place, boxes, scores, labels, ["ship", "tank"]) == ([], 2)


def test_the_picture_of_a_large_scene_is_bounded_and_shows_the_crowded_places() -> None:
    picture, truth = painted(6100, 4500, count=300, largest=30)
    boxes = np.array([row[:4] for row in truth], dtype=np.float64)
    drawn = draw_scene(Scene(picture), boxes, np.ones(len(boxes)), np.array([row[4] for row in truth]), ["a", "b", "c"])
    assert drawn.shape[1] <= 3100 and drawn.shape[0] <= 3500
    small = draw_scene(Scene(picture[:300, :400]), boxes[:0], np.zeros(0), np.zeros(0, int), ["a"])
    assert small.shape[:2] == (600 + 22, 800)                   # as ever: enlarged twice, with a legend
    places = crowded_places(2500, 1100, np.array([[2400.0, 1050, 2410, 1060]] * 3 + [[5, 5, 9, 9]]))
    assert places == [(2000, 1000, 500, 100), (0, 0, 1000, 1000)]


def folder_of_scenes(folder: Path) -> Path:
    folder.mkdir()
    for name, (width, height) in {"large.png": (300, 170), "small.png": (64, 60)}.items():
        cv2.imwrite(str(folder / name), painted(width, height, 30, 14)[0])
    return folder


def test_predict_in_tiles(trained: object, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source, best = folder_of_scenes(tmp_path / "in"), str(trained.folder / "run/best.pt")
    arguments = ["--checkpoint", best, "--source", str(source), "--conf", "0.0005"]
    assert predict.main([*arguments, "--output", str(tmp_path / "whole")]) == 0
    assert predict.main([*arguments, "--output", str(tmp_path / "tiled"), "--tile", "64", "--overlap", "16"]) == 0
    assert predict.main([*arguments, "--output", str(tmp_path / "quarter"), "--tile", "64", "eval.batch_size=3"]) == 0
    whole, tiled, quarter = (json.loads((tmp_path / name / "detections.json").read_text()) for name in
                             ("whole", "tiled", "quarter"))
    assert whole["images"] == tiled["images"] and whole["categories"] == tiled["categories"]

    def of(content: dict, image: int) -> list:
        return [(a["category_id"], a["score"], *a["bbox"]) for a in content["annotations"] if a["image_id"] == image]

    assert of(tiled, 2) == of(whole, 2) != []                   # no larger than a tile: as without --tile
    assert of(tiled, 1) != of(whole, 1)
    np.testing.assert_allclose(of(quarter, 1), of(tiled, 1), atol=1e-3)             # the default, in other batches
    assert max(x + w for _, _, x, _, w, _ in of(tiled, 1)) > 250                    # over all of the image
    assert all(x >= 0 and y >= 0 and x + w <= 300 and y + h <= 170 for _, _, x, y, w, h in of(tiled, 1))
    assert cv2.imread(str(tmp_path / "tiled/pictures/large.png")) is not None
    assert not (tmp_path / "tiled/detections.geojson").exists()


def test_predict_writes_geojson_where_images_lie_on_earth(
    trained: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    source, best = tmp_path / "in", str(trained.folder / "run/best.pt")
    source.mkdir()
    for name in ("a.tif", "b.tif"):
        cv2.imwrite(str(source / name), painted(150, 100, 30, 14)[0])
    (source / "a.tif.json").write_text(json.dumps({"crs": "EPSG:3857", "transform": [0.5, 0, 1e6, 0, -0.5, 6e6]}))
    arguments = ["--checkpoint", best, "--source", str(source), "--tile", "64", "--output", str(tmp_path / "out"),
                 "eval.conf=0"]
    monkeypatch.setitem(sys.modules, "rasterio", None)
    assert predict.main(arguments) == 0
    assert "pip install rasterio" in capsys.readouterr().out
    standin.install(monkeypatch)
    assert predict.main(arguments) == 0
    assert "detections.geojson" in capsys.readouterr().out
    found = json.loads((tmp_path / "out/detections.geojson").read_text())["features"]
    plain = json.loads((tmp_path / "out/detections.json").read_text())
    mine = [a for a in plain["annotations"] if a["image_id"] == 1]
    assert len(found) == len(mine) > 0 and {f["properties"]["image"] for f in found} == {"a.tif"}
    assert [f["properties"]["bbox"] for f in found] == [a["bbox"] for a in mine]
    (source / "a.tif.json").unlink()
    assert predict.main(arguments) == 0
    assert not (tmp_path / "out/detections.geojson").exists()   # it would tell of the run before


def test_test_scores_what_predict_finds_in_tiles(trained: object, tmp_path: Path) -> None:
    """Images of 96 x 64 px in tiles of 64 px; and in tiles that are larger than they are, as without any."""
    common = ["--checkpoint", str(trained.folder / "run/best.pt"), "eval.conf=0.001", "eval.batch_size=5", "train.workers=0"]
    for name, tiles in (("whole", []), ("tiled", ["--tile", "64", "--overlap", "16"]), ("large", ["--tile", "96"])):
        assert test_script.main([*common, "--output", str(tmp_path / name), *tiles]) == 0
    whole, tiled, large = (json.loads((tmp_path / f"{name}/detections.json").read_text()) for name in
                           ("whole", "tiled", "large"))
    assert whole == large != tiled
    assert predict.main([*common, "--source", str(trained.data.images), "--output", str(tmp_path / "predict"),
                         "--tile", "64", "--overlap", "16"]) == 0
    found = json.loads((tmp_path / "predict/detections.json").read_text())
    assert len(tiled) == len(found["annotations"]) > 50
    for image in found["images"]:
        own = 100 + int(image["file_name"][:3])                 # its id in the annotations
        theirs = [a["bbox"] for a in found["annotations"] if a["image_id"] == image["id"]]
        ours = [d["bbox"] for d in tiled if d["image_id"] == own]
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_ranks_share_the_large_images(trained: object) -> None:
    """Whatever their number: every image once, with the same detections."""
    model, content = checkpoint.load_for_inference(trained.folder / "run/best.pt")
    source = load_coco(trained.data.root / "train.json", trained.data.images, classes=tuple(content["class_names"]),
                       key="data.test", training=False)

    def found(world_size: int) -> dict:
        """Number of detections and the sum of their boxes, by image."""
        each = {}
        for rank in range(world_size):
            ranks = SimpleNamespace(rank=rank, world_size=world_size, device=torch.device("cpu"), is_main=rank == 0)
            for image in detect_large(model, source, list(range(1, 12)), Tiling(64, 16), EvalConfig(), ranks, "test"):
                assert image.image_id not in each
                each[image.image_id] = len(image.boxes), image.boxes.sum(), image.is_capped
        return each

    assert found(1) == found(3) and set(found(1)) == set(range(101, 112))


def test_a_gpu_without_memory_for_the_tiles_is_one_line_that_names_their_size(
    trained: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")

    monkeypatch.setattr(scenes, "detect", fail)
    with pytest.raises(InputError, match="^eval.batch_size: 16 images of 64 px do not fit.*Lower eval.batch_size.$"):
        predict.main(["--checkpoint", str(trained.folder / "run/best.pt"), "--source", str(trained.data.images), "--tile", "64",
                      "--output", str(tmp_path)])
    with pytest.raises(InputError, match="^train.image_size: an image of 64 px does not fit.*Lower train.image_size"):
        predict.main(["--checkpoint", str(trained.folder / "run/best.pt"), "--source", str(trained.data.images),
                      "--output", str(tmp_path)])
