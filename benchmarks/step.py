"""The training step of every row of Table III, and of YOLO11 beside Ultralytics': images a second, memory, where time goes.

    python -m benchmarks.step --peer-python PEERS/bin/python                    # CPU: scale n, 416 px, batch 16
    python -m benchmarks.step --scale m --side 800 --amp bf16 --compile         # on a GPU

The peer lives in a virtual environment of its own: `python3 -m venv PEERS && PEERS/bin/pip install ultralytics`.

A step is forward, loss, backward and update (clipping, SGD, average of the weights) on one batch of noise with 24 objects of
AI-TOD's sizes in each image, on the device already. Every run is a process of its own (benchmarks/step_run.py); tools take
turns, --repeat times, and the fastest run's median step counts. Parts are timed apart, with the device waited for after each.
"of peak": operations of forward and backward, a multiply-add counted as two, for each second of the step, as a share of
what a large matrix product reaches here in the same type. "GB" is what all operations of a step read and write, and "floor"
the time of a step whose operations all ran at that peak or at the bandwidth of a large copy, whichever takes longer
(benchmarks/floor.py); with --compile both are those of the plain operations, which compiled ones may beat.
"""
import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.child import figures, machine
from models.table3 import ROWS

RUN = Path(__file__).with_name("step_run.py")
PARTS = ("forward", "loss", "backward", "update")
MODELS = {name.replace("YOLO11m", "YOLO11"): config for name, config, _ in ROWS}


def line(name: str, images: int, result: dict) -> str:
    parts = " ".join(f"{1000 * result['parts'][part]:>9.1f}" for part in PARTS)
    reached = result["flops"] / result["seconds"] / result["peak"]
    return (f"{name:<22}{result['parameters']:>12,}{images / result['seconds']:>9.2f}{1000 * result['seconds']:>10.1f} {parts}"
            f"{result['gib']:>9.2f}{result['flops'] / images / 1e9:>10.1f}{reached:>9.0%}{result['bytes'] / 1e9:>9.1f}"
            f"{1000 * result['floor']:>10.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="interpreter that has ultralytics")
    parser.add_argument("--rows", nargs="+", default=list(MODELS), choices=MODELS, metavar="ROW",
                        help=f"of {', '.join(MODELS)} (default: all)")
    parser.add_argument("--scale", default="n", choices="nsmlx")
    parser.add_argument("--side", type=int, default=416, help="pixels (default: 416)")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--amp", default="off", choices=("off", "bf16", "fp16"))
    parser.add_argument("--compile", action="store_true", help="torch.compile, both tools")
    parser.add_argument("--warmup", type=int, default=2, help="steps before those that count (default: 2)")
    parser.add_argument("--steps", type=int, default=6, help="steps whose median counts (default: 6)")
    parser.add_argument("--repeat", type=int, default=1, help="processes for each row, the fastest counts (default: 1)")
    options = parser.parse_args()
    print(f"{machine(options.device)}; scale {options.scale}, {options.side} px, batch {options.batch}, amp {options.amp}"
          f"{', compiled' if options.compile else ''}")
    print(f"{'':<22}{'parameters':>12}{'img/s':>9}{'step ms':>10} {' '.join(f'{part:>9}' for part in PARTS)}"
          f"{'GiB':>9}{'GFLOP/img':>10}{'of peak':>9}{'GB':>9}{'floor ms':>10}")
    case = {name: getattr(options, name) for name in ("side", "batch", "device", "amp", "compile", "warmup", "steps")}
    for row in tqdm(options.rows, disable=None):
        case["model"] = asdict(replace(MODELS[row], scale=options.scale))
        tools = {"ours": sys.executable}
        if options.peer_python and row == "YOLO11":
            tools["ultralytics"] = options.peer_python
        runs = {tool: [] for tool in tools}
        for _ in range(options.repeat):
            for tool, python in tools.items():
                runs[tool].append(figures(python, RUN, tool, json.dumps(case)))
        best = {tool: min(results, key=lambda result: result["seconds"]) for tool, results in runs.items()}
        print(line(row, options.batch, best["ours"]), flush=True)
        if "ultralytics" in best:
            ours, peer = best["ours"], best["ultralytics"]
            print(line("  Ultralytics' YOLO11", options.batch, peer))
            print(f"  ours / theirs: {peer['seconds'] / ours['seconds']:.2f} times the images a second, "
                  f"{ours['gib'] / peer['gib']:.2f} of the memory", flush=True)


if __name__ == "__main__":
    main()
