"""The two columns: what reaches what, and the inverse of the fusion."""
import numpy as np
import pytest
import torch

from models.arb import Fusion, ReversibleBackbone
from models.scaling import SCALES


def test_the_parameters_are_those_of_table_iii():
    with torch.device("meta"):
        backbone = ReversibleBackbone(SCALES["m"])
    assert sum(p.numel() for p in backbone.auxiliary.parameters()) == 8_704_320
    assert sum(p.numel() for p in backbone.taps.parameters()) == 1_530_944
    assert [tap.widths for tap in backbone.taps] == [
        (64,), (64, 128), (64, 128, 256), (64, 128, 256, 512), (64, 128, 256, 512, 512)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_inverse_returns_the_input(dtype):
    torch.manual_seed(0)
    fusion, x = Fusion(), torch.randn(2, 8, 16, 24, dtype=dtype)
    chunks = [torch.randn(2, 8, 16 // s, 24 // s, dtype=dtype) for s in (1, 2, 4, 8)]
    y = fusion(x, chunks)
    assert not torch.allclose(y, x)
    torch.testing.assert_close(fusion.inverse(y, chunks), x, rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-14)


def test_the_fusion_adds_the_resized_chunks():
    x = torch.zeros(1, 1, 4, 4)
    coarse = torch.tensor([[[[1.0, 2], [3, 4]]]])
    y = Fusion()(x, [torch.ones(1, 1, 4, 4), coarse])
    assert y[0, 0].tolist() == [[2, 2, 3, 3], [2, 2, 3, 3], [4, 4, 5, 5], [4, 4, 5, 5]]


def test_the_fusion_of_five_levels_equals_repeating_each():
    """On whole numbers, where no order of adding rounds."""
    rng = np.random.default_rng(0)
    chunks = [rng.integers(-99, 99, (2, 3, 48 // s, 32 // s)) for s in (1, 2, 4, 8, 16)]
    expected = sum(chunk.repeat(s, 2).repeat(s, 3) for s, chunk in zip((1, 2, 4, 8, 16), chunks, strict=True))
    y = Fusion()(torch.zeros(2, 3, 48, 32), [torch.from_numpy(chunk).float() for chunk in chunks])
    assert np.array_equal(y.numpy(), expected)


@torch.no_grad()
@pytest.mark.parametrize("source", range(5))
def test_every_tap_reaches_its_level_and_all_shallower_ones(source):
    """Changing what tap k sees changes the fusion's output at levels 0..k, before anything deeper could pass it on."""
    torch.manual_seed(0)
    backbone = ReversibleBackbone(SCALES["n"]).eval()
    image, seen = torch.rand(1, 3, 64, 64), []
    backbone.fusion.register_forward_hook(lambda module, inputs, output: seen.append((len(inputs[1]), inputs[1])))
    backbone(image)
    before = [[c.clone() for c in chunks] for _, chunks in seen]
    seen.clear()
    backbone.taps[source].conv.bias += 1
    backbone(image)
    assert [count for count, _ in seen] == [5, 4, 3, 2, 1]
    for level, (_, chunks) in enumerate(seen):
        changed = [not torch.equal(a, b) for a, b in zip(before[level], chunks, strict=True)]
        assert changed == [tap == source for tap in range(level, 5)]


@torch.no_grad()
def test_the_deepest_auxiliary_level_changes_the_first_main_level():
    torch.manual_seed(0)
    backbone = ReversibleBackbone(SCALES["n"]).eval()
    image, outputs = torch.rand(1, 3, 64, 64), []
    backbone.stages.down[1].register_forward_pre_hook(lambda module, inputs: outputs.append(inputs[0].clone()))
    backbone(image)
    backbone.auxiliary.mix[4].register_forward_hook(lambda module, inputs, output: output + 1)
    backbone(image)
    assert (outputs[0] != outputs[1]).float().mean() > 0.9      # P1 of the main column, stride 2


def test_the_auxiliary_column_does_not_read_the_main_one():
    torch.manual_seed(0)
    backbone = ReversibleBackbone(SCALES["n"]).eval()
    features = backbone(torch.rand(1, 3, 64, 64))
    sum(level.sum() for level in features.auxiliary).backward()
    assert all(p.grad is None for p in backbone.stages.parameters())
    assert all(p.grad is not None for p in backbone.auxiliary.parameters())
