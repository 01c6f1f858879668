"""The ops on images against what they promise: random start, quantisation, norms."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from deitsec import native, ops
from deitsec.ops.random_start import philox

needs_cpp = pytest.mark.skipif(
    native.missing("cpp") is not None, reason=f"cpp: {native.missing('cpp')}"
)
BACKENDS = ["reference", pytest.param("cpp", marks=needs_cpp)]
ONES = 0xFFFFFFFF


@pytest.fixture(params=BACKENDS)
def backend(request: Any) -> Iterator[str]:
    with ops.use(request.param):
        yield request.param


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ([0, 0, 0, 0], (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([ONES] * 4, (ONES, ONES), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_philox_gives_the_published_words(
    counter: list[int], key: tuple[int, int], words: list[int]
) -> None:
    """philox4x32 10, from kat_vectors of the Random123 distribution."""
    assert [int(w) for w in philox(tuple(torch.tensor([c]) for c in counter), key)] == words


def test_random_start_draws_the_published_words(backend: str) -> None:
    """Row 0 of seed 0 and stream 0 starts with the words of the zero counter and key."""
    start = ops.random_start(torch.full((1, 4), 0.5), torch.tensor([0]), 0.5, 0, 0)
    words = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert start[0].tolist() == [0.5 + 0.5 * ((word >> 8) / 2**23 - 1) for word in words]


def test_random_start_belongs_to_the_sample_not_to_the_batch(backend: str) -> None:
    images, ids = torch.rand(5, 3, 13, 7), torch.tensor([3, 1 << 33, 7, 2, -1])
    together = ops.random_start(images, ids, 0.1, 42, 9)
    order = torch.tensor([4, 2, 0, 3, 1])
    assert torch.equal(ops.random_start(images[order], ids[order], 0.1, 42, 9), together[order])
    for row in range(5):
        one = slice(row, row + 1)
        assert torch.equal(ops.random_start(images[one], ids[one], 0.1, 42, 9), together[one])


@pytest.mark.parametrize("changed", ["sample", "sample beyond 32 bits", "seed", "stream"])
def test_random_start_differs_by(changed: str, backend: str) -> None:
    images = torch.full((1, 1000), 0.5)
    sample = {"sample": 6, "sample beyond 32 bits": 5 + (1 << 32)}.get(changed, 5)
    seed, stream = (1 << 32 if changed == "seed" else 0), (1 if changed == "stream" else 0)
    first = ops.random_start(images, torch.tensor([5]), 0.1, 0, 0)
    other = ops.random_start(images, torch.tensor([sample]), 0.1, seed, stream)
    assert (first == other).float().mean() < 0.01


def test_random_start_is_uniform_in_the_ball(backend: str) -> None:
    images = torch.full((4, 50_000), 0.5)
    noise = (ops.random_start(images, torch.arange(4), 0.1, 1) - images) / 0.1
    assert noise.abs().max() <= 1 + 1e-6
    counts = torch.histc(noise, bins=20, min=-1, max=1)
    # 10,000 in each bin; five standard deviations
    assert ((counts - 10_000).abs() < 5 * 10_000**0.5).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_quantisation_is_exact_for_every_pair_of_levels(backend: str, dtype: torch.dtype) -> None:
    """All 256 clean levels against every third of a level from -2 to 257."""
    clean = torch.arange(256).to(torch.uint8)[:, None].expand(256, 778).contiguous()
    adv = ((torch.arange(778) / 3 - 2) / 255).to(dtype).expand(256, 778).contiguous()
    base = clean.to(torch.int64)
    for levels in (0, 1, 8, 255):
        nearest = (adv.double() * 255).round().to(torch.int64)
        low, high = (base - levels).clamp(min=0), (base + levels).clamp(max=255)
        found = ops.quantize_uint8(adv, clean, levels)
        # within 1e-4 of a tie, fp32 may round either way
        tie = (((adv.double() * 255) % 1) - 0.5).abs() < 1e-4
        expected = torch.minimum(torch.maximum(nearest, low), high)
        assert torch.equal(found.to(torch.int64)[~tie], expected[~tie])
        assert ((found.to(torch.int64) - base).abs() <= levels).all()


def test_every_level_survives_the_round_trip(backend: str) -> None:
    levels = torch.arange(256).to(torch.uint8)
    assert torch.equal(ops.quantize_uint8(levels / 255, levels, 0), levels)
    assert torch.equal(ops.quantize_uint8(levels / 255, torch.zeros_like(levels), 255), levels)


@pytest.mark.parametrize(("eps", "levels"), [(8 / 255, 8), (0.3, 76), (0.031, 7), (2.0, 255)])
def test_grey_levels_never_leave_the_ball(eps: float, levels: int) -> None:
    assert ops.grey_levels(eps) == levels


def test_norms_of_a_known_change(backend: str) -> None:
    clean = torch.full((2, 3, 4, 4), 0.5)
    changed = clean.clone()
    changed[0, 0, 0, 0] += 0.375
    changed[0, 2, 3, 3] -= 0.5
    linf, l2, l1, l0 = ops.row_norms(changed, clean)
    assert linf.tolist() == [0.5, 0]
    assert l2.tolist() == [0.625, 0]
    assert l1.tolist() == [0.875, 0]
    assert l0.tolist() == [2, 0]


@needs_cpp
def test_norms_of_a_long_row_keep_their_digits() -> None:
    """A running fp32 sum of 3,000,000 equal terms would be off in the third digit."""
    clean = torch.zeros(1, 3_000_000)
    with ops.use("cpp"):
        linf, l2, l1, l0 = ops.row_norms(clean + 0.1, clean)
    exact = torch.tensor(0.1).double()
    torch.testing.assert_close(l1.double(), exact[None] * 3e6, rtol=1e-6, atol=0)
    torch.testing.assert_close(l2.double(), exact[None] * 3e6**0.5, rtol=1e-6, atol=0)
    assert linf.tolist() == [exact.item()]
    assert l0.tolist() == [3_000_000]


def in_ball_and_box(x: Tensor, x0: Tensor, eps: float) -> bool:
    ulp = torch.finfo(x.dtype).eps
    outside = (x.double() - x0.double()).abs() - eps
    return bool((outside <= ulp).all() and x.min() >= 0 and x.max() <= 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_steps_stay_in_the_ball_and_in_the_box(backend: str, dtype: torch.dtype) -> None:
    x0 = torch.rand(4, 3, 9, 9).to(dtype)
    x = x0.clone()
    for _ in range(10):
        x = ops.linf_step(x, torch.randn(4, 3, 9, 9).to(dtype), x0, 3 / 255, 8 / 255)
    assert in_ball_and_box(x, x0, 8 / 255)
    assert (x != x0).any()


def test_nan_gradient_moves_nothing(backend: str) -> None:
    x0 = torch.rand(3, 5)
    gradient = torch.full((3, 5), float("nan"))
    assert torch.equal(ops.linf_step(x0.clone(), gradient, x0, 0.1, 0.1), x0)
