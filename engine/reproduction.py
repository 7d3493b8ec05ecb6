"""What a table of the paper takes: its runs, how far each one is, what is left of them, and the table of their figures."""
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch

from data.published import load_published
from engine import config as configs
from engine.config import Config, TrainConfig
from engine.datasets import open_split, read_truth
from engine.files import write_json
from engine.log import read_log
from engine.resume import check_same_config
from engine.testing import subject_of
from errors import InputError
from eval.tables import DATA_SETS, TITLES, Result, Subject, Table, reproduction, unlike_paper

ROOT = Path(__file__).parents[1]
# Table I's last row has the figures of Table III's: it is the same run, and so is the baseline.
ENDS = ("yolo11m", "ablation_mdca_arb_pfdh")
CONFIGS = {
    1: ENDS,
    2: ENDS,
    3: ("yolo11m", "yolo11m_p2", "ablation_mdca", "ablation_arb", "ablation_pfdh", "ablation_mdca_arb", "ablation_arb_pfdh",
        "ablation_mdca_pfdh", "ablation_mdca_arb_pfdh"),
}
PUBLISHED = {"aitod": "aitod_v1", "dior": "dior"}
FINISHED = "reproduced.json"
# Keys that may differ between two parts of a run, or between a finished run and the command that asks for it.
NO_MATTER = ("data.root", "data.cache", "data.cache_dir", "train.device", "train.workers", "train.save_minutes")
# Keys that leave the experiment the paper's: where its files lie (what they hold is counted), and what it does not state.
NOT_STATED = (*NO_MATTER, "data.train", "data.test", "data.images", "data.annotations", "train.seed", "train.amp",
              "train.compile", "train.sync_batchnorm", "train.max_bad_steps", "eval.batch_size")


class DataFacts(NamedTuple):
    """What the runs of a table are trained and tested on."""

    class_names: tuple[str, ...]
    train_images: int
    test_images: int
    test_objects: int


