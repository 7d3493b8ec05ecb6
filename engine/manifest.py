"""manifest.json: what a run is, for people and for scripts."""
from typing import TYPE_CHECKING

from engine.files import write_json
from models.table3 import count_gflops

if TYPE_CHECKING:
    from engine.trainer import Trainer


def write_manifest(trainer: "Trainer") -> None:
    """Write and print it."""
    train, model = trainer.config.train, trainer.raw_model
    manifest = {
        "parameters": model.reported_parameters(),
        "gflops": round(count_gflops(model.config, train.image_size), 2),
        "train": trainer.data.train_summary,
        "val": trainer.data.val_summary,
        "batch": f"{train.batch_size} images on {trainer.ranks.world_size} process(es), "
                 f"{trainer.schedule.accumulate} batch(es) a step",
        "batches_per_epoch": trainer.schedule.batches_per_epoch,
        "lr": train.lr,
        "started_from": trainer.started_from,
        "starts_at": {"epoch": trainer.position.epoch, "batch": trainer.position.batch},
        "versions": trainer.versions,
        "config": trainer.config.to_dict(),
    }
    write_json(trainer.folder / "manifest.json", manifest)
    print(f"model   {model.config.scale}, {manifest['parameters']:,} parameters, {manifest['gflops']} GFLOPs at "
          f"{train.image_size} px")
    print(f"train   {manifest['train']}\nval     {manifest['val']}\nbatch   {manifest['batch']}, lr {train.lr}")
    print(f"runs on {', '.join(f'{k} {v}' for k, v in manifest['versions'].items())}\noutput  {trainer.folder}", flush=True)
