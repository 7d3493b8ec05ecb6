"""The size of an image without its pixels is the size of its pixels."""
import cv2
import numpy as np
import pytest

from data.pixels import check_beginning, image_size, read_image
from errors import InputError

PICTURE = np.random.default_rng(0).integers(0, 255, (37, 91, 3), dtype=np.uint8)
JPEG = cv2.imencode(".jpg", PICTURE)[1].tobytes()
PNG = cv2.imencode(".png", PICTURE)[1].tobytes()
# Orientation 6: turned by 90 degrees. A little-endian TIFF header, one directory, one entry.
EXIF = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0" + b"\0\0\0\0"


def segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(content) + 2).to_bytes(2, "big") + content


FILES = {
    "jpeg": JPEG,
    "grey jpeg": cv2.imencode(".jpg", PICTURE[..., 0])[1].tobytes(),
    "progressive jpeg": cv2.imencode(".jpg", PICTURE, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes(),
    "jpeg with a comment and a filler": JPEG[:2] + segment(0xFE, b"hello") + b"\xff" + JPEG[2:],
    "jpeg with a header beyond what is looked at": JPEG[:2] + 2 * segment(0xFE, bytes(40_000)) + JPEG[2:],
    "jpeg that is turned": JPEG[:2] + segment(0xE1, EXIF) + JPEG[2:],
    "png": PNG,
    "bmp": cv2.imencode(".bmp", PICTURE)[1].tobytes(),
    "tiff": cv2.imencode(".tif", PICTURE)[1].tobytes(),
}


@pytest.mark.parametrize("name", FILES)
def test_the_size_is_that_of_the_pixels(tmp_path, name):
    path = tmp_path / "picture"
    path.write_bytes(FILES[name])
    height, width = read_image(path).shape[:2]
    assert (width, height) == ((37, 91) if "turned" in name else (91, 37))
    assert image_size(path) == (width, height)


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_only_the_header_is_read(tmp_path, kind):
    path = tmp_path / "picture"
    path.write_bytes(FILES[kind][:-200])        # no more decodable
    assert image_size(path) == (91, 37)


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\xff\xd8", JPEG[:30], PNG[:20]])
def test_a_file_without_a_size_is_named(tmp_path, content):
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(InputError, match="broken.jpg: cannot be decoded"):
        image_size(path)
    with pytest.raises(InputError, match="absent.jpg: cannot be read"):
        image_size(tmp_path / "absent.jpg")


def test_the_beginning_tells_an_image_from_other_files(tmp_path):
    """Of every format that is searched for, also those of TIFF that only rasterio may read."""
    beginnings = [*FILES.values(), cv2.imencode(".webp", PICTURE)[1].tobytes(),
                  *(head + bytes(60) for head in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))]
    for content in beginnings:
        (tmp_path / "any.name").write_bytes(content)
        check_beginning(tmp_path / "any.name")
    for content in (b"", b"\xff", b"<html>" * 20, b"{}", bytes(100)):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(InputError, match="a.png: does not begin as an image"):
            check_beginning(tmp_path / "a.png")
    with pytest.raises(InputError, match="b.png: cannot be read"):
        check_beginning(tmp_path / "b.png")
