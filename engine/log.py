"""What a run logs: log.jsonl, TensorBoard events, pictures. Only rank 0 writes."""
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from tqdm import tqdm

from engine.drawing import write_picture
from engine.files import make_folder, write_text


class RunLog:
    """Write a run's records into its folder.

    A resumed run takes back what was logged after the checkpoint that it starts from, so that no step stands twice. What
    cannot be written, as on a full disk, is reported and costs a picture or a point of a curve, never the run; lines of
    log.jsonl are kept until they can be written.

    Args:
        first_epoch: epochs from this one on will be logged anew.
        first_step: likewise in TensorBoard, in batches.
    """

    def __init__(self, folder: Path, first_epoch: int = 0, first_step: int = 0):
        self.folder = folder
        make_folder(folder)
        self.path = folder / "log.jsonl"
        kept = [line for line in read_log(self.path) if line["epoch"] < first_epoch]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self.waiting = ""       # lines that could not be written yet
        self.first_step = first_step
        self.board = None
        with self._going_on("tensorboard"):
            self._open_board()

    def epoch(self, record: dict) -> None:
        """Append one line to log.jsonl; its numbers go to TensorBoard too. `epoch` and `step` say where."""
        self.waiting += json.dumps(record) + "\n"
        with self._going_on("log.jsonl"):
            _append(self.path, self.waiting)
            self.waiting = ""
        with self._going_on("tensorboard"):
            self._open_board()
            for name, value in _flatten(record):
                if name not in ("epoch", "step") and isinstance(value, (int, float)):
                    self.board.add_scalar(name, value, record["step"])
            self.board.flush()

    def picture(self, name: str, step: int, picture: np.ndarray) -> None:
        """Show an RGB picture in TensorBoard and keep its latest version as pictures/<name>.png."""
        with self._going_on(f"pictures/{name}.png"):
            write_picture(self.folder / "pictures" / f"{name}.png", picture)
        if self.board:
            with self._going_on("tensorboard"):
                self.board.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        """Flush what is pending."""
        if self.board:
            with self._going_on("tensorboard"):
                self.board.close()

    def _open_board(self) -> None:
        """Begin a file of events, unless one is in use."""
        from torch.utils.tensorboard import SummaryWriter  # takes seconds to import: only where it is used

        if self.board is None:
            threading.excepthook = _leave_to_the_caller
            self.board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.first_step)
            self.first_step = None      # taken back once: a later file adds to it

    @contextmanager
    def _going_on(self, name: str) -> Iterator[None]:
        """Report what could not be written, and go on."""
        try:
            yield
        except OSError as error:
            if name == "tensorboard":
                self.board = None       # its file may end within a record: the next epoch begins another
            tqdm.write(f"{self.folder / name}: could not be written ({error.strerror or error}). The run goes on; make room.")


def _leave_to_the_caller(failure: threading.ExceptHookArgs) -> None:
    """Print no traceback for TensorBoard's thread: what it met is raised by the next call of its writer."""
    if not type(failure.thread).__module__.startswith("tensorboard."):
        threading.__excepthook__(failure)


def _append(path: Path, text: str) -> None:
    """Add to a file all of a text or, where that fails, nothing."""
    with open(path, "ab", buffering=0) as file:         # a buffer would be written once more when the file is closed
        before, rest = file.tell(), memoryview(text.encode())
        try:
            while rest:
                rest = rest[file.write(rest):]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(before)
            raise


def read_log(path: Path) -> list[dict]:
    """The records of a log.jsonl; lines that a kill cut off, or that are no records, are left out."""
    records = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        with suppress(json.JSONDecodeError):
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record.get("epoch"), int):
                records.append(record)
    return records


def _flatten(record: dict, prefix: str = "") -> list[tuple[str, object]]:
    flat = []
    for name, value in record.items():
        if isinstance(value, dict):
            flat += _flatten(value, f"{prefix}{name}/")
        else:
            flat.append((prefix + name, value))
    return flat


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
