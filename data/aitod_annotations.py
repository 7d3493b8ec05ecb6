"""AI-TOD's annotation files, whatever their names: which version and split a file is, what it counts, and a table of that.

A file is known by what it holds (its images, their number, its number of boxes), as far as that tells; then by its name.
"""
import json
import re
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from data import aitod_layout as layout
from data.published import plain
from errors import InputError

NAMED = "train, val, trainval or test"


class Annotations(NamedTuple):
    """One annotation file.

    Attributes:
        version: 1, or 2 for AI-TOD-v2.
        images: their file names, in order.
        boxes: by class, in the order of layout.CLASSES.
        parts: the files of train and val, where trainval is to be made of them; path is the one to be written then.
    """

    path: Path
    version: int
    split: str
    images: tuple[str, ...]
    boxes: tuple[int, ...]
    parts: tuple[Path, ...] = ()

    @property
    def title(self) -> str:
        """Such as "AI-TOD-v2 trainval"."""
        return f"{dataset(self.version)} {self.split}"


def dataset(version: int) -> str:
    """A version's name."""
    return "AI-TOD" if version == 1 else "AI-TOD-v2"


def gather(paths: list[Path], lists: dict[str, set[str]]) -> tuple[list[Annotations], list[str]]:
    """Read annotation files and see that there is one for each version and split.

    A trainval that is not among them, while its train and val are, is added as to be made of these two.

    Args:
        paths: files, and folders, in which all *.json are read as far as they are AI-TOD's. One that is no JSON is refused
            where its name is that of a split: without it the set would lack that split.
        lists: from read_lists.
    Returns:
        The files by version and split, and remarks on what is odd.
    """
    found: dict[tuple[int, str], Annotations] = {}
    notes = []
    for path, named in _files(paths):
        content = None
        try:
            content = _content(path)
            entry, remarks = _read(path, content, lists)
        except InputError as error:
            if named or content is None and _split_in(path.stem):
                raise
            notes.append(f"left out: {str(error).removeprefix('--annotations: ')}")
            continue
        notes += remarks
        other = found.setdefault((entry.version, entry.split), entry)
        if other is not entry and other.path.read_bytes() != path.read_bytes():
            raise InputError(f"--annotations: {other.path} and {path} are both {entry.title}, and differ. Name one of them.")
    if not found:
        raise InputError(f"--annotations: no annotation file of AI-TOD in {', '.join(map(str, paths))}. Name the files.")
    for version in (1, 2):
        train, val = found.get((version, "train")), found.get((version, "val"))
        if train and val and (version, "trainval") not in found:
            found[version, "trainval"] = Annotations(
                Path(layout.annotation_name(version, "trainval")), version, "trainval", train.images + val.images,
                tuple(a + b for a, b in zip(train.boxes, val.boxes, strict=True)), (train.path, val.path))
            notes.append(f"{dataset(version)} trainval is made of {train.path.name} and {val.path.name}")
    order = [(version, split) for version in (1, 2) for split in layout.SPLITS]
    return [found[key] for key in order if key in found], notes


