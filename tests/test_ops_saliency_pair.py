"""saliency_pair against all pairs, on what a search may stumble over."""

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from deitsec import native, ops

needs_cpp = pytest.mark.skipif(
    native.missing("cpp") is not None, reason=f"cpp: {native.missing('cpp')}"
)


def clouds(n: int, generator: torch.Generator) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Alpha and beta of each kind of data."""

    def normal() -> Tensor:
        return torch.randn(n, generator=generator)

    u, z = torch.rand(n, generator=generator), normal()
    yield "normal", normal(), normal()
    yield "line", u, u - 1
    yield "noisy line", u, u - 1 - 1e-4 * normal()
    yield "circle", (u * 1.5707963).cos(), -(u * 1.5707963).sin()
    yield "convex", (u * 6 - 3).exp(), -(3 - u * 6).exp()
    yield "anti-correlated", z, z + 0.05 * normal()
    yield "heavy tails", normal() ** 5, normal() ** 5
    yield "many ties", normal().round(), normal().round()
    yield "few levels on a line", (u * 9).round(), (u * 9).round() - 9
    yield "all equal", torch.ones(n), -torch.ones(n)
    yield "one that absorbs", torch.cat([z[1:], z.new_tensor([1e9])]), normal() - 1e8 * (u > 0.9)
    yield "tiny", normal() * 1e-38, normal() * 1e-38
    yield "huge", normal() * 1e38, normal() * 1e38
    signed_zero = torch.where(u < 0.5, 0.0, -0.0)
    yield "zeros of both signs", signed_zero + (u > 0.95), signed_zero - (u > 0.9).float()


@needs_cpp
@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 33, 200, 784])
@pytest.mark.parametrize("seed", range(3))
def test_cpp_finds_the_pair_of_brute_force(n: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, alpha, beta in clouds(n, generator):
        alpha, beta = alpha[:n][None], beta[:n][None]
        mask = torch.rand(1, n, generator=generator) < 0.8
        with ops.use("cpp"):
            found = ops.saliency_pair(alpha, beta, mask)
        expected = ops.saliency_pair.reference(alpha, beta, mask)
        assert all(map(torch.equal, found, expected)), f"{name}: {found}, expected {expected}"


@pytest.mark.parametrize("seed", range(4))
def test_the_meaning_is_the_loop_of_the_paper(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    alpha, beta = (torch.randn(3, 23, generator=generator).mul(2).round() for _ in range(2))
    mask = torch.rand(3, 23, generator=generator) < 0.7
    i, j, found = ops.saliency_pair.reference(alpha, beta, mask)
    for row in range(3):
        best, pair = 0.0, None
        for p, q in itertools.combinations(mask[row].nonzero()[:, 0].tolist(), 2):
            rise, fall = float(alpha[row, p] + alpha[row, q]), float(beta[row, p] + beta[row, q])
            if rise > 0 > fall and -rise * fall > best:
                best, pair = -rise * fall, (p, q)
        assert (int(i[row]), int(j[row])) == (pair or (-1, -1))
        assert bool(found[row]) == (pair is not None)


@pytest.mark.parametrize("backend", ["reference", pytest.param("cpp", marks=needs_cpp)])
def test_nothing_to_pick_and_nan_never_wins(backend: str) -> None:
    good, nothing = torch.ones(1, 40), torch.zeros(1, 40, dtype=torch.bool)
    nan = good.clone()
    nan[0, :38] = torch.nan
    one = ~nothing
    one[0, :39] = False
    with ops.use(backend):
        for alpha, beta, mask in (
            (good, -good, nothing),
            (good, -good, one),
            (good, good, ~nothing),
            (-good, -good, ~nothing),
        ):
            i, j, found = ops.saliency_pair(alpha, beta, mask)
            assert (int(i), int(j), bool(found)) == (-1, -1, False)
        for alpha, beta in ((nan, -good), (good, -nan), (nan, -nan)):
            i, j, found = ops.saliency_pair(alpha, beta, ~nothing)
            assert (int(i), int(j), bool(found)) == (38, 39, True)


@needs_cpp
def test_an_imagenet_row_is_no_worse_than_the_best_of_its_front() -> None:
    """Dominance: the best pair lies among points that at most one other dominates."""
    generator = torch.Generator().manual_seed(0)
    alpha, beta = (torch.randn(150_528, generator=generator) for _ in range(2))
    order = alpha.argsort(descending=True)
    fall = -beta[order]
    before = fall.cummax(0).values.roll(1)
    before[0] = -torch.inf
    layer = order[fall > before]
    rest = order[fall <= before]
    fall = -beta[rest]
    before = fall.cummax(0).values.roll(1)
    before[0] = -torch.inf
    front = torch.cat([layer, rest[fall > before]]).sort().values
    some = ops.saliency_pair.reference(
        alpha[front][None], beta[front][None], torch.ones(1, len(front), dtype=torch.bool)
    )
    everything = torch.ones(1, 150_528, dtype=torch.bool)
    i, j, _ = ops.saliency_pair(alpha[None], beta[None], everything)
    assert (int(i), int(j)) == (int(front[some[0]]), int(front[some[1]]))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda a, b, m: (a[0], b[0], m[0]), ValueError, "alpha must be"),
        (lambda a, b, m: (a, b[:, 1:], m), ValueError, "beta must be"),
        (lambda a, b, m: (a, b.half(), m), TypeError, "beta must be"),
        (lambda a, b, m: (a, b, m.float()), TypeError, "mask must be"),
    ],
)
def test_bad_arguments_are_named(change, error, words) -> None:
    args = torch.rand(2, 5), torch.rand(2, 5), torch.ones(2, 5, dtype=torch.bool)
    with pytest.raises(error, match=words):
        ops.saliency_pair(*change(*args))
