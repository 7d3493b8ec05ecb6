"""Eq 12 and the order in which levels meet."""
import pytest
import torch

from models.pfdh import PFDH, AdaptiveFusion, ResidualBlock


@torch.no_grad()
@pytest.mark.parametrize("inputs", [2, 3, 4])
def test_weights_sum_to_one_at_every_pixel(inputs):
    torch.manual_seed(0)
    fusion = AdaptiveFusion(16, inputs, own=0).double().eval()
    torch.nn.init.normal_(fusion.weigh.weight)
    maps = [torch.randn(2, 16, 9, 7, dtype=torch.float64) * 5 for _ in range(inputs)]
    weights = fusion.weights(maps)
    assert weights.shape == (2, inputs, 9, 7)
    torch.testing.assert_close(weights.sum(1), torch.ones(2, 9, 7, dtype=torch.float64), rtol=0, atol=1e-12)
    assert weights.std((0, 2, 3)).min() > 0.01      # each differs from pixel to pixel


@torch.no_grad()
def test_the_fusion_is_the_weighted_sum():
    """Eq 12 by hand: with a merge that does nothing the output is sum_i w_i F_i."""
    torch.manual_seed(0)
    fusion = AdaptiveFusion(4, 3, own=1).double().eval()
    torch.nn.init.normal_(fusion.weigh.weight)
    fusion.merge = torch.nn.Identity()
    maps = [torch.randn(1, 4, 5, 5, dtype=torch.float64) for _ in range(3)]
    w = fusion.weights(maps)
    for v in range(5):
        for u in range(5):
            expected = sum(w[0, i, v, u] * maps[i][0, :, v, u] for i in range(3))
            torch.testing.assert_close(fusion(maps)[0, :, v, u], expected)


@torch.no_grad()
@pytest.mark.parametrize(("own", "inputs"), [(0, 2), (2, 3), (3, 4)])
def test_a_level_starts_with_its_own_map(own, inputs):
    """Its weight is above 0.8 everywhere, the others' is not zero, and the merge passes a map on as it is, up to scale."""
    torch.manual_seed(0)
    fusion = AdaptiveFusion(8, inputs, own).double().eval()
    maps = [torch.randn(2, 8, 9, 7, dtype=torch.float64) for _ in range(inputs)]
    weights = fusion.weights(maps)
    assert weights[:, own].min() > 0.8
    assert weights.min() > 0.01
    passed = fusion.merge.conv(maps[own])
    assert torch.corrcoef(torch.stack((passed.flatten(), maps[own].flatten())))[0, 1] > 0.95


def levels(size=(64, 96), dtype=torch.float32):
    return [torch.rand(1, c, size[0] // s, size[1] // s, dtype=dtype) for c, s in zip((32, 64, 128, 128), (4, 8, 16, 32),
                                                                                   strict=True)]


@torch.no_grad()
def test_shapes_and_one_width():
    outputs = PFDH((32, 64, 128, 128), 48).eval()(levels())
    assert [tuple(x.shape) for x in outputs] == [(1, 48, 16, 24), (1, 48, 8, 12), (1, 48, 4, 6), (1, 48, 2, 3)]


@torch.no_grad()
def test_levels_join_one_at_a_time():
    """P4 must not touch the first stage, nor P5 the first two; in the last every level hears all."""
    torch.manual_seed(0)
    module, inputs, seen = PFDH((32, 64, 128, 128), 48).eval(), levels(), []
    for stage in module.stages:
        stage.register_forward_hook(lambda _, __, output: seen.append([x.clone() for x in output]))
    module(inputs)
    before = list(seen)
    for changed, touched in ((3, (False, False, True)), (2, (False, True, True)), (0, (True, True, True))):
        seen.clear()
        module([x + (k == changed) for k, x in enumerate(inputs)])
        for stage, expected in enumerate(touched):
            differs = [not torch.equal(a, b) for a, b in zip(before[stage], seen[stage], strict=True)]
            assert all(differs) if expected else not any(differs)
    assert [len(s) for s in before] == [2, 3, 4]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_type_runs(dtype):
    with torch.no_grad():
        outputs = PFDH((32, 64, 128, 128), 48).to(dtype).eval()(levels(dtype=dtype))
    assert all(x.dtype == dtype and torch.isfinite(x).all() for x in outputs)


@torch.no_grad()
def test_small_values_pass_the_residual_blocks_whole():
    """The shortcut is bare: a SiLU behind each sum would halve small values, twelve times in a row."""
    torch.manual_seed(0)
    blocks = torch.nn.Sequential(*(ResidualBlock(8) for _ in range(12))).eval()
    small, others = torch.full((1, 8, 9, 7), -0.1), torch.zeros(1, 8, 9, 7)
    difference = (blocks(small) - blocks(others)).mean()
    assert -0.15 < difference < -0.05
