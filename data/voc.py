"""A VOC image list and its XML files, such as DIOR's, read once into flat arrays.

VOC counts pixels from 1 and its corners belong to the box, so that xmin = 1, xmax = W is the whole width. In continuous
coordinates, where pixel i covers i to i + 1, that is (xmin - 1, ymin - 1, xmax, ymax), of width xmax - xmin + 1.

A VOC set declares no classes: the names in `classes` are the declaration, and an object of another name is an error, as
it would be lost in silence. Upper and lower case are the same: DIOR writes Expressway-Service-area, others write it small.
"""
import difflib
import os
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from data.pixels import ENDINGS, image_size
from data.source import FARTHEST, ImageRecord, Source, assemble, files_below
from errors import InputError

CORNERS = ("xmin", "ymin", "xmax", "ymax")
DIFFICULT = {"": False, "0": False, "1": True}      # empty: DIOR has no such tag


class _Objects(NamedTuple):
    """What the XML files of a list say: I images, N objects in the order of the list and of the files."""

    class_names: tuple[str, ...]
    images: list[ImageRecord]   # ids 1..I
    image: np.ndarray           # (N,) int64, index into images
    label: np.ndarray           # (N,) int64, index into class_names
    box: np.ndarray             # (N, 4) float64, xyxy pixels
    difficult: np.ndarray       # (N,) bool
    note: str


def load_voc(
    listing: Path, annotations: Path, images: Path, *, classes: tuple[str, ...] = (), key: str = "data.train",
    training: bool,
) -> Source:
    """Read and check a VOC image list, the XML of its images, and that the images are there.

    The XML and the images are looked for in subfolders too, so that DIOR is read however it was unpacked. Where the list
    is missing under ImageSets/Main, Main and ImageSets are tried; trainval.txt, which DIOR does not ship, may be made of
    the train.txt and val.txt beside it.

    Args:
        listing: one name a line, with or without the ending of an image.
        annotations: folder of the XML files.
        images: folder of the images; one that lies below a JPEGImages* folder is preferred to copies elsewhere.
        classes: all names, in the order of their labels; empty: those of the XML files, by alphabet.
        key: the configuration key that named the list, for messages.
        training: leave out difficult objects and boxes without area, clip boxes to their image.
    Returns:
        Category ids are 1..C in the order of the labels, image ids 1..I in the order of the list.
    Raises:
        InputError: something in the files or folders is wrong.
    """
    found = _read(listing, annotations, images, classes, key)
    ids = tuple(range(1, len(found.class_names) + 1))
    return assemble(
        found.class_names, ids, found.images, found.image, found.label, found.box, ("difficult objects", found.difficult),
        training, found.note,
    )


def voc_truth(listing: Path, annotations: Path, images: Path, *, classes: tuple[str, ...], key: str = "data.test") -> dict:
    """The same as a COCO ground truth, for scoring: every object as the XML has it, neither clipped nor dropped.

    An annotation carries `difficult` (0 or 1) beside COCO's fields; VOC's measures overlook difficult objects, COCO's
    know no such thing. Ids are those of load_voc. Arguments and errors: see there.
    """
    found = _read(listing, annotations, images, classes, key)
    size = found.box[:, 2:] - found.box[:, :2]
    rows = zip(
        found.image.tolist(), found.label.tolist(), np.concatenate((found.box[:, :2], size), 1).tolist(),
        size.prod(1).tolist(), found.difficult.tolist(), strict=True,
    )
    return {
        "images": [
            {"id": r.id, "file_name": Path(r.path).relative_to(images).as_posix(), "width": r.width, "height": r.height}
            for r in found.images
        ],
        "categories": [{"id": k, "name": name} for k, name in enumerate(found.class_names, start=1)],
        "annotations": [
            {"id": number, "image_id": image + 1, "category_id": label + 1, "bbox": box, "area": area, "iscrowd": 0,
             "difficult": int(difficult)}
            for number, (image, label, box, area, difficult) in enumerate(rows, start=1)
        ],
    }


