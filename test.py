"""Score a trained detector, or detections that any tool wrote.

A model:     python test.py --checkpoint runs/yolo11n/best.pt --split test data.root=DIR
Files only:  python test.py --ground-truth gt.json --detections dt.json --protocol aitod

Prints a table by class and writes metrics.json and, for a model, detections.json (COCO results) into --output (default:
the checkpoint's folder / <split>). torchrun shares the images over several GPUs. Settings of the checkpoint can be
overridden: eval.conf=0.01, train.image_size=1024, train.device=cpu; with files alone eval.area_ranges, eval.max_dets and
eval.olrp.
"""
import argparse
from pathlib import Path

from engine import testing
from engine.config import PROTOCOLS
from errors import InputError, run


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and score; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="best.pt or last.pt that train.py wrote")
    parser.add_argument("--split", choices=("train", "val", "test"), default="test", help="which of data.* (default: test)")
    parser.add_argument("--ground-truth", type=Path, help="COCO annotations")
    parser.add_argument("--detections", type=Path, help="COCO results")
    parser.add_argument("--protocol", choices=tuple(PROTOCOLS), default="aitod", help="areas and maxDets for files")
    parser.add_argument("--output", type=Path, help="folder of metrics.json and detections.json")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="what changes in checkpoint or protocol")
    options = parser.parse_intermixed_args(arguments)

    files = (options.ground_truth, options.detections)
    if options.checkpoint and not any(files):
        return testing.test_checkpoint(options.checkpoint, options.split, options.output, options.overrides)
    if all(files) and not options.checkpoint:
        return testing.test_files(*files, options.protocol, options.output, options.overrides)
    raise InputError("test.py: name either --checkpoint, or --ground-truth and --detections.")


if __name__ == "__main__":
    run(main)
