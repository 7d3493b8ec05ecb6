"""Large images by their rows are the same pixels as whole ones, and lie where they say; with rasterio, and with a stand-in."""
import json
import math
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from data import raster
from data.raster import Georeference, RowScene, open_scene, read_georeference
from errors import InputError
from tests import standin

Write = Callable[[Path, np.ndarray], Path]
PLACE = [0.6, 0, 1_289_000.5, 0, -0.6, 6_130_200.25]        # metres of EPSG:3857, somewhere in Munich


@pytest.fixture(params=["rasterio", "stand-in"])
def write(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write planes (C, H, W) as a GeoTIFF at PLACE."""
    if request.param == "stand-in":
        standin.install(monkeypatch)

        def write(path: Path, planes: np.ndarray, **_: object) -> Path:
            order = [2, 1, 0, 3][: len(planes)] if len(planes) > 1 else [0]
            cv2.imwrite(str(path), planes[order].transpose(1, 2, 0))
            Path(f"{path}.json").write_text(json.dumps({"crs": "EPSG:3857", "transform": PLACE}))
            return path
    else:
        rasterio = pytest.importorskip("rasterio")

        def write(path: Path, planes: np.ndarray, **how: object) -> Path:
            shape = dict(zip(("count", "height", "width"), planes.shape, strict=True))
            with rasterio.open(path, "w", driver="GTiff", dtype=planes.dtype, crs="EPSG:3857", **shape,
                               transform=rasterio.Affine(*PLACE), **{"photometric": "RGB"} | how) as file:
                file.write(planes)
            return path
    return write


@pytest.mark.parametrize("kind", ["colour", "16 bits", "grey"])
def test_rows_are_those_of_the_whole_image(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    planes = np.random.default_rng(0).integers(0, 256, (3, 90, 70)).astype(np.uint8)
    expected, how = planes[::-1].transpose(1, 2, 0), {}
    if kind == "grey":
        planes, how = planes[:1], {"photometric": "MINISBLACK"}
        expected = np.repeat(planes[0][..., None], 3, 2)
    path = write(tmp_path / "scene.tif", planes.astype(np.uint16) * 257 if kind == "16 bits" else planes, **how)
    with open_scene(path) as whole:
        assert not isinstance(whole, RowScene) and np.array_equal(whole.rows(0, 90), expected)
    monkeypatch.setattr(raster, "WHOLE", 1000)
    with open_scene(path) as scene:
        assert isinstance(scene, RowScene) and (scene.width, scene.height) == (70, 90)
        read = []
        monkeypatch.setattr(scene, "piece", lambda *a, piece=scene.piece: read.append(a) or piece(*a))
        for start, stop in ((0, 40), (30, 70), (50, 90), (85, 90), (0, 20)):
            assert np.array_equal(scene.rows(start, stop), expected[start:stop])
        assert [(y, h) for _, y, _, h in read] == [(0, 40), (40, 30), (70, 20), (0, 20)]      # each row once
    with open_scene(path) as scene:
        assert np.array_equal(scene.piece(10, 20, 30, 40), expected[20:60, 10:40])
        small = scene.reduced(35, 45)
    assert np.abs(small.astype(float) - whole.reduced(35, 45)).max() <= 1 and small.shape == (45, 35, 3)


def test_gdal_keeps_256_mib_of_blocks_while_a_scene_is_read(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rasterio, held = sys.modules["rasterio"], []

    @contextmanager
    def env(original: object = rasterio.Env, **options: int) -> Iterator[None]:
        held.append(options)
        with original(**options):
            yield
        held.pop()

    monkeypatch.setattr(rasterio, "Env", env)
    monkeypatch.setattr(raster, "WHOLE", 1000)
    with open_scene(write(tmp_path / "scene.tif", np.zeros((3, 90, 70), np.uint8))) as scene:
        scene.rows(0, 90)
        assert held == [{"GDAL_CACHEMAX": 268_435_456}]         # GDAL takes what is below 100,000 for MB, rasterio bytes
        if hasattr(rasterio, "_env"):                           # what GDAL itself says; the stand-in has none
            assert rasterio._env.get_gdal_config("GDAL_CACHEMAX") == 268_435_456
    assert not held


def test_the_place_on_earth(write: Write, tmp_path: Path) -> None:
    """Web Mercator is a sphere's, so that a line of arithmetic undoes it."""
    path = write(tmp_path / "scene.tif", np.zeros((3, 64, 64), np.uint8))
    place = read_georeference(path)
    points = np.array([[0.0, 0], [64, 64], [10.5, 3]])
    x, y = 1_289_000.5 + 0.6 * points[:, 0], 6_130_200.25 - 0.6 * points[:, 1]
    assert place.crs == "EPSG:3857" and np.allclose(place.coordinates(points), np.stack((x, y), 1), rtol=0, atol=1e-6)
    latitude = [math.degrees(2 * math.atan(math.exp(v / 6_378_137)) - math.pi / 2) for v in y]
    expected = np.stack((np.degrees(x / 6_378_137), latitude), 1)
    assert np.allclose(place.degrees(points), expected, rtol=0, atol=1e-9)
    assert place.degrees(np.zeros((0, 2))).shape == (0, 2)


@pytest.mark.usefixtures("write")
def test_a_point_that_is_nowhere_on_earth_costs_the_others_nothing() -> None:
    """GDAL refuses all points of a call for one that its projection does not reach."""
    place = Georeference("EPSG:32632", (1, 0, 500_000, 0, -1, 5_400_000))
    points = np.array([[0.0, 0], [1e12, 0], [10, 10], [20, 0], [-1e12, 5]])
    assert np.isfinite(place.degrees(points)).all(1).tolist() == [True, False, True, True, False]


def test_an_image_without_a_place_and_files_that_rasterio_shall_not_open(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cv2.imwrite(str(tmp_path / "plain.png"), np.zeros((40, 50, 3), np.uint8))
    assert read_georeference(tmp_path / "plain.png") is None and read_georeference(tmp_path / "absent.tif") is None
    # A GDAL dataset may name other files, or addresses. One that is called an image stays closed.
    (tmp_path / "virtual.tif").write_text(
        '<VRTDataset rasterXSize="50" rasterYSize="40"><VRTRasterBand dataType="Byte" band="1"><SimpleSource><SourceFilename>'
        f"{tmp_path / 'plain.png'}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>")
    monkeypatch.setattr(raster, "WHOLE", 10)
    assert read_georeference(tmp_path / "virtual.tif") is None
    with pytest.raises(InputError, match=r"virtual.tif: cannot be decoded"):
        open_scene(tmp_path / "virtual.tif")


def test_bands_that_are_no_picture_and_a_file_cut_short(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(raster, "WHOLE", 1000)
    path = write(tmp_path / "floats.tif", np.zeros((1, 90, 70), np.float32), photometric="MINISBLACK")
    with pytest.raises(InputError, match=r"floats.tif: has 1 band\(s\) of float32.*gdal_translate"):
        open_scene(path)
    if "rasterio" in request.node.callspec.id:          # the stand-in writes no such files
        path = write(tmp_path / "palette.tif", np.zeros((1, 90, 70), np.uint8), photometric="PALETTE")
        with pytest.raises(InputError, match=r"palette.tif: has a palette.*-expand rgb"):
            open_scene(path)
        path = write(tmp_path / "cut.tif", np.random.default_rng(0).integers(0, 256, (3, 90, 70)).astype(np.uint8))
        path.write_bytes(path.read_bytes()[:9000])
        with open_scene(path) as scene, pytest.raises(InputError, match=r"cut.tif: cannot be decoded, or is cut short"):
            scene.rows(0, 90)


def test_without_rasterio_one_line_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PNG of 40,000 x 40,000 px, more than OpenCV's 2^30, of which only the header is there."""
    monkeypatch.setitem(sys.modules, "rasterio", None)          # so that `import rasterio` fails
    content = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    header = content[12:16] + (40_000).to_bytes(4, "big") * 2 + content[24:29]
    path = tmp_path / "huge.png"
    path.write_bytes(content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:])
    with pytest.raises(InputError, match=r"huge.png: has more pixels than OpenCV takes.*--tile.*pip install rasterio.*$"):
        open_scene(path)
    assert read_georeference(path) is None
