"""One run of benchmarks/evaluator.py: load and evaluate with one tool, and print times, peak memory and figures as JSON.

    python benchmarks/evaluator_run.py ours|ours-arrays|test-aitod|test-voc|faster-coco-eval|pycocotools TRUTH DETECTIONS

Needs nothing but the tool itself, so that the peers' interpreter can run it.
"""
import contextlib
import io
import json
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path

COLUMNS = ("image_ids", "category_ids", "boxes", "scores")
AREAS = {"all": [0, 1e10], "vt": [0, 64], "t": [64, 256], "s": [256, 1024], "m": [1024, 1e10]}
LIMITS = [1, 100, 1500]


def clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def peak() -> float:
    """MB of memory that this process had at most."""
    try:
        # getrusage would count what the process that started this one had
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def ours(truth: str, found: str) -> tuple[str, tuple, tuple, tuple, dict]:
    """From files."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from eval.coco import AITOD, evaluate
    from eval.files import read_detections, read_ground_truth_arrays
    start = clocks()
    objects = read_ground_truth_arrays(truth)
    detections = read_detections(found, objects)
    loaded = clocks()
    figures = evaluate(objects, detections, AITOD)
    del figures["per_class"]
    return "ours", start, loaded, clocks(), figures


def ours_from_arrays(truth: str, found: str) -> tuple[str, tuple, tuple, tuple, dict]:
    """The same from arrays on disk that were made of the files before, as if a model had just given them."""
    import subprocess
    import tempfile

    import numpy as np
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from eval.coco import AITOD, evaluate
    from eval.files import DetectionArrays, read_ground_truth_arrays
    with tempfile.TemporaryDirectory() as folder:
        # in another process, so that its memory is not counted
        subprocess.run([sys.executable, __file__, "convert", truth, found, folder], check=True)
        start = clocks()
        objects = read_ground_truth_arrays(truth)
        detections = DetectionArrays(*(np.load(f"{folder}/{name}.npy") for name in COLUMNS))
        loaded = clocks()
        figures = evaluate(objects, detections, AITOD)
        del figures["per_class"]
        return "ours, from arrays", start, loaded, clocks(), figures


def convert(truth: str, found: str, folder: str) -> None:
    import numpy as np
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from eval.files import read_detections, read_ground_truth_arrays
    detections = read_detections(found, read_ground_truth_arrays(truth))
    for name in COLUMNS:
        np.save(f"{folder}/{name}.npy", getattr(detections, name))


def script(protocol: str, truth: str, found: str) -> tuple[str, tuple, tuple, tuple, dict]:
    """test.py as a user calls it: its start, reading, figures, tables and pictures, all as one time."""
    import tempfile
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        start = clocks()
        import test as test_script
        test_script.main(["--ground-truth", truth, "--detections", found, "--protocol", protocol, "--output", folder])
        end = clocks()
        figures = json.loads((Path(folder) / "metrics.json").read_text())
    del figures["per_class"]
    return f"test.py, {protocol}", start, start, end, figures


def peer(tool: str, truth: str, found: str) -> tuple[str, tuple, tuple, tuple, dict]:
    """pycocotools or faster-coco-eval with AI-TOD's parameters; means are taken as pycocotools' summarize does."""
    import numpy as np
    if tool == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval as Evaluation
        options = {}
    else:
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as Evaluation
        options = {"print_function": lambda *_: None}
    with contextlib.redirect_stdout(io.StringIO()):
        start = clocks()
        objects = COCO(truth)
        detections = objects.loadRes(found)
        loaded = clocks()
        evaluation = Evaluation(objects, detections, "bbox", **options)
        evaluation.params.maxDets = LIMITS
        evaluation.params.areaRng = list(AREAS.values())
        evaluation.params.areaRngLbl = list(AREAS)
        evaluation.evaluate()
        evaluation.accumulate()
        end = clocks()
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]

    def mean(values):
        values = np.asarray(values)
        return float(values[values > -1].mean()) if (values > -1).any() else -1.0

    figures = {"AP": mean(precision[..., 0, 2]), "AP50": mean(precision[0, ..., 0, 2]), "AP75": mean(precision[5, ..., 0, 2])}
    for a, name in enumerate(AREAS):
        if a:
            figures |= {f"AP_{name}": mean(precision[..., a, 2]), f"AR_{name}": mean(recall[..., a, 2])}
    figures |= {f"AR{limit}": mean(recall[..., 0, m]) for m, limit in enumerate(LIMITS)}
    return f"{tool} {version(tool)}", start, loaded, end, figures


def main() -> None:
    tool, *paths = sys.argv[1:]
    if tool == "convert":
        convert(*paths)
        return
    if tool == "ours":
        result = ours(*paths)
    elif tool == "ours-arrays":
        result = ours_from_arrays(*paths)
    elif tool.startswith("test-"):
        result = script(tool.removeprefix("test-"), *paths)
    else:
        result = peer(tool, *paths)
    name, start, loaded, end, figures = result
    print(json.dumps({
        "name": name, "load": loaded[0] - start[0], "load_cpu": loaded[1] - start[1], "evaluate": end[0] - loaded[0],
        "evaluate_cpu": end[1] - loaded[1], "peak": peak(), "figures": figures}))


if __name__ == "__main__":
    main()
