"""MDCA against Eqs 1-8 written out in NumPy."""
import numpy as np
import pytest
import torch

from errors import InputError
from models.mdca import MDCA


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def along_channels(z, kernel):
    """Zero-padded correlation of a vector over the channels."""
    reach = len(kernel) // 2
    padded = np.concatenate((np.zeros(reach), z, np.zeros(reach)))
    return np.array([padded[c : c + len(kernel)] @ kernel for c in range(len(z))])


def mdca(x, local, global_, space, grid, lam, combine="sum"):
    """Eqs 1-8, position by position. x (C, H, W); Eq 1 keeps its grid."""
    C, H, W = x.shape
    a_local = np.zeros((C, grid, grid))
    for i in range(grid):
        for j in range(grid):       # cells of adaptive pooling: from floor(i H / s) to ceil((i + 1) H / s)
            rows = slice(i * H // grid, -(-(i + 1) * H // grid))
            columns = slice(j * W // grid, -(-(j + 1) * W // grid))
            a_local[:, i, j] = sigmoid(along_channels(x[:, rows, columns].mean((1, 2)), local))
    a_global = sigmoid(along_channels(x.mean((1, 2)), global_))
    a_channel = (1 - lam) * a_global[:, None, None] + lam * a_local
    pooled = np.pad(np.stack((x.mean(0), x.max(0))), ((0, 0), (1, 1), (1, 1)))
    y = np.zeros_like(x)
    for v in range(H):
        for u in range(W):
            a_spatial = sigmoid((pooled[:, v : v + 3, u : u + 3] * space).sum())
            a = a_channel[:, v * grid // H, u * grid // W]
            y[:, v, u] = x[:, v, u] * (a + a_spatial if combine == "sum" else a * a_spatial)
    return y


@pytest.mark.parametrize(("kernel", "grid", "lam"), [(3, 5, 0.5), (1, 5, 0.5), (5, 3, 0.2)])
@pytest.mark.parametrize("size", [(20, 20), (13, 7), (5, 5), (4, 9), (1, 1), (1, 32), (104, 56)])
@torch.no_grad()
def test_equals_the_equations(size, kernel, grid, lam):
    torch.manual_seed(0)
    module = MDCA(kernel, grid, lam).double()
    x = torch.randn(2, 12, *size, dtype=torch.float64)
    weights = [p.numpy().squeeze((0, 1) if p.dim() == 3 else 0) for p in module.parameters()]
    expected = np.stack([mdca(image, *weights, grid, lam) for image in x.numpy()])
    np.testing.assert_allclose(module(x).numpy(), expected, rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_the_maps_can_be_multiplied():
    torch.manual_seed(0)
    module, x = MDCA(combine="product").double(), torch.randn(1, 12, 13, 7, dtype=torch.float64)
    weights = [p.numpy().squeeze((0, 1) if p.dim() == 3 else 0) for p in module.parameters()]
    np.testing.assert_allclose(module(x)[0].numpy(), mdca(x[0].numpy(), *weights, 5, 0.5, "product"), rtol=1e-10, atol=1e-12)
    with pytest.raises(InputError, match="model.mdca_combine: 'mean'"):
        MDCA(combine="mean")


@torch.no_grad()
def test_channels_last_gives_the_same():
    module, x = MDCA().double(), torch.randn(2, 16, 12, 20, dtype=torch.float64)
    torch.testing.assert_close(module(x.to(memory_format=torch.channels_last)), module(x), rtol=1e-12, atol=0)


@torch.no_grad()
def test_it_starts_near_its_input():
    """Sigmoids near one half, twice: their sum is near one."""
    x = torch.rand(1, 32, 16, 16) * 0.1
    torch.testing.assert_close(MDCA()(x), x, rtol=0.15, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_type_runs_forward_and_backward(dtype):
    module, x = MDCA().to(dtype), torch.rand(1, 8, 10, 10, dtype=dtype, requires_grad=True)
    module(x).float().sum().backward()
    assert torch.isfinite(x.grad).all()


def test_parameters_and_an_even_kernel():
    assert sum(p.numel() for p in MDCA(3).parameters()) == 24
    assert sum(p.numel() for p in MDCA(1).parameters()) == 20
    with pytest.raises(InputError, match="model.mdca_kernel: 4"):
        MDCA(4)
