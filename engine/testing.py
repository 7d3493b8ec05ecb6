"""What test.py does: score a checkpoint on a split, or a file of detections against a file of annotations."""
from pathlib import Path

from engine import checkpoint
from engine import config as configs
from engine.datasets import is_voc, open_split, read_truth, score, split_file, test_loader
from engine.distributed import Ranks
from engine.evaluator import PROTOCOLS, predict_all
from engine.log import write_json
from eval.coco import evaluate
from eval.files import read_detections, read_ground_truth, write_detections


def test_checkpoint(path: Path, split: str, output: Path | None, overrides: list[str]) -> int:
    """Detect on a split, write detections.json and metrics.json, print the table; returns the exit code.

    For a VOC set, ground_truth.json is the same annotations in COCO's form, with the ids of detections.json.
    """
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
        truth = read_truth(config, split, class_names)
        if is_voc(split_file(config, split)):       # else detections.json would have nothing to be scored against again
            write_json(output / "ground_truth.json", truth)
        _report(score(truth, found.detections, config.eval), output)
        if found.capped_images:
            print(f"{found.capped_images} image(s) had more than eval.max_det={config.eval.max_det} detections; the weakest "
                  "were left out")
        return 0
    finally:
        ranks.close()


def test_files(ground_truth: Path, detections: Path, protocol: str, output: Path | None) -> int:
    """Score a COCO results file; returns the exit code."""
    truth = read_ground_truth(ground_truth)
    metrics = evaluate(truth, read_detections(detections, truth), PROTOCOLS[protocol])
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
    lines = [" " * width + "".join(f"{c:>8}" for c in columns)]
    for name, values in rows:
        cells = (f"{100 * values[c]:8.1f}" if values[c] >= 0 else f"{'-':>8}" for c in columns)
        lines.append(f"{name:<{width}}" + "".join(cells))
    return "\n".join(lines)
