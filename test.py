"""Score a trained detector, or detections that any tool wrote.

A model:     python test.py --checkpoint runs/yolo11n/best.pt --split test data.root=DIR
Files only:  python test.py --ground-truth gt.json --detections dt.json --protocol aitod

Prints the figures by class and, for the classes of AI-TOD or DIOR, the paper's tables with ours below. Writes metrics.json,
pictures/ (precision-recall curves, sizes of found and missed objects, confusion of classes) and, for a model,
detections.json (COCO results; for a VOC set with its ground_truth.json) into --output. Its default is the checkpoint's folder /
<split>, or beside the detections a folder named after them and the protocol (there is none where they come from a pipe).
torchrun shares the images over several GPUs. With --tile, images that are larger than a tile are run in tiles, at their own
scale, and scored as a whole; without, all are fitted to train.image_size. Settings of the checkpoint can be overridden:
eval.conf=0.01, train.image_size=1024, train.device=cpu; with files alone eval.area_ranges, eval.limits and eval.olrp.
"""
import argparse
from pathlib import Path

from data.tiling import tiling
from engine import testing
from engine.distributed import stands_in_group
from errors import InputError, run
from eval.scoring import PROTOCOLS


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and score; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="best.pt or last.pt that train.py wrote")
    parser.add_argument("--split", choices=("train", "val", "test"), help="which of the checkpoint's data.* (default: test)")
    parser.add_argument("--ground-truth", type=Path, help="COCO annotations, gzip or not")
    parser.add_argument("--detections", type=Path, help="COCO results, likewise")
    parser.add_argument("--protocol", choices=PROTOCOLS,
                        help="how AP is taken, and at which sizes (default: aitod for files, eval.protocol for a checkpoint)")
    parser.add_argument("--output", type=Path, help="folder of metrics.json, pictures and detections.json")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables as Markdown too, for a README")
    parser.add_argument("--tile", type=int, metavar="PX", help="run larger images in tiles of this side, as predict.py does")
    parser.add_argument("--overlap", type=int, metavar="PX", help="of neighbouring tiles (default: a quarter of --tile)")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that differ from the checkpoint")
    options = parser.parse_intermixed_args(arguments)

    files = (options.ground_truth, options.detections)
    if options.checkpoint and not any(files):
        protocol = [f"eval.protocol={options.protocol}"] if options.protocol else []
        return testing.test_checkpoint(
            options.checkpoint, options.split or "test", options.output, options.overrides + protocol, options.markdown,
            tiling(options.tile, options.overlap))
    if all(files) and not options.checkpoint:
        if options.tile is not None or options.overlap is not None:
            raise InputError("--tile, --overlap: belong to a checkpoint; files are scored as they are. Leave them out.")
        if options.split:
            raise InputError("--split: belongs to a checkpoint; files are scored whole. Leave it out, or name its files.")
        return testing.test_files(*files, options.protocol or "aitod", options.output, options.overrides, options.markdown)
    raise InputError("test.py: name either --checkpoint, or --ground-truth and --detections.")


if __name__ == "__main__":
    run(main, stands_in_group)
