"""The projections of FAB and the step of DeepFool: optimal, in the box, row by row."""

import math
import re

import pytest
import torch
from torch import Tensor

from deitsec import native, ops
from deitsec.ops._samples import SampleMaker

ORDERS = (math.inf, 2.0, 1.0)
needs_cpp = pytest.mark.skipif(
    native.missing("cpp") is not None, reason=f"cpp: {native.missing('cpp')}"
)
BACKENDS = ("reference", pytest.param("cpp", marks=needs_cpp))


def project(backend: str, *args) -> Tensor:
    with ops.use(backend):
        return ops.fab_projection(*args)


def least_move(x: Tensor, slope: Tensor, value: float, p: float) -> float:
    """Length of the smallest move to the plane of one fp64 row, by bisection over what it gives."""
    way = torch.where((slope > 0) != (value > 0), 1.0, -1.0).double()
    room = torch.where(way > 0, 1 - x, x)
    size = slope.abs()
    if p == 1:  # the cheapest entries first
        order = size.argsort(descending=True)
        gives, rest, length = (size * room)[order], abs(value), 0.0
        for given, of, rate in zip(gives, room[order], size[order], strict=True):
            part = min(1.0, rest / float(given)) if given > 0 else 0.0
            length, rest = length + part * float(of), rest - part * float(given)
            if rest <= 0:
                break
            assert rate >= 0
        return length
    low, high = 0.0, 1e12
    reach = size if p == 2 else torch.ones_like(size)
    for _ in range(200):
        middle = (low + high) / 2
        given = (size * torch.minimum(middle * reach, room)).sum()
        low, high = (middle, high) if given < abs(value) else (low, middle)
    return float(torch.linalg.vector_norm(torch.minimum(high * reach, room), p))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("share", [1e-6, 0.01, 0.3, 0.9, 0.9999])
def test_the_move_closes_the_gap_and_none_is_shorter(backend, p, share):
    make = SampleMaker()
    x, slope = make.images(6, 1, 9, 11), make.normal(6, 1, 9, 11)
    x[1] = (x[1] * 3 - 1).clamp(0, 1)
    slope[2, :, :4] = 0
    slope[3] = slope[3].round()
    for sign in (1.0, -1.0):
        up = (slope > 0) != (sign > 0)
        room = torch.where(up, 1 - x, x).double()
        value = (sign * share * (slope.abs().double() * room).flatten(1).sum(1)).float()
        move = project(backend, x, slope, value, p).double()
        assert ((x + move >= -1e-7) & (x + move <= 1 + 1e-7)).all()
        assert (move[slope == 0] == 0).all()
        closed = (slope.double() * move).flatten(1).sum(1)
        torch.testing.assert_close(closed, -value.double(), rtol=2e-6, atol=2e-6)
        for row in range(len(x)):
            shortest = least_move(
                x[row].flatten().double(), slope[row].flatten().double(), float(value[row]), p
            )
            length = float(torch.linalg.vector_norm(move[row].flatten(), p))
            assert length == pytest.approx(shortest, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("p", ORDERS)
def test_a_plane_beyond_the_box_ends_in_the_corner_nearest_to_it(backend, p):
    make = SampleMaker()
    x, slope = make.images(2, 50), make.normal(2, 50)
    slope[:, 7] = 0
    moved = x + project(backend, x, slope, torch.tensor([1e6, -1e6]), p)
    expected = torch.stack([(slope[0] < 0).float(), (slope[1] > 0).float()])
    expected[:, 7] = x[:, 7]
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("p", ORDERS)
def test_a_row_without_a_plane_stays(backend, p):
    x = SampleMaker().images(6, 40)
    slope = SampleMaker(seed=1).normal(6, 40)
    slope[0] = 0
    slope[1, 3], slope[2, 4] = math.nan, math.inf
    value = torch.tensor([1.0, 1.0, 1.0, math.nan, -math.inf, 0.0])
    assert (project(backend, x, slope, value, p) == 0).all()
    with ops.use(backend):
        x0 = SampleMaker(seed=2).images(6, 40)
        out = ops.fab_step(x, x0, slope, value, 1.05, 0.1, p)
    assert torch.equal(out[1:5], x[1:5])
    assert out.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e12, 1e30])
