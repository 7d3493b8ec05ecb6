"""With every switch off the network is YOLO11: its counts, and its outputs for weights filled by a formula."""
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from models import ModelConfig, build_model, decode
from models.blocks import C3k2
from models.weights import convert_ultralytics_state_dict, load_partial

STORED = Path(__file__).parent / "yolo11n_outputs.json"


@pytest.mark.parametrize(
    ("scale", "count"), [("n", 2_591_400), ("s", 9_430_888), ("m", 20_059_176), ("l", 25_316_648), ("x", 56_883_016)]
)
def test_parameter_counts(scale, count):
    with torch.device("meta"):
        model = build_model(ModelConfig(scale=scale, num_classes=8))
    assert model.reported_parameters() == count == sum(p.numel() for p in model.parameters())


def test_the_p2_level_adds_what_table_iii_says():
    with torch.device("meta"):
        model = build_model(ModelConfig(scale="m", p2=True))
    assert model.reported_parameters() - 20_059_176 == 494_792


def test_twenty_classes():
    with torch.device("meta"):
        assert build_model(ModelConfig(scale="m", num_classes=20)).reported_parameters() == 20_068_428


def filled_model() -> nn.Module:
    """YOLO11n, 8 classes, float64; weights from an integer hash, BatchNorm statistics from one batch of two pictures.

    Statistics that fit the signal keep every layer alive: otherwise the outputs would hardly depend on the network.
    """
    model = build_model(ModelConfig(scale="n", num_classes=8)).double()
    for number, (name, value) in enumerate(sorted(model.named_parameters())):
        if name == "head.bins":
            continue
        k = torch.arange(value.numel(), dtype=torch.int64)
        noise = (((k + 7919 * number) * 2654435761 % 2**32) / 2**31 - 1).reshape(value.shape)       # -1..1
        gain = {4: (6 / value[0].numel()) ** 0.5, 1: 0.5}[value.dim()]
        with torch.no_grad():
            value.copy_(noise * gain + (1.5 if name.endswith("bn.weight") else 0))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.cat((probe(), probe().flip(2, 3))))
    return model.eval()


def probe() -> torch.Tensor:
    """(1, 3, 96, 128) float64 in 0..1."""
    k = torch.arange(3 * 96 * 128, dtype=torch.int64)
    return ((k * 2246822519 % 2**32) / 2**32).double().reshape(1, 3, 96, 128)


@torch.no_grad()
def summary(model: nn.Module) -> list[float]:
    """Decoded outputs of a dozen cells on all levels, and the mean of all."""
    boxes, scores = decode(model(probe()).main)
    both = torch.cat((boxes, scores), -1)[0]                       # (252, 12)
    return [*both[::21].flatten().tolist(), *both.mean(0).tolist()]


def test_outputs_equal_the_stored_ones():
    """The stored numbers were made by this code when its outputs equalled Ultralytics 8.4.190's to 2e-13 (float64)."""
    assert summary(filled_model()) == pytest.approx(json.loads(STORED.read_text()), abs=1e-6)


def _without_shortcut(model):
    next(m for m in model.modules() if isinstance(m, C3k2)).m[0].add = False


def _other_attention_scale(model):
    qkv = model.backbone.attention.m[0].attn.qkv.bn
    width = model.backbone.attention.m[0].attn.key_width
    for parameter in (qkv.weight, qkv.bias):                # queries of the first head twice as long: scale times two
        parameter.data[:width] *= 2


def _other_pooling(model):
    model.backbone.sppf.pool = nn.MaxPool2d(3, 1, 1)


@pytest.mark.parametrize("change", [_without_shortcut, _other_attention_scale, _other_pooling])
def test_the_stored_outputs_notice_a_change(change):
    model = filled_model()
    change(model)
    assert summary(model) != pytest.approx(json.loads(STORED.read_text()), abs=1e-4)


def test_decode_by_hand():
    from models.head import BINS, HeadOutput, make_anchors

    anchors = make_anchors(((2, 1, 8), (1, 1, 16)), torch.device("cpu"))
    logits = torch.full((1, 3, 4, BINS), -1e4)
    for cell, bins in enumerate([(0, 1, 2, 3), (4, 4, 4, 4), (15, 0, 1, 1)]):
        for side, k in enumerate(bins):
            logits[0, cell, side, k] = 0
    output = HeadOutput(logits.flatten(2), torch.zeros(1, 3, 2), anchors, torch.arange(16.0))
    boxes, scores = decode(output)
    assert boxes[0].tolist() == [[4, -4, 20, 28], [-20, -28, 44, 36], [-232, 8, 24, 24]]
    assert scores.unique().tolist() == [0.5]


