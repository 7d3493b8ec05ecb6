"""A COCO set of large images as a set of overlapping tiles, to train on at the images' own scale.

    python -m data.cut --annotations FILE... --images DIR --output DIR --tile 800 [--overlap 200] [--keep 0.5] [--drop-empty]

Tiles become OUTPUT/images/<stem>__<x>_<y>.png, x and y their corner in the image, so that data.check knows which show the same
ground; annotation files become OUTPUT/annotations/<their name>.json, as COCO. An image no larger than a tile stays whole: its
file is linked (copied where links are not possible), under such a name with its own ending. OUTPUT appears when it is complete.

An object belongs to each tile that shows --keep of it or more (of the area of its box within the image), with the box clipped
to the tile. Where a tile shows less, the visible part is written as a crowd (`iscrowd: 1`). train.py leaves crowds out, so that
it is learned as background; scoring counts it neither as found nor as missed, and what is detected on it as no false alarm.
Crowds of the set are clipped and remain crowds. Category ids and other fields are kept, but for `segmentation`,
`num_keypoints` and all lists, which hold places in the image; `area` is that of the clipped box, and ids are new.
"""
import argparse
import json
import os
import shutil
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import product
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from data.coco import load_coco, read_json
from data.folders import appearing
from data.source import Source
from data.tiling import Grid, Tiling, tiling
from errors import InputError, run

WORKERS = 4             # threads, as codecs run without Python's lock; few, as an image may take 1 GB while it is decoded
DIGITS = 6              # of coordinates: a box that ends at a tile's border shall not reach into the next by a rounding error
NEARLY = 1 - 1e-9       # the same for shares


class Cutting(NamedTuple):
    """How images are cut, and which objects their tiles get; see the options."""

    tiling: Tiling
    keep: float = 0.5
    drop_empty: bool = False


class Pieces(NamedTuple):
    """The tiles of one image that are to be written: file names by (y, x)."""

    source: Source
    index: int
    stem: str
    grid: Grid
    files: dict[tuple[int, int], str]

    @property
    def is_whole(self) -> bool:
        """No larger than a tile."""
        return len(self.grid) == 1

    def write(self, folder: Path, bar: tqdm) -> None:
        """Cut the tiles from rows that are decoded once. Raises InputError where the file is not what its annotations say."""
        record = self.source.images[self.index]
        with self.source.scene(self.index) as scene:
            for top in sorted({y for y, _ in self.files}):
                rows = scene.rows(top, top + self.grid.height)
                for x, name in [(x, name) for (y, x), name in self.files.items() if y == top]:
                    if self.is_whole:
                        _take(Path(record.path), folder / name)
                    else:       # bytes, as imwrite passes over a full disk
                        (folder / name).write_bytes(cv2.imencode(".png", rows[:, x : x + self.grid.width])[1])
                    bar.update()


class Plan:
    """What is to be written of all images: an image that several files list is cut once."""

    def __init__(self, how: Cutting):
        self.how, self.pieces, self.stems = how, {}, set()

    def pieces_of(self, source: Source, index: int) -> Pieces:
        """Those of an image, none at first."""
        record = source.images[index]
        if record[1:] not in self.pieces:           # by path and stated size
            stem = first = Path(record.path).stem
            number = 2
            while stem.casefold() in self.stems:    # of another folder, or with another ending
                stem, number = f"{first}-{number}", number + 1
            self.stems.add(stem.casefold())
            grid = self.how.tiling.grid(record.width, record.height)
            self.pieces[record[1:]] = Pieces(source, index, stem, grid, {})
        return self.pieces[record[1:]]

    def cut(self, content: dict, source: Source) -> tuple[dict, Counter]:
        """The annotation file of the tiles, and counts of what became of its objects.

        Args:
            content: of an annotation file, found sound when `source` was made of it.
        """
        made = {key: content[key] for key in ("info", "licenses", "categories") if key in content}
        made |= {"images": [], "annotations": []}
        counts = Counter(images=len(source))
        entries_of: dict[int, list[dict]] = {}
        for entry in content["annotations"]:
            entries_of.setdefault(entry["image_id"], []).append(entry)
        for index, record in enumerate(source.images):
            entries, pieces = entries_of.get(record.id, []), self.pieces_of(source, index)
            grid, ending = pieces.grid, Path(record.path).suffix if pieces.is_whole else ".png"
            boxes = np.array([e["bbox"] for e in entries], np.float64).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            boxes = np.clip(boxes, 0, (record.width, record.height) * 2).round(DIGITS)
            area, crowd = _area(boxes), np.array([bool(e.get("iscrowd")) for e in entries], bool)
            belongs = np.zeros(len(entries), bool)          # to some tile
            for y, x in product(grid.ys.tolist(), grid.xs.tolist()):
                parts = np.clip(boxes - (x, y, x, y), 0, (grid.width, grid.height) * 2)
                share = np.divide(_area(parts), area, out=np.zeros(len(area)), where=area > 0)
                kept = ~crowd & (share > 0) & (share >= self.how.keep * NEARLY)
                belongs |= kept
                counts.update({"boxes": kept.sum(), "cut": (kept & (share < NEARLY)).sum(), "empty": not kept.any(),
                               "left out": (~kept & ~crowd & (share > 0)).sum()})
                if self.how.drop_empty and not kept.any():
                    continue
                name = pieces.files.setdefault((y, x), f"{pieces.stem}__{x}_{y}{ending}")
                image = {"id": len(made["images"]) + 1, "file_name": name, "width": grid.width, "height": grid.height}
                made["images"].append(_without_places(content["images"][index]) | image)
                for k in np.flatnonzero(share > 0).tolist():
                    left, top, right, bottom = parts[k].tolist()
                    box = [round(v, DIGITS) for v in (left, top, right - left, bottom - top)]
                    made["annotations"].append(_without_places(entries[k]) | {
                        "id": len(made["annotations"]) + 1, "image_id": image["id"], "bbox": box, "area": box[2] * box[3],
                        "iscrowd": int(not kept[k])})
            counts.update({"objects": (~crowd).sum(), "flat": (~crowd & (area == 0)).sum(),
                           "lost": (~crowd & (area > 0) & ~belongs).sum()})
        return made, counts + Counter(tiles=len(made["images"]))

    def write(self, folder: Path) -> None:
        """Write all tiles."""
        total = sum(len(pieces.files) for pieces in self.pieces.values())
        with (
            warnings.catch_warnings(action="ignore"),       # data.raster's own filter does not hold where threads share it
            ThreadPoolExecutor(WORKERS) as pool,
            tqdm(total=total, desc="tiles", unit="tile", disable=None) as bar,
        ):
            running = [pool.submit(pieces.write, folder, bar) for pieces in self.pieces.values() if pieces.files]
            try:
                for finished in as_completed(running):
                    finished.result()
            finally:
                pool.shutdown(cancel_futures=True)      # a damaged image, a full disk, Ctrl-C: no further one is begun


