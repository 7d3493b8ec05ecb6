"""Image files: their pixels, and their size without the pixels."""
from pathlib import Path

import cv2
import numpy as np

from errors import InputError, printable

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")       # of the files that are taken for images
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
HEADER = 1 << 16                            # bytes in which a header is looked for
DARK = 32                                   # of 255; 13 of 16 bits reach 31, and satellites have 11 or 12
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}      # JPEG markers that begin a frame, which holds the size

# It would print a line for each of a GeoTIFF's tags; of damage InputError tells.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def read_image(path: str | Path) -> np.ndarray:
    """(H, W, 3) uint8 BGR. The only place where pixels are read."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Restore the file.") from None
    # Not imread: of a JPEG that is cut short it makes a picture, grey from there on, and reports nothing. So does imdecode when
    # zeros follow, as in the file of a download that was not finished: then its last scan, from FFDA on, has no end, FFD9.
    padded_jpeg = content.startswith(b"\xff\xd8") and content.endswith(bytes(16))
    if padded_jpeg and content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda"):
        content = b""
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    except cv2.error as error:
        if "MAX_IMAGE" in error.err or error.code == cv2.Error.STS_NO_MEM:
            limit = "has more pixels than OpenCV takes, 2^30" if "MAX_IMAGE" in error.err else "does not fit into memory"
            raise InputError(f"{path}: {limit}. predict.py and test.py read it in parts with --tile, and python -m data.cut "
                             "cuts it up, where rasterio is installed (pip install rasterio).") from None
        raise InputError(f"{path}: cannot be decoded as an image ({error.err}). Replace the file.") from None
    if image is None:
        bands = ", or make three bands of 8 bits of it, as by gdal_translate -ot Byte -scale -b 3 -b 2 -b 1"
        raise InputError(f"{path}: cannot be decoded as an image, or is cut short. Replace the file"
                         f"{bands if content.startswith(TIFF) else ''}.")
    return image


def is_nearly_black(image: np.ndarray) -> bool:
    """Whether no pixel (H, W, 3) uint8 is brighter than 16 bits leave it of which a satellite uses 11 or 12."""
    return bool(image.max() < DARK)


def check_beginning(path: Path) -> None:
    """Raises InputError for a file that cannot be read or does not begin as an image of a known format does, or whose name is
    not UTF-8: OpenCV and many readers of results crash on it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"{printable(str(path))}: its name is not UTF-8. Rename the file.") from None
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Restore the file.") from None
    if not cv2.haveImageReader(str(path)):
        raise InputError(f"{path}: does not begin as an image of a known format does. Replace the file, or move it away.")


def image_size(path: str | Path) -> tuple[int, int]:
    """Width and height of what read_image returns, in pixels. Of JPEG and PNG files only the header is read."""
    try:
        with open(path, "rb") as file:
            head = file.read(HEADER)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Restore the file.") from None
    size = None
    if head.startswith(b"\xff\xd8"):
        size = _jpeg_size(head)
    elif head.startswith(b"\x89PNG\r\n\x1a\n") and head[12:16] == b"IHDR" and b"eXIf" not in head:
        size = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    if size is None or not all(size):
        size = read_image(path).shape[1::-1]
    return size


def _jpeg_size(head: bytes) -> tuple[int, int] | None:
    """Width and height from a JPEG's header; None where it is too long, or where Exif data may turn the picture."""
    at = 2
    while at + 9 <= len(head) and head[at] == 0xFF:
        marker, length = head[at + 1], int.from_bytes(head[at + 2 : at + 4], "big")
        if marker in FRAMES:
            return int.from_bytes(head[at + 7 : at + 9], "big"), int.from_bytes(head[at + 5 : at + 7], "big")
        if marker == 0xE1 and head[at + 4 : at + 8] == b"Exif":
            return None
        at += 1 if marker == 0xFF else 2 + length           # 0xFF: a filler
    return None
