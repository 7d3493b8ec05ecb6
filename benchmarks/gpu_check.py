"""Everything that needs a GPU, in one command and under ten minutes, without network; one report.

    make gpu-check                                          # writes runs/gpu-check/report.md
    make gpu-check READY= PY=python3                        # with the packages of python3, where .venv cannot be made
    python -m benchmarks.gpu_check --output DIR [--peer-python PEERS/bin/python]

1. The tests marked gpu: float16 and bfloat16 against plain float32, pinned memory, the GPU against the CPU.
2. RS-TinyNet-n on generated scenes in bfloat16, which must reach AP50 0.30 on the test scenes; its detection speed, and
   YOLO11n's.
3. The training step of YOLO11 and RS-TinyNet, scale m at 800 px, in bfloat16; the assigner; an epoch. The batch is 16 images,
   less where the GPU's memory is small.
4. torch.compile: the step, and its tests; last, as nobody knows how long compiling takes.

With --peer-python (an environment with ultralytics) steps, assigner and detection stand beside the peer's. Exit code 1 when a
part failed; the others run all the same. Without a GPU it runs on the CPU, smaller, to see that every part works.
"""
import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from engine.versions import code_revision
from errors import InputError, run

WANTED = 0.30           # AP50 on the test scenes of the demo


def batch_that_fits() -> int:
    """Images of 800 px in a step of RS-TinyNet-m in bfloat16: 16 keep some 35 GB for backward, beside weights and others."""
    gigabytes = torch.cuda.mem_get_info()[1] / 1e9
    return next((images for images in (16, 8, 4) if gigabytes > 3 + 2.7 * images), 2)


def _end(process: subprocess.Popen) -> None:
    """Kill a process and those that it has begun: they would slow down all that follows."""
    os.killpg(process.pid, signal.SIGKILL)