def read_lists(paths: list[Path]) -> dict[str, set[str]]:
    """The official aitod_xview_{set}.txt: names of xView crops by split. A folder stands for those in it."""
    files = [f for p in paths for f in (sorted(p.glob("aitod_xview_*.txt")) if p.is_dir() else [p])]
    if paths and not files:
        raise InputError(f"--lists: {paths[0]} holds no aitod_xview_*.txt. Name the folder aitod_xview of AI-TOD's tool.")
    lists = {}
    for file in files:
        split = _split_in(file.stem)
        try:
            names = set(re.findall(r"[^\s'\",\[\]]+\.png", file.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--lists: {file}: cannot be read ({error}). Name a list of AI-TOD's tool.") from None
        if not names or split is None:
            raise InputError(f"--lists: {file}: {'names no PNG file' if split else f'its name holds none of {NAMED}'}. Name "
                             "the files aitod_xview_{train,val,trainval,test}.txt of AI-TOD's tool.")
        lists[split] = names
    if "train" in lists and "val" in lists:
        lists.setdefault("trainval", lists["train"] | lists["val"])
    return lists


def merged(train: Path, val: Path) -> bytes:
    """One annotation file of two: ids of images and annotations of the second are moved up where the first has them too."""
    first, second = (json.loads(path.read_bytes()) for path in (train, val))
    if first["categories"] != second["categories"]:
        raise InputError(f"--annotations: {train} and {val} declare their categories differently, so that no trainval can be "
                         "made of them. Name a file of trainval too.")
    try:
        up = {kind: _gap([entry["id"] for entry in first[kind]], [entry["id"] for entry in second[kind]])
              for kind in ("images", "annotations")}
        images = [{**entry, "id": entry["id"] + up["images"]} for entry in second["images"]]
        boxes = [{**entry, "id": entry["id"] + up["annotations"], "image_id": entry["image_id"] + up["images"]}
                 for entry in second["annotations"]]
    except (KeyError, TypeError) as error:
        raise InputError(f"--annotations: {train} and {val} have images or annotations without a number for id ({error!r}), so "
                         "that no trainval can be made of them. Name a file of trainval too.") from None
    whole = {**first, "images": first["images"] + images, "annotations": first["annotations"] + boxes}
    return json.dumps(whole).encode()


def _gap(first: list[int], second: list[int]) -> int:
    """What to add to the second ids for none to be among the first."""
    return 1 + max(first) - min(second) if set(first) & set(second) else 0


def counts_table(version: int, files: list[Annotations]) -> str:
    """Images and boxes by class and split of one version, beside the published numbers; what differs is marked."""
    mine = {entry.split: entry for entry in files if entry.version == version}
    mine = {split: mine[split] for split in layout.SPLITS if split in mine}
    known = {split: layout.BOXES[split] if version == 1 else (None,) * len(layout.CLASSES) for split in mine}
    rows = [("images", *((len(entry.images), layout.IMAGES[split]) for split, entry in mine.items()))]
    for k, name in enumerate(layout.CLASSES):
        rows.append((name, *((entry.boxes[k], known[split][k]) for split, entry in mine.items())))
    rows.append(("boxes", *((sum(entry.boxes), sum(known[split]) if version == 1 else None) for split, entry in mine.items())))
    lines = [f"{dataset(version):14}" + "".join(f"{split:>11}{'published':>10} " for split in mine)]
    for name, *cells in rows:
        lines.append(f"{name:14}" + "".join(
            f"{here:>11,}" + ("         - " if there is None else f"{there:>10,}{' ' if here == there else '*'}")
            for here, there in cells))
    if any(there not in (None, here) for _, *cells in rows for here, there in cells):
        lines.append("* differs from what was published")
        if version == 1:
            lines.append("Published is what AI-TOD's tool has made since June 2022; before, there were "
                         "{trainval:,} boxes in trainval and {test:,} in test.".format(**layout.FIRST_BOXES))
    if version == 2:
        both = [sum(mine[split].boxes) for split in ("trainval", "test") if split in mine]
        here = f"; here {sum(both):,}" if len(both) == 2 else ""
        lines.append(f"Published of AI-TOD-v2 is only that trainval and test hold {layout.BOXES_V2:,} boxes together{here}.")
    return "\n".join(line.rstrip() for line in lines)


def _files(paths: list[Path]) -> list[tuple[Path, bool]]:
    """The files to read, and whether the user named them; otherwise their folder."""
    files = []
    for path in paths:
        if path.is_dir():
            # A Mac puts a file ._NAME beside each.
            files += [(file, False) for file in sorted(path.rglob("*.json")) if not file.name.startswith(".")]
        else:
            files.append((path, True))
    return files


def _content(path: Path) -> object:
    where = f"--annotations: {path}"
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror}). Name an annotation file of AI-TOD.") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: is not JSON ({error}). Download it again, or move it elsewhere.") from None


