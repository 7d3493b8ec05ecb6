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
from engine.batchnorm import KeptStatistics, take_statistics
from engine.charts import draw_charts
from engine.config import Config
from engine.datasets import TrainingData
from engine.distributed import Ranks
from engine.ema import WeightAverage
from engine.evaluator import predict_all
from engine.files import write_json
from engine.lock import FolderLock
from engine.log import RunLog, epoch_line
from engine.manifest import write_manifest
from engine.memory import peak_memory
from engine.pictures import assigned_cells, predictions_beside_truth, training_batch
from engine.resume import Position, find_checkpoint, restore, snapshot
from engine.signals import EXIT_STOPPED, Stopped, StopRequest
from engine.starting_weights import read_starting_weights
from engine.versions import versions
from errors import InputError
from eval.scoring import HEADLINES, score
from losses import Criterion, TaskAlignedAssigner
from losses.criterion import predicted_boxes
from models import build_model
from models.weights import load_partial

AMP_TYPES = {"off": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Sums over the batches of an epoch, in this order: four loss terms, then counts, the last of batches whose loss was finite.
SUMS = ("box", "cls", "dfl", "auxiliary", "objects", "unassigned", "finite")


class Trainer:
    """Everything that a run moves; `fit` runs it.

    Args:
        folder: where the run's files go; only rank 0 reads and writes there.
        stop: entered by the caller.
        resume: go on from folder/last.pt, if there is one.
        weights: a checkpoint to start from, as far as its layers fit.
    """

    def __init__(self, config: Config, folder: Path, ranks: Ranks, stop: StopRequest, resume: bool = False,
                 weights: Path | None = None):
        self.config, self.folder, self.ranks, self.stop = config, folder, ranks, stop
        train = config.train
        if train.amp == "fp16" and ranks.device.type == "cpu":
            raise InputError("train.amp: fp16 needs a GPU. Use train.amp=bf16 or train.amp=off on a CPU.")
        if train.amp == "bf16" and ranks.is_main and ranks.lacks_bf16():
            print("train.amp: bf16 is slow on this GPU, which computes it in software; fp16 is not. Use train.amp=fp16.")
        self.lock = FolderLock(folder, watched=folder / "last.pt")
        ranks.from_main(self.lock.wait)     # it is taken below, when nothing can be refused any more
        saved = ranks.from_main(lambda: find_checkpoint(folder, config, resume))

        self.data = TrainingData(config, ranks)
        torch.manual_seed(train.seed)
        model_config = replace(config.model, num_classes=len(self.data.class_names))
        self.raw_model = build_model(model_config)
        self.started_from = "scratch"
        if weights and not saved:
            given = ranks.from_main(lambda: read_starting_weights(weights, model_config))
            self.started_from = f"{weights}: {given.origin}"
            report = load_partial(self.raw_model, given.state)
            if ranks.is_main:
                print(f"{self.started_from}\n{report}")
        ranks.synchronize_batchnorm(self.raw_model, train.sync_batchnorm, train.batch_size, train.compile)
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
        self.position = Position()
        self.seconds = 0.0              # that the epoch took so far, resumed parts included
        self.best = -math.inf
        self.sums = torch.zeros(len(SUMS), device=ranks.device)
        self.versions = versions()      # of the code that runs, whatever is committed meanwhile
        if saved:
            restore(self, saved, folder / "last.pt")
        self.statistics = KeptStatistics(self.raw_model)
        self.saved_at = time.monotonic()
        if train.compile:
            self.raw_model.compile()    # in place: names of weights stay, and the average above is not touched
        self.model = ranks.wrap(self.raw_model)
        ranks.from_main(self.lock.take)
        if ranks.is_main:
            checkpoint.remove_leftovers(folder)
        self.log = RunLog(folder, self.position.epoch, self.position.first_step_to_log) if ranks.is_main else None

    def fit(self) -> int:
        """Train to the end; returns the script's exit code."""
        if self.log:
            write_manifest(self)
            if self.position.epoch == self.config.train.epochs:
                print(f"{self.folder}: has all of its {self.config.train.epochs} epochs; nothing is left to do")
        self.stop.defer()
        try:
            while self.position.epoch < self.config.train.epochs and not (self._out_of_steps() and self.position.ended):
                self._train_epoch()
                self._end_epoch()
        except Stopped:
            if self.log:
                print(f"\nstopped by {self.stop.name or 'a peer'} and saved in {self.folder}: go on with --resume")
            return EXIT_STOPPED
        finally:
            if self.log:
                self.log.close()
            self.lock.release()
        return 0

    def _train_epoch(self) -> None:
        """The epoch's batches from position.batch on. Raises Stopped between two steps, with everything saved."""
        train, device, here = self.config.train, self.ranks.device, self.position
        total = self.schedule.batches_per_epoch
        if here.batch == total or self._out_of_steps():         # stopped while it was validated
            return
        amp = torch.autocast(device.type, AMP_TYPES[train.amp], enabled=train.amp != "off")
        self.data.train_loader.batch_sampler.set_position(here.epoch, here.batch)
        self.model.train()
        pending = 0         # batches since the last optimizer step
        files = []          # their images
        finite = torch.ones((), dtype=torch.bool, device=device)
        started, before = time.perf_counter(), self.seconds
        bar = tqdm(self.data.train_loader, desc=f"epoch {here.epoch + 1}/{train.epochs}", total=total, initial=here.batch,
                   unit="img", unit_scale=train.batch_size, leave=False, disable=None if self.ranks.is_main else True)
        for batch in bar:
            moment = self.schedule.at(here.epoch, here.batch)
            optim.apply(moment, self.optimizer)
            pending += 1
            files += [meta.path for meta in batch.meta]
            ending = here.batch + 1 == total
            stepping = pending >= moment.accumulate or ending
            last = ending or (stepping and 0 < train.max_steps <= here.step + 1)
            # As no_sync() would, but without two paths: only the last backward before a step averages over the ranks.
            self.model.require_backward_grad_sync = stepping

            batch = batch.to(device, non_blocking=True)
            images = batch.images.to(torch.float32, memory_format=torch.channels_last) / 255
            with amp:
                output = self.model(images)
            terms = self.criterion(output.main, output.auxiliary, batch.targets)
            self.scaler.scale(terms.total).backward()
            good = terms.total.detach().isfinite()
            finite &= good
            # A batch that is not finite shows among the skipped steps; the epoch's means are of the others.
            figures = torch.stack([getattr(terms, name).detach().float() for name in SUMS[:-1]] + [good.float()])
            self.sums += torch.where(good, figures, 0)
            self._show_training(batch, output)
            here.batch += 1
            here.step += 1
            here.ended = False
            if not stepping:
                continue

            stop, due = self._optimizer_step(finite, files)
            pending, files = 0, []
            finite.fill_(True)
            self.seconds = before + time.perf_counter() - started
            if here.step % 10 < moment.accumulate:
                means = self.sums[:4] / self.sums[-1].clamp_min(1)
                bar.set_postfix(dict(zip(SUMS[:4], means.tolist(), strict=True)), refresh=False)
            if stop or (due and not last):
                self._save_last(must=stop)
            if stop:
                self.ranks.wait()       # until rank 0 has written: a launcher may kill all when the first one ends
                raise Stopped
            if last:
                break

    def _optimizer_step(self, finite: torch.Tensor, files: list[str]) -> tuple[bool, bool]:
        """Clip, step and average, or leave the step out on all ranks alike when a loss or a gradient is not finite.

        Args:
            finite: (), whether this rank's losses are.
            files: this rank's images of the step.
        Returns:
            Whether a rank was asked to stop, and whether a checkpoint is due.
        """
        train, here = self.config.train, self.position
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.raw_model.parameters(), train.clip_norm)
        bad = not bool(finite & norm.isfinite())
        due = self.ranks.is_main and 0 < train.save_minutes * 60 < time.monotonic() - self.saved_at
        any_bad, stop, due = self.ranks.any(bad, bool(self.stop), due)
        # Not left to the scaler: fused SGD that skips its very first step goes on with a momentum of whatever memory held.
        if any_bad:
            self.statistics.put_back()
            here.skipped += 1
            here.bad_in_a_row += 1
        else:
            self.scaler.step(self.optimizer)
            self.ema.update()
            self.statistics.keep()
            here.bad_in_a_row = 0
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if here.bad_in_a_row >= train.max_bad_steps:
            self._give_up(files if bad else [])
        return stop, due

    def _give_up(self, files: list[str]) -> None:
        """Too many bad steps in a row: note the images of the ranks concerned, and end."""
        here, shares = self.position, self.ranks.gather(files)
        note = self.folder / "bad_batch.json"
        if shares is not None:
            write_json(note, {**vars(here), "files": [name for share in shares for name in share]})
        raise InputError(
            f"train.max_bad_steps: the loss or a gradient was not finite in {here.bad_in_a_row} steps in a row, up to batch "
            f"{here.step}; the weights were kept from it. {note} names the last images. Begin anew with other images, a lower "
            f"train.lr{', or with train.amp=bf16' if self.config.train.amp == 'fp16' else ''}: --weights "
            f"{self.folder / 'last.pt'} --output ANOTHER"
        )

    def _end_epoch(self) -> None:
        """Measure, log, save; then the next epoch begins.

        A kill on the way repeats what came after the last save, so best.pt is written before the last.pt that says so.
        """
        here = self.position
        done = here.epoch + 1 == self.config.train.epochs or self._out_of_steps()
        started = time.perf_counter()
        metrics = self._measure(done)
        self._log_epoch(metrics, time.perf_counter() - started)
        here.ended = True
        self._save_best(metrics, done)
        if here.batch == self.schedule.batches_per_epoch:       # else train.max_steps ended it, and a resumed run goes on
            here.epoch, here.batch = here.epoch + 1, 0
            self.seconds = 0.0
            self.sums.zero_()
        self._save_last(must=done)

    def _measure(self, done: bool) -> dict | None:
        """Make the average ready, with train.precise_batchnorm, and validate it, in epochs that call for it."""
        train = self.config.train
        due = self.data.val_loader is not None and (done or (self.position.epoch + 1) % train.validate_every == 0)
        precise = self.data.statistics_loader is not None       # one without batches is false, on some ranks alone
        if not due and not (done and precise):
            return None
        self._save_last()       # a kill while it detects loses nothing
        try:
            if precise:
                take_statistics(self.ema.model, self.data.statistics_loader, self.ranks, self.stop)
            return self._validate() if due else None
        except Stopped:
            self._save_last(must=True)      # the disk may have been full
            raise

    def _log_epoch(self, metrics: dict | None, seconds: float) -> None:
        """A line of log.jsonl and one on the screen; `seconds` went into measuring. All ranks take part."""
        here = self.position
        self.ranks.wait()       # for rank 0, which scored: in the reduction below nobody may wait so long
        sums = dict(zip(SUMS, self.ranks.all_sum(self.sums.clone()).tolist(), strict=True))
        if not self.log:
            return
        record = {
            "epoch": here.epoch,
            "step": here.step,
            "lr": self.optimizer.param_groups[0]["lr"],
            "loss": {name: sums[name] / max(sums["finite"], 1) for name in SUMS[:4]},
            "unassigned_share": sums["unassigned"] / max(sums["objects"], 1),
            "skipped_steps": here.skipped,
            "images_per_second": here.batch * self.config.train.batch_size / max(self.seconds, 1e-9),
            "seconds": self.seconds,
            "validation_seconds": round(seconds, 3),
            **peak_memory(self.ranks.device),
        }
        if metrics:
            record["val"] = {k: v for k, v in metrics.items() if k != "per_class"}
        self.log.epoch(record)
        print(epoch_line(record, self.config.train.epochs, HEADLINES[self.config.eval.protocol]), flush=True)

    def _validate(self) -> dict | None:
        """Metrics of the average on data.val; on rank 0, None elsewhere."""
        self.ranks.broadcast_buffers(self.ema.model)        # BatchNorm statistics are rank 0's
        found = predict_all(
            self.ema.model, self.data.val_loader, self.config.eval, self.ranks, self.data.category_ids, "validate", self.stop
        )
        if found is None:
            return None
        picture = predictions_beside_truth(
            self.ema.model, self.data.sample_batch(self.ranks.device), self.data.class_names, self.config.eval.nms
        )
        self.log.picture("validation", self.position.step, picture)
        scored = score(self.data.val_truth, found.detections, self.config.eval.scoring())
        for name, chart in draw_charts(scored).items():         # a quarter of a second, small beside detecting
            self.log.picture(name, self.position.step, chart)
        return scored.metrics

    def _show_training(self, batch: object, output: object) -> None:
        """Pictures of the first batch of a run, and of the first one without mosaic."""
        train = self.config.train
        if not self.log or self.position.batch or self.position.epoch not in (0, train.epochs - train.close_mosaic):
            return
        assignment = self.criterion.assigner(
            output.main.class_logits.detach().float().sigmoid(),
            predicted_boxes(output.main),
            *output.main.anchors[:2], batch.targets, output.main.anchors.levels,
        )
        self.log.picture("training_batch", self.position.step, training_batch(batch, self.data.class_names))
        self.log.picture("assigned_cells", self.position.step, assigned_cells(batch, output.main, assignment))

    def _out_of_steps(self) -> bool:
        return 0 < self.config.train.max_steps <= self.position.step

    def _save_best(self, metrics: dict | None, done: bool) -> None:
        """best.pt: the average with the highest AP (the protocol's headline) on data.val; without data.val the last one."""
        if not self.log or not (done if self.data.val_loader is None else metrics):
            return
        name = HEADLINES[self.config.eval.protocol][0]
        value = metrics[name] if metrics else -1.0
        if value >= self.best or not metrics:       # of equals, as where AP is 0 or undefined, the one that learned longest
            progress = {"epoch": self.position.epoch, "step": self.position.step, name: value}
            content = checkpoint.inference_content(
                self.ema.model, self.data.class_names, self.config.to_dict(), progress
            )
            if self._save("best.pt", content, must=done):       # else the next epoch's may take the place
                self.best = value

    def _save_last(self, must: bool = False) -> None:
        """last.pt: everything that decides how the run goes on."""
        content = snapshot(self)
        self.saved_at = time.monotonic()
        if content:
            self._save("last.pt", content, must)

    def _save(self, name: str, content: dict, must: bool) -> bool:
        """Write a checkpoint. Where that fails the previous one stands, and the run goes on, unless this one `must` be.

        Returns:
            Whether it was written.
        """
        path = self.folder / name
        try:
            checkpoint.save(path, content)
        except OSError as error:
            line = f"{path}: could not be written ({error.strerror}); the previous one stands."
            if must:
                raise InputError(f"{line} Make room and go on with --resume.") from None
            tqdm.write(f"{line} The run goes on; make room.")
            return False
        return True