class Report:
    """Commands run one after another, their output as Markdown."""

    def __init__(self, path: Path, limit: float):
        self.path, self.limit = path, limit
        self.failed = []
        where = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU: a trial on the CPU"
        self.lines = ["# GPU check", "", f"{where}; Python {platform.python_version()}, torch {torch.__version__}, "
                      f"commit {code_revision()}, {time.strftime('%Y-%m-%d')}"]
        self.started = time.monotonic()

    def command(self, title: str, *arguments: str) -> str:
        """Run python with these arguments; returns what it printed."""
        print(f"{time.monotonic() - self.started:5.0f} s  {title} ...", flush=True)
        begun = time.monotonic()
        process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   start_new_session=True)
        try:
            out, error = process.communicate(timeout=max(self.limit - (begun - self.started), 1))
        except subprocess.TimeoutExpired:
            _end(process)
            out, error = process.communicate()
            error += f"\nthe time limit of {self.limit / 60:.3g} minutes for all parts was reached"
        except KeyboardInterrupt:
            _end(process)
            raise
        code = process.returncode
        if code:
            self.failed.append(title)
        shown = out.strip() if not code else f"{out.strip()[-3000:]}\n{error.strip()[-3000:]}"
        how = f"FAILED ({code})" if code else "done"
        self.lines += ["", f"## {title}", "", f"`python {' '.join(arguments)}`: {how}, {time.monotonic() - begun:.0f} s", "",
                       "```", shown, "```"]
        self._write()
        return out

    def verdict(self, title: str, passed: bool, text: str) -> None:
        """Note a condition."""
        if not passed:
            self.failed.append(title)
        self.lines += ["", f"**{title}: {'passed' if passed else 'FAILED'}**, {text}"]
        self._write()

    def _write(self) -> None:
        self.path.write_text("\n".join(self.lines) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/gpu-check"))
    parser.add_argument("--peer-python", help="interpreter that has ultralytics")
    parser.add_argument("--limit", type=float, default=10, help="minutes for all parts (default: 10)")
    options = parser.parse_args(arguments)
    folder, peer = options.output, ["--peer-python", options.peer_python] if options.peer_python else []
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output: {folder} cannot be made ({error.strerror}). Name another folder.") from None
    gpu = torch.cuda.is_available()
    report = Report(folder / "report.md", options.limit * 60)
    scenes, large, training, yolo, tested = parts = [folder / name for name in ("scenes", "large", "train", "yolo", "test")]
    for part in parts:                              # of an earlier check
        shutil.rmtree(part, ignore_errors=True)
    workers = min(max((os.cpu_count() or 1) - 2, 1), 14)

    report.command("Tests", "-m", "pytest", "-m", "gpu", "-k", "not compiled", "-rs")
    report.command("Scenes", "-m", "data.synthetic", "--output", str(scenes), *([] if gpu else ["--train", "16"]))
    settings = [f"data.root={scenes}", "data.cache=disk"]
    # Not the demo's four images a step: a GPU does eight in the same time.
    batches = ["train.batch_size=8", "train.nominal_batch=8", "train.lr=0.01"]
    short = ["train.amp=bf16", f"train.workers={workers}", *batches] if gpu else ["train.epochs=1", "train.image_size=64"]
    for title, output, own in (
            ("Training", training, ["train.epochs=40"] if gpu else []),
            ("Training of YOLO11n", yolo, ["model.mdca=false", "model.arb=false", "model.pfdh=false",
                                           *(["train.epochs=10"] if gpu else [])])):
        report.command(title, "train.py", "--config", "configs/demo.toml", "--output", str(output), *settings, *short, *own)
    report.command("Test", "test.py", "--checkpoint", str(training / "best.pt"), "--split", "test", "--output",
                   str(tested))
    try:
        found = json.loads((tested / "metrics.json").read_text())["AP50"]
    except (OSError, ValueError, KeyError):
        found = -1.0
    if gpu:
        report.verdict("Accuracy", found >= WANTED, f"AP50 {found:.3f} on the test scenes, {WANTED} wanted")
    for title, checkpoint, beside in (("Detection", training, []), ("Detection, YOLO11n", yolo, peer)):
        report.command(title, "-m", "benchmarks.inference", "--checkpoint", str(checkpoint / "best.pt"), "--images",
                       str(scenes / "images/test"), *(["--half"] if gpu else ["--count", "4", "--side", "64"]), *beside)
    images = batch_that_fits() if gpu else 2
    size = ["--batch", str(images)] + (["--scale", "m", "--side", "800", "--amp", "bf16"] if gpu else
                                       ["--side", "64", "--steps", "2"])
    for name in ("YOLO11", "MDCA + ARB + PFDH"):            # one by one, as one that fails ends its command
        report.command(f"Step, {name}", "-m", "benchmarks.step", *size, "--rows", name, *peer)
    report.command("Assigner", "-m", "benchmarks.assigner", "--objects", "500", "1500", *peer,
                   *([] if gpu else ["--batch", "1"]))
    report.command("Scenes of 800 px", "-m", "data.synthetic", "--output", str(large), "--size", "800" if gpu else "320",
                   "--train", "1024" if gpu else "16", "--val", "1", "--test", "1")
    report.command("Epoch", "-m", "benchmarks.epoch", "--config", "configs/demo.toml", f"data.root={large}", "data.cache=disk",
                   *short, *(["model.scale=m", "train.image_size=800", f"train.batch_size={images}",
                      f"train.nominal_batch={images}"] if gpu else []))
    if gpu:
        for name in ("YOLO11", "MDCA + ARB + PFDH"):
            report.command(f"Step, {name}, compiled", "-m", "benchmarks.step", *size, "--rows", name, "--compile", *peer)
    report.command("Tests of compiled steps", "-m", "pytest", "-m", "gpu", "-k", "compiled", "-rs")
    print(f"{time.monotonic() - report.started:5.0f} s  wrote {report.path}"
          f"{'; failed: ' + ', '.join(report.failed) if report.failed else ''}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    run(main)