def _read(listing: Path, annotations: Path, images: Path, classes: tuple[str, ...], key: str) -> _Objects:
    names, note = _read_list(listing, key)
    where = f"{key}: {listing}"
    files = _locate(names, annotations, (".xml",), "Horizontal", where, "data.annotations")
    pictures = _locate(names, images, ENDINGS, "JPEGImages", where, "data.images")
    known = _declared(classes)
    records, image, label, box, difficult = [], [], [], [], []
    spellings = Counter()           # of the names met, when none are declared
    for index, (file, picture) in enumerate(zip(files, pictures, strict=True)):
        tree = parse_xml(file, key)
        records.append(ImageRecord(index + 1, str(picture), *(stated_size(tree, file, key) or image_size(picture))))
        for number, entry in enumerate(tree.iterfind("object"), start=1):
            name = (entry.findtext("name") or "").strip()
            corners = corners_of(entry)
            hard = DIFFICULT.get(entry.findtext("difficult", "").strip())
            if not classes:
                spellings[name] += 1
                known.setdefault(name.casefold(), len(known))
            kind = known.get(name.casefold())
            if not name or corners is None or hard is None or kind is None:
                raise InputError(f"{key}: {file}: object {number} {_offence(entry, classes)}")
            image.append(index)
            label.append(kind)
            box.append(corners)
            difficult.append(hard)
    label = np.array(label, dtype=np.int64)
    if not classes:
        if not spellings:
            raise InputError(f"{where}: none of its {len(files):,} XML files holds an object, so that no class is known. "
                             "Name another data.annotations, or list the classes in data.classes.")
        order = sorted(known)
        label = np.argsort([known[name] for name in order])[label]
        common = {name.casefold(): name for name, _ in reversed(spellings.most_common())}      # the last one stays
        classes = tuple(common[name] for name in order)
    box = np.array(box, dtype=np.float64).reshape(-1, 4) - (1, 1, 0, 0)
    return _Objects(
        classes, records, np.array(image, dtype=np.int64), label, box, np.array(difficult, dtype=bool), note
    )


def _read_list(listing: Path, key: str) -> tuple[list[str], str]:
    """The names of a list, and a note when they come from elsewhere than the file named."""
    files = find_list(listing)
    if not files:
        parts = " (nor train.txt and val.txt, which would do)" if listing.name == "trainval.txt" else ""
        raise InputError(f"{key}: {listing} does not exist{parts}. Set data.root to the data set's folder and {key} to a file "
                         "in it.")
    names = []
    for file in files:
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except IsADirectoryError:
            raise InputError(f"{key}: {file} is a folder. Name a VOC image list.") from None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{key}: {file}: cannot be read ({error}). Replace the file.") from None
        added = [line.strip() for line in lines if line.strip()]
        if not added:
            raise InputError(f"{key}: {file}: lists no image. Name a file with one image name a line.")
        names += added
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or not parts.parts:
            raise InputError(f"{key}: {listing}: lists '{name}', which leaves the image folder. Use the names of images in "
                             "data.images.")
    names = [without_ending(name) for name in names]
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise InputError(f"{key}: {listing}: lists '{name}' {times} times"
                         f"{' (train.txt and val.txt together)' if len(files) > 1 else ''}. Remove the repetition.")
    return names, "" if files == [listing] else f"listed in {' and '.join(map(str, files))}, as there is no {listing}"


def without_ending(name: str) -> str:
    """A listed name without the ending of an image, if it has one."""
    end = PurePosixPath(name).suffix
    return name[: -len(end)] if end.lower() in ENDINGS else name


def find_list(listing: Path) -> list[Path]:
    """The file itself, else its like in the folders where unpackings of DIOR put it; [] when there is none."""
    folders = [listing.parent]
    if listing.parent.parts[-2:] == ("ImageSets", "Main"):
        root = listing.parents[2]
        folders += [root / "Main", root / "ImageSets"]
    wanted = [(listing.name,)]
    if listing.name == "trainval.txt":
        wanted.append(("train.txt", "val.txt"))
    for names in wanted:
        for folder in folders:
            if all((folder / name).exists() for name in names):
                return [folder / name for name in names]
    return []


def find_files(
    names: list[str], folder: Path, endings: tuple[str, ...], preferred: str, key: str
) -> list[list[PurePosixPath]]:
    """The files that each name stands for in a folder or its subfolders, relative to it; one each when all is well.

    Args:
        preferred: of several files those count that lie below a folder whose name begins so.
        key: the configuration key that named the folder, for messages.
    """
    by_name: dict[str, list[PurePosixPath]] = {}
    for file in files_below(folder, key):
        stem, ending = os.path.splitext(os.path.basename(file))
        if ending.lower() in endings:
            by_name.setdefault(stem, []).append(PurePosixPath(os.path.relpath(file, folder)))
    candidates = []
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/")).parts
        found = by_name.get(parts[-1], [])
        if len(parts) > 1:
            found = [f for f in found if f.with_suffix("").parts[-len(parts) :] == parts]
        if len(found) > 1:
            found = [f for f in found if any(p.startswith(preferred) for p in f.parent.parts)] or found
        candidates.append(found)
    return candidates


