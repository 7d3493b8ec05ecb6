"""Eq 12 and the order in which levels meet."""
import pytest
import torch

from models.pfdh import PFDH, AdaptiveFusion


@torch.no_grad()
@pytest.mark.parametrize("inputs", [2, 3, 4])
def test_weights_sum_to_one_at_every_pixel(inputs):
    torch.manual_seed(0)
    fusion = AdaptiveFusion(16, inputs).double().eval()
    maps = [torch.randn(2, 16, 9, 7, dtype=torch.float64) * 5 for _ in range(inputs)]
    weights = fusion.weights(maps)
    assert weights.shape == (2, inputs, 9, 7)
    torch.testing.assert_close(weights.sum(1), torch.ones(2, 9, 7, dtype=torch.float64), rtol=0, atol=1e-12)
    assert weights.std() > 0.01                     # they differ from pixel to pixel


@torch.no_grad()
def test_the_fusion_is_the_weighted_sum():
    """Eq 12 by hand: with a merge that does nothing the output is sum_i w_i F_i."""
    torch.manual_seed(0)
    fusion = AdaptiveFusion(4, 3).double().eval()
    fusion.merge = torch.nn.Identity()
    maps = [torch.randn(1, 4, 5, 5, dtype=torch.float64) for _ in range(3)]
    w = fusion.weights(maps)
    for v in range(5):
        for u in range(5):
            expected = sum(w[0, i, v, u] * maps[i][0, :, v, u] for i in range(3))
            torch.testing.assert_close(fusion(maps)[0, :, v, u], expected)


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
