"""The row-wise steps against closed forms and against oracles that share no code with them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from deitsec import native, ops
from deitsec.ops._samples import SampleMaker

BACKENDS = (
    "reference",
    pytest.param(
        "cpp",
        marks=pytest.mark.skipif(
            native.missing("cpp") is not None, reason=f"cpp: {native.missing('cpp')}"
        ),
    ),
)
each_backend = pytest.mark.parametrize("backend", BACKENDS)
# one element, an odd row, many small rows, a row of ImageNet
SHAPES = ((1, 1), (3, 7, 5), (300, 3, 4, 4), (2, 150_528))


def iterate(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    """An iterate near its clean image, a gradient, the clean image."""
    make = SampleMaker()
    x0, grad = make.images(*shape), make.normal(*shape)
    return (x0 + make.normal(*shape, scale=0.02)).clamp(0, 1), grad, x0


def change(out: Tensor, x0: Tensor) -> Tensor:
    return (out.double() - x0.double()).flatten(1)


def oracle_projection(z: Tensor, x0: Tensor, eps: float) -> Tensor:
    """Bisection on lambda in fp64, 200 halvings."""
    delta, clean = (z.double() - x0.double()).flatten(1), x0.double().flatten(1)
    size, room = delta.abs(), torch.where(delta > 0, 1 - clean, clean)
    low, high = torch.zeros_like(size[:, :1]), size.amax(1, keepdim=True)
    for _ in range(200):
        middle = (low + high) / 2
        above = torch.minimum((size - middle).clamp_min(0), room).sum(1, keepdim=True) > eps
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    within = torch.minimum(size, room).sum(1, keepdim=True) <= eps
    kept = torch.minimum((size - torch.where(within, 0, high)).clamp_min(0), room)
    return (clean + delta.sign() * kept).reshape(z.shape)


@each_backend
def test_l2_step_inside_the_ball_is_the_step(backend: str) -> None:
    x0 = 0.25 + 0.5 * SampleMaker().images(3, 3, 8, 8)
    grad = SampleMaker(seed=1).normal(3, 3, 8, 8)
    with ops.use(backend):
        out = ops.l2_step(x0, grad, x0, 0.2, 1.0)
        back = ops.l2_step(x0, grad, x0, -0.2, 1.0)
    unit = grad.double() / grad.double().flatten(1).norm(dim=1)[:, None, None, None]
    torch.testing.assert_close(out.double(), x0 + 0.2 * unit, rtol=0, atol=1e-7)
    torch.testing.assert_close(back.double(), x0 - 0.2 * unit, rtol=0, atol=1e-7)


@each_backend
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("eps", [1e-2, 0.5, 3.0])
def test_l2_step_keeps_to_ball_and_box(backend: str, shape: tuple[int, ...], eps: float) -> None:
    x, grad, x0 = iterate(*shape)
    with ops.use(backend):
        out = ops.l2_step(x, grad, x0, 2 * eps, eps)
    assert ((out >= 0) & (out <= 1)).all()
    # each pixel is rounded by at most 2**-25, in a direction of its own
    rounding = 2**-25 * x0[0].numel() ** 0.5
    assert (change(out, x0).norm(dim=1) <= eps * (1 + 2**-22) + rounding).all()


@each_backend
def test_l2_step_reaches_the_sphere_where_the_box_lets_it(backend: str) -> None:
    x0 = torch.full((2, 3, 16, 16), 0.5)
    grad = SampleMaker().normal(2, 3, 16, 16)
    with ops.use(backend):
        out = ops.l2_step(x0, grad, x0, 5.0, 0.5)
    torch.testing.assert_close(change(out, x0).norm(dim=1), torch.full((2,), 0.5).double())


@each_backend
@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e30, 1e38])
def test_l2_step_takes_the_direction_of_any_gradient(backend: str, scale: float) -> None:
    x, grad, x0 = iterate(2, 3, 33, 31)
    signs = grad.sign()
    with ops.use(backend):
        scaled = ops.l2_step(x, signs * scale, x0, 0.5, 1.0)
        plain = ops.l2_step(x, signs, x0, 0.5, 1.0)
    torch.testing.assert_close(scaled, plain, rtol=0, atol=2e-7)


@each_backend
@pytest.mark.parametrize("name", ["l2_step", "l1_step", "momentum_step"])
def test_gradients_without_a_direction_move_nothing(backend: str, name: str) -> None:
    x0 = SampleMaker().images(4, 3, 9, 9)
    grad = torch.zeros_like(x0)
    grad[1] = float("nan")
    if name != "l1_step":  # where an infinity is the largest gradient, and the others count
        grad[2, 0, 0, 0] = float("nan")
        grad[3, 1, 1, 1] = float("inf")
    between: dict[str, tuple[Any, ...]] = {"l1_step": (torch.full((4,), 9),)}
    with ops.use(backend):
        if name == "momentum_step":
            out, momentum = ops.momentum_step(x0, grad, torch.zeros_like(x0), x0, 1.0, 0.1, 0.2)
            assert (momentum == 0).all()
        else:
            out = ops.list_ops()[name](x0, grad, x0, *between.get(name, ()), 0.1, 0.2)
    assert torch.equal(out, x0)


@each_backend
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("scale", "eps"), [(1.0, 0.5), (0.05, 12.0), (3.0, 12.0)])
def test_l1_projection_is_the_oracles(
    backend: str, shape: tuple[int, ...], scale: float, eps: float
) -> None:
    make = SampleMaker()
    x0 = make.images(*shape)
    z = x0 + make.normal(*shape, scale=scale)
    with ops.use(backend):
        out = ops.l1_projection(z, x0, eps)
    rounding = 2**-23 * (1 + float(z.abs().max()))
    torch.testing.assert_close(out.double(), oracle_projection(z, x0, eps), rtol=0, atol=rounding)
    assert ((out >= 0) & (out <= 1)).all()
    moved = change(out, x0).abs()
    # a pixel that moved is rounded by at most 2**-25
    allowed = eps * (1 + 1e-6) + 2**-25 * (moved > 0).sum(1)
    assert (moved.sum(1) <= allowed).all()


@each_backend
def test_l1_projection_leaves_what_is_inside(backend: str) -> None:
    x, _, x0 = iterate(4, 3, 9, 9)
    with ops.use(backend):
        torch.testing.assert_close(ops.l1_projection(x, x0, 1e3), x, rtol=0, atol=6e-8)
        assert torch.equal(ops.l1_projection(x0, x0, 1e-3), x0)


@each_backend
def test_l1_projection_meets_breakpoints_that_coincide(backend: str) -> None:
    x0 = torch.zeros(3, 8)
    z = torch.ones(3, 8)  # all leave the ball, and their rooms, at once
    z[1] = torch.tensor([3.0, 3, 3, 3, 2, 2, 2, 2])
    z[2] = -1  # no room at all
    with ops.use(backend):
        out = ops.l1_projection(z, x0, 4.0)
    assert torch.equal(out[0], torch.full((8,), 0.5))
    assert torch.equal(out[1], torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 0]))
    assert torch.equal(out[2], torch.zeros(8))


@each_backend
def test_l1_projection_leaves_a_nan_where_it_is(backend: str) -> None:
    make = SampleMaker()
    x0, z = make.images(2, 101), make.normal(2, 101)
    z[:, 7] = float("nan")
    without = z.clone()
    without[:, 7] = x0[:, 7]
    with ops.use(backend):
        out, expected = ops.l1_projection(z, x0, 3.0), ops.l1_projection(without, x0, 3.0)
    expected[:, 7] = float("nan")
    assert torch.equal(out.nan_to_num(7), expected.nan_to_num(7))


@each_backend
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_l1_step_is_the_oracles(backend: str, shape: tuple[int, ...]) -> None:
    x, grad, x0 = iterate(*shape)
    k = SampleMaker().labels(shape[0], x0[0].numel()) + 1
    alpha, eps = 6.0, 4.0
    z = x.double()
    for row in range(shape[0]):
        chosen = grad[row].flatten().abs().topk(int(k[row])).indices
        z[row].view(-1)[chosen] += alpha / len(chosen) * grad[row].flatten()[chosen].sign()
    with ops.use(backend):
        out = ops.l1_step(x, grad, x0, k, alpha, eps)
    torch.testing.assert_close(out.double(), oracle_projection(z, x0, eps), rtol=0, atol=1e-6)


@each_backend
def test_l1_step_moves_every_tie_and_no_zero(backend: str) -> None:
    x0 = torch.full((5, 6), 0.5)
    grad = torch.tensor([3.0, -2.0, 2.0, 1.0, 0.0, float("nan")]).expand(5, 6).contiguous()
    with ops.use(backend):
        out = ops.l1_step(x0, grad, x0, torch.tensor([1, 2, 3, 4, 6]), 0.6, 1.0)
    third, quarter = 0.6 / 3, 0.6 / 4
    expected = 0.5 + torch.tensor(
        [
            [0.6, 0.0, 0.0, 0.0, 0.0, 0.0],  # capped by the box
            [third, -third, third, 0.0, 0.0, 0.0],
            [third, -third, third, 0.0, 0.0, 0.0],
            [quarter, -quarter, quarter, quarter, 0.0, 0.0],
            [quarter, -quarter, quarter, quarter, 0.0, 0.0],
        ]
    )
    torch.testing.assert_close(out, expected.clamp(0, 1), rtol=0, atol=1e-7)


@each_backend
@pytest.mark.parametrize("values", ["one bin", "few values", "subnormal"])
def test_l1_step_selects_among_gradients_of_one_size(backend: str, values: str) -> None:
    grad = SampleMaker().normal(2, 10_001)
    grad = {
        "one bin": 1 + grad.abs() * 1e-3,
        "few values": (2 * grad).round(),
        "subnormal": grad * 1e-41,
    }[values]
    x0, k = torch.full_like(grad, 0.5), torch.tensor([1, 5000])
    with ops.use(backend):
        out = ops.l1_step(x0, grad, x0, k, 1.0, 2.0)
    for row in range(2):
        size = grad[row].abs()
        threshold = size.sort(descending=True).values[k[row] - 1]
        assert torch.equal(out[row] != 0.5, (size >= threshold) & (size > 0))


@each_backend
def test_momentum_step_is_the_formula(backend: str) -> None:
    x, grad, x0 = iterate(3, 3, 33, 31)
    momentum = SampleMaker(seed=2).normal(3, 3, 33, 31, scale=1e-3)
    with ops.use(backend):
        out, total = ops.momentum_step(x, grad, momentum, x0, 0.9, 0.01, 0.03)
        stepped = ops.linf_step(x, total, x0, 0.01, 0.03)
    expected = 0.9 * momentum + grad / grad.abs().sum((1, 2, 3), keepdim=True)
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-9)
    assert torch.equal(out, stepped)


@each_backend
@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e30, 1e38])
def test_momentum_step_takes_the_direction_of_any_gradient(backend: str, scale: float) -> None:
    x, grad, x0 = iterate(2, 3, 33, 31)
    momentum, signs = torch.zeros_like(x), grad.sign()
    with ops.use(backend):
        scaled = ops.momentum_step(x, signs * scale, momentum, x0, 1.0, 0.01, 0.03)
        plain = ops.momentum_step(x, signs, momentum, x0, 1.0, 0.01, 0.03)
    torch.testing.assert_close(scaled, plain, rtol=1e-6, atol=0)


@each_backend
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_momentum_of_a_large_image_in_half_precision(backend: str, dtype: torch.dtype) -> None:
    x0 = torch.full((1, 3, 224, 224), 0.5, dtype=dtype)
    grad = SampleMaker().normal(*x0.shape).to(dtype)
    grad[:, :, ::2] *= 1e-3  # of a unit they are 7e-9 each, and the smallest number of fp16 is 6e-8
    with ops.use(backend):
        out, total = ops.momentum_step(x0, grad, torch.zeros(x0.shape), x0, 1.0, 0.25, 0.5)
    assert (out.dtype, total.dtype) == (dtype, torch.float32)
    assert torch.equal(out, x0 + 0.25 * grad.sign())
    torch.testing.assert_close(total, grad.float() / grad.float().abs().sum(), rtol=1e-5, atol=0)


@each_backend
@pytest.mark.parametrize("name", ["l2_step", "l1_step", "l1_projection", "momentum_step"])
def test_rows_do_not_depend_on_each_other(backend: str, name: str) -> None:
    x, grad, x0 = iterate(5, 3, 33, 31)
    between: dict[str, tuple[Any, ...]] = {
        "l2_step": (x, grad, x0, 1.0, 0.5),
        "l1_step": (x, grad, x0, torch.tensor([1, 10, 100, 1000, 3000]), 9.0, 6.0),
        "l1_projection": (x + grad, x0, 6.0),
        "momentum_step": (x, grad, 1e-3 * grad.flip(0), x0, 1.0, 0.01, 0.03),
    }
    args, order = between[name], torch.tensor([3, 0, 4])
    op = ops.list_ops()[name]
    with ops.use(backend):
        together = op(*args)
        some = op(*(a[order] if isinstance(a, Tensor) else a for a in args))
    for one, all_rows in zip(
        some if isinstance(some, tuple) else (some,),
        together if isinstance(together, tuple) else (together,),
        strict=True,
    ):
        assert torch.equal(one, all_rows[order])


IMAGES = torch.rand(2, 3, 4, 4)
K = torch.tensor([1, 2])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ops.l2_step(IMAGES, IMAGES[:1], IMAGES, 0.1, 1.0), ValueError, "grad must be"),
        (lambda: ops.l2_step(IMAGES, IMAGES, IMAGES, 0.1, 0.0), ValueError, "eps must be > 0"),
        (lambda: ops.l2_step(IMAGES, IMAGES, IMAGES, float("nan"), 1.0), ValueError, "got nan"),
        (lambda: ops.l2_step(IMAGES[0, 0, 0], *[IMAGES[0, 0, 0]] * 2, 0.1, 1.0), ValueError, "row"),
        (lambda: ops.l2_step(IMAGES, IMAGES, IMAGES.byte(), 0.1, 1.0), TypeError, "torch.uint8"),
        (lambda: ops.l1_step(IMAGES, IMAGES, IMAGES, K[:1], 0.1, 1.0), ValueError, r"k must .*\(2"),
        (lambda: ops.l1_step(IMAGES, IMAGES, IMAGES, K.int(), 0.1, 1.0), ValueError, "torch.int32"),
        (lambda: ops.l1_projection(IMAGES, IMAGES, -1.0), ValueError, "got -1.0"),
        (
            lambda: ops.momentum_step(*[IMAGES] * 4, -0.5, 0.1, 1.0),
            ValueError,
            "decay must be >= 0 and finite, got -0.5",
        ),
    ],
)
def test_a_wrong_argument_is_named(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_the_ball_meets_a_flat_piece_of_the_norm() -> None:
    """Where some entries fill their rooms and the others are 0, the norm does not hang on lambda.

    With eps just there, rounding once told the reference that lambda was 0.
    """
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        room = torch.rand(2, dtype=torch.float64, generator=generator) * 0.4 + 0.05
        eps = float(room.sum())
        x0 = torch.cat([1 - room, torch.full((3,), 0.5, dtype=torch.float64)])[None]
        away = torch.tensor([0.5, 0.7, 0.04, -0.08, 0.06], dtype=torch.float64)
        moved = ops.l1_projection(x0 + away, x0, eps) - x0
        assert moved.abs().sum() <= eps * (1 + 1e-12)


@each_backend
@pytest.mark.parametrize("gradient", [float("inf"), float("nan")])
def test_adam_without_a_gradient_is_pulled_but_where_that_is_not_finite(
    backend: str, gradient: float
) -> None:
    w, x0 = torch.full((1, 9), 0.5), torch.full((1, 9), 0.2)
    grad, still = torch.ones(1, 9), torch.zeros(1, 9)
    grad[0, 4] = gradient
    with ops.use(backend):
        after, *_ = ops.adam_tanh_step(
            w, still, still, grad, x0, torch.zeros(1), torch.ones(1).long(), 0.1, 1.0
        )
    moved = (after != w)[0]
    assert moved.sum() == 8
    assert not moved[4]
