"""Mixed precision and torch.compile against plain float32, on real training steps. Run on a GPU with -m gpu."""
from contextlib import nullcontext

import pytest
import torch

from data import Targets
from engine.config import TrainConfig
from engine.optimizer import build_optimizer
from engine.postprocess import select
from losses import Criterion, LossConfig, TaskAlignedAssigner
from models import ModelConfig, build_model
from models.blocks import nearest

ROWS = {"YOLO11": {}, "RS-TinyNet": {"mdca": True, "arb": True, "pfdh": True}}


def losses(device: str, row: dict, amp: torch.dtype | None = None, compiled: bool = False, steps: int = 12,
           lr: float = 0.001) -> list[float]:
    """Total loss of each of `steps` training steps on one batch of two images with 40 squares, brighter than what is around."""
    torch.manual_seed(0)
    model = build_model(ModelConfig(scale="n", num_classes=3, **row)).to(device, memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, 128, 128, generator=generator) * 0.5
    corner = torch.randint(0, 112, (40, 2), generator=generator)
    index = torch.arange(40) // 20
    for k, (x, y) in zip(index.tolist(), corner.tolist(), strict=True):
        images[k, :, y : y + 12, x : x + 12] = 1.0
    targets = Targets(torch.cat((corner, corner + 12), 1).float(), torch.randint(0, 3, (40,), generator=generator), index)
    images, targets = images.to(device, memory_format=torch.channels_last), targets.to(torch.device(device))
    optimizer = build_optimizer(model, TrainConfig(lr=lr), 1)
    scaler = torch.amp.GradScaler(device, enabled=amp == torch.float16)
    criterion = Criterion(LossConfig(), TaskAlignedAssigner(3, min_box_side=16))
    if compiled:
        model.compile()
    totals = []
    for _ in range(steps):
        with torch.autocast(device, amp) if amp else nullcontext():
            output = model(images)
        terms = criterion(output.main, output.auxiliary, targets)
        scaler.scale(terms.total).backward()
        scaler.unscale_(optimizer)
        if torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0).isfinite():     # as the trainer asks first
            scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        totals.append(terms.total.detach())
    return torch.stack(totals).tolist()


AMP = pytest.mark.parametrize("amp", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])


@pytest.mark.gpu
@AMP
def test_yolo11_learns_in_mixed_precision_as_in_float32_on_a_gpu(amp: torch.dtype) -> None:
    """The first loss agrees within 2 %, and twelve steps later the runs are still together within 10 %."""
    plain, mixed = losses("cuda", {}), losses("cuda", {}, amp)
    assert mixed[0] == pytest.approx(plain[0], rel=0.02)
    assert mixed[-1] == pytest.approx(plain[-1], rel=0.1) and mixed[-1] < mixed[0]


@pytest.mark.gpu
@AMP
def test_rs_tinynet_computes_in_mixed_precision_what_it_does_in_float32_on_a_gpu(amp: torch.dtype) -> None:
    """At a rate at which rounding decides nothing: at YOLO11's its first steps part even in float32, and its loss rises, as
    more cells are assigned. That it learns is for benchmarks/gpu_check.py to see."""
    plain, mixed = (losses("cuda", ROWS["RS-TinyNet"], kind, lr=1e-5) for kind in (None, amp))
    assert mixed == pytest.approx(plain, rel=0.03)


def test_bf16_follows_float32_on_a_cpu() -> None:
    plain, mixed = losses("cpu", {}, steps=3), losses("cpu", {}, torch.bfloat16, steps=3)
    assert mixed == pytest.approx(plain, rel=0.03)


@pytest.mark.gpu
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_compiled_steps_equal_plain_ones_on_a_gpu(row: dict) -> None:
    """At a rate at which rounding decides nothing: at 0.001 changing RS-TinyNet's weights by 1e-6 changes its fourth loss by up
    to 0.9 %."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    compiled, plain = losses("cuda", row, compiled=True, steps=4, lr=1e-5), losses("cuda", row, steps=4, lr=1e-5)
    assert compiled == pytest.approx(plain, rel=2e-3)


@pytest.mark.slow
def test_compiled_steps_equal_plain_ones_on_a_cpu() -> None:
    """Within a thousandth, as torch's own BatchNorm in channels_last rounds more than the compiled one."""
    assert losses("cpu", {}, compiled=True, steps=4) == pytest.approx(losses("cpu", {}, steps=4), rel=1e-3)


@pytest.mark.gpu
def test_nearest_neighbour_keeps_its_precision_under_autocast_on_a_gpu() -> None:
    """And so does its gradient; PyTorch's own is float32 there."""
    x = torch.rand(1, 2, 3, 3, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cuda", torch.bfloat16):
        y = nearest(x, (6, 6))
    y.sum().backward()
    assert y.dtype == torch.bfloat16 and torch.equal(y, x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert torch.equal(x.grad, torch.full_like(x, 4))


@pytest.mark.gpu
def test_a_gpu_finds_what_a_cpu_finds() -> None:
    """The same network in float32 on both: losses of the first steps agree within half a percent, as float32's rounding alone
    makes a thousandth of difference by the fourth."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    row = ROWS["RS-TinyNet"]
    assert losses("cuda", row, steps=3) == pytest.approx(losses("cpu", row, steps=3), rel=5e-3)


@pytest.mark.gpu
def test_detections_are_chosen_on_a_gpu_as_on_a_cpu() -> None:
    """There classes are moved apart for one call, here each has a call of its own."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(3000, 2, generator=generator) * 300
    boxes = torch.cat((corner, corner + 4 + 16 * torch.rand(3000, 2, generator=generator)), 1)
    scores = torch.rand(3000, 5, generator=generator)
    here, there = (select(boxes.to(device), scores.to(device), 0.3, 0.5, 2000) for device in ("cpu", "cuda"))
    assert here[1] == there[1]
    for mine, other in zip(here[0], there[0], strict=True):
        assert torch.equal(mine, other.cpu())
