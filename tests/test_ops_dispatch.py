"""Which backend takes a call, and what a user reads when none may."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from deitsec import native, ops

needs_cpp = pytest.mark.skipif(
    native.missing("cpp") is not None, reason=f"cpp: {native.missing('cpp')}"
)


def step_arguments(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    x0 = torch.rand(2, 3, 5, 5).to(dtype)
    return x0.clone(), torch.randn(2, 3, 5, 5).to(dtype), x0


@needs_cpp
def test_cpp_is_taken_on_the_cpu_and_explained() -> None:
    reasons = ops.linf_step.explain(*step_arguments(), 0.01, 0.03)
    assert reasons["cpp"] == "taken"
    assert reasons["reference"] == "available"


def test_what_no_kernel_takes_falls_back_to_the_reference() -> None:
    reasons = ops.linf_step.explain(*step_arguments(torch.float64), 0.01, 0.03)
    assert reasons["reference"] == "taken"
    assert reasons["cpp"] != "taken"
    result = ops.linf_step(*step_arguments(torch.float64), 0.01, 0.03)
    assert result.dtype == torch.float64


@needs_cpp
def test_demanded_backend_says_why_it_cannot() -> None:
    x, grad, x0 = (t.transpose(2, 3) for t in step_arguments())
    with ops.use("cpp"):
        with pytest.raises(ops.BackendUnavailableError, match="contiguous tensors only"):
            ops.linf_step(x, grad, x0, 0.01, 0.03)
        with pytest.raises(ops.BackendUnavailableError, match=r"does not take torch\.float64"):
            ops.linf_step(*step_arguments(torch.float64), 0.01, 0.03)
    ops.linf_step(x, grad, x0, 0.01, 0.03)  # unforced, it falls back


def test_explain_says_what_a_demanded_backend_changes() -> None:
    with ops.use("reference"):
        reasons = ops.linf_step.explain(*step_arguments(), 0.01, 0.03)
    assert reasons["reference"] == "taken"
    assert "taken" not in [reason for name, reason in reasons.items() if name != "reference"]
    with ops.use("cpp"):
        reasons = ops.linf_step.explain(*step_arguments(torch.float64), 0.01, 0.03)
    assert "taken" not in reasons.values()  # the call raises
    assert reasons["reference"] == "available"


def test_the_environments_backend_holds_in_every_thread_and_use_overrides_it() -> None:
    program = """
import threading, torch
from deitsec import ops

def taken():
    zeros = torch.zeros(2)
    reasons = ops.linf_step.explain(zeros, zeros, zeros, 0.1, 0.1)
    seen.append([name for name, reason in reasons.items() if reason == "taken"])
    try:
        ops.linf_step(zeros, zeros, zeros, 0.1, 0.1)
        seen.append("ran")
    except ops.BackendUnavailableError:
        seen.append("raised")

seen = []
taken()
thread = threading.Thread(target=taken)
thread.start()
thread.join()
with ops.use("reference"):
    taken()