@torch.no_grad()
def test_folding_keeps_the_outputs_and_drops_the_norms():
    model = filled_model()
    before = summary(model)
    model.deploy()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert summary(model) == pytest.approx(before, abs=1e-9)
    model.deploy()
    assert summary(model) == pytest.approx(before, abs=1e-9)


@torch.no_grad()
def test_channels_last_gives_the_same():
    model = filled_model()
    before = summary(model)
    assert summary(model.to(memory_format=torch.channels_last)) == pytest.approx(before, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_type_runs(dtype):
    model = build_model(ModelConfig(scale="n")).to(dtype).eval()
    with torch.no_grad():
        boxes, scores = decode(model(torch.rand(1, 3, 64, 64, dtype=dtype)).main)
    assert boxes.dtype == scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.isfinite(boxes).all()


def test_sizes_that_do_not_divide_by_32_are_an_error():
    with pytest.raises(ValueError, match="multiples of 32"):
        build_model(ModelConfig(scale="n"))(torch.rand(1, 3, 64, 72))


@pytest.mark.parametrize("p2", [False, True])
def test_every_parameter_gets_a_gradient(p2):
    model = build_model(ModelConfig(scale="n", p2=p2)).train()
    output = model(torch.rand(2, 3, 64, 64)).main
    (output.box_logits.square().mean() + output.class_logits.square().mean()).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.abs().sum() > 0)]
    assert without == []


def test_conversion_names_every_weight_of_ultralytics():
    """The names of a YOLO11 checkpoint, spelt out for one block of each kind."""
    model = build_model(ModelConfig(scale="n"))
    theirs = {
        "model.0.conv.weight": "backbone.stages.down.0.conv.weight",
        "model.2.m.0.cv1.conv.weight": "backbone.stages.mix.1.m.0.cv1.conv.weight",
        "model.6.m.0.m.1.cv2.bn.running_mean": "backbone.stages.mix.3.m.0.m.1.cv2.bn.running_mean",
        "model.9.cv2.bn.bias": "backbone.sppf.cv2.bn.bias",
        "model.10.m.0.attn.qkv.conv.weight": "backbone.attention.m.0.attn.qkv.conv.weight",
        "model.10.m.0.ffn.1.bn.weight": "backbone.attention.m.0.ffn.1.bn.weight",
        "model.13.cv1.conv.weight": "neck.top4.cv1.conv.weight",
        "model.16.cv1.conv.weight": "neck.top3.cv1.conv.weight",
        "model.17.conv.weight": "neck.down4.conv.weight",
        "model.19.cv2.conv.weight": "neck.out4.cv2.conv.weight",
        "model.20.conv.weight": "neck.down5.conv.weight",
        "model.22.m.0.cv3.conv.weight": "neck.out5.m.0.cv3.conv.weight",
        "model.23.cv2.1.0.conv.weight": "head.box.1.0.conv.weight",
        "model.23.cv2.2.2.bias": "head.box.2.2.bias",
        "model.23.cv3.0.1.0.conv.weight": "head.cls.0.1.0.conv.weight",
        "model.23.cv3.0.2.weight": "head.cls.0.2.weight",
        "model.23.dfl.conv.weight": "head.bins",
    }
    own = model.state_dict()
    state = {k: own[v].view(1, 16, 1, 1) if v == "head.bins" else own[v] for k, v in theirs.items()}
    converted = convert_ultralytics_state_dict(state)
    assert list(converted) == list(theirs.values())
    assert all(converted[v].shape == own[v].shape for v in converted)
    with pytest.raises(ValueError, match="model.24"):
        convert_ultralytics_state_dict({"model.24.conv.weight": torch.zeros(1)})


def test_partial_loading_reports_what_happened():
    model = build_model(ModelConfig(scale="n", num_classes=8))
    state = {k: torch.full_like(v, 0.5) for k, v in build_model(ModelConfig(scale="n", num_classes=80)).state_dict().items()}
    state["stranger"] = state.pop("neck.down4.conv.weight")
    before = model.state_dict()["neck.down4.conv.weight"].clone()
    report = load_partial(model, state)
    assert report.left_over == ("stranger",)
    assert report.missing == ("neck.down4.conv.weight",)
    assert set(report.reshaped) == {f"head.cls.{i}.2.{k}" for i in range(3) for k in ("weight", "bias")} | {
        k for k in report.reshaped if k.startswith("head.cls")
    }
    assert torch.equal(model.state_dict()["neck.down4.conv.weight"], before)
    assert (model.state_dict()["neck.out4.cv1.conv.weight"] == 0.5).all()
    assert "stranger" in str(report)