def _locate(names: list[str], folder: Path, endings: tuple[str, ...], preferred: str, where: str, key: str) -> list[Path]:
    """The one file of each name (see find_files); `where` is the list, for messages."""
    located, missing = [], []
    for name, found in zip(names, find_files(names, folder, endings, preferred, key), strict=True):
        if len(found) > 1:
            raise InputError(f"{where}: '{name}' stands for both {found[0]} and {found[1]} in {folder}. Set {key} to the "
                             "folder that holds the one to use.")
        located += [folder / f for f in found]
        missing += [] if found else [name]
    if missing:
        what = "XML files" if ".xml" in endings else "images"
        raise InputError(f"{where}: the {what} of {len(missing):,} of {len(names):,} names are not in {folder}, such as "
                         f"{', '.join(missing[:5])}. Set {key} to their folder.")
    return located


def _declared(classes: tuple[str, ...]) -> dict[str, int]:
    """Labels by name, whatever the case of its letters."""
    known = {}
    for label, name in enumerate(classes):
        if name.casefold() in known:
            raise InputError(f"data.classes: lists '{name}' twice. Remove one: each name stands for one label, whatever "
                             "the case of its letters.")
        known[name.casefold()] = label
    return known


def parse_xml(file: Path, key: str) -> ElementTree.Element:
    """The <annotation> of a file; `key` is the configuration key that named its folder, or its list, for messages."""
    try:
        tree = ElementTree.fromstring(file.read_bytes())
    except (ElementTree.ParseError, LookupError, ValueError) as error:      # the latter two: an encoding
        raise InputError(f"{key}: {file}: not XML: {error}. Replace the file, or save it as UTF-8.") from None
    except OSError as error:
        raise InputError(f"{key}: {file}: cannot be read ({error.strerror}). Restore the file.") from None
    if tree.tag != "annotation":
        raise InputError(f"{key}: {file}: begins with <{tree.tag}>, not with <annotation>, so it is not a VOC annotation. "
                         "Replace the file or name another data.annotations.")
    return tree


def stated_size(tree: ElementTree.Element, file: Path, key: str) -> tuple[int, int] | None:
    """Width and height; None where they are absent, or zero, as some tools write when they do not know."""
    texts = [tree.findtext(f"size/{name}") or "0" for name in ("width", "height")]
    try:
        width, height = (int(float(text)) for text in texts)
    except (ValueError, OverflowError):
        width = height = -1
    if min(width, height) < 0 or max(width, height) >= FARTHEST:
        raise InputError(f"{key}: {file}: has the size {texts[0]!r} x {texts[1]!r}. Give width and height in pixels, or "
                         "remove <size>.")
    return (width, height) if width and height else None


def corners_of(entry: ElementTree.Element) -> tuple[float, ...] | None:
    """xmin, ymin, xmax, ymax of an object; None when they are not what they must be."""
    frame = entry.find("bndbox")
    try:
        corners = tuple([float(frame.findtext(name)) for name in CORNERS])
    except (AttributeError, TypeError, ValueError):     # no box, a corner missing, no number
        return None
    left, top, right, bottom = corners
    sound = -FARTHEST < left <= right < FARTHEST and -FARTHEST < top <= bottom < FARTHEST      # never for NaN
    return corners if sound else None


def _offence(entry: ElementTree.Element, classes: tuple[str, ...]) -> str:
    """What is wrong with an object that cannot be read, and the way out."""
    name = (entry.findtext("name") or "").strip()
    if not name:
        return "has no <name>. Add it."
    frame = entry.find("bndbox")
    if frame is None:
        return f"('{name}') has no <bndbox>. Mend the file, or set data.annotations to the folder of horizontal boxes."
    texts = [frame.findtext(corner) for corner in CORNERS]
    shown = ", ".join(f"{corner} {text}" for corner, text in zip(CORNERS, texts, strict=True) if text is not None)
    if None in texts:
        return f"('{name}') has no <{CORNERS[texts.index(None)]}> in its <bndbox> ({shown or 'empty'}). Add it."
    if corners_of(entry) is None:
        try:
            numbers = [float(text) for text in texts]
        except ValueError:
            numbers = [float("nan")]
        if not all(abs(number) < FARTHEST for number in numbers):
            return f"('{name}') has the box {shown[:120]}. It must be four finite numbers. Mend the file."
        return f"('{name}') has the box {shown}, whose corners are reversed. Give the smaller as xmin and ymin."
    difficult = entry.findtext("difficult", "").strip()
    if difficult not in DIFFICULT:
        return f"('{name}') has <difficult> {difficult!r}. Write 0 or 1."
    close = difflib.get_close_matches(name, classes, n=1)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    return (f"is a '{name}', which is not one of the {len(classes)} classes ({', '.join(classes[:12])}"
            f"{', ...' if len(classes) > 12 else ''}). {hint}Mend the file, or train with the name in data.classes.")
