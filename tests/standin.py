"""A stand-in for rasterio where it is not installed: the part of its documented API that data/raster.py uses.

Files are what OpenCV writes; their place on earth is in NAME.json beside them: {"crs": ..., "transform": [a, b, c, d, e, f]}.
"""
import contextlib
import enum
import json
import math
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest

RADIUS = 6_378_137.0        # of the sphere of EPSG:3857, metres


class Transform(tuple):
    """Nine numbers, as affine.Affine."""

    is_identity = property(lambda self: tuple(self)[:6] == (1, 0, 0, 0, 1, 0))


class Crs(str):
    def to_string(self) -> str:
        return str(self)


class Dataset:
    """What rasterio.open returns."""

    def __init__(self, path: str, driver: str):
        pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None or driver != {".tif": "GTiff", ".png": "PNG", ".jpg": "JPEG"}[Path(path).suffix]:
            raise OSError(f"{path}: not recognized")
        self.planes = pixels[None] if pixels.ndim == 2 else pixels[..., [2, 1, 0, 3][: pixels.shape[2]]].transpose(2, 0, 1)
        self.count, self.height, self.width = self.planes.shape
        self.dtypes = (str(self.planes.dtype),) * self.count
        self.colorinterp = (types.SimpleNamespace(name="gray" if self.count == 1 else "red"),)      # of the first band
        beside = Path(f"{path}.json")
        place = json.loads(beside.read_text()) if beside.exists() else {"crs": None, "transform": [1, 0, 0, 0, 1, 0]}
        self.crs = place["crs"] and Crs(place["crs"])
        self.transform = Transform((*place["transform"], 0, 0, 1))

    def __enter__(self) -> "Dataset":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        pass

    def tags(self) -> dict:
        return {}

    def read(self, indexes: list[int], out_shape: tuple, window: tuple | None = None, resampling: object = None) -> np.ndarray:
        (top, bottom), (left, right) = window or ((0, self.height), (0, self.width))
        planes = self.planes[[k - 1 for k in indexes], top:bottom, left:right]
        if planes.shape[1:] != tuple(out_shape[1:]):
            planes = np.stack([cv2.resize(p, out_shape[:0:-1], interpolation=cv2.INTER_AREA) for p in planes])
        return planes


def transform(source: str, target: str, xs: list[float], ys: list[float]) -> tuple[list[float], list[float]]:
    """From spherical Mercator to longitude and latitude; of UTM only what is out of reach is told as GDAL does."""
    assert source in ("EPSG:3857", "EPSG:32632") and target == "EPSG:4326"
    if any(abs(x) > 1e9 for x in xs):
        raise Exception("Point outside of projection domain")
    return ([math.degrees(x / RADIUS) for x in xs],
            [math.degrees(2 * math.atan(math.exp(y / RADIUS)) - math.pi / 2) for y in ys])


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `import rasterio` find the stand-in."""
    rasterio, warp, enums = (types.ModuleType(name) for name in ("rasterio", "rasterio.warp", "rasterio.enums"))
    rasterio.open = lambda path, driver: Dataset(path, driver)
    rasterio.Env = lambda **_: contextlib.nullcontext()
    warp.transform = transform
    enums.Resampling = enum.Enum("Resampling", "average")
    rasterio.warp, rasterio.enums = warp, enums
    for module in (rasterio, warp, enums):
        monkeypatch.setitem(sys.modules, module.__name__, module)
