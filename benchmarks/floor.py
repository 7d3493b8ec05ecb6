"""The least time that a computation can take: each operation at the device's peak, or moving its bytes at its bandwidth.

Needs torch alone, so that a peer's interpreter can run it.
"""
import time

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


class Counter(TorchDispatchMode):
    """While entered, count what runs, operation by operation: `work` holds (FLOPs, bytes) of each.

    A multiply-add is two FLOPs; only products of matrices and convolutions are counted. Bytes are those of all tensors
    that an operation reads and writes; views move none. `flops` and `bytes` are the sums.
    """

    def __init__(self):
        super().__init__()
        self.work: list[tuple[int, int]] = []

    def __torch_dispatch__(self, operation: object, types: object, arguments: tuple = (), named: dict | None = None) -> object:
        result = operation(*arguments, **(named or {}))
        if not operation.is_view:
            count = flop_registry.get(operation.overloadpacket)
            flops = count(*arguments, **(named or {}), out_val=result) if count else 0
            tensors = {id(x): x for x in tree_leaves((arguments, named, result)) if isinstance(x, torch.Tensor)}
            self.work.append((int(flops), sum(x.numel() * x.element_size() for x in tensors.values())))
        return result

    @property
    def flops(self) -> int:
        return sum(flops for flops, _ in self.work)

    @property
    def bytes(self) -> int:
        return sum(moved for _, moved in self.work)

    def seconds(self, peak: float, bandwidth: float) -> float:
        """The floor, given FLOP/s and bytes/s: what takes longer, for each operation."""
        return sum(max(flops / peak, moved / bandwidth) for flops, moved in self.work)


def wait(device: torch.device) -> None:
    """Until the device is through with what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product, which stands for the device's peak: what a program can reach here."""
    n = 8192 if device.type == "cuda" else 2048
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32         # as the convolutions multiply
    a = torch.randn(n, n, device=device).to(dtype)
    return 2 * n**3 / _fastest(lambda: a @ a, device)


def copy_rate(device: torch.device) -> float:
    """Bytes/s, read and written, of the copy of a large tensor."""
    source = torch.zeros(2**28 if device.type == "cuda" else 2**26, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / _fastest(lambda: target.copy_(source), device)


def _fastest(work: object, device: torch.device) -> float:
    seconds = []
    for _ in range(5):
        wait(device)
        start = time.perf_counter()
        work()
        wait(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)
