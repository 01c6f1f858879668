"""A uniform start in the L-infinity ball, the same on every backend and in every batch."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from deitsec.ops import _checks
from deitsec.ops._op import op
from deitsec.ops._samples import SampleMaker

_MASK = 0xFFFFFFFF


@op("(Tensor x0, Tensor sample_ids, float eps, int seed, int stream=0) -> Tensor")
def random_start(x0: Tensor, sample_ids: Tensor, eps: float, seed: int, stream: int = 0) -> Tensor:
    """Uniform point of the eps-ball around x0, clipped to [0, 1] (arXiv:1706.06083, section 2.1).

    The draw of element i of a row is word i mod 4 of Philox4x32-10 (Salmon et al., SC 2011) with
    key = seed and counter = (i div 4, sample id, stream): it depends on nothing else, so it is
    the same on every backend, whatever the batch, its order and the machine.

    Args:
        x0: (B, ...) clean images in [0, 1]; fp32, bf16, fp16 (fp64 by the reference).
        sample_ids: (B,) int64, the identity of each row.
        eps: radius of the ball, > 0.
        seed: any int64.
        stream: 0 to 2**32 - 1; tells restarts and steps apart.

    Returns:
        Shape and dtype of x0.

    Raises:
        ValueError: sample_ids of another shape or dtype, eps not a positive number, or a stream
            out of range.
        TypeError: x0 that is not floating.
    """
    elements = x0[0].numel() if x0.shape[0] else 0
    words = _philox_words(sample_ids, (elements + 3) // 4, seed, stream)[:, :elements]
    wide = torch.promote_types(x0.dtype, torch.float32)
    noise = (words >> 8).to(wide) * 2.0**-23 - 1  # exact in fp32: 24 bits
    start = x0.to(wide) + eps * noise.reshape(x0.shape)
    return start.clamp(0, 1).to(x0.dtype)


def _philox_words(sample_ids: Tensor, blocks: int, seed: int, stream: int) -> Tensor:
    """(B, 4 * blocks) int64 tensor of the 32-bit words of each row."""
    rows = sample_ids.shape[0]
    block = torch.arange(blocks, device=sample_ids.device).expand(rows, blocks)
    low = (sample_ids & _MASK)[:, None].expand(rows, blocks)
    high = ((sample_ids >> 32) & _MASK)[:, None].expand(rows, blocks)
    counter = (block, low, high, torch.full_like(block, stream))
    words = philox(counter, (seed & _MASK, (seed >> 32) & _MASK))
    return torch.stack(words, dim=2).reshape(rows, 4 * blocks)


def philox(counter: tuple[Tensor, ...], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Philox4x32-10: four words for four words of counter; int64 tensors of 32-bit numbers."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        low0, high0 = _multiply(c0, 0xD2511F53)
        low1, high1 = _multiply(c2, 0xCD9E8D57)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return c0, c1, c2, c3


def _multiply(values: Tensor, constant: int) -> tuple[Tensor, Tensor]:
    """Low and high 32 bits of the 64-bit product of 32-bit numbers held in int64."""
    product = values * constant  # wraps as unsigned would
    return product & _MASK, (product >> 32) & _MASK


random_start.backend("cpp", "torch.ops.deitsec_cpp.random_start", device="cpu")
random_start.backend("triton", "deitsec.kernels.random_start:random_start", device="cuda")


@random_start.check
def _check(x0: Tensor, sample_ids: Tensor, eps: float, seed: int, stream: int = 0) -> None:
    if x0.dtype not in _checks.FLOATS:
        _checks.floating("random_start", x0=x0)
    if not 0 < eps < float("inf"):
        _checks.positive("random_start", eps=eps)
    if sample_ids.dtype != torch.int64 or sample_ids.shape != (x0.shape[0],):
        raise ValueError(
            f"random_start: sample_ids must be ({x0.shape[0]},) torch.int64, "
            f"got {tuple(sample_ids.shape)} {sample_ids.dtype}"
        )
    if not 0 <= stream <= _MASK:
        raise ValueError(f"random_start: stream must be in 0 to 2**32 - 1, got {stream}")


@random_start.cost
def _cost(x0: Tensor, sample_ids: Tensor, eps: float, seed: int, stream: int = 0) -> int:
    return 2 * x0.numel() * x0.element_size()


@random_start.samples
def _samples(make: SampleMaker) -> Iterator[tuple[Any, ...]]:
    for shape in ((1, 1, 1, 1), (3, 1, 7, 5), (2, 3, 33, 31), (0, 3, 8, 8), (5, 130)):
        ids = make.sample_ids(shape[0])
        yield make.images(*shape), ids, 8 / 255, 0, 0
        yield make.images(*shape), ids, 0.3, -(1 << 62) + 12345, 7
    yield make.images(2, 3, 9, 9).transpose(2, 3), make.sample_ids(2), 0.1, 1, 0