@pytest.mark.parametrize("p", ORDERS)
def test_the_scale_of_the_function_does_not_matter(backend, size, p):
    x, slope = SampleMaker().images(3, 300), SampleMaker(seed=1).normal(3, 300)
    value = torch.tensor([-3.0, 5.0, 60.0])
    expected = project(backend, x, slope, value, p)
    scaled = project(backend, x, slope * size, value * size, p)
    torch.testing.assert_close(scaled, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_l1_moves_share_what_a_tie_is_needed_for(backend):
    x = torch.tensor([[0.5, 0.2, 0.8, 0.5]])
    slope = torch.tensor([[3.0, 1.0, 1.0, 0.5]])
    # the first gives 1.5 of 2, the tied ones have 1 between them: half of their rooms
    move = project(backend, x, slope, torch.tensor([2.0]), 1.0)
    torch.testing.assert_close(move, torch.tensor([[-0.5, -0.1, -0.4, 0.0]]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("p", ORDERS)
def test_the_step_of_fab_is_its_formula(backend, p):
    make = SampleMaker()
    x, x0, slope = make.images(4, 60), make.images(4, 60), make.normal(4, 60)
    value = torch.tensor([1.0, -2.0, 0.3, 4.0])
    value0 = value + (slope * (x0 - x)).sum(1)
    near, far = project(backend, x, slope, value, p), project(backend, x0, slope, value0, p)
    norm, norm0 = (torch.linalg.vector_norm(d, p, dim=1)[:, None] for d in (near, far))
    for alpha_max in (0.1, 1.0):
        alpha = (norm / (norm + norm0)).clamp_max(alpha_max)
        expected = ((x + 1.05 * near) * (1 - alpha) + (x0 + 1.05 * far) * alpha).clamp(0, 1)
        with ops.use(backend):
            out = ops.fab_step(x, x0, slope, value, 1.05, alpha_max, p)
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_do_not_know_each_other(backend):
    make = SampleMaker()
    x, x0, slope = make.images(5, 700), make.images(5, 700), make.normal(5, 700)
    value, slopes, values = make.normal(5), make.normal(5, 3, 700), make.normal(5, 3)
    held = torch.tensor([False, True, False, False, True])
    with ops.use(backend):
        for p in ORDERS:
            whole = ops.fab_step(x, x0, slope, value, 1.05, 0.1, p)
            alone = [
                ops.fab_step(*(t[i : i + 1] for t in (x, x0, slope, value)), 1.05, 0.1, p)
                for i in range(5)
            ]
            torch.testing.assert_close(torch.cat(alone), whole, rtol=0, atol=1e-7)
        total, images = ops.deepfool_step(x - x0, x0, slopes, values, held, 0.02, 2.0)
        for i in range(5):
            own = (t[i : i + 1] for t in (x - x0, x0, slopes, values, held))
            one, image = ops.deepfool_step(*own, 0.02, 2.0)
            torch.testing.assert_close(one, total[i : i + 1], rtol=0, atol=1e-7)
            torch.testing.assert_close(image, images[i : i + 1], rtol=0, atol=1e-7)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("p", [math.inf, 2.0])
def test_deepfool_crosses_the_nearest_plane(backend, p):
    x0 = torch.full((3, 4), 0.5)
    slopes = torch.tensor([[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]).expand(3, 2, 4).contiguous()
    values = torch.tensor([[-0.5, -0.2], [-0.5, -0.05], [-0.5, -0.2]])
    held = torch.tensor([False, False, True])
    with ops.use(backend):
        total, image = ops.deepfool_step(torch.zeros(3, 4), x0, slopes, values, held, 0.02, p)
    near = 0.5 / 7 + 1e-4 if p == math.inf else 0.1 + 1e-4
    unit = torch.tensor([1.0, 1.0, 0, 0]) if p == math.inf else torch.tensor([0.6, 0.8, 0, 0])
    expected = torch.stack([near * unit, torch.tensor([0, 0, 0.0501, 0]), torch.zeros(4)])
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(image, x0 + 1.02 * expected)


X, V = torch.rand(2, 8), torch.rand(2)
BAD = [
    (lambda: ops.fab_projection(X, X[:, :4], V, 2.0), ValueError, "slope must be (2, 8)"),
    (lambda: ops.fab_projection(X, X, V[:1], 2.0), ValueError, "value must be (2,), got (1,)"),
    (lambda: ops.fab_projection(X, X, V.double(), 2.0), TypeError, "value must be torch.float32"),
    (lambda: ops.fab_projection(X, X, V, 3.0), ValueError, "p must be inf, 2 or 1, got 3.0"),
    (lambda: ops.fab_step(X, X, X, V, 0.0, 0.1, 2.0), ValueError, "eta must be > 0"),
    (lambda: ops.fab_step(X, X, X, V, 1.0, 1.1, 2.0), ValueError, "alpha_max must be in [0, 1]"),
    (
        lambda: ops.deepfool_step(X, X, X[:, None], V, V > 0, 0.02, 2.0),
        ValueError,
        "values must be (2, 1), got (2,)",
    ),
    (
        lambda: ops.deepfool_step(X, X, X[:, None], V[:, None], V > 0, 0.02, 1.0),
        ValueError,
        "p must be inf or 2, got 1.0",
    ),
    (
        lambda: ops.deepfool_step(X, X, X[:, None], V[:, None], V > 0, -0.1, 2.0),
        ValueError,
        "overshoot must be >= 0",
    ),
]


@pytest.mark.parametrize(("call", "error", "words"), BAD)
def test_bad_arguments_are_named(call, error, words):
    with pytest.raises(error, match=re.escape(words)):
        call()
