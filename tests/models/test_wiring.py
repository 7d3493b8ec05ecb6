"""How the parts of RS-TinyNet are connected: who reads whose output, and whose loss reaches whom."""
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate

from models import ModelConfig, build_model, decode
from models.pfdh import PFDH, ResidualBlock, Resize

ALL = dict(scale="n", num_classes=3, mdca=True, arb=True, pfdh=True)
STORED = Path(__file__).with_name("rs_tinynet_n_outputs.json")


def build(**switches: object) -> nn.Module:
    torch.manual_seed(0)
    return build_model(ModelConfig(**switches))


@torch.no_grad()
def test_the_head_and_the_way_down_both_read_what_mdca_gives():
    model = build(scale="n", num_classes=3, mdca=True).eval()
    seen = {}
    model.neck.attention.register_forward_hook(lambda module, inputs, output: seen.update(given=output))
    model.neck.down3.register_forward_pre_hook(lambda module, inputs: seen.update(down=inputs[0]))
    model.head.register_forward_pre_hook(lambda module, inputs: seen.update(head=inputs[0][0]))
    model(torch.rand(1, 3, 64, 64))
    assert torch.equal(seen["down"], seen["given"]) and torch.equal(seen["head"], seen["given"])


def test_torch_compile_takes_the_network_as_one_graph_in_training():
    """A break would cost a call of its own, and torch 2.6 cannot slice a NamedTuple. Traced alone: compiling takes minutes."""
    model, images = build(**ALL), torch.rand(1, 3, 64, 64)
    expected = model(images)
    model.compile(backend="eager", fullgraph=True)
    output = model(images)
    for head in ("main", "auxiliary"):
        torch.testing.assert_close(getattr(output, head).class_logits, getattr(expected, head).class_logits)


def reached(model: nn.Module) -> set[str]:
    """The parts that hold a gradient which is not zero."""
    parts = {"column 1": model.backbone.auxiliary, "taps": model.backbone.taps, "column 2": model.backbone.stages,
             "neck": model.neck, "head": model.head, "auxiliary head": model.auxiliary_head}
    gradients = {name: [p.grad for p in part.parameters() if p.grad is not None] for name, part in parts.items()}
    return {name for name, of_part in gradients.items() if any(g.abs().max() > 1e-9 for g in of_part)}


@pytest.mark.parametrize(("which", "expected"), [
    ("auxiliary", {"column 1", "auxiliary head"}),
    ("main", {"column 1", "taps", "column 2", "neck", "head"}),
])
def test_the_auxiliary_loss_teaches_column_1_alone_and_the_main_loss_column_1_too(which, expected):
    model = build(**ALL).double().train()
    output = getattr(model(torch.rand(2, 3, 64, 64, dtype=torch.float64)), which)
    (output.box_logits.square().mean() + output.class_logits.square().mean()).backward()
    assert reached(model) == expected


@torch.no_grad()
@pytest.mark.parametrize("levels_up", [1, 2, 3])
def test_coarser_levels_come_up_bilinearly(levels_up):
    resize, x = Resize(8, 4, levels_up).eval(), torch.randn(1, 8, 5, 7)
    expected = interpolate(resize.path[0](x), scale_factor=2**levels_up, mode="bilinear", align_corners=False)
    torch.testing.assert_close(resize(x), expected)


@torch.no_grad()
def test_every_level_of_every_stage_starts_with_its_own_map():
    torch.manual_seed(0)
    module, own = PFDH((32, 64, 128, 128), 48).eval(), []
    for stage in module.stages:
        for level, fuse in enumerate(stage.fuse):
            fuse.register_forward_hook(lambda f, inputs, _, k=level: own.append(f.weights(inputs[0])[:, k].min().item()))
    module([torch.rand(1, c, 64 // s, 96 // s) for c, s in zip((32, 64, 128, 128), (1, 2, 4, 8), strict=True)])
    assert len(own) == 2 + 3 + 4 and min(own) > 0.8


@torch.no_grad()
def test_what_is_added_starts_small():
    """Taps and residual branches are a few percent of what they are added to."""
    torch.manual_seed(0)
    block, x = ResidualBlock(16).train(), torch.randn(2, 16, 20, 20)
    assert 0.01 < (block(x) - x).std() < 0.1
    model, added = build(**ALL).train(), []
    model.backbone.fusion.register_forward_hook(lambda f, inputs, y: added.append((y - inputs[0]).std() / inputs[0].std()))
    model(torch.rand(2, 3, 64, 64))
    assert len(added) == 5 and all(0 < share < 0.1 for share in added)


@torch.no_grad()
def test_the_setting_of_mdcas_combination_reaches_it():
    x = torch.rand(1, 3, 64, 64)
    by_sum, by_product = (build(**ALL, mdca_combine=name).eval()(x).main.class_logits for name in ("sum", "product"))
    assert not torch.equal(by_sum, by_product)


@torch.no_grad()
def test_outputs_equal_the_stored_ones():
    """RS-TinyNet-n as it was when Table III's counts and NumPy's MDCA were met: whatever changes it shows here."""
    model = build(**ALL).double()
    for number, (name, value) in enumerate(sorted(model.named_parameters())):
        if name == "head.bins" or name == "auxiliary_head.bins":
            continue
        noise = ((torch.arange(value.numel()) + 7919 * number) * 2654435761 % 2**32) / 2**31 - 1
        gain = {4: (6 / value[0].numel()) ** 0.5, 3: 1.0, 1: 0.5}[value.dim()]
        value.copy_(noise.reshape(value.shape) * gain + (1.5 if name.endswith("bn.weight") else 0))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    image = ((torch.arange(3 * 64 * 96) * 2246822519 % 2**32) / 2**32).double().reshape(1, 3, 64, 96)
    model.train()(torch.cat((image, image.flip(2, 3))))
    both = torch.cat(decode(model.eval()(image).main), -1)[0]
    assert [*both[::37].flatten().tolist(), *both.mean(0).tolist()] == pytest.approx(json.loads(STORED.read_text()), abs=1e-6)
