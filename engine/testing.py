"""What test.py does: score a checkpoint on a split, or a file of detections against a file of annotations."""
from pathlib import Path

from engine import checkpoint
from engine import config as configs
from engine.datasets import open_split, read_truth, score, split_file, test_loader
from engine.distributed import Ranks
from engine.evaluator import predict_all
from engine.log import write_json
from errors import InputError
from eval.coco import evaluate
from eval.files import read_detections, read_ground_truth_arrays, write_detections

SCORING_KEYS = ("eval.area_ranges", "eval.max_dets", "eval.olrp")


def test_checkpoint(path: Path, split: str, output: Path | None, overrides: list[str]) -> int:
    """Detect on a split, write detections.json and metrics.json, print the table; returns the exit code."""
    model, content = checkpoint.load_for_inference(path)
    config = configs.from_dict(content["config"], str(path), overrides)
    ranks = Ranks(config.train.device)
    try:
        class_names = tuple(content["class_names"])
        source = open_split(config, split, class_names, training=False)
        output = output or path.parent / split
        if ranks.is_main:
            print(f"{path}: {source.summary()}")
        found = predict_all(
            model.to(ranks.device), test_loader(config, source, ranks), config.eval, ranks, source.category_ids
        )
        if found is None:
            return 0
        output.mkdir(parents=True, exist_ok=True)
        write_detections(output / "detections.json", found.detections)
        metrics = score(read_truth(split_file(config, split), class_names), found.detections, config.eval)
        _report(metrics, output)
        if found.capped_images:
            print(f"{found.capped_images} image(s) had more than eval.max_det={config.eval.max_det} detections; the weakest "
                  "were left out")
        return 0
    finally:
        ranks.close()


def test_files(ground_truth: Path, detections: Path, protocol: str, output: Path | None, overrides: list[str]) -> int:
    """Score a COCO results file; returns the exit code. Overrides may change what the protocol sets: eval.olrp=true."""
    for override in overrides:
        key = override.partition("=")[0]
        if key not in SCORING_KEYS:
            raise InputError(f"'{override}': belongs to a checkpoint. With files alone {', '.join(SCORING_KEYS)} can be set.")
    config = configs.from_dict({"eval": {"protocol": protocol}}, "test.py", overrides)
    truth = read_ground_truth_arrays(ground_truth)
    metrics = evaluate(truth, read_detections(detections, truth), config.eval.scoring())
    output = output or detections.parent
    output.mkdir(parents=True, exist_ok=True)
    _report(metrics, output)
    return 0


def _report(metrics: dict, output: Path) -> None:
    write_json(output / "metrics.json", metrics)
    print(table(metrics))
    print(f"wrote {output / 'metrics.json'}")


def table(metrics: dict) -> str:
    """Metrics in percent, all classes first, then class by class; "-" where there is no object."""
    columns = [name for name in metrics if name != "per_class"]
    rows = [("all", metrics), *metrics["per_class"].items()]
    width = max(len(name) for name, _ in rows)
    lines = [" " * width + "".join(f"{c:>9}" for c in columns)]
    for name, values in rows:
        cells = (f"{100 * values[c]:9.1f}" if values[c] >= 0 else f"{'-':>9}" for c in columns)
        lines.append(f"{name:<{width}}" + "".join(cells))
    return "\n".join(lines)
