"""Detect objects in images and draw them.

    python predict.py --checkpoint runs/yolo11n/best.pt --source IMAGE_OR_FOLDER
    python predict.py --checkpoint runs/yolo11n/best.pt --source scene.tif --tile 800 --overlap 200

Writes pictures/ and detections.json (COCO, with scores) into --output (default: runs/predict) and, for GeoTIFFs where rasterio
is installed, detections.geojson. Images are fitted to train.image_size; with --tile, those that are larger than a tile are run
in tiles at their own scale, so that they may have any size.
"""
import argparse
from pathlib import Path

from data.tiling import tiling
from engine.predictor import predict
from errors import InputError, run


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and predict; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="best.pt or last.pt that train.py wrote")
    parser.add_argument("--source", type=Path, required=True, help="an image, or a folder of images")
    parser.add_argument("--output", type=Path, default=Path("runs/predict"),
                        help="folder for the results; one within --source is not searched for images")
    parser.add_argument("--conf", type=float, help="lowest score kept (default: 0.25); the same as eval.conf=...")
    parser.add_argument("--tile", type=int, metavar="PX", help="run larger images in tiles of this side, at their own "
                        "scale; best is train.image_size")
    parser.add_argument("--overlap", type=int, metavar="PX", help="of neighbouring tiles (default: a quarter of --tile); more "
                        "than the size of an object, so that one tile shows it whole")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that differ from the checkpoint")
    options = parser.parse_intermixed_args(arguments)
    for other in options.overrides:
        if "=" not in other:                # a shell has made a list of --source *.jpg
            raise InputError(f"{other}: --source takes one image or a folder. Name the folder, or a folder with these images.")
    conf = [f"eval.conf={options.conf}"] if options.conf is not None else []
    return predict(options.checkpoint, options.source, options.output, ["eval.conf=0.25", *options.overrides, *conf],
                   tiling(options.tile, options.overlap))


if __name__ == "__main__":
    run(main)
