"""From images in memory to detections: latency at batch 1 and throughput at batch 16, beside Ultralytics' predict.

    python -m benchmarks.inference --checkpoint best.pt --images DIR --peer-python PEERS/bin/python

best.pt is a YOLO11 that this code trained; the peer gets the same weights, images, size and thresholds, and the share of
detections that both make is printed. Without --peer-python any checkpoint is measured alone. The peer lives in a virtual
environment of its own: `python3 -m venv PEERS && PEERS/bin/pip install ultralytics`.

Timed: uint8 images to the network's input, the network with BatchNorm folded, decoding, non-maximum suppression, boxes in
the image's pixels. Every run is a process of its own (benchmarks/inference_run.py); its fastest pass of --repeat counts.
"""
import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.child import figures, machine

RUN = Path(__file__).with_name("inference_run.py")


def run(python: str, tool: str, case: dict) -> dict:
    """One process; its figures and detections."""
    result = figures(python, RUN, tool, json.dumps(case))
    with np.load(case["output"]) as found:
        return {**result, "found": dict(found)}


def shared(mine: dict, theirs: dict) -> float:
    """Share of the detections of one that the other has too: same image and class, sides within 0.5 px, scores within 0.01."""
    hits = 0
    for k in range(len(mine["image"])):
        same = (theirs["image"] == mine["image"][k]) & (theirs["labels"] == mine["labels"][k])
        near = np.abs(theirs["boxes"][same] - mine["boxes"][k]).max(1, initial=0) < 0.5
        hits += bool((near & (np.abs(theirs["scores"][same] - mine["scores"][k]) < 0.01)).any())
    return hits / max(len(mine["image"]), len(theirs["image"]), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    parser.add_argument("--peer-python", help="interpreter that has ultralytics")
    parser.add_argument("--side", type=int, default=416, help="pixels (default: 416)")
    parser.add_argument("--count", type=int, default=64, help="images (default: 64)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--conf", type=float, nargs="+", default=[0.25, 0.001], help="lowest score: of use, and of a test")
    parser.add_argument("--nms", type=float, default=0.7)
    parser.add_argument("--max-det", type=int, default=1500, help="detections kept in an image (default: 1500)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--half", action="store_true", help="float16, both tools")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    print(f"{machine(options.device)}; {options.count} images of {options.side} px{', float16' if options.half else ''}")
    print(f"{'batch':>5} {'score':>6}  {'ours ms/img':>11} {'img/s':>8} {'found':>8}  {'theirs ms/img':>13} {'img/s':>8} "
          f"{'found':>8}  {'times':>5}  same")
    case = {name: getattr(options, name) for name in ("side", "count", "nms", "max_det", "device", "half", "repeat")}
    case |= {"checkpoint": str(options.checkpoint), "images": str(options.images)}
    with tempfile.TemporaryDirectory() as folder:
        case["output"] = str(Path(folder) / "found.npz")
        for batch in options.batch:
            for conf in options.conf:
                case |= {"batch": batch, "conf": conf}
                mine = run(sys.executable, "ours", case)
                text = (f"{batch:>5} {conf:>6}  {1000 * mine['seconds']:>11.2f} {1 / mine['seconds']:>8.1f} "
                        f"{mine['detections']:>8,}")
                if options.peer_python:
                    peer = run(options.peer_python, "ultralytics", case)
                    text += (f"  {1000 * peer['seconds']:>13.2f} {1 / peer['seconds']:>8.1f} {peer['detections']:>8,}  "
                             f"{peer['seconds'] / mine['seconds']:>5.2f}  {shared(mine['found'], peer['found']):.2%}")
                print(text, flush=True)


if __name__ == "__main__":
    main()
