"""The assigner beside Ultralytics' dense one: time, memory above the inputs, and whether they choose the same positives.

    python -m benchmarks.assigner --peer-python PEERS/bin/python        # a few minutes; without the peer seconds

The peer lives in a virtual environment of its own: `python3 -m venv PEERS && PEERS/bin/pip install ultralytics`. Every run
is a process of its own (benchmarks/assigner_run.py), on the GPU where there is one; its lowest time of three counts. The
batches are drawn from a fixed seed: 800 px, eight classes, sizes as AI-TOD's. The peer's memory follows batch x objects x
cells: where this says that it would pass --limit, by the largest batch that was measured, the run is left out and the computed
number printed.
"""
import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.child import figures, machine

RUN = Path(__file__).with_name("assigner_run.py")
CELLS = {8: 13_125, 4: 53_125}


def run(python: str, tool: str, case: tuple[int, int, int], repeat: int, device: str, folder: Path) -> dict:
    """One process."""
    file = folder / f"{tool}.npy"
    return {**figures(python, RUN, tool, *case, repeat, device, file), "chosen": np.load(file)}


def shared(first: np.ndarray, second: np.ndarray) -> float:
    """Share of the positives that both chose."""
    one, two = ({tuple(row) for row in rows.tolist()} for rows in (first, second))
    return len(one & two) / max(len(one | two), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="interpreter that has ultralytics")
    parser.add_argument("--batch", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--objects", type=int, nargs="+", default=[25, 500, 1500, 2600], help="in the densest image")
    parser.add_argument("--limit", type=float, default=12, help="GB that the peer may take (default: 12)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    print(machine(options.device))
    print(f"{'strides':>9} {'batch':>5} {'objects':>7}  {'ours s':>8} {'MB':>7}  {'dense s':>8} {'MB':>8}  {'times':>6} "
          f"{'smaller':>7}  same positives")
    bytes_each = 0.0            # of the peer, for each pair of a padded object and a cell
    with tempfile.TemporaryDirectory() as folder:
        if options.peer_python:         # small enough for any machine
            small = run(options.peer_python, "ultralytics", (4, 500, 8), 1, options.device, Path(folder))
            bytes_each = small["mb"] * 2**20 / (4 * 500 * CELLS[8])
        for finest, name in ((8, "8/16/32"), (4, "4/8/16/32")):
            for batch in options.batch:
                for objects in options.objects:
                    case = batch, objects, finest
                    mine = run(sys.executable, "ours", case, 3, options.device, Path(folder))
                    line = f"{name:>9} {batch:>5} {objects:>7,}  {mine['seconds']:>8.4f} {mine['mb']:>7.1f}"
                    pairs = batch * objects * CELLS[finest]
                    if options.peer_python and bytes_each * pairs > options.limit * 1e9:
                        line += f"  does not fit: {bytes_each * pairs / 1e9:.0f} GB computed"
                    elif options.peer_python:
                        peer = run(options.peer_python, "ultralytics", case, 3 if objects < 1000 else 1, options.device,
                                   Path(folder))
                        bytes_each = peer["mb"] * 2**20 / pairs if objects >= 500 else bytes_each
                        line += (f"  {peer['seconds']:>8.3f} {peer['mb']:>8.0f}  {peer['seconds'] / mine['seconds']:>6.1f} "
                                 f"{peer['mb'] / max(mine['mb'], 0.1):>7.1f}  {shared(mine['chosen'], peer['chosen']):.4%}")
                    print(line, flush=True)


if __name__ == "__main__":
    main()