def cut(annotations: list[Path], images: Path, output: Path, how: Cutting) -> list[str]:
    """Write the set of tiles.

    Args:
        annotations: COCO files, such as those of train and val.
        output: new, or an empty folder.
    Returns:
        A line for each file: what became of its images and objects.
    Raises:
        InputError: an option, a file, an image or the output is wrong; nothing is left behind then.
    """
    output = output.absolute()                  # so that "." has a name
    _check(annotations, output, how)
    plan, contents, lines = Plan(how), {}, []
    for path in annotations:
        source = load_coco(path, images, key="--annotations", images_key="--images", training=False)
        contents[_name(path)], counts = plan.cut(read_json(path), source)
        if not counts["tiles"]:
            raise InputError(f"--drop-empty: no tile of {path} holds an object, so that nothing is left. Leave the option out.")
        lines.append(f"{path.name}: {_summary(counts, how)}")
    with appearing(output) as beside:
        for part in ("images", "annotations"):
            (beside / part).mkdir()
        plan.write(beside / "images")
        for name, content in contents.items():
            (beside / f"annotations/{name}.json").write_text(json.dumps(content))
    return lines


def _check(annotations: list[Path], output: Path, how: Cutting) -> None:
    """Refuse before anything is read what can be refused then."""
    if not 0 <= how.keep <= 1:
        raise InputError(f"--keep: {how.keep} is outside 0..1. Name the least share of an object, such as 0.5.")
    name, times = Counter(map(_name, annotations)).most_common(1)[0]
    if times > 1:
        raise InputError(f"--annotations: {times} files would become {name}.json. Rename them, or cut each on its own.")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"--output: {output} exists and is not an empty folder. Name another folder, or remove it.")


def _name(annotations: Path) -> str:
    """What the new annotation file is called, but for its ending."""
    return Path(annotations.name.removesuffix(".gz")).stem


def _area(boxes: np.ndarray) -> np.ndarray:
    """(N,) of (N, 4) xyxy."""
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)


def _without_places(entry: dict) -> dict:
    """The fields of an image or an object that hold for a tile of it as well."""
    return {k: v for k, v in entry.items() if k not in ("segmentation", "num_keypoints") and not isinstance(v, list)}


def _take(source: Path, target: Path) -> None:
    """Link a file, or copy it where links are not possible."""
    try:
        os.link(source.resolve(), target)           # else a link to a symbolic link
    except OSError:
        shutil.copyfile(source, target)


def _summary(counts: Counter, how: Cutting) -> str:
    line = (f"{counts['images']:,} images, {counts['objects']:,} objects -> {counts['tiles']:,} tiles, "
            f"{counts['boxes']:,} boxes, {counts['cut']:,} of them cut, {counts['left out']:,} smaller part(s) left out")
    for key, what in (
        ("empty", f"tile(s) without an object{', left out' if how.drop_empty else ''}"),
        ("flat", "object(s) without area or outside their image"),
        ("lost", f"object(s) in no tile, as none shows {how.keep} of them (a larger --tile or --overlap helps)"),
    ):
        line += f"; {counts[key]:,} {what}" if counts[key] else ""
    return line


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and cut."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path, nargs="+", required=True, metavar="FILE", help="COCO JSON, gzip or not")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="where the file names in them start")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the new set, for data.root")
    parser.add_argument("--tile", type=int, required=True, metavar="PX", help="side of a tile, such as train.image_size")
    parser.add_argument("--overlap", type=int, metavar="PX", help="of neighbouring tiles (default: a quarter of --tile)")
    parser.add_argument("--keep", type=float, default=0.5, metavar="SHARE",
                        help="least share of an object that a tile shows to which it belongs (default: 0.5)")
    parser.add_argument("--drop-empty", action="store_true", help="leave out tiles to which no object belongs")
    options = parser.parse_args(arguments)
    how = Cutting(tiling(options.tile, options.overlap), options.keep, options.drop_empty)
    print(*cut(options.annotations, options.images, options.output, how), sep="\n")
    return 0


if __name__ == "__main__":
    run(main)
