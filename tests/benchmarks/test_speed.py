"""The benchmarks of speed run through without a peer and print figures that can be true. How fast, no test says."""
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> str:
    process = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_the_step_has_its_parts_and_a_floor() -> None:
    out = run("benchmarks.step", "--rows", "YOLO11", "--device", "cpu", "--side", "64", "--batch", "2", "--steps", "2",
              "--warmup", "1")
    row = next(line for line in out.splitlines() if line.startswith("YOLO11"))
    parameters, rate, step, *parts = (float(x.replace(",", "")) for x in re.findall(r"[\d,.]+", row.removeprefix("YOLO11"))[:7])
    floor = float(row.split()[-1])
    assert parameters == 2_591_400                              # YOLO11n with eight classes
    assert abs(rate * step - 2000) < 0.006 * step + 0.06 * rate       # two images; both figures are rounded
    assert len(parts) == 4 and min(parts) > 0 and floor > 0     # how long each takes hangs on what else runs here


def test_the_assigner_is_measured_without_a_peer() -> None:
    out = run("benchmarks.assigner", "--device", "cpu", "--batch", "1", "--objects", "25")
    rows = [line.split() for line in out.splitlines()[2:]]
    assert [row[:3] for row in rows] == [["8/16/32", "1", "25"], ["4/8/16/32", "1", "25"]]
    assert all(0 < float(row[3]) < 10 for row in rows)
