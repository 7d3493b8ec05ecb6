"""YOLO's label files as COCO JSON, beside them.

    python -m data.yolo_labels --root DIR --names ship vehicle [--output DIR/annotations]

DIR is either of the two layouts in use; images without a label file, or with an empty one, are background:

    DIR/images/{train,val,test}/a.jpg  DIR/labels/{train,val,test}/a.txt
    DIR/{train,valid,test}/images/a.jpg  DIR/{train,valid,test}/labels/a.txt

A line is `class x y width height`, the centre and the sides as shares of the image's. Of an outline, `class x1 y1 x2 y2 x3 y3
...` (a polygon, or the corners of an oriented box), the box around it is taken. DIR/annotations/{train,val,test}.json appear
together; --output names another folder than DIR/annotations.
"""
import argparse
import json
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from data.folders import appearing, walk
from data.pixels import ENDINGS, image_size
from errors import InputError, listed, run

SPLITS = {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}      # and the names of their folders
SLACK = 0.01            # how far over the border shares may reach, as labelling tools round
DIGITS = 6              # of the coordinates in pixels


def convert(root: Path, names: list[str], output: Path) -> list[str]:
    """Write output/{train,val,test}.json of those splits that have images.

    Args:
        root: a folder of one of the two layouts.
        names: of the classes, in the order of their numbers in the files; their category ids are 1..C.
    Returns:
        What was written, in lines.
    Raises:
        InputError: something in the files or folders is wrong, or `output` is there already.
    """
    if len(set(names)) < len(names):
        raise InputError(f"--names: {listed(names)}: a name stands there twice. Give each class a name of its own.")
    if output.exists():
        raise InputError(f"--output: {output} is there already. Move it away, or name another folder.")
    base, folders = _layout(root)
    report, content = [], {}
    for split, folder in folders.items():
        content[split], said = _split(base, folder, names)
        report.append(f"{output / split}.json: {said}")
    with appearing(output.absolute()) as beside:
        for split, its in content.items():
            (beside / f"{split}.json").write_text(json.dumps(its), encoding="utf-8")
    settings = [f"data.root={root}"] + ["data.images=."] * (base == root)
    for split in SPLITS:
        if split not in content:
            settings.append(f"data.{split}=")
        elif output != root / "annotations":
            settings.append(f"data.{split}={output.absolute() / split}.json")
    return [*report, f"For data.check and train.py: --config configs/custom.toml {shlex.join(settings)}"]


def _layout(root: Path) -> tuple[Path, dict[str, Path]]:
    """The folder where file names start, and the folder of each split's images."""
    for base, pattern in ((root / "images", "images/{}"), (root, "{}/images")):
        found = {}
        for split, words in SPLITS.items():
            there = [f for f in (root / pattern.format(word) for word in words) if f.is_dir() and any(f.iterdir())]
            if len(there) > 1:
                raise InputError(f"--root: {there[0]} and {there[1]} are both there. Move one away: {split} is one of them.")
            if there:
                found[split] = there[0]
        if found:
            return base, found
    raise InputError(f"--root: {root} holds neither images/train, images/val or images/test nor train/images, valid/images or "
                     "test/images. Name the folder above them.")


def _split(base: Path, folder: Path, names: list[str]) -> tuple[dict, str]:
    """One split as COCO, and what it holds."""
    files = sorted(f for f in walk(folder) if f.suffix.lower() in ENDINGS and not f.name.startswith("."))
    place = folder.parents[1] / "labels" / folder.name if folder.parent == base else folder.parent / "labels"
    texts = {f.with_suffix(".txt"): f for f in walk(place) if f.suffix.lower() == ".txt"}
    labels = [texts.pop((place / f.relative_to(folder)).with_suffix(".txt"), None) for f in files]
    unlabelled = labels.count(None)
    if unlabelled == len(files):
        raise InputError(f"--root: none of the {len(files):,} images in {folder} has a label file in {place}. Put the labels "
                         f"there, under the names of the images, or move {folder} away.")
    with ThreadPoolExecutor() as pool:          # of most images only the header is read
        sizes = list(tqdm(pool.map(image_size, files), total=len(files), desc=folder.name, disable=None))
    images, annotations = [], []
    for number, (file, label, size) in enumerate(zip(files, labels, sizes, strict=True), start=1):
        images.append({"id": number, "file_name": file.relative_to(base).as_posix(), "width": size[0], "height": size[1]})
        for kind, box in read_labels(label, size, names) if label else ():
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": kind + 1, "iscrowd": 0,
                                "bbox": box, "area": round(box[2] * box[3], DIGITS)})
    strangers = sorted(text for text in texts.values() if text != place / "classes.txt")
    said = f"{len(images):,} images, {len(annotations):,} objects"
    said += f"; {unlabelled:,} images without a label file" if unlabelled else ""
    said += f"; {len(strangers):,} label files without an image, such as {strangers[0]}" if strangers else ""
    categories = [{"id": k, "name": name} for k, name in enumerate(names, start=1)]
    return {"images": images, "categories": categories, "annotations": annotations}, said


def read_labels(file: Path, size: tuple[int, int], names: list[str]) -> list[tuple[int, list[float]]]:
    """The objects of a label file.

    Args:
        size: width and height of its image, pixels.
    Returns:
        For each the number of its class and its box, x, y, width, height in pixels from the left upper corner.
    Raises:
        InputError: a line is not what it must be.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({error}). Replace the file.") from None
    objects = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{file}: line {number}"
        try:
            kind, *shares = map(float, line.split())
        except ValueError:
            raise InputError(f"{where}: {line[:80]!r} are not numbers. Mend the file.") from None
        if len(shares) != 4 and (len(shares) < 6 or len(shares) % 2):
            raise InputError(f"{where}: has {len(shares) + 1} numbers. Give class, x, y, width and height, or class and the "
                             "corners of an outline.")
        if kind not in range(len(names)):
            raise InputError(f"{where}: is of class {kind:g}, but --names gives {len(names)}, numbered from 0. Name all "
                             "classes, in the order of their numbers.")
        if not all(-SLACK <= share <= 1 + SLACK for share in shares):       # never for NaN
            raise InputError(f"{where}: {line[:80]!r}: all but the class are shares of the image's sides, from 0 to 1. "
                             "Divide pixels by them.")
        across, down = shares[::2], shares[1::2]
        if len(shares) == 4:
            across = (across[0] - across[1] / 2, across[0] + across[1] / 2)
            down = (down[0] - down[1] / 2, down[0] + down[1] / 2)
        left, top = min(across) * size[0], min(down) * size[1]
        box = left, top, max(across) * size[0] - left, max(down) * size[1] - top
        objects.append((int(kind), [round(value, DIGITS) for value in box]))
    return objects


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and convert."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, metavar="DIR", help="the folder above images and labels")
    parser.add_argument("--names", nargs="+", required=True, metavar="NAME",
                        help="of the classes, in the order of their numbers, as `names` in the set's YAML file")
    parser.add_argument("--output", type=Path, metavar="DIR", help="of the JSON files (default: DIR/annotations)")
    options = parser.parse_args(arguments)
    print(*convert(options.root, options.names, options.output or options.root / "annotations"), sep="\n")
    return 0


if __name__ == "__main__":
    run(main)
