"""The evaluator beside pycocotools and faster-coco-eval, on files like AI-TOD's: time and peak memory, and whether they agree.

    python -m benchmarks.evaluator --peer-python PEERS/bin/python        # about ten minutes; without peers one
    python -m benchmarks.evaluator --full                                # 21 million detections, ours and test.py alone

The peers live in a virtual environment of their own:

    python3 -m venv PEERS && PEERS/bin/pip install numpy pycocotools faster-coco-eval

Every run is a process of its own (benchmarks/evaluator_run.py), with loading and evaluating timed apart. Each is repeated
and the lowest time counts. Times are of the clock, and of the processors in brackets. Files are drawn from a fixed seed:
objects an image by a lognormal law of mean 25, up to 2,600; classes and sizes as AI-TOD's; detections that find, miss,
double and invent objects, up to 1,500 an image, written with all digits of a float32.
"""
import argparse
import json
import platform
import sys
import tempfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.child import figures
from eval.files import DetectionArrays, write_detections

NAMES = ("airplane", "bridge", "storage-tank", "ship", "swimming-pool", "vehicle", "person", "wind-mill")
COUNTS = np.array([793, 652, 7746, 17330, 327, 307957, 17967, 243])      # AI-TOD trainval, by class
SIDE = 800                    # px of an image
MEAN_OBJECTS, MOST_OBJECTS, MOST_DETECTIONS = 25, 2600, 1500
MEAN_DETECTIONS = 100
TOLERANCE = 1e-9
SCRIPTS = ("test-aitod", "test-voc")
RUN = Path(__file__).with_name("evaluator_run.py")


def objects_per_image(rng: np.random.Generator, num_images: int) -> np.ndarray:
    """(I,) int64, heavy-tailed; the densest image holds MOST_OBJECTS when there are enough images for that."""
    counts = rng.lognormal(0, 1.5, num_images)
    counts = np.minimum(counts / counts.mean() * MEAN_OBJECTS, MOST_OBJECTS)
    if num_images >= 1000:
        counts[counts.argmax()] = MOST_OBJECTS
    return np.maximum(np.round(counts * MEAN_OBJECTS / counts.mean()), 1).astype(np.int64).clip(1, MOST_OBJECTS)


def draw(num_images: int, detections_per_image: int | None, seed: int = 0) -> tuple[dict[str, np.ndarray], DetectionArrays]:
    """Objects, as arrays "image", "label" (from 0) and "boxes" (xywh px), and detections.

    Args:
        detections_per_image: as many in every image; None: MEAN_DETECTIONS on average, more where there are more objects.
    """
    rng = np.random.default_rng(seed)
    counts = objects_per_image(rng, num_images)
    image = np.repeat(np.arange(1, num_images + 1), counts)
    label = rng.choice(len(NAMES), len(image), p=COUNTS / COUNTS.sum())
    sides = np.clip(rng.lognormal(np.log(11), 0.5, (len(image), 1)) * rng.lognormal(0, 0.2, (len(image), 2)), 2, 300).round()
    boxes = np.concatenate([rng.uniform(0, SIDE - sides).round(), sides], 1)

    wanted = np.full(num_images, detections_per_image or 0)
    if detections_per_image is None:
        wanted = counts * 2.0 + rng.exponential(20, num_images)
        wanted = np.minimum(wanted * MEAN_DETECTIONS / wanted.mean(), MOST_DETECTIONS).astype(np.int64)
    first = np.cumsum(counts) - counts
    found_image = np.repeat(np.arange(num_images), wanted)
    # the n-th detection of an image is near its n-th object, then near a second time; what is left over is invented
    turn = np.arange(len(found_image)) - np.repeat(np.cumsum(wanted) - wanted, wanted)
    of = first[found_image] + turn % counts[found_image]
    lap = turn // counts[found_image]
    real = (lap < 3) & (rng.random(len(of)) < np.array([0.85, 0.5, 0.2, 0])[np.minimum(lap, 3)])
    noise = rng.normal(0, 0.12, (len(of), 4)) * np.tile(boxes[of, 2:], 2)
    found = np.where(real[:, None], boxes[of] + noise, boxes[rng.permutation(of)])
    found[~real, :2] = rng.uniform(0, SIDE - 20, ((~real).sum(), 2))
    found[:, 2:] = np.maximum(found[:, 2:], 0.5)
    found_label = np.where(rng.random(len(of)) < 0.93, label[of], rng.choice(len(NAMES), len(of)))
    scores = np.where(real, rng.beta(2, 2 + lap), rng.beta(0.5, 8, len(of)))
    order = np.lexsort((-scores, found_image))
    as_written = found[order].astype(np.float32).astype(np.float64)
    return ({"image": image, "label": label, "boxes": boxes},
            DetectionArrays(found_image[order] + 1, found_label[order] + 1, as_written,
                            scores[order].astype(np.float32).astype(np.float64)))