@dataclass(frozen=True)
class Run:
    """One row: a training run and its test.

    Args:
        file: its config.
        config: with the overrides.
        folder: of the run; its test is in the folder test below.
        facts: of its data.
        overrides: as they were given.
        gpus: processes that share it.
    """
    file: Path
    config: Config
    folder: Path
    facts: DataFacts
    overrides: tuple[str, ...]
    gpus: int

    @cached_property
    def subject(self) -> Subject:
        """What its row is called, and what stands in it besides figures."""
        return subject_of(replace(self.config.model, num_classes=len(self.facts.class_names)), self.facts.test_images)

    @property
    def train_command(self) -> list[str]:
        return [*launcher(self.gpus), _script("train.py"), "--config", str(self.file), "--output", str(self.folder), "--resume",
                *self.overrides]

    @property
    def test_command(self) -> list[str]:
        return [*launcher(self.gpus), _script("test.py"), "--checkpoint", str(self.folder / "best.pt"), "--split", "test",
                "--output", str(self.folder / "test"), *self.overrides]

    @property
    def batches(self) -> int:
        """That the whole run takes."""
        train = self.config.train
        total = train.epochs * -(-self.facts.train_images // train.batch_size)
        return min(total, train.max_steps or total)

    @property
    def batches_left(self) -> int:
        log = read_log(self.folder / "log.jsonl")
        return max(self.batches - max((line.get("step", 0) for line in log), default=0), 0)

    @property
    def seconds(self) -> float:
        """That its training took so far."""
        return sum(line.get("seconds", 0) for line in read_log(self.folder / "log.jsonl"))

    @property
    def metrics(self) -> dict | None:
        """Its figures; None unless it is finished with these settings and these data."""
        try:
            if json.loads((self.folder / FINISHED).read_text()) == self._record():
                return json.loads((self.folder / "test/metrics.json").read_text())
        except (OSError, ValueError):
            pass
        return None

    def check_settings(self) -> None:
        """Raises InputError where the folder holds a run with other settings, on which train.py would not go on."""
        last = self.folder / "last.pt"
        if not last.exists():
            return
        try:        # the same settings stand in last.pt, which is large
            begun = json.loads((self.folder / "manifest.json").read_text())["config"]
        except (OSError, ValueError, KeyError):
            return
        check_same_config(begun, self.config.to_dict(), last)

    def finish(self) -> None:
        """Note that it is trained and tested."""
        write_json(self.folder / FINISHED, self._record())

    def _record(self) -> dict:
        settings = {key: value for key, value in _flat(self.config).items() if key not in NO_MATTER}
        return json.loads(json.dumps({"data": self.facts._asdict(), "settings": settings}))


def plan(number: int, output: Path, gpus: int, overrides: Sequence[str]) -> list[Run]:
    """The runs of Table I, II or III (`number`).

    Args:
        output: Tables I and III find their common runs below it, in the folder of their data set.
    Raises:
        InputError: the data are not there, a setting is wrong, or the machine has fewer GPUs.
    """
    data_set, names = DATA_SETS[number], CONFIGS[number]
    files = [_shown(ROOT / "configs" / data_set / f"{name}.toml") for name in names]
    found = [configs.load(file, list(overrides)) for file in files]
    _check_gpus(gpus, found[0].train)
    facts = _facts(found[0])
    return [Run(file, config, output / data_set / name, facts, tuple(overrides), gpus)
            for file, config, name in zip(files, found, names, strict=True)]


def obstacles(number: int, runs: list[Run]) -> list[str]:
    """Why these runs are not the paper's experiment, in phrases; empty where they are."""
    changed = {}
    for run in runs:
        ours, paper = _flat(run.config), _flat(configs.load(run.file))
        changed.update({key: value for key, value in ours.items() if value != paper[key] and key not in NOT_STATED})
    found = [f"the settings {', '.join(f'{key}={_plain(value)}' for key, value in changed.items())}"] if changed else []
    facts, data_set = runs[0].facts, DATA_SETS[number]
    expected = load_published()[PUBLISHED[data_set]].images["trainval"]
    if facts.train_images != expected:
        found.append(f"trained on {facts.train_images:,} images instead of {TITLES[data_set]}'s {expected:,}")
    return found + unlike_paper(number, list(facts.class_names), facts.test_images, facts.test_objects)


def table(number: int, runs: list[Run]) -> Table:
    """The figures of the runs that are finished."""
    return reproduction(number, [Result(run.subject, run.metrics) for run in runs], obstacles(number, runs))


def _check_gpus(gpus: int, train: TrainConfig) -> None:
    if gpus < 1:
        raise InputError(f"--gpus: {gpus} is too small. Use 1 or more.")
    if gpus > 1 and train.device != "cpu" and torch.cuda.device_count() < gpus:
        raise InputError(f"--gpus: {gpus} were asked for, and torch sees {torch.cuda.device_count()}. Lower it, or use "
                         "train.device=cpu for as many processes.")
    if train.batch_size % gpus:
        raise InputError(f"--gpus: {gpus} processes cannot share train.batch_size={train.batch_size} images equally. Use "
                         "another number.")


def launcher(gpus: int) -> list[str]:
    """What starts a script on one or several GPUs."""
    if gpus == 1:
        return [sys.executable]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(gpus)]


def in_a_shell(command: list[str]) -> str:
    """A command as a user would type it."""
    return shlex.join(["python" if part == sys.executable else part for part in command])


def _script(name: str) -> str:
    return str(_shown(ROOT / name))


def _shown(path: Path) -> Path:
    """Relative to the working directory, if it is below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _facts(config: Config) -> DataFacts:
    train = open_split(config, "train", config.data.classes, training=True)
    open_split(config, "test", train.class_names, training=False)       # what is wrong with it is told now, not in weeks
    truth = read_truth(config, "test", train.class_names)
    return DataFacts(train.class_names, len(train), len(truth["images"]), len(truth["annotations"]))


def _flat(config: Config) -> dict[str, object]:
    return {f"{section}.{key}": value for section, values in config.to_dict().items() for key, value in values.items()}


def _plain(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
