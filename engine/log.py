"""What a run leaves behind: manifest.json, log.jsonl, TensorBoard events, pictures. Only rank 0 writes."""
import json
import os
import platform
import resource
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
import torchvision

from engine.checkpoint import code_revision
from engine.drawing import write_picture
from errors import InputError


class RunLog:
    """Write a run's records into its folder.

    A resumed run takes back what was logged after the checkpoint that it starts from, so that no step stands twice.

    Args:
        first_epoch: epochs from this one on will be logged anew.
        first_step: likewise in TensorBoard, in batches.
    """

    def __init__(self, folder: Path, first_epoch: int = 0, first_step: int = 0):
        from torch.utils.tensorboard import SummaryWriter  # takes seconds to import: only where it is used

        self.folder = folder
        make_folder(folder)
        self.path = folder / "log.jsonl"
        kept = [line for line in _lines(self.path) if line["epoch"] < first_epoch]
        self.path.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)

    def epoch(self, record: dict) -> None:
        """Append one line to log.jsonl; its numbers go to TensorBoard too. `epoch` and `step` say where."""
        with open(self.path, "a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
        for name, value in _flatten(record):
            if name not in ("epoch", "step") and isinstance(value, (int, float)):
                self.board.add_scalar(name, value, record["step"])
        self.board.flush()

    def picture(self, name: str, step: int, picture: np.ndarray) -> None:
        """Show an RGB picture in TensorBoard and keep its latest version as pictures/<name>.png."""
        write_picture(self.folder / "pictures" / f"{name}.png", picture)
        self.board.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        """Flush what is pending."""
        self.board.close()


def _lines(path: Path) -> list[dict]:
    """The records of a log.jsonl; a last line that a kill cut off is left out."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def _flatten(record: dict, prefix: str = "") -> list[tuple[str, object]]:
    flat = []
    for name, value in record.items():
        if isinstance(value, dict):
            flat += _flatten(value, f"{prefix}{name}/")
        else:
            flat.append((prefix + name, value))
    return flat


def versions() -> dict[str, str]:
    """What this process runs on."""
    return {
        "code": code_revision(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),           # a subclass of str there, which weights_only refuses
        "torchvision": str(torchvision.__version__),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} x {os.cpu_count()}",
    }


def make_folder(path: Path) -> None:
    """Make a folder for results, unless it is there. Raises InputError where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output: {path} cannot be a folder ({error.strerror}). Name another one.") from None
    if not os.access(path, os.W_OK):
        raise InputError(f"--output: nothing may be written into {path}. Name another folder.")


def write_json(path: Path, content: dict) -> None:
    """Write JSON for people to read, replacing the file in one step."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    beside.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(beside, path)


def peak_memory(device: torch.device) -> dict[str, float]:
    """The most memory in GiB that this process held so far, and on the GPU its tensors."""
    try:        # getrusage would count what the process that started this one held
        kilobytes = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    peak = {"peak_memory_gib": round(kilobytes / 2**20, 3)}
    if device.type == "cuda":
        peak["peak_gpu_gib"] = round(torch.cuda.max_memory_allocated(device) / 2**30, 3)
    return peak


def epoch_line(record: dict, epochs: int, headlines: tuple[str, ...]) -> str:
    """One line for an epoch; `headlines` names the metrics that it shows."""
    losses = "  ".join(f"{name} {value:.3f}" for name, value in record["loss"].items() if value)
    line = f"epoch {record['epoch'] + 1:>3}/{epochs}  {losses}  no cell {record['unassigned_share']:.1%}"
    line += f"  {record['images_per_second']:.1f} img/s"
    if record["skipped_steps"]:
        line += f"  skipped steps {record['skipped_steps']}"
    if "val" in record:
        line += "  | " + "  ".join(f"{name} {record['val'][name]:.3f}" for name in headlines)
    return line
