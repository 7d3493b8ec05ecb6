"""Read a VOC list and its XML files that may be wrong everywhere: what can be used is kept, what cannot is noted."""
from collections import Counter
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import numpy as np

from data.check.findings import Culprit, Findings
from data.check.listing import Listing
from data.check.read_coco import NO_BOX
from data.pixels import ENDINGS
from data.source import FARTHEST
from data.voc import CORNERS, DIFFICULT, corners_of, find_files, find_list, parse_xml, stated_size, without_ending
from errors import InputError


def read_voc(
    listing: Path, annotations: Path, images: Path, classes: tuple[str, ...], split: str, found: Findings
) -> Listing | None:
    """Read a list; None when nothing in it can be read.

    Args:
        annotations, images: folders of the XML files and the images, searched with their subfolders.
        classes: names that count, in the order of their labels; empty: those of the XML files, by alphabet.
    """
    read = _names(listing, split, found)
    if read is None:
        return None
    names, note = read
    pictures = _files(names, images, ENDINGS, "JPEGImages", "image_missing", split, found)
    files = _files(names, annotations, (".xml",), "Horizontal", "xml_missing", split, found)

    sizes, annotated = np.zeros((len(names), 2), np.int64), np.zeros(len(names), bool)
    image, kind, box, unfit, marks = [], [], [], [], []
    for index, (name, file) in enumerate(zip(names, files, strict=True)):
        try:
            tree = parse_xml(Path(file), "") if file else None
        except InputError as error:
            found.add("xml_unreadable", split, name, detail=str(error).removeprefix(f": {file}: ").split(". ")[0])
            tree = None
        if tree is None:
            continue
        annotated[index] = True
        try:
            sizes[index] = stated_size(tree, Path(file), "") or (0, 0)
        except InputError:
            texts = [tree.findtext(f"size/{side}") for side in ("width", "height")]
            found.add("size_invalid", split, name, detail=" x ".join(map(repr, texts)))
        for number, entry in enumerate(tree.iterfind("object"), start=1):
            mark, called = f"object {number}", (entry.findtext("name") or "").strip()
            difficult = entry.findtext("difficult", "").strip()
            if not called or difficult not in DIFFICULT:
                detail = f"difficult {difficult!r}" if called else "no name"
                found.add("broken_entry", split, name, mark, detail)
            image.append(index)
            kind.append(called)
            box.append(_box(entry, name, mark, split, found))
            unfit.append(DIFFICULT.get(difficult, False))
            marks.append(mark)
    if not classes:
        spellings = Counter(called for called in kind if called)
        common = {called.casefold(): called for called, _ in reversed(spellings.most_common())}     # the last one stays
        classes = tuple(common[folded] for folded in sorted(common))
    label_of = {name.casefold(): k for k, name in enumerate(classes)}
    label = np.array([label_of.get(called.casefold(), -1) for called in kind], np.int64)
    for row in np.flatnonzero(label < 0).tolist():
        if kind[row]:
            found.add("unknown_category", split, names[image[row]], marks[row], f"'{kind[row]}'")
    return Listing(
        split, listing, names, pictures, sizes, annotated, classes, {}, np.array(image, np.int64), label,
        np.array(box, np.float64).reshape(-1, 4), np.array(unfit, bool), np.full(len(marks), np.nan), marks, note,
    )


def _names(listing: Path, split: str, found: Findings) -> tuple[list[str], str] | None:
    """The names of a list, each once, and a note when they come from elsewhere than the file named."""
    files, names = find_list(listing), []
    if not files:
        found.add("annotation_file", split, detail=f"{listing}: No such file")
        return None
    for file in files:
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            found.add("annotation_file", split, detail=f"{file}: {getattr(error, 'strerror', '') or 'not text'}")
            return None
        added = [without_ending(line.strip()) for line in lines if line.strip()]
        if not added:
            found.add("annotation_file", split, detail=f"{file}: lists no image")
        names += added
    if not names:
        return None
    inside = []
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or not parts.parts:
            found.add("name_escapes", split, name)
        else:
            inside.append(name)
    for name, times in Counter(inside).items():
        found.add_many("name_twice", split, times - 1, [Culprit(split, name, detail=f"{times} times")], 1)
    return list(dict.fromkeys(inside)), "" if files == [listing] else f"from {' and '.join(f.name for f in files)}"


def _files(
    names: list[str], folder: Path, endings: tuple[str, ...], preferred: str, missing: str, split: str, found: Findings
) -> list[str]:
    """The file of each name, "" where there is none."""
    try:
        candidates = find_files(names, folder, endings, preferred, "")
    except InputError:              # no such folder, or nothing in it
        candidates = [[] for _ in names]
    for name, mine in zip(names, candidates, strict=True):
        if not mine:
            found.add(missing, split, name)
        elif len(mine) > 1:
            found.add("image_ambiguous", split, name, detail=f"{mine[0]} and {mine[1]}")
    return [str(folder / mine[0]) if mine else "" for mine in candidates]


def _box(entry: ElementTree.Element, name: str, mark: str, split: str, found: Findings) -> tuple[float, ...]:
    """Corners in continuous coordinates (see data/voc.py), NaN when there is no box."""
    corners = corners_of(entry)
    if corners is not None:
        left, top, right, bottom = corners
        return left - 1, top - 1, right, bottom
    texts = [entry.findtext(f"bndbox/{corner}") for corner in CORNERS]
    try:
        numbers = all(abs(float(text)) < FARTHEST for text in texts)
    except (TypeError, ValueError):
        numbers = False
    found.add("box_negative" if numbers else "box_invalid", split, name, mark, ", ".join(str(text) for text in texts)[:60])
    return NO_BOX
