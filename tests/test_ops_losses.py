"""The fused losses against PyTorch's own, and where PyTorch's own goes wrong."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from deitsec import native, ops

needs_cpp = pytest.mark.skipif(
    native.missing("cpp") is not None, reason=f"cpp: {native.missing('cpp')}"
)
BACKENDS = ["reference", pytest.param("cpp", marks=needs_cpp)]


def small_network(dtype: torch.dtype) -> nn.Sequential:
    """Two convolutions and a linear layer whose weights make it sure of itself."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 36, 10),
    )  # fmt: skip
    with torch.no_grad():
        network[-1].weight *= 500
    return network.to(dtype)


def input_gradient(network: nn.Module, images: Tensor, dlogits: Tensor) -> Tensor:
    images = images.clone().requires_grad_()
    return torch.autograd.grad(network(images), images, dlogits)[0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_signs_of_confident_images_agree_with_float64(backend: str) -> None:
    """Softmax - onehot cancels in the label's entry; minus the sum of the others does not."""
    network, exact_network = small_network(torch.float32), small_network(torch.float64)
    images = torch.rand(256, 1, 14, 14)
    with torch.no_grad():
        best, second = network(images).topk(2, dim=1).values.unbind(1)
        images = images[(best - second > 10) & (best - second < 20)]
        logits, exact = network(images), exact_network(images.double())
    labels = logits.argmax(1)
    onehot = F.one_hot(labels, 10)
    truth = input_gradient(exact_network, images.double(), exact.softmax(1) - onehot).sign()
    with ops.use(backend):
        gradient = ops.cross_entropy_loss(logits, labels)[1]
    wrong = (input_gradient(network, images, gradient).sign() != truth).sum().item()
    usual = input_gradient(network, images, logits.softmax(1) - onehot)
    usually_wrong = (usual.sign() != truth).sum().item()
    print(f"wrong signs of {truth.numel()}: {wrong}, softmax - onehot {usually_wrong}")
    assert usually_wrong > 0.05 * truth.numel(), "these images do not show the cancellation"
    assert wrong == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_cross_entropy_is_pytorchs_with_its_gradient(backend: str) -> None:
    logits = torch.randn(7, 33, requires_grad=True)
    labels = torch.randint(0, 33, (7,))
    expected = F.cross_entropy(logits, labels, reduction="none")
    (expected_gradient,) = torch.autograd.grad(expected.sum(), logits)
    with ops.use(backend):
        loss, gradient, predicted = ops.cross_entropy_loss(logits.detach(), labels)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-6, atol=1e-7)
    assert torch.equal(predicted, logits.argmax(1))
    assert (gradient.double().sum(1).abs() < 1e-6).all(), "a row of the gradient sums to 0"


@pytest.mark.parametrize("backend", BACKENDS)
def test_first_of_equal_logits_is_predicted_and_nan_before_all(backend: str) -> None:
    logits = torch.tensor(
        [
            [1.0, 5.0, 5.0, 0.0],
            [2.0, float("nan"), 7.0, float("nan")],
            [0.0, float("inf"), 1.0, 2.0],
        ]
    )
    with ops.use(backend):
        loss, _, predicted = ops.cross_entropy_loss(logits, torch.zeros(3, dtype=torch.int64))
    assert predicted.tolist() == [1, 1, 1]
    assert loss.isnan().tolist() == [False, True, True]


def formula(
    student: Tensor, teacher: Tensor, labels: Tensor | None, t: float, alpha: float, mode: str
) -> Tensor:
    """The loss as the papers write it, from PyTorch's own losses."""
    if mode == "hard":
        soft = F.cross_entropy(student, teacher.argmax(1))
    else:
        log_q, log_p = (student / t).log_softmax(1), (teacher / t).log_softmax(1)
        soft = t * t * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    if labels is None:
        return alpha * soft
    return alpha * soft + (1 - alpha) * F.cross_entropy(student, labels)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", ["soft", "hard"])