print(seen)
"""
    # a backend that cannot take the call: what ignores the environment runs
    environment = os.environ | {"DEITSEC_BACKEND": "cuda", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == str([[], "raised", [], "raised", ["reference"], "ran"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="shows what is said without a CUDA device")
def test_cuda_backend_without_a_device_raises_the_reason() -> None:
    reason = native.missing("cuda")
    assert reason is not None
    with ops.use("cuda"), pytest.raises(ops.BackendUnavailableError) as error:
        ops.linf_step(*step_arguments(), 0.01, 0.03)
    assert reason in str(error.value)


def test_unknown_backend_is_refused_with_the_names() -> None:
    with (
        pytest.raises(ValueError, match="reference, cpp, triton, cuda, got 'rocm'"),
        ops.use("rocm"),
    ):
        pass


@pytest.mark.parametrize("backend", ["reference", pytest.param("cpp", marks=needs_cpp)])
def test_inplace_step_refuses_a_tensor_that_requires_grad(backend: str) -> None:
    x, grad, x0 = step_arguments()
    x.requires_grad_()
    with ops.use(backend):
        with pytest.raises(ValueError, match="requires grad"):
            ops.linf_step_(x, grad, x0, 0.01, 0.03)
        with torch.no_grad():
            ops.linf_step_(x, grad, x0, 0.01, 0.03)


@pytest.mark.parametrize("backend", ["reference", pytest.param("cpp", marks=needs_cpp)])
def test_inplace_step_is_seen_by_autograd(backend: str) -> None:
    """A kernel that does not bump the version counter gives silently wrong gradients."""
    x, grad, x0 = step_arguments()
    weight = torch.ones_like(x, requires_grad=True)
    product = (weight * x).sum()  # saves x for the gradient of the weight
    before = x._version
    with ops.use(backend):
        ops.linf_step_(x, grad, x0, 0.01, 0.03)
    assert x._version > before
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def best_arguments() -> list[torch.Tensor]:
    """Kept rows that failed, and better ones on offer."""
    fails, low = torch.zeros(2, dtype=torch.bool), torch.zeros(2)
    return [torch.rand(2, 3), fails, low, torch.rand(2, 3), ~fails, low + 1]


@pytest.mark.parametrize("backend", ["reference", pytest.param("cpp", marks=needs_cpp)])
@pytest.mark.parametrize("index", [0, 2])
def test_every_changed_argument_refuses_grad(backend: str, index: int) -> None:
    arguments = best_arguments()
    arguments[index].requires_grad_()
    with ops.use(backend):
        with pytest.raises(ValueError, match="track_best_: the tensor to be changed requires grad"):
            ops.track_best_(*arguments, False)
        with torch.no_grad():
            assert ops.track_best_(*arguments, False).all()


@pytest.mark.parametrize("backend", ["reference", pytest.param("cpp", marks=needs_cpp)])
def test_every_changed_argument_is_seen_by_autograd(backend: str) -> None:
    arguments = best_arguments()
    versions = [a._version for a in arguments]
    with ops.use(backend):
        ops.track_best_(*arguments, False)
    bumped = [a._version > old for a, old in zip(arguments, versions, strict=True)]
    assert bumped == [True] * 3 + [False] * 3


@needs_cpp
def test_step_runs_on_an_inference_tensor() -> None:
    with torch.inference_mode():
        x, grad, x0 = step_arguments()
        assert torch.equal(
            ops.linf_step_(x.clone(), grad, x0, 0.01, 0.03), ops.linf_step(x, grad, x0, 0.01, 0.03)
        )


@pytest.mark.parametrize("backend", ["reference", pytest.param("cpp", marks=needs_cpp)])
@pytest.mark.parametrize("label", [-1, 10, 1 << 40])
def test_label_out_of_range_names_the_row(backend: str, label: int) -> None:
    logits = torch.randn(4, 10)
    labels = torch.tensor([3, 1, label, 0])
    message = rf"label {label} of row 2 is out of range for 10 classes"
    with ops.use(backend):
        with pytest.raises(IndexError, match=f"cross_entropy_loss: {message}"):
            ops.cross_entropy_loss(logits, labels)
        with pytest.raises(IndexError, match=f"distillation_loss: {message}"):
            ops.distillation_loss(logits, logits, labels, 2.0, 0.5)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"grad": torch.zeros(3, 2)}, ValueError, r"grad must be \(2, 3\), got \(3, 2\)"),
        ({"grad": torch.zeros(2, 3).half()}, TypeError, "grad must be torch.float32 like"),
        ({"x0": torch.zeros(2, 3).int()}, TypeError, "x0 must be torch.float32 or torch.uint8"),
        ({"eps": 0.0}, ValueError, "eps must be > 0 and finite, got 0.0"),
        ({"eps": float("nan")}, ValueError, "eps must be > 0 and finite, got nan"),
    ],
)
def test_wrong_arguments_of_a_step_are_named(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments = {name: torch.zeros(2, 3) for name in ("x", "grad", "x0")}
    with pytest.raises(error, match=message):
        ops.linf_step(**(arguments | {"alpha": 0.1, "eps": 0.1} | change))


@needs_cpp
def test_raw_torch_op_never_reads_out_of_bounds() -> None:
    """The checks in C++ hold where Python's are passed by."""
    x = torch.rand(8)
    step = torch.ops.deitsec_cpp.linf_step.default
    with pytest.raises(RuntimeError, match="expected 8 elements, got 7"):
        step(x, x[:7], x, 0.1, 0.1)
    with pytest.raises(RuntimeError, match="must be contiguous"):
        step(x, torch.rand(16)[::2], x, 0.1, 0.1)
    with pytest.raises(RuntimeError, match="label 9 of row 0 is out of range for 4 classes"):
        torch.ops.deitsec_cpp.cross_entropy_loss.default(torch.rand(1, 4), torch.tensor([9]))
