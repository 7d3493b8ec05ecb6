"""Where things lie: annotation files under the names that are in use for AI-TOD, and images in other folders than stated.

AI-TOD's annotations go around under six families of names and its images in one folder or one for each split. A
configuration that names another than what lies on the disk is the most frequent way to fail; here the check says what to
write instead, and goes on with what it found.
"""
import difflib
import os
import re
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from data.check.findings import Findings
from data.check.listing import Listing
from data.pixels import ENDINGS
from data.source import files_below
from data.voc import without_ending
from errors import InputError

# aitod_train.json, aitod_train_v1.json, aitod_train_v1_1.0.json, aitod_training_v1.0.json, small_trainval_v1_1.0.json; of v2
# small_trainval_v2_2.0.json and aitodv2_train.json
FAMILY = re.compile(r"(aitodv2|aitod|small)_(trainval|training|train|validation|val|test)(?:_v([12])(?:\.0|_[12]\.0)?)?\.json")
SPLITS = {"training": "train", "validation": "val"}
MOST = 500_000          # files that are looked at in search of others


def family(name: str) -> tuple[int, str] | None:
    """Version (1 or 2) and split (train, val, trainval or test) of an annotation file by AI-TOD's names."""
    match = FAMILY.fullmatch(name)
    if match is None:
        return None
    version = 2 if match[1] == "aitodv2" else int(match[3] or 1)
    return version, SPLITS.get(match[2], match[2])


def find_annotations(root: Path, wanted: Path, split: str, named: Collection[Path]) -> tuple[Path | None, str]:
    """A file to read in place of one that does not exist, and what to say of it.

    Args:
        root: data.root; its folder, those in it and that of the file are looked through.
        wanted: the file that the configuration names.
        named: the files that it names for all splits; none of them is a hint, nor is another split's by its name.
    Returns:
        Only a file of the same version and split is one to read; of others the nearest name is a hint.
    """
    if not root.is_dir():
        return None, ""
    folders = {root, wanted.parent, *(f for f in root.iterdir() if f.is_dir())}
    files = sorted(f for folder in folders if folder.is_dir() for f in folder.iterdir() if f.suffix == wanted.suffix)
    version, part = family(wanted.name) or (None, None)
    for file in files:
        its = family(file.name)
        if its is not None and its[1] == (part or split) and version in (None, its[0]):
            return file, f"data.{split}={os.path.relpath(file, root)} is there, and was read instead."
    others = {"train", "val", "test"} - {split}
    by_name = {file.name: os.path.relpath(file, root) for file in files if file not in named and file.stem not in others}
    close = difflib.get_close_matches(wanted.name, by_name, n=1)
    return None, f"Did you mean data.{split}={by_name[close[0]]}?" if close else ""


def place_images(listing: Listing, folder: Path, found: Findings) -> None:
    """Fill in the paths of a COCO file's images."""
    try:
        present = set(files_below(folder, "data.images"))
    except InputError:              # no such folder, or nothing in it
        present = set()
    for k, name in enumerate(listing.names):
        path = os.path.normpath(folder / name.replace("\\", "/"))
        if path in present:
            listing.paths[k] = path
        else:
            found.add("image_missing", listing.split, name)


def find_elsewhere(listings: list[Listing], folder: Path, root: Path, found: Findings) -> None:
    """Look for missing images below data.root, go on with those found, and say where they are.

    Of each split the folder counts that holds most of what is missing, by their names with the folders that these begin
    with; where a folder holds all images of a split, by their last part alone. A file that is another image's is none.
    """
    if not root.is_dir() or all(path for listing in listings for path in listing.paths):
        return
    taken = {os.path.normpath(path) for listing in listings for path in listing.paths if path}
    files = _images_below(root, taken)
    homes = {os.path.normpath(folder) for listing in listings if any(listing.paths)}
    for listing in listings:
        holders: dict[Path, dict[int, str]] = {}        # by folder: the missing images that it holds, and their files
        strangers: dict[Path, dict[int, str]] = {}      # the same by the last parts of their names
        for k, name in enumerate(listing.names):
            parts = PurePosixPath(without_ending(name.replace("\\", "/"))).parts
            for path in files.get(parts[-1] if parts else "", ()) if not listing.paths[k] else ():
                if path.with_suffix("").parts[-len(parts) :] == parts:
                    holders.setdefault(path.parents[len(parts) - 1], {}).setdefault(k, str(path))
                else:
                    strangers.setdefault(path.parent, {}).setdefault(k, str(path))
        holders = holders or {f: held for f, held in strangers.items() if len(held) == len(listing.names)}
        if holders:
            word = (family(listing.file.name) or (0, listing.split))[1]
            home = max(holders, key=lambda f: (len(holders[f]), f.name == word, -len(f.parts), str(f)))
            homes.add(os.path.normpath(home))
            for k, path in holders[home].items():
                listing.paths[k] = path
            example = os.path.relpath(next(iter(holders[home].values())), root)
            found.hint("image_missing", f"{len(holders[home]):,} of {listing.split} are elsewhere, such as {example}.")
    if found.hints("image_missing"):
        folders = [os.path.relpath(home, root) for home in sorted(homes)]
        found.hint("image_missing", f"Write data.images={folders[0]}." if len(folders) == 1 else
                   f"Gather {', '.join(folders)} in one folder (links will do) and write its name in data.images.")


def _images_below(root: Path, taken: set[str]) -> dict[str, list[Path]]:
    """Image files by their names without ending, but for those that are taken."""
    files: dict[str, list[Path]] = {}
    looked_at = 0
    for base, folders, names in os.walk(root, followlinks=True):
        folders.sort()
        for name in names:
            stem, ending = os.path.splitext(name)
            if ending.lower() in ENDINGS and os.path.normpath(os.path.join(base, name)) not in taken:
                files.setdefault(stem, []).append(Path(base) / name)
        looked_at += len(names)
        if looked_at > MOST:
            break
    return files