def _read(path: Path, content: object, lists: dict[str, set[str]]) -> tuple[Annotations, list[str]]:
    where = f"--annotations: {path}"
    try:
        names = {c["id"]: plain(c["name"]) for c in content["categories"]}
        images = {_safe(i["file_name"], where): (int(i["width"]), int(i["height"])) for i in content["images"]}
        counts = Counter(a["category_id"] for a in content["annotations"])
        strange = set(counts) - set(names)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise InputError(f"{where}: is not a COCO annotation file of objects ({error!r}). Name one of AI-TOD's.") from None
    known = [plain(name) for name in layout.CLASSES]
    odd = "" if sorted(names.values()) == sorted(known) else f"the classes {', '.join(names.values()):.200}"
    if odd or strange:
        odd = odd or f"an annotation of category {min(strange, key=str)!r}"
        raise InputError(f"{where}: has {odd}, not just AI-TOD's eight. Name an annotation file of AI-TOD.")
    boxes = tuple(counts[i] for name in known for i, n in names.items() if n == name)
    other = next((name for name, size in images.items() if size != (layout.SIDE, layout.SIDE)), None)
    if other is not None:
        raise InputError(f"{where}: image '{other}' measures {images[other][0]} x {images[other][1]} px, where AI-TOD's have "
                         "800 x 800. Name an annotation file of AI-TOD.")
    crops = {name for name in map(_basename, images) if layout.crop_of(name)}
    if not crops and any(len(images) == layout.IMAGES[s] - layout.CROPS[s] for s in layout.SPLITS):
        raise InputError(f"{where}: lists the {len(images):,} images without xView alone. Name the complete annotations, which "
                         "AI-TOD's page offers beside AI-TOD_wo_xview.")
    split, notes = _split(path, images, crops, lists)
    version, remark = _version(path, split, len(images), sum(boxes))
    return Annotations(path, version, split, tuple(images), boxes), notes + remark


def _split(path: Path, images: dict, crops: set[str], lists: dict[str, set[str]]) -> tuple[str, list[str]]:
    """A file's split: by the official lists of crops if given, else by a few names out of them; else by its own name."""
    told = None
    if lists:
        told = next((split for split, listed in lists.items() if crops == listed), None)
    else:
        holds = {split for split, names in layout.WITNESSES.items() if all(f"{name}.png" in crops for name in names)}
        told = {("train", "val"): "trainval"}.get(tuple(sorted(holds)), next(iter(holds)) if len(holds) == 1 else None)
        told = told if told and len(images) == layout.IMAGES[told] else None
    named = _split_in(path.stem)
    split, notes = told or named, []
    if split is None:
        raise InputError(f"--annotations: {path}: neither its images nor its name tell which split it is. Rename it so that "
                         f"it holds {NAMED}.")
    if told and named and told != named:
        notes.append(f"{path}: its images are those of {told}, whatever its name says; taken as {told}")
    if split in lists and crops != lists[split]:
        notes.append(f"{path}: differs from the list of {split}: {len(crops - lists[split]):,} crops more, "
                     f"{len(lists[split] - crops):,} fewer")
    return split, notes


def _version(path: Path, split: str, images: int, boxes: int) -> tuple[int, list[str]]:
    """1 or 2: by the boxes of a complete split, which are within a thousandth of v1's or some 7 % above them; else by name."""
    published = sum(layout.BOXES[split])
    named = re.search(r"v([12])(?!\d)", path.stem.lower())
    named = int(named[1]) if named else None
    complete = images == layout.IMAGES[split]
    if complete and abs(boxes - published) <= published / 1000:
        notes = [f"{path}: has v1's number of boxes, whatever its name says; taken as AI-TOD"] if named == 2 else []
        return 1, notes
    return named or (2 if complete and boxes > layout.AS_MANY_AS_V2 * published else 1), []


def _split_in(stem: str) -> str | None:
    """The split that a file name holds, in any of its spellings: training, validation, ..."""
    stem = stem.lower()
    train, val, test = ("train" in stem, re.search(r"val(?!u)", stem), "test" in stem)
    if test and not (train or val):
        return "test"
    if not test and (train or val):
        return "trainval" if train and val else "train" if train else "val"
    return None


def _safe(name: str, where: str) -> str:
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or not parts.parts or not name.isprintable():
        raise InputError(f"{where}: has the image name {name!r}, which names no file in the image folder. Download the file "
                         "again.")
    return parts.as_posix()


def _basename(name: str) -> str:
    return name.rpartition("/")[2]
