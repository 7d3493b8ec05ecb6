"""Images that are too large for memory or for OpenCV, by their rows; and where on earth an image lies.

Both need rasterio, which is optional (`pip install rasterio`). Without it images are decoded whole, up to OpenCV's 2^30 pixels.
"""
import warnings
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import cv2
import numpy as np

from data.pixels import read_image
from errors import InputError

WHOLE = 1 << 27         # pixels up to which an image is decoded whole, 400 MB; larger ones only where rasterio is missing
CACHE = 256 << 20       # bytes of decoded blocks that GDAL keeps; its default is a share of the machine's memory
# By content, not by name: a file of another format may tell GDAL to open further files, or addresses on the net.
FORMATS = {b"II*\0": "GTiff", b"MM\0*": "GTiff", b"II+\0": "GTiff", b"MM\0+": "GTiff", b"\x89PNG": "PNG",
           b"\xff\xd8\xff": "JPEG"}


class Scene:
    """An image in memory.

    Attributes:
        width, height: in pixels.
    """

    def __init__(self, pixels: np.ndarray):
        self.pixels = pixels
        self.height, self.width = pixels.shape[:2]

    def __enter__(self) -> "Scene":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def rows(self, start: int, stop: int) -> np.ndarray:
        """(stop - start, width, 3) uint8 BGR. Call after call start must not decrease: then each row is decoded once."""
        return self.pixels[start:stop]

    def piece(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """(height, width, 3) uint8 BGR from a corner on."""
        return self.pixels[y : y + height, x : x + width]

    def reduced(self, width: int, height: int) -> np.ndarray:
        """The whole image as (height, width, 3) uint8 BGR, averaged; no larger than it is."""
        return cv2.resize(self.pixels, (width, height), interpolation=cv2.INTER_AREA)


class RowScene(Scene):
    """An image on disk of which a few rows are in memory.

    Args:
        dataset: open; is closed at the end of the context.
    Raises:
        InputError: the pixels are no grey or colour of 8 or 16 bits.
    """

    def __init__(self, dataset: object, path: Path):
        self.dataset, self.path, self.stack = dataset, path, ExitStack()
        self.width, self.height = dataset.width, dataset.height
        self.start, self.kept = 0, np.zeros((0, self.width, 3), np.uint8)
        self.channels = [1, 2, 3] if dataset.count in (3, 4) else [1]
        kinds = set(dataset.dtypes)
        if dataset.count > 4 or not kinds <= {"uint8", "uint16"}:
            raise InputError(f"{path}: has {dataset.count} band(s) of {', '.join(sorted(kinds))}. Make three of 8 bits, as by "
                             "gdal_translate -ot Byte -scale -b 3 -b 2 -b 1.")
        if dataset.tags().get("EXIF_Orientation", "1") != "1":
            raise InputError(f"{path}: its Exif data turn it, which cannot be followed in so large an image. Turn its pixels.")
        if dataset.colorinterp[0].name == "palette":
            raise InputError(f"{path}: has a palette. Make three bands of it, as by gdal_translate -expand rgb.")

    def __enter__(self) -> "RowScene":
        import rasterio

        self.stack.enter_context(rasterio.Env(GDAL_CACHEMAX=CACHE))         # holds until it is left: around all that is read
        self.stack.enter_context(self.dataset)
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def rows(self, start: int, stop: int) -> np.ndarray:
        if not self.start <= start <= self.start + len(self.kept):
            self.start, self.kept = start, self.kept[:0]
        rows = self.kept[start - self.start : stop - self.start]
        missing = stop - start - len(rows)
        if missing:
            fresh = self.piece(0, stop - missing, self.width, missing)
            rows = np.concatenate((rows, fresh)) if len(rows) else fresh
        self.start, self.kept = start, rows
        return rows

    def piece(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        return self._read((height, width), window=((y, y + height), (x, x + width)))

    def reduced(self, width: int, height: int) -> np.ndarray:
        from rasterio.enums import Resampling

        return self._read((height, width), resampling=Resampling.average)

    def _read(self, shape: tuple[int, int], **how: object) -> np.ndarray:
        try:
            planes = self.dataset.read(self.channels, out_shape=(len(self.channels), *shape), **how)
        except OSError:         # of which RasterioIOError is one
            raise InputError(f"{self.path}: cannot be decoded, or is cut short. Replace the file.") from None
        if planes.dtype != np.uint8:
            planes = (planes >> 8).astype(np.uint8)         # as read_image
        return cv2.merge([planes[-1], planes[len(planes) // 2], planes[0]])


class Georeference(NamedTuple):
    """Where on earth an image lies."""

    crs: str                                                # the image's coordinate reference system: EPSG:32632, or WKT
    matrix: tuple[float, float, float, float, float, float]

    def coordinates(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 2), xy in pixels, in the image's coordinate reference system."""
        a, b, c, d, e, f = self.matrix
        return points @ np.array(((a, d), (b, e))) + (c, f)

    def degrees(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 2), xy in pixels, as longitude and latitude of WGS 84; not finite where the earth has no such point."""
        from rasterio.warp import transform

        x, y = self.coordinates(points).T
        try:
            return np.array(transform(self.crs, "EPSG:4326", x.tolist(), y.tolist()), np.float64).reshape(2, -1).T
        except Exception:           # GDAL's errors have no public class; one point off the projection fails them all
            if len(points) == 1:
                return np.full((1, 2), np.nan)
            half = len(points) // 2
            return np.concatenate((self.degrees(points[:half]), self.degrees(points[half:])))


def rasterio_or_none() -> ModuleType | None:
    """The optional package."""
    try:
        import rasterio
    except ImportError:
        return None
    return rasterio


def open_scene(path: str | Path) -> Scene:
    """An image, to be used in a `with`: in memory, or by its rows where it is large and rasterio is installed."""
    dataset = _open(Path(path))
    if dataset is not None and dataset.width * dataset.height > WHOLE:
        try:
            return RowScene(dataset, Path(path))
        except InputError:
            dataset.close()
            raise
    if dataset is not None:
        dataset.close()
    return Scene(read_image(path))


def read_georeference(path: Path) -> Georeference | None:
    """Where on earth an image lies; None where the file does not tell, or rasterio is missing.

    Only a coordinate reference system with an affine matrix counts, no control points.
    """
    dataset = _open(path)
    if dataset is None:
        return None
    with dataset:
        if dataset.crs is None or dataset.transform.is_identity:
            return None
        return Georeference(dataset.crs.to_string(), tuple(dataset.transform)[:6])


def _open(path: Path) -> object | None:
    """A rasterio dataset; None where rasterio is missing, or the file is none that it shall read."""
    rasterio = rasterio_or_none()
    if rasterio is None:
        return None
    try:
        with open(path, "rb") as file:
            head = file.read(4)
        driver = next((driver for magic, driver in FORMATS.items() if head.startswith(magic)), None)
        if driver is None:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")         # that most images are not georeferenced
            return rasterio.open(str(path.absolute()), driver=driver)
    except OSError:                                 # read_image tells what is wrong
        return None
