"""What last.pt holds: everything that decides how a run goes on, so that a resumed run ends with the same bits."""
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from engine import checkpoint
from engine.config import Config, from_dict
from engine.distributed import Ranks
from errors import InputError

if TYPE_CHECKING:
    from engine.trainer import Trainer

MAY_DIFFER_ON_RESUME = ("train.workers", "train.device", "train.max_steps", "train.save_minutes", "data.root", "data.cache",
                        "data.cache_dir")
NEEDED = ("model", "ema", "ema_updates", "optimizer", "scaler", "position", "best", "sums", "generators", "config",
          "class_names")


@dataclass
class Position:
    """Where a run stands. After an epoch's last batch `batch` is their number until the epoch has been validated and logged."""

    epoch: int = 0
    batch: int = 0          # of the epoch
    step: int = 0           # batches since the start of the run
    skipped: int = 0        # optimizer steps left out, as a number was not finite
    bad_in_a_row: int = 0   # the latest of them without one in between that was taken
    ended: bool = True      # what was trained since the last validation has been validated and logged

    @property
    def first_step_to_log(self) -> int:
        """A whole epoch's figures stand at its last step, and stay; those of one that train.max_steps cut are logged again."""
        between_epochs = self.step > 0 and self.batch == 0
        return self.step + 1 if between_epochs else self.step


def find_checkpoint(folder: Path, config: Config, resume: bool) -> dict | None:
    """The content of folder/last.pt; None where there is none.

    Raises:
        InputError: there is one, but not to be resumed, damaged, or written with other settings.
    """
    last = folder / "last.pt"
    if not last.exists():
        if resume:
            print(f"{last}: no checkpoint yet; starting fresh")
        return None
    if not resume:
        raise InputError(f"{folder}: holds a run already (last.pt). Add --resume to go on, or name another --output.")
    try:
        saved = checkpoint.load(last)
        missing = [key for key in NEEDED if key not in saved]
        if missing:
            raise InputError(f"{last}: cannot be resumed from, as it holds no {missing[0]}.")
        unknown = saved["position"].keys() - vars(Position()).keys()
        if unknown:
            raise InputError(f"{last}: was written by a newer version of this code ({min(unknown)}).")
    except InputError as error:
        raise InputError(f"{error} Without it, begin anew in another --output, from best.pt with --weights if there is one."
                         ) from None
    check_same_config(saved["config"], config.to_dict(), last)
    return saved


def snapshot(trainer: "Trainer") -> dict | None:
    """What last.pt holds, on rank 0; None elsewhere. All ranks take part, between two optimizer steps."""
    ranks = trainer.ranks
    generators = {"torch": torch.get_rng_state()}
    if ranks.device.type == "cuda":
        generators["cuda"] = torch.cuda.get_rng_state()
    generators = ranks.gather(generators)
    sums = ranks.all_sum(trainer.sums.clone())
    if not ranks.is_main:
        return None
    return {
        "model": trainer.raw_model.state_dict(),
        "ema": trainer.ema.model.state_dict(),
        "ema_updates": trainer.ema.updates,
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "position": vars(trainer.position).copy(),
        "seconds": trainer.seconds,
        "started_from": trainer.started_from,
        "best": trainer.best,
        "sums": sums,
        "generators": generators,
        "config": trainer.config.to_dict(),
        "model_config": vars(trainer.raw_model.config).copy(),
        "class_names": list(trainer.data.class_names),
        "data_fingerprint": trainer.data.fingerprint,
        "versions": trainer.versions,
    }


def restore(trainer: "Trainer", saved: dict, path: Path) -> None:
    """Put a trainer that is otherwise ready where the checkpoint was taken.

    Raises:
        InputError: the data differ from those that the run was trained on, or the network from this version's.
    """
    if saved["class_names"] != list(trainer.data.class_names):
        raise InputError(f"data.train: declares the classes {list(trainer.data.class_names)}, but {path} was trained on "
                         f"{saved['class_names']}. Resume with the same data.")
    if saved.get("data_fingerprint", trainer.data.fingerprint) != trainer.data.fingerprint:
        raise InputError(f"data.train: holds other images or boxes than {path} was trained on. Resume with the same data, or "
                         "name another --output.")
    if len(saved["sums"]) != len(trainer.sums):
        raise InputError(f"{path}: was written by an older version of this code. Go on with that, or begin anew in another "
                         f"--output, with --weights {path}.")
    for network, key in ((trainer.raw_model, "model"), (trainer.ema.model, "ema")):
        checkpoint.check_fits(network.state_dict(), saved[key], path)
    trainer.raw_model.load_state_dict(saved["model"])
    trainer.ema.model.load_state_dict(saved["ema"])
    trainer.ema.updates = saved["ema_updates"]
    trainer.optimizer.load_state_dict(saved["optimizer"])
    for group in trainer.optimizer.param_groups:        # the checkpoint's may be another device's
        group["fused"] = trainer.ranks.device.type == "cuda"
    trainer.scaler.load_state_dict(saved["scaler"])
    trainer.position = Position(**saved["position"])
    trainer.seconds = saved.get("seconds", 0.0)
    trainer.started_from = saved.get("started_from", trainer.started_from)
    trainer.best = saved["best"]
    ranks: Ranks = trainer.ranks
    # These are sums over all ranks: rank 0 takes them, the others begin at zero.
    trainer.sums += saved["sums"].to(trainer.sums.device) * ranks.is_main
    if ranks.rank < len(saved["generators"]):
        generators = saved["generators"][ranks.rank]
        torch.set_rng_state(generators["torch"])
        if ranks.device.type == "cuda" and "cuda" in generators:
            torch.cuda.set_rng_state(generators["cuda"])


def check_same_config(saved: dict, current: dict, path: Path) -> None:
    """Refuse to resume with other settings: the result would be neither run."""
    saved = from_dict(saved, str(path)).to_dict()       # a key that is younger than the checkpoint had its default
    differing = []
    for section, values in current.items():
        for name, value in values.items():
            key = f"{section}.{name}"
            before = saved[section][name]
            if before != value and key not in MAY_DIFFER_ON_RESUME:
                differing.append(f"{key} (was {before!r}, now {value!r})")
    if differing:
        raise InputError(f"{path}: was written with other settings: {', '.join(differing)}. Resume with the same, or name "
                         "another --output.")
