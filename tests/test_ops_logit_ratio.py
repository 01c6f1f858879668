"""Margin and DLR against autograd in float64, and where autograd in fp32 loses its digits."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from deitsec import native, ops
from deitsec.ops._logit_ratio import ranked_rows
from deitsec.ops._samples import SampleMaker

needs_cpp = pytest.mark.skipif(
    native.missing("cpp") is not None, reason=f"cpp: {native.missing('cpp')}"
)
BACKENDS = ["reference", pytest.param("cpp", marks=needs_cpp)]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def margin_formula(logits: Tensor, labels: Tensor) -> Tensor:
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.amax(1) - logits.gather(1, labels[:, None])[:, 0]


def dlr_formula(logits: Tensor, labels: Tensor) -> Tensor:
    z = logits.sort(1, descending=True).values
    return margin_formula(logits, labels) / (z[:, 0] - z[:, 2] + 1e-12)


def targeted_dlr_formula(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    z = logits.sort(1, descending=True).values
    rise, fall = (logits.gather(1, index[:, None])[:, 0] for index in (targets, labels))
    return -(fall - rise) / (z[:, 0] - (z[:, 2] + z[:, 3]) / 2 + 1e-12)


FORMULAS: dict[str, Callable[..., Tensor]] = {
    "margin_loss": margin_formula,
    "dlr_loss": dlr_formula,
    "targeted_dlr_loss": targeted_dlr_formula,
}


def arguments(name: str, num_classes: int) -> tuple[Tensor, ...]:
    """Rows whose labels and targets stand at every rank."""
    logits, labels, targets = ranked_rows(SampleMaker(), num_classes)
    return (logits, labels, targets) if name == "targeted_dlr_loss" else (logits, labels)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_classes", [4, 5, 33])
@pytest.mark.parametrize("name", FORMULAS)
def test_loss_is_the_formula_with_its_gradient(name: str, num_classes: int, backend: str) -> None:
    logits, *classes = arguments(name, num_classes)
    exact = logits.double().requires_grad_()
    expected = FORMULAS[name](exact, *classes)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), exact)
    dtype = torch.float64 if backend == "reference" else torch.float32
    with ops.use(backend):
        loss, gradient, predicted = ops.list_ops()[name](logits.to(dtype), *classes)
    close = {"rtol": 1e-12, "atol": 1e-11} if backend == "reference" else {"rtol": 1e-6}
    torch.testing.assert_close(loss.double(), expected.detach(), **({"atol": 1e-6} | close))
    torch.testing.assert_close(gradient.double(), expected_gradient, **({"atol": 1e-6} | close))
    assert torch.equal(predicted, logits.argmax(1))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["dlr_loss", "targeted_dlr_loss"])
def test_entries_keep_their_digits_where_autograd_cancels(name: str, backend: str) -> None:
    """Between z_2 and z_3 lies 1e-4 of the spread: 1 + loss has 3 digits left in fp32."""
    logits = torch.tensor([[10.0, 0.0031, 0.002, 0.0017, -3.0, -4.0]]).repeat(5, 1)
    logits += torch.rand(5, 1)
    labels = torch.zeros(5, dtype=torch.int64)
    classes = (labels,) if name == "dlr_loss" else (labels, labels + 1)
    exact, plain = logits.double().requires_grad_(), logits.clone().requires_grad_()
    (truth,) = torch.autograd.grad(FORMULAS[name](exact, *classes).sum(), exact)
    (usual,) = torch.autograd.grad(FORMULAS[name](plain, *classes).sum(), plain)
    with ops.use(backend):
        gradient = ops.list_ops()[name](logits, *classes)[1]
    usual_error = ((usual.double() - truth) / truth)[:, 0].abs().max()
    assert usual_error > 1e-5, "these logits do not show the cancellation"
    torch.testing.assert_close(gradient[:, 0].double(), truth[:, 0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", FORMULAS)
def test_shift_changes_nothing_and_scale_only_the_margin(name: str, backend: str) -> None:
    logits, *classes = arguments(name, 10)
    logits = (logits * 256).round() / 256  # shifted and scaled without rounding
    op = ops.list_ops()[name]
    with ops.use(backend):
        loss, gradient, _ = op(logits, *classes)
        shifted = op(logits + 1024, *classes)
        scaled = op(logits * 8, *classes)
    assert torch.equal(shifted[0], loss)
    assert torch.equal(shifted[1], gradient)
    if name == "margin_loss":
        assert torch.equal(scaled[0], 8 * loss)
        assert torch.equal(scaled[1], gradient)
    else:
        assert torch.equal(scaled[0], loss)
        large = gradient.abs() > 1e-6  # what the 1e-12 of the denominator leaves does not scale so
        assert torch.equal((scaled[1] * 8)[large], gradient[large])


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_first_of_equals_counts(backend: str) -> None:
    logits = torch.tensor([[1.0, 3, 3, 2, 2, 2], [3, 0, 3, 3, 3, 1]])
    labels = torch.tensor([2, 1])
    with ops.use(backend):
        margin, d_margin, predicted = ops.margin_loss(logits, labels)
        dlr, d_dlr, _ = ops.dlr_loss(logits, labels)
        targeted, d_targeted, _ = ops.targeted_dlr_loss(logits[:1], labels[:1], labels[1:])
    assert predicted.tolist() == [1, 0]
    assert margin.tolist() == [0, 3]
    assert d_margin.tolist() == [[0, 1, -1, 0, 0, 0], [1, -1, 0, 0, 0, 0]]
    torch.testing.assert_close(dlr, torch.tensor([0.0, 3e12]))
    torch.testing.assert_close(
        d_dlr, torch.tensor([[0, 1.0, -1, 0, 0, 0], [-3e24, -1e12, 0, 3e24, 0, 0]])
    )
    torch.testing.assert_close(targeted, torch.tensor([0.0]))
    torch.testing.assert_close(d_targeted, torch.tensor([[0, 1.0, -1, 0, 0, 0]]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FORMULAS)
def test_equal_logits_give_no_nan(name: str, dtype: torch.dtype, backend: str) -> None:
    logits = torch.full((6, 6), 2.0, dtype=dtype)
    logits[:, 5] = -1
    labels = torch.arange(6)
    classes = (labels,) if name != "targeted_dlr_loss" else (labels, labels.flip(0))
    with ops.use(backend):
        loss, gradient, _ = ops.list_ops()[name](logits, *classes)
    assert loss.isfinite().all()
    assert not gradient.isnan().any()
    if dtype != torch.float16:
        assert gradient.isfinite().all()
        assert (gradient.double().sum(1).abs() <= 1e-2 * gradient.double().abs().amax(1)).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("at", [0, 1, 4])
def test_a_nan_or_infinite_row_is_known_by_its_loss(name: str, at: int, backend: str) -> None:
    logits, *classes = arguments(name, 6)
    logits = logits[:5]
    classes = [index[:5] for index in classes]
    logits[0, :] = torch.nan
    logits[1, at] = torch.nan
    logits[2, at] = torch.inf
    logits[2, 5] = torch.inf
    classes[0][:3] = at
    with ops.use(backend):
        loss, _, predicted = ops.list_ops()[name](logits, *classes)
    assert (~loss.isfinite()).tolist() == [True, True, True, False, False]
    assert predicted[:3].tolist() == [0, at, at]


@pytest.mark.parametrize("backend", BACKENDS)
def test_classes_masked_by_minus_infinity_take_no_part(backend: str) -> None:
    logits, labels, targets = ranked_rows(SampleMaker(), 5)
    masked = torch.cat([torch.full((25, 3), -torch.inf), logits], 1)
    with ops.use(backend):
        for name, *classes in (("margin_loss", labels), ("dlr_loss", labels),
                               ("targeted_dlr_loss", labels, targets)):  # fmt: skip
            op = ops.list_ops()[name]
            loss, gradient, _ = op(logits, *classes)
            also_loss, also_gradient, _ = op(masked, *(index + 3 for index in classes))
            assert torch.equal(also_loss, loss)
            assert torch.equal(also_gradient[:, 3:], gradient)


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_classes_left_by_the_mask_have_a_margin_and_no_ratio(backend: str) -> None:
    logits, labels = torch.full((2, 6), -torch.inf), torch.tensor([0, 4])
    logits[:, 0], logits[:, 4] = 3, 1
    with ops.use(backend):
        margin, d_margin, _ = ops.margin_loss(logits, labels)
        results = [ops.dlr_loss(logits, labels)]
        results.append(ops.targeted_dlr_loss(logits, labels, labels.flip(0)))
    assert margin.tolist() == [-2, 2]
    assert d_margin.tolist() == [[-1, 0, 0, 0, 1, 0], [1, 0, 0, 0, -1, 0]]
    for loss, gradient, predicted in results:
        assert not loss.any()
        assert not gradient.any()
        assert predicted.tolist() == [0, 0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", FORMULAS)
def test_a_long_row_means_what_a_short_one_does(name: str, backend: str) -> None:
    """Kernels take them apart in other ways; ties, NaN and infinities fall out the same."""
    values = torch.tensor([0.0, 1, 2, 3, torch.nan, torch.inf, -torch.inf])
    logits = values[torch.randint(0, 7, (200, 6))]
    logits[100:] = values[torch.randint(0, 3, (100, 6))]
    labels, targets = torch.randint(0, 6, (2, 200))
    classes = (labels, targets) if name == "targeted_dlr_loss" else (labels,)
    longer = torch.cat([logits, torch.full((200, 150), -torch.inf)], 1)
    with ops.use(backend):
        loss, gradient, predicted = ops.list_ops()[name](longer, *classes)
    expected = ops.list_ops()[name].reference(logits, *classes)
    torch.testing.assert_close(loss, expected[0], equal_nan=True)
    regular = loss.isfinite()
    torch.testing.assert_close(gradient[regular, :6], expected[1][regular])
    assert not gradient[regular, 6:].any()
    assert torch.equal(predicted, expected[2])
    assert regular.sum() > 100


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_target_that_is_the_label_gives_nothing(backend: str) -> None:
    logits, labels, _ = ranked_rows(SampleMaker(), 7)
    with ops.use(backend):
        loss, gradient, _ = ops.targeted_dlr_loss(logits, labels, labels)
    assert not loss.any()
    assert not gradient.any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", FORMULAS)
def test_label_out_of_range_names_the_row(name: str, backend: str) -> None:
    logits, *classes = arguments(name, 6)
    for index, what in zip(classes, ("label", "target"), strict=False):
        right, index[3] = int(index[3]), 6
        message = f"{name}: {what} 6 of row 3 is out of range for 6 classes"
        with ops.use(backend), pytest.raises(IndexError, match=message):
            ops.list_ops()[name](logits, *classes)
        index[3] = right


def test_too_few_classes_are_told_of_the_margin() -> None:
    labels = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="dlr_loss: needs at least 3 classes, got 2; use margin_"):
        ops.dlr_loss(torch.zeros(2, 2), labels)
    with pytest.raises(ValueError, match="targeted_dlr_loss: needs at least 4 classes, got 3; use"):
        ops.targeted_dlr_loss(torch.zeros(2, 3), labels, labels)
    with pytest.raises(ValueError, match=r"targets must be \(2,\) torch.int64, got \(3,\)"):
        ops.targeted_dlr_loss(torch.zeros(2, 4), labels, torch.zeros(3))


def test_every_loss_has_a_name() -> None:
    logits, labels, targets = ranked_rows(SampleMaker(), 9)
    named = {
        "ce": ops.cross_entropy_loss(logits, labels),
        "margin": ops.margin_loss(logits, labels),
        "dlr": ops.dlr_loss(logits, labels),
        "targeted_dlr": ops.targeted_dlr_loss(logits, labels, targets),
    }
    for name, expected in named.items():
        given = targets if name == "targeted_dlr" else None
        found = ops.classification_loss(logits, labels, name, given)
        assert all(map(torch.equal, found, expected)), name


@pytest.mark.parametrize(
    ("loss", "targets", "message"),
    [
        ("dlr", torch.zeros(2).long(), "dlr takes no targets; targeted_dlr does"),
        ("targeted_dlr", None, "targeted_dlr needs targets, got None"),
        ("hinge", None, "loss must be one of ce, margin, dlr, targeted_dlr, got 'hinge'"),
    ],
)
def test_wrong_loss_is_named(loss: str, targets: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ops.classification_loss(torch.zeros(2, 5), torch.zeros(2).long(), loss, targets)
