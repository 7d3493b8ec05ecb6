"""The training loader beside Ultralytics': images a second, with and without a cache, and whether memory grows.

    python -m benchmarks.loader --data DIR --peer-python PEERS/bin/python       # five minutes on two cores
    python -m benchmarks.loader --data DIR                                      # ours alone

DIR is a COCO set (images/, annotations/train.json). The peer lives in a virtual environment of its own:

    python3 -m venv PEERS && PEERS/bin/pip install ultralytics

Both draw batches of 16 at 800 px with the same augmentations: mosaic 1.0, hsv 0.015 / 0.7 / 0.4, flip 0.5, translate 0.1,
scale 0.5. `none`: image files are decoded each time (they lie in the system's page cache). `disk` and `ram`: each tool's own
cache. Ours takes the pictures of a mosaic from the whole set, Ultralytics', except with `ram`, from those it read last, so
that without a cache it decodes one image where ours decodes four.

Every run is a process of its own (benchmarks/loader_run.py): one epoch to warm up, then `--epochs`. Tools take turns, and the
best epoch counts. "img/s" is by the clock; "per core" is images for each second of the processors, workers and main process
together, which other programs on the machine disturb less. Memory is of the largest worker after each epoch: what it has for
itself, and with what it shares (the mapped cache and batches).
"""
import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm

from benchmarks.child import figures

RUN = Path(__file__).with_name("loader_run.py")
CACHES = ("none", "disk", "ram")


def write_yolo(data: Path, folder: Path) -> None:
    """The training images of a COCO set as Ultralytics wants them: a text file of normalised boxes beside each."""
    content = json.loads((data / "annotations/train.json").read_text())
    label = {c["id"]: k for k, c in enumerate(content["categories"])}
    (folder / "classes").write_text(str(len(label)))
    lines = {image["id"]: [] for image in content["images"]}
    size = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    for entry in content["annotations"]:
        (x, y, w, h), (width, height) = entry["bbox"], size[entry["image_id"]]
        box = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
        lines[entry["image_id"]].append(f"{label[entry['category_id']]} " + " ".join(f"{v:.6f}" for v in box))
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for image in content["images"]:
        name = Path(image["file_name"]).name
        os.symlink((data / "images" / image["file_name"]).resolve(), folder / "images" / name)
        (folder / "labels" / name).with_suffix(".txt").write_text("\n".join(lines[image["id"]]))


def run(python: str, tool: str, cache: str, workers: int, epochs: int, data: Path, scratch: Path) -> dict:
    """One process; its figures for each epoch."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "YOLO_CONFIG_DIR": str(scratch)}
    return figures(python, RUN, tool, cache, workers, epochs, data, scratch, environment=environment)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of a COCO set, such as tinyrs4")
    parser.add_argument("--peer-python", help="interpreter that has ultralytics")
    parser.add_argument("--caches", nargs="+", default=CACHES, choices=CACHES)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=1)
    options = parser.parse_args()
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    if not options.peer_python:
        print("no --peer-python: the rows of Ultralytics are left out")
    print("cache   workers  tool                 OpenCV      img/s  per core   MB of a worker after each epoch, own / in all")
    tools = {"ours": sys.executable} | ({"ultralytics": options.peer_python} if options.peer_python else {})
    cases = [(cache, workers) for cache in options.caches for workers in options.workers]
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        write_yolo(options.data, scratch)
        for cache, workers in tqdm(cases, disable=None):
            results = {tool: [] for tool in tools}
            for _ in range(options.repeat):
                for tool, python in tools.items():
                    results[tool].append(run(python, tool, cache, workers, options.epochs, options.data, scratch))
            best = {}
            for tool, runs in results.items():
                best[tool] = [max(rate for one in runs for rate in one[key]) for key in ("rates", "per_core")]
                memory = "  ".join(f"{own:.0f} / {al:.0f}" for own, al in zip(runs[0]["own"], runs[0]["all"], strict=True))
                print(f"{cache:<6} {workers:>8}  {runs[0]['name']:<20} {runs[0]['opencv']:<8} {best[tool][0]:>8.1f} "
                      f"{best[tool][1]:>9.1f}   {memory}", flush=True)
            if len(best) == 2:
                ratio = [a / b for a, b in zip(*best.values(), strict=True)]
                print(f"{'':17}ours / ultralytics {'':10} {ratio[0]:>8.2f} {ratio[1]:>9.2f}", flush=True)


if __name__ == "__main__":
    main()
