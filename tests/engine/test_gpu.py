"""Mixed precision and torch.compile against plain float32, on real training steps. Run on a GPU with -m gpu."""
from contextlib import nullcontext

import pytest
import torch

from data import Targets
from engine.config import TrainConfig
from engine.optimizer import build_optimizer
from losses import Criterion, LossConfig, TaskAlignedAssigner
from models import ModelConfig, build_model

ROWS = {"YOLO11": {}, "RS-TinyNet": {"mdca": True, "arb": True, "pfdh": True}}


def losses(device: str, row: dict, amp: torch.dtype | None = None, compiled: bool = False, steps: int = 12) -> list[float]:
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
    optimizer = build_optimizer(model, TrainConfig(lr=0.001), 1)
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
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        totals.append(terms.total.detach())
    return torch.stack(totals).tolist()


@pytest.mark.gpu
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("amp", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_mixed_precision_follows_float32_on_a_gpu(row: dict, amp: torch.dtype) -> None:
    """The first loss agrees within 2 %, and twelve steps later the runs are still together within 10 %."""
    plain, mixed = losses("cuda", row), losses("cuda", row, amp)
    assert mixed[0] == pytest.approx(plain[0], rel=0.02)
    assert mixed[-1] == pytest.approx(plain[-1], rel=0.1) and mixed[-1] < mixed[0]


def test_bf16_follows_float32_on_a_cpu() -> None:
    plain, mixed = losses("cpu", {}, steps=3), losses("cpu", {}, torch.bfloat16, steps=3)
    assert mixed == pytest.approx(plain, rel=0.03)


@pytest.mark.gpu
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_compiled_steps_equal_plain_ones_on_a_gpu(row: dict) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    assert losses("cuda", row, compiled=True, steps=4) == pytest.approx(losses("cuda", row, steps=4), rel=1e-3)


@pytest.mark.slow
def test_compiled_steps_equal_plain_ones_on_a_cpu() -> None:
    """Within a thousandth, as torch's own BatchNorm in channels_last rounds more than the compiled one."""
    assert losses("cpu", {}, compiled=True, steps=4) == pytest.approx(losses("cpu", {}, steps=4), rel=1e-3)


@pytest.mark.gpu
def test_a_gpu_finds_what_a_cpu_finds() -> None:
    """The same network in float32 on both: losses of the first steps agree to a thousandth."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    row = ROWS["RS-TinyNet"]
    assert losses("cuda", row, steps=3) == pytest.approx(losses("cpu", row, steps=3), rel=1e-3)
