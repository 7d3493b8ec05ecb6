"""The training loop: epoch -> batch -> forward under autocast -> loss in fp32 -> backward -> clip -> step -> EMA -> log.

One path for one process and many, for every AMP mode, for a fresh run and a resumed one.
"""
import math
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from tqdm import tqdm

import engine.optimizer as optim
from engine import checkpoint
from engine.charts import draw_charts
from engine.config import Config, from_dict
from engine.datasets import TrainingData
from engine.distributed import Ranks
from engine.ema import WeightAverage
from engine.evaluator import predict_all
from engine.log import RunLog, versions, write_json
from engine.pictures import assigned_cells, predictions_beside_truth, training_batch
from engine.signals import EXIT_STOPPED, StopRequest
from errors import InputError
from eval.scoring import HEADLINES, score
from losses import Criterion, TaskAlignedAssigner
from losses.criterion import predicted_boxes
from models import build_model
from models.rs_tinynet import count_gflops
from models.weights import load_partial

AMP_TYPES = {"off": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
MAY_DIFFER_ON_RESUME = (
    "train.workers", "train.device", "train.max_steps", "data.root", "data.cache", "data.cache_dir",
)
# Sums over the batches of an epoch, in this order: four loss terms, then counts.
SUMS = ("box", "cls", "dfl", "auxiliary", "objects", "unassigned")


class Trainer:
    """Everything that a run moves; `fit` runs it.

    Args:
        folder: where the run's files go.
        resume: go on from folder/last.pt, if there is one.
        weights: a checkpoint to start from, as far as its tensors fit.
    """

    def __init__(self, config: Config, folder: Path, ranks: Ranks, resume: bool = False, weights: Path | None = None):
        self.config, self.folder, self.ranks = config, folder, ranks
        train = config.train
        if train.amp == "fp16" and ranks.device.type == "cpu":
            raise InputError("train.amp: fp16 needs a GPU. Use train.amp=bf16 or train.amp=off on a CPU.")
        last = folder / "last.pt"
        if last.exists() and not resume:
            raise InputError(f"{folder}: holds a run already (last.pt). Add --resume to go on, or name another --output.")
        saved = checkpoint.load(last) if last.exists() else None
        if saved:
            _check_same_config(saved["config"], config.to_dict(), last)
        elif resume and ranks.is_main:
            print(f"{last}: no checkpoint yet; starting fresh")

        self.data = TrainingData(config, ranks)
        torch.manual_seed(train.seed)
        model_config = replace(config.model, num_classes=len(self.data.class_names))
        self.raw_model = build_model(model_config)
        if weights and not saved:
            report = load_partial(self.raw_model, checkpoint.weights_of(checkpoint.load(weights), weights))
            if ranks.is_main:
                print(f"{weights}: {report}")
        self.raw_model.to(ranks.device, memory_format=torch.channels_last)

        self.schedule = optim.Schedule(train, len(self.data.train_loader.batch_sampler))
        self.optimizer = optim.build_optimizer(self.raw_model, train, self.schedule.accumulate)
        self.ema = WeightAverage(self.raw_model, train.ema_decay, train.ema_updates)
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=train.amp == "fp16")
        self.criterion = Criterion(
            config.loss,
            TaskAlignedAssigner(model_config.num_classes, **asdict(config.assigner)),
            ranks.world_size,
            ranks.all_sum,
        )
        self.epoch = self.batch = self.step = self.skipped = 0
        self.best = -math.inf
        self.sums = torch.zeros(len(SUMS), device=ranks.device)
        self.versions = versions()      # of the code that runs, whatever is committed meanwhile
        if saved:
            self._restore(saved)
        self.model = ranks.wrap(self.raw_model)
        # A whole epoch's figures stand at its last step, and stay; those of one that train.max_steps cut are taken back.
        unlogged = self.step + 1 if self.step and not self.batch else self.step
        self.log = RunLog(folder, self.epoch, unlogged) if ranks.is_main else None

    def fit(self) -> int:
        """Train to the end; returns the script's exit code."""
        if self.log:
            self._write_manifest()
        with StopRequest() as self.stop:
            while self.epoch < self.config.train.epochs and not self._out_of_steps():
                started, first = time.perf_counter(), self.batch
                finished = self._train_epoch()
                if not finished:
                    self._save_last()
                    if self.log:
                        print(f"\nstopped by {self.stop.name or 'a peer'} and saved in {self.folder}: go on with --resume")
                        self.log.close()
                    return EXIT_STOPPED
                self._end_epoch(time.perf_counter() - started, self.batch - first)
        if self.log:
            self.log.close()
        return 0

    def _train_epoch(self) -> bool:
        """Batches from self.batch to the end of the epoch; False when a signal stopped it between two steps."""
        train, device = self.config.train, self.ranks.device
        amp = torch.autocast(device.type, AMP_TYPES[train.amp], enabled=train.amp != "off")
        self.data.train_loader.batch_sampler.set_position(self.epoch, self.batch)
        self.model.train()
        pending = 0         # batches since the last optimizer step
        total = self.schedule.batches_per_epoch
        bar = tqdm(self.data.train_loader, desc=f"epoch {self.epoch + 1}/{train.epochs}", total=total, initial=self.batch,
                   unit="img", unit_scale=train.batch_size, leave=False, disable=None if self.ranks.is_main else True)
        for batch in bar:
            moment = self.schedule.at(self.epoch, self.batch)
            optim.apply(moment, self.optimizer)
            pending += 1
            last = self.batch + 1 == total or self.step + 1 == train.max_steps
            stepping = pending >= moment.accumulate or last
            # As no_sync() would, but without two paths: only the last backward before a step averages over the ranks.
            self.model.require_backward_grad_sync = stepping

            batch = batch.to(device, non_blocking=True)
            images = batch.images.to(torch.float32, memory_format=torch.channels_last) / 255
            with amp:
                output = self.model(images)
            terms = self.criterion(output.main, output.auxiliary, batch.targets)
            self.scaler.scale(terms.total).backward()
            self.sums += torch.stack([getattr(terms, name).detach().float() for name in SUMS])
            self._show_training(batch, output)
            self.batch += 1
            self.step += 1

            if stepping:
                self._optimizer_step()
                pending = 0
                if self.step % 10 < moment.accumulate:
                    bar.set_postfix(dict(zip(SUMS, (self.sums / self.batch).tolist(), strict=True)), refresh=False)
                if last:
                    break
                if self.ranks.any(bool(self.stop)):
                    return False
        return True

    def _optimizer_step(self) -> None:
        """Clip, step and average; a gradient that is not finite is skipped and counted, on all ranks alike."""
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.raw_model.parameters(), self.config.train.clip_norm)
        if torch.isfinite(norm):
            self.scaler.step(self.optimizer)
            self.ema.update(self.raw_model)
        else:
            self.skipped += 1
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _end_epoch(self, seconds: float, batches: int) -> None:
        """Validate, log, save; then the next epoch begins.

        Args:
            seconds, batches: what this process spent on the epoch, which a resumed one began elsewhere.
        """
        train = self.config.train
        sums = dict(zip(SUMS, self.ranks.all_sum(self.sums.clone()).tolist(), strict=True))
        share = self.batch * self.ranks.world_size
        done = self.epoch + 1 == train.epochs or self._out_of_steps()
        metrics = None
        if self.data.val_loader is not None and (done or (self.epoch + 1) % train.validate_every == 0):
            metrics = self._validate()
        if self.log:
            record = {
                "epoch": self.epoch,
                "step": self.step,
                "lr": self.optimizer.param_groups[0]["lr"],
                "loss": {name: sums[name] / share for name in SUMS[:4]},
                "unassigned_share": sums["unassigned"] / max(sums["objects"], 1),
                "skipped_steps": self.skipped,
                "images_per_second": batches * train.batch_size / seconds,
                "seconds": seconds,
            }
            if self.ranks.device.type == "cuda":
                record["peak_gpu_gib"] = torch.cuda.max_memory_allocated() / 2**30
            if metrics:
                record["val"] = {k: v for k, v in metrics.items() if k != "per_class"}
            self.log.epoch(record)
            print(_summary(record, train.epochs, HEADLINES[self.config.eval.protocol]), flush=True)
        self._save_best(metrics, done)
        if self.batch == self.schedule.batches_per_epoch:       # else train.max_steps ended it, and a resumed run goes on
            self.epoch, self.batch = self.epoch + 1, 0
            self.sums.zero_()
        self._save_last()

    def _validate(self) -> dict | None:
        """Metrics of the average on data.val; on rank 0, None elsewhere."""
        self.ranks.broadcast_buffers(self.ema.model)        # BatchNorm statistics are rank 0's
        found = predict_all(
            self.ema.model, self.data.val_loader, self.config.eval, self.ranks, self.data.category_ids, label="validate"
        )
        if found is None:
            return None
        picture = predictions_beside_truth(
            self.ema.model, self.data.sample_batch(self.ranks.device), self.data.class_names, self.config.eval.nms
        )
        self.log.picture("validation", self.step, picture)
        scored = score(self.data.val_truth, found.detections, self.config.eval.scoring())
        for name, chart in draw_charts(scored).items():         # a quarter of a second, small beside detecting
            self.log.picture(name, self.step, chart)
        return scored.metrics

    def _show_training(self, batch: object, output: object) -> None:
        """Pictures of the first batch of a run, and of the first one without mosaic."""
        train = self.config.train
        if not self.log or self.batch or self.epoch not in (0, train.epochs - train.close_mosaic):
            return
        assignment = self.criterion.assigner(
            output.main.class_logits.detach().float().sigmoid(),
            predicted_boxes(output.main),
            *output.main.anchors[:2], batch.targets, output.main.anchors.levels,
        )
        self.log.picture("training_batch", self.step, training_batch(batch, self.data.class_names))
        self.log.picture("assigned_cells", self.step, assigned_cells(batch, output.main, assignment))

    def _out_of_steps(self) -> bool:
        return 0 < self.config.train.max_steps <= self.step

    def _save_best(self, metrics: dict | None, done: bool) -> None:
        """best.pt: the average with the highest AP (the protocol's headline) on data.val; without data.val the last one."""
        if not self.log or not (done if self.data.val_loader is None else metrics):
            return
        name = HEADLINES[self.config.eval.protocol][0]
        value = metrics[name] if metrics else -1.0
        if value > self.best or not metrics:
            self.best = value
            progress = {"epoch": self.epoch, "step": self.step, name: value}
            content = checkpoint.inference_content(
                self.ema.model, self.data.class_names, self.config.to_dict(), progress
            )
            checkpoint.save(self.folder / "best.pt", content)

    def _save_last(self) -> None:
        """last.pt: everything that decides how the run goes on."""
        generators = {"torch": torch.get_rng_state()}
        if self.ranks.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state()
        generators = self.ranks.gather(generators)
        sums = self.ranks.all_sum(self.sums.clone())
        if not self.ranks.is_main:
            return
        checkpoint.save(self.folder / "last.pt", {
            "model": self.raw_model.state_dict(),
            "ema": self.ema.model.state_dict(),
            "ema_updates": self.ema.updates,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "position": {"epoch": self.epoch, "batch": self.batch, "step": self.step, "skipped": self.skipped},
            "best": self.best,
            "sums": sums,
            "generators": generators,
            "config": self.config.to_dict(),
            "model_config": vars(self.raw_model.config).copy(),
            "class_names": list(self.data.class_names),
            "data_fingerprint": self.data.fingerprint,
            "versions": self.versions,
        })

    def _restore(self, saved: dict) -> None:
        if saved["class_names"] != list(self.data.class_names):
            raise InputError(
                f"data.train: declares the classes {list(self.data.class_names)}, but {self.folder / 'last.pt'} was trained "
                f"on {saved['class_names']}. Resume with the same data."
            )
        if saved.get("data_fingerprint", self.data.fingerprint) != self.data.fingerprint:
            raise InputError(f"data.train: holds other images or boxes than {self.folder / 'last.pt'} was trained on. Resume "
                             "with the same data, or name another --output.")
        self.raw_model.load_state_dict(saved["model"])
        self.ema.model.load_state_dict(saved["ema"])
        self.ema.updates = saved["ema_updates"]
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])
        position = saved["position"]
        self.epoch, self.batch = position["epoch"], position["batch"]
        self.step, self.skipped = position["step"], position["skipped"]
        self.best = saved["best"]
        # These are sums over all ranks: rank 0 takes them, the others begin at zero.
        self.sums += saved["sums"].to(self.sums.device) * self.ranks.is_main
        if self.ranks.rank < len(saved["generators"]):
            generators = saved["generators"][self.ranks.rank]
            torch.set_rng_state(generators["torch"])
            if self.ranks.device.type == "cuda" and "cuda" in generators:
                torch.cuda.set_rng_state(generators["cuda"])

    def _write_manifest(self) -> None:
        """What this run is, for people and for scripts."""
        train, model = self.config.train, self.raw_model
        manifest = {
            "parameters": model.reported_parameters(),
            "gflops": round(count_gflops(model.config, train.image_size), 2),
            "train": self.data.train_summary,
            "val": self.data.val_summary,
            "batch": f"{train.batch_size} images on {self.ranks.world_size} process(es), "
                     f"{self.schedule.accumulate} batch(es) a step",
            "batches_per_epoch": self.schedule.batches_per_epoch,
            "lr": train.lr,
            "starts_at": {"epoch": self.epoch, "batch": self.batch},
            "versions": self.versions,
            "config": self.config.to_dict(),
        }
        write_json(self.folder / "manifest.json", manifest)
        print(f"model   {model.config.scale}, {manifest['parameters']:,} parameters, {manifest['gflops']} GFLOPs at "
              f"{train.image_size} px")
        print(f"train   {manifest['train']}\nval     {manifest['val']}\nbatch   {manifest['batch']}, lr {train.lr}")
        print(f"runs on {', '.join(f'{k} {v}' for k, v in manifest['versions'].items())}\noutput  {self.folder}", flush=True)


def _summary(record: dict, epochs: int, headlines: tuple[str, ...]) -> str:
    """One line for an epoch; `headlines` names the metrics that it shows."""
    losses = "  ".join(f"{name} {value:.3f}" for name, value in record["loss"].items() if value)
    line = f"epoch {record['epoch'] + 1:>3}/{epochs}  {losses}  no cell {record['unassigned_share']:.1%}"
    line += f"  {record['images_per_second']:.1f} img/s"
    if record["skipped_steps"]:
        line += f"  skipped steps {record['skipped_steps']}"
    if "val" in record:
        line += "  | " + "  ".join(f"{name} {record['val'][name]:.3f}" for name in headlines)
    return line


def _check_same_config(saved: dict, current: dict, path: Path) -> None:
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
