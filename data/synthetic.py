"""Generated aerial scenes as a COCO set: AI-TOD's eight classes at AI-TOD's sizes, for demos, tests and benchmarks.

    python -m data.synthetic --output DIR [--train 320 --val 48 --test 48 --size 320 --seed 0]

Picture k of a split depends on (seed, split, k) alone, not on how many are drawn nor by how many processes. The pictures say
nothing about the real world: they show that a pipeline works.
"""
import argparse
import json
import multiprocessing
import os
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from data.folders import appearing
from data.scenery import Canvas
from data.sprites import NAMES
from data.themes import THEMES
from errors import InputError, run

VERSION = 1                                 # of the drawing: another version is another set
SPLITS = ("train", "val", "test")


def draw_scene(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw one scene.

    Returns:
        Picture (size, size, 3) uint8 BGR, boxes (N, 4) float32 xyxy pixels, labels (N,) int64, indices of NAMES.
    """
    canvas = Canvas(rng, size)
    themes, shares = zip(*THEMES, strict=True)
    themes[rng.choice(len(themes), p=shares)](canvas)
    boxes = np.array(canvas.boxes, dtype=np.float32).reshape(-1, 4)
    return canvas.photograph(), boxes, np.array(canvas.labels, dtype=np.int64)


def generate(
    root: Path, train: int = 320, val: int = 48, test: int = 48, size: int = 320, seed: int = 0, workers: int | None = None
) -> bool:
    """Write root/images/{train,val,test}/*.png and root/annotations/{train,val,test}.json.

    The set appears at once when it is complete. A folder that holds the same set already is left as it is.

    Args:
        size: side of the pictures, pixels.
        workers: processes; None: one for each core.
    Returns:
        Whether anything was written.
    Raises:
        InputError: the folder holds something else.
    """
    root = root.absolute()                      # so that "." has a name
    for name, value, low in (("train", train, 1), ("val", val, 0), ("test", test, 0), ("size", size, 128), ("seed", seed, 0)):
        if value < low:
            raise InputError(f"--{name}: {value} is too small. Use {low} or more.")
    made_with = {"version": VERSION, "train": train, "val": val, "test": test, "size": size, "seed": seed}
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        if _made_with(root) == made_with:
            return False
        raise InputError(f"--output: {root} holds something else than this set. Name another folder, or remove it.")
    with appearing(root) as beside:
        for split in SPLITS:
            (beside / "images" / split).mkdir(parents=True)
        (beside / "annotations").mkdir()
        jobs = [(beside, split, k, size, seed) for split in SPLITS for k in range(made_with[split])]
        # Not forked: OpenCV's and torch's threads do not survive a fork.
        with multiprocessing.get_context("spawn").Pool(workers or os.cpu_count()) as pool:
            drawn = list(tqdm(pool.imap(_write_scene, jobs, chunksize=8), total=len(jobs), desc="scenes", disable=None))
        for split in SPLITS:
            mine = [d for d, job in zip(drawn, jobs, strict=True) if job[1] == split]
            (beside / "annotations" / f"{split}.json").write_text(json.dumps(_coco(split, mine, size, made_with)))
    return True


def _write_scene(job: tuple[Path, str, int, int, int]) -> tuple[list[list[float]], list[int]]:
    """Draw and write one picture; returns its boxes and labels."""
    root, split, k, size, seed = job
    cv2.setNumThreads(1)
    image, boxes, labels = draw_scene(np.random.default_rng((seed, SPLITS.index(split), k)), size)
    # PNG: JPEG's blocks would smear objects of five pixels.
    cv2.imwrite(str(root / "images" / split / f"{k:05d}.png"), image)
    return boxes.astype(float).round(2).tolist(), labels.tolist()


def _coco(split: str, drawn: list[tuple[list, list]], size: int, made_with: dict) -> dict:
    """A COCO annotation file."""
    content = {
        "info": {"description": "generated scenes of rs-tinynet", "made_with": made_with},
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(NAMES)],
        "images": [],
        "annotations": [],
    }
    for k, (boxes, labels) in enumerate(drawn):
        content["images"].append({"id": k + 1, "file_name": f"{split}/{k:05d}.png", "width": size, "height": size})
        for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True):
            w, h = round(x2 - x1, 2), round(y2 - y1, 2)
            content["annotations"].append({"id": len(content["annotations"]) + 1, "image_id": k + 1, "category_id": label + 1,
                                           "bbox": [x1, y1, w, h], "area": w * h, "iscrowd": 0})
    return content


def _made_with(root: Path) -> dict | None:
    """The arguments that a folder's set was made with; None when it holds no such set."""
    try:
        return json.loads((root / "annotations" / "train.json").read_text())["info"]["made_with"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def statistics(root: Path) -> str:
    """Objects by class and split, and the sizes of all, as text."""
    counts = np.zeros((len(SPLITS), len(NAMES)), int)
    areas, per_image = [], []
    for row, split in enumerate(SPLITS):
        content = json.loads((root / "annotations" / f"{split}.json").read_text())
        for entry in content["annotations"]:
            counts[row, entry["category_id"] - 1] += 1
            areas.append(entry["area"])
        images = np.bincount([a["image_id"] for a in content["annotations"]], minlength=len(content["images"]) + 1)[1:]
        per_image += images.tolist()
    side = np.sqrt(areas)
    width = max(map(len, NAMES))
    lines = [f"{'':<{width}}" + "".join(f"{s:>8}" for s in SPLITS)]
    lines += [f"{name:<{width}}" + "".join(f"{n:>8,}" for n in counts[:, k]) for k, name in enumerate(NAMES)]
    lines.append(f"{'total':<{width}}" + "".join(f"{n:>8,}" for n in counts.sum(1)))
    lines.append(f"object size (root of the area): median {np.median(side):.1f} px, mean {side.mean():.1f} px, "
                 f"{(side < 16).mean():.0%} under 16 px")
    lines.append(f"objects an image: median {np.median(per_image):.0f}, mean {np.mean(per_image):.0f}, most {max(per_image)}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the set")
    parser.add_argument("--train", type=int, default=320, help="pictures to train on (default: 320)")
    parser.add_argument("--val", type=int, default=48, help="pictures to validate on (default: 48)")
    parser.add_argument("--test", type=int, default=48, help="pictures to test on (default: 48)")
    parser.add_argument("--size", type=int, default=320, help="side in pixels (default: 320)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if not generate(options.output, options.train, options.val, options.test, options.size, options.seed):
        print(f"{options.output}: holds this set already")
    print(statistics(options.output))
    return 0


if __name__ == "__main__":
    run(main)