def write_truth(path: Path, num_images: int, objects: dict[str, np.ndarray]) -> None:
    """A COCO ground truth file as AI-TOD's: with file names and a polygon for each box."""
    annotations = []
    for number, (image, label, (x, y, w, h)) in enumerate(
            zip(objects["image"].tolist(), objects["label"].tolist(), objects["boxes"].tolist(), strict=True), 1):
        annotations.append({"id": number, "image_id": image, "category_id": label + 1, "bbox": [x, y, w, h], "area": w * h,
                            "iscrowd": 0, "segmentation": [[x, y, x, y + h, x + w, y + h, x + w, y]]})
    images = [{"id": n, "file_name": f"{n:05d}.png", "width": SIDE, "height": SIDE} for n in range(1, num_images + 1)]
    categories = [{"id": n, "name": name} for n, name in enumerate(NAMES, 1)]
    content = {"info": {"description": "drawn"}, "images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))


def files(folder: Path, num_images: int, detections_per_image: int | None = None) -> tuple[Path, Path, int, int]:
    """Ground truth and detections in a folder, and how many objects and detections they hold."""
    objects, detections = draw(num_images, detections_per_image)
    truth, found = folder / f"truth_{num_images}.json", folder / f"detections_{num_images}.json"
    write_truth(truth, num_images, objects)
    write_detections(found, detections)
    return truth, found, len(objects["image"]), len(detections)


def run(python: str, tool: str, truth: Path, found: Path, repeat: int) -> dict:
    """The lowest times and the peak memory of `repeat` processes."""
    best = None
    for _ in range(repeat):
        result = figures(python, RUN, tool, truth, found)
        if best is not None:
            for key in ("load", "load_cpu", "evaluate", "evaluate_cpu", "peak"):
                result[key] = min(result[key], best[key])
        best = result
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="interpreter that has pycocotools and faster-coco-eval")
    parser.add_argument("--images", type=int, nargs="+", default=[300, 3000, 14018])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--slow-limit", type=int, default=300, help="pycocotools runs up to so many images (default: 300)")
    parser.add_argument("--full", action="store_true", help="14,018 images with 1,500 detections each: 2 GB of JSON")
    options = parser.parse_args()
    print(f"{platform.platform()}, {platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}")
    if not options.peer_python:
        print("no --peer-python: the rows of pycocotools and faster-coco-eval are left out")
    print(f"{'images':>7} {'objects':>8} {'detections':>11} "
          f" {'tool':<24} {'load s':>17} {'evaluate s':>17} {'peak MB':>8}   AP")
    with tempfile.TemporaryDirectory() as folder:
        cases = [(n, None) for n in options.images] if not options.full else [(14018, MOST_DETECTIONS)]
        for num_images, detections_per_image in tqdm(cases, disable=None):
            truth, found, num_objects, num_detections = files(Path(folder), num_images, detections_per_image)
            tools = ["ours", "ours-arrays", *SCRIPTS] if options.full else ["ours"]
            if options.peer_python:
                tools += ["faster-coco-eval"] + ["pycocotools"] * (num_images <= options.slow_limit)
            results = {}
            for tool in tools:
                python = sys.executable if tool.startswith(("ours", "test")) else options.peer_python
                repeat = 1 if options.full or tool == "pycocotools" else options.repeat
                results[tool] = result = run(python, tool, truth, found, repeat)
                headline = next(iter(result["figures"].values()))
                print(f"{num_images:>7,} {num_objects:>8,} {num_detections:>11,}  {result['name']:<24} "
                      f"{result['load']:>8.2f} ({result['load_cpu']:>6.2f}) {result['evaluate']:>8.2f} "
                      f"({result['evaluate_cpu']:>6.2f}) {result['peak']:>8.0f}   {headline:.12f}", flush=True)
            compare(results)
            truth.unlink()
            found.unlink()


def compare(results: dict[str, dict]) -> None:
    """Every tool must give our figures; those of VOC are others."""
    for tool in results.keys() - {"test-voc"}:
        for name, value in results["ours"]["figures"].items():
            if abs(results[tool]["figures"][name] - value) > TOLERANCE:
                raise SystemExit(f"{tool}: {name} {results[tool]['figures'][name]!r}, ours {value!r}")


if __name__ == "__main__":
    main()
