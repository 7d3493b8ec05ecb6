"""Several processes take the steps that one would: losses, gradients, metrics and checkpoints."""
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import multiprocessing

from data import Targets
from engine import checkpoint
from engine.distributed import Ranks
from losses import AssignerConfig, Criterion, LossConfig, TaskAlignedAssigner
from models import ModelConfig, build_model

ROOT = Path(__file__).parents[2]
VARIANTS = [dict(mdca=m, arb=a, pfdh=p) for m in (False, True) for a in (False, True) for p in (False, True)] + [dict(p2=True)]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def batch(images_with_objects: tuple[int, ...]) -> tuple[torch.Tensor, list[list[list[float]]]]:
    """Four images, and for each its boxes; the same on every call."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(4, 3, 64, 64, generator=generator)
    boxes = [[[8.0 * k, 5, 8 * k + 9, 17], [30, 30, 44 + k, 41]] if k in images_with_objects else [] for k in range(4)]
    return images, boxes


def gradients(
    variant: dict, rank: int, world_size: int, with_objects: tuple[int, ...], wrapped: Ranks | None, synchronized: bool = False
) -> dict:
    """Gradients of one step on this rank's share of the batch; `wrapped` makes the model distributed.

    BatchNorm is frozen, or `synchronized` over the ranks.
    """
    torch.manual_seed(0)
    device = wrapped.device if wrapped else torch.device("cuda" if synchronized else "cpu")
    model = build_model(ModelConfig(scale="n", num_classes=3, **variant)).double().train()
    if synchronized and wrapped:
        wrapped.synchronize_batchnorm(model, "auto", batch_size=4)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and not synchronized:
            module.eval()
    model.to(device)
    images, boxes = batch(with_objects)
    own = range(rank * 4 // world_size, (rank + 1) * 4 // world_size)
    rows = [(box, 1, k - own[0]) for k in own for box in boxes[k]]
    targets = Targets(
        torch.tensor([r[0] for r in rows], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([r[1] for r in rows], dtype=torch.long), torch.tensor([r[2] for r in rows], dtype=torch.long),
    ).to(device)
    all_sum = wrapped.all_sum if wrapped else (lambda x: x)
    criterion = Criterion(LossConfig(), TaskAlignedAssigner(3, **vars(AssignerConfig(min_box_side=16))), world_size, all_sum)
    parallel = wrapped.wrap(model) if wrapped else model        # held until after backward, which it takes part in
    output = parallel(images[own.start : own.stop].to(device).double())
    criterion(output.main, output.auxiliary, targets).total.backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing, missing
    return {name: p.grad.cpu() for name, p in model.named_parameters() if p.requires_grad}


def work(
    rank: int, port: int, folder: str, variants: list[dict], with_objects: tuple[int, ...], synchronized: bool = False
) -> None:
    """One of two processes; rank 0 writes its gradients."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    ranks = Ranks("cuda" if synchronized else "cpu")
    for k, variant in enumerate(variants):
        found = gradients(variant, rank, 2, with_objects, ranks, synchronized)
        if ranks.is_main:
            torch.save(found, Path(folder) / f"{k}.pt")
    ranks.close()
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    assert not [name for name in threads if "gloo" in name], threads      # one that outlives Python can end in SIGABRT


@pytest.mark.parametrize("with_objects", [(0, 1, 2, 3), (2, 3), ()], ids=["all", "rank 1 only", "none"])
def test_two_ranks_give_the_gradients_of_one_process(tmp_path: Path, with_objects: tuple[int, ...]) -> None:
    """Also where one rank, or both, hold no object. Every parameter of every variant takes part (DDP would hang else)."""
    variants = VARIANTS if with_objects == (2, 3) else [VARIANTS[0], VARIANTS[7]]
    multiprocessing.spawn(work, (free_port(), str(tmp_path), variants, with_objects), nprocs=2)
    for k, variant in enumerate(variants):
        if variant not in (VARIANTS[0], VARIANTS[7]):
            continue
        alone = gradients(variant, 0, 1, with_objects, None)
        together = torch.load(tmp_path / f"{k}.pt")
        assert max(g.abs().max() for g in alone.values()) > 0
        for name, gradient in alone.items():
            torch.testing.assert_close(together[name], gradient, rtol=1e-9, atol=1e-15, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.gpu
def test_with_synchronized_batchnorm_two_gpus_give_the_gradients_of_one(tmp_path: Path) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    multiprocessing.spawn(work, (free_port(), str(tmp_path), [VARIANTS[7]], (0, 1, 2, 3), True), nprocs=2)
    alone = gradients(VARIANTS[7], 0, 1, (0, 1, 2, 3), None, synchronized=True)
    for name, gradient in torch.load(tmp_path / "0.pt").items():
        torch.testing.assert_close(gradient, alone[name], rtol=1e-6, atol=1e-9)


def launch(run: object, output: str, *arguments: str, ranks: int = 2) -> subprocess.CompletedProcess:
    """train.py under torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--master-port",
               str(free_port()), "train.py", "--config", str(run.config), "--output", str(run.folder / output), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_torchrun_trains_validates_on_all_ranks_and_resumes(tiny_run: object) -> None:
    """Twelve images of one shape are one batch of evaluation, and one for BatchNorm's statistics: the second rank has none, and
    must not stay behind."""
    stopped = launch(tiny_run, "run", "train.max_steps=1", "train.precise_batchnorm=12")
    assert stopped.returncode == 0, stopped.stderr
    assert stopped.stdout.count("runs on") == 1                 # rank 0 speaks for all
    assert len(checkpoint.load(tiny_run.folder / "run/last.pt")["generators"]) == 2
    resumed = launch(tiny_run, "run", "--resume", "data.cache=ram", "train.workers=1", "train.precise_batchnorm=12")
    assert resumed.returncode == 0, resumed.stderr
    (shared,) = re.findall(r"decoding 12 images into (.*\.pixels)", resumed.stdout)      # once for both ranks, train and val
    assert not Path(shared).exists()
    log = [json.loads(line) for line in (tiny_run.folder / "run/log.jsonl").read_text().splitlines()]
    assert [r["epoch"] for r in log] == [0, 1] and [r["step"] for r in log] == [3, 6]
    assert all("AP50" in r["val"] for r in log)


def test_bad_input_under_torchrun_is_one_line_and_every_rank_ends(tiny_run: object) -> None:
    failed = launch(tiny_run, "run", "train.batch_size=5")
    assert failed.returncode != 0
    assert "train.batch_size: 5 images cannot be shared equally by 2 processes" in failed.stderr
    assert "InputError" not in failed.stderr        # the ranks print the line alone; torchrun adds its own report
    assert not (tiny_run.folder / "run").exists()


def test_two_ranks_score_as_one_process_does(trained: object, tmp_path: Path) -> None:
    """test.py on five batches, which two ranks cannot share equally: the same detections and figures."""
    best, settings = str(trained.folder / "run/best.pt"), ["eval.batch_size=2", "eval.conf=0.0001", "train.workers=0"]
    alone = [sys.executable, "test.py"]
    together = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port()),
                "test.py"]
    results = []
    for name, command in (("alone", alone), ("together", together)):
        arguments = ["--checkpoint", best, "--output", str(tmp_path / name), *settings]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        found = json.loads((tmp_path / name / "detections.json").read_text())
        results.append((json.loads((tmp_path / name / "metrics.json").read_text()), sorted(found, key=json.dumps)))
    assert len(results[0][1]) > 100
    assert results[0] == results[1]