@pytest.mark.parametrize("with_labels", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 4.0, 40.0, 1000.0])
def test_distillation_is_the_formula_with_its_gradient(
    backend: str, mode: str, with_labels: bool, temperature: float
) -> None:
    student = torch.randn(6, 10).mul(3).requires_grad_()
    teacher = torch.randn(6, 10) * 3
    labels = torch.randint(0, 10, (6,)) if with_labels else None
    alpha = 0.7 if with_labels else 1.0
    exact = student.detach().double().requires_grad_()
    expected = formula(exact, teacher.double(), labels, temperature, alpha, mode)
    (expected_gradient,) = torch.autograd.grad(expected, exact)
    with ops.use(backend):
        loss = ops.distillation_loss(student, teacher, labels, temperature, alpha, mode)
        (gradient,) = torch.autograd.grad(loss, student)
        value_only = ops.distillation_loss(
            student.detach(), teacher, labels, temperature, alpha, mode
        )
    # T^2 * KL is a small difference of logarithms, T * (q - p) one of numbers near 1 / K
    slack = 1e-6 + 6e-8 * temperature**2 if mode == "soft" else 1e-6
    torch.testing.assert_close(loss.double(), expected.detach(), rtol=1e-5, atol=slack)
    torch.testing.assert_close(
        gradient.double(), expected_gradient, rtol=1e-5, atol=1e-6 + 1e-8 * temperature
    )
    assert torch.equal(value_only, loss.detach())


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_distillation_passes_gradcheck(mode: str) -> None:
    student = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    teacher, labels = torch.randn(4, 6, dtype=torch.float64), torch.randint(0, 6, (4,))
    for reduction in ("mean", "sum"):
        assert torch.autograd.gradcheck(
            lambda s, reduction=reduction: ops.distillation_loss(
                s, teacher, labels, 3.0, 0.6, mode, reduction
            ),
            student,
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_distillation_scales_with_the_gradient_from_above(backend: str) -> None:
    student = torch.randn(5, 12, requires_grad=True)
    teacher, labels = torch.randn(5, 12), torch.randint(0, 12, (5,))
    with ops.use(backend):
        loss = ops.distillation_loss(student, teacher, labels, 2.0, 0.5)
        (once,) = torch.autograd.grad(loss, student, retain_graph=True)
        (eightfold,) = torch.autograd.grad(8 * loss, student)
    assert torch.equal(eightfold, 8 * once)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("above", [65_536.0, 2.0**20], ids=str)
def test_distillation_in_fp16_survives_a_gradient_scaler(backend: str, above: float) -> None:
    """Scaled before it is rounded: nothing overflows, and no small entry is lost on the way."""
    student, teacher = torch.randn(512, 10).half(), torch.randn(512, 10).half()
    student[:, 0] += 6  # makes some entries tiny
    exact = student.double().requires_grad_()
    expected = above * formula(exact, teacher.double(), None, 2.0, 1.0, "soft")
    (expected_gradient,) = torch.autograd.grad(expected, exact)
    leaf = student.clone().requires_grad_()
    with ops.use(backend):
        loss = ops.distillation_loss(leaf, teacher, None, 2.0, 1.0)
        (gradient,) = torch.autograd.grad(above * loss, leaf)
        value_only = ops.distillation_loss(student, teacher, None, 2.0, 1.0)
    assert gradient.dtype == torch.float16
    # rounded twice: once when saved, once when scaled
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=2**-10, atol=1e-4)
    assert torch.equal(value_only, loss.detach())


def test_distillation_refuses_a_second_derivative() -> None:
    student, teacher = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3)
    loss = ops.distillation_loss(student, teacher, None, 2.0, 1.0)
    with pytest.raises(RuntimeError, match="differentiable once, got create_graph=True"):
        torch.autograd.grad(loss + student.square().sum(), student, create_graph=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_distillation_over_100000_classes(backend: str, dtype: torch.dtype) -> None:
    student, teacher = torch.randn(2, 100_000).to(dtype), torch.randn(2, 100_000).to(dtype)
    labels = torch.tensor([0, 99_999])
    exact = student.double().requires_grad_()
    expected = formula(exact, teacher.double(), labels, 2.0, 0.5, "soft")
    (expected_gradient,) = torch.autograd.grad(expected, exact)
    leaf = student.clone().requires_grad_()
    with ops.use(backend):
        loss = ops.distillation_loss(leaf, teacher, labels, 2.0, 0.5)
        (gradient,) = torch.autograd.grad(loss, leaf)
    assert loss.dtype == torch.float32
    assert gradient.dtype == dtype
    torch.testing.assert_close(loss.double(), expected.detach(), rtol=1e-6, atol=1e-6)
    relative = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype]
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    torch.testing.assert_close(
        gradient.double(), expected_gradient, rtol=relative, atol=max(smallest, 1e-10)
    )


def test_teacher_gets_no_gradient() -> None:
    student, teacher = (torch.randn(2, 3, requires_grad=True) for _ in range(2))
    ops.distillation_loss(student, teacher, None, 2.0, 1.0).backward()
    assert student.grad is not None
    assert teacher.grad is None


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"temperature": 0.0}, ValueError, "temperature must be > 0 and finite, got 0.0"),
        ({"alpha": 1.5}, ValueError, r"alpha must be in \[0, 1\], got 1.5"),
        ({"labels": None}, ValueError, "labels are needed unless alpha is 1, got alpha 0.5"),
        ({"mode": "medium"}, ValueError, "mode must be soft or hard, got 'medium'"),
        ({"teacher": torch.zeros(2, 4)}, ValueError, r"got \(2, 4\) and \(2, 3\)"),
        ({"teacher": torch.zeros(2, 3).half()}, TypeError, "teacher must be torch.float32"),
        ({"labels": torch.zeros(2)}, ValueError, r"labels must be \(2,\) torch.int64"),
    ],
)
def test_wrong_arguments_of_a_distillation_are_named(change, error, message) -> None:
    arguments = {
        "student": torch.zeros(2, 3), "teacher": torch.zeros(2, 3),
        "labels": torch.zeros(2, dtype=torch.int64), "temperature": 2.0, "alpha": 0.5,
    }  # fmt: skip
    with pytest.raises(error, match=message):
        ops.distillation_loss(**(arguments | change))
