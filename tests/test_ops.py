"""Every op, backend, dtype and sample against the op's own meaning."""

import functools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from ops_for_tests import BITWISE, DTYPES
from torch import Tensor

from deitsec import ops
from deitsec.ops._samples import SampleMaker

OPS = {name: op for name, op in ops.list_ops().items() if not op.mutates}
INPLACE = {name: op for name, op in ops.list_ops().items() if op.mutates}


@dataclass(frozen=True)
class Case:
    """One sample of one op in one dtype on one backend."""

    op: str
    backend: str
    dtype: torch.dtype
    index: int

    @property
    def device(self) -> str:
        (device,) = {b.device for b in OPS[self.op].backends if b.name == self.backend}
        return device

    def __str__(self) -> str:
        return f"{self.op}-{self.backend}-{str(self.dtype).removeprefix('torch.')}-{self.index}"

    def arguments(self) -> tuple[Any, ...]:
        """The sample, on the backend's device; skips where the backend cannot take it."""
        backend = next(b for b in OPS[self.op].backends if b.name == self.backend)
        reason = backend.missing()
        if reason is not None:
            pytest.skip(f"{self.backend}: {reason}")
        args = samples(self.op, self.dtype)[self.index]
        args = tuple(a.to(self.device) if isinstance(a, Tensor) else a for a in args)
        refusal = backend.refusal([a for a in args if isinstance(a, Tensor)])
        if refusal is not None:
            pytest.skip(f"{self.backend}: {refusal}")
        return args


@functools.cache
def samples(name: str, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """The samples of an op; shared, so a test that changes one clones it."""
    make = OPS[name].make_samples
    assert make is not None, f"{name} has no samples"
    return list(make(SampleMaker(dtype=dtype)))


def in_float64(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args)


def as_tuple(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def one_ulp(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Distance to the next number of this dtype away from 0."""
    size = values.to(dtype).abs()
    return (torch.nextafter(size, torch.full_like(size, float("inf"))) - size).double()


CASES = [
    Case(name, backend.name, dtype, index)
    for name, op in OPS.items()
    for backend in op.backends
    for dtype in DTYPES
    for index in range(len(samples(name, dtype)))
]


def on_device(*values: Any, device: str, name: str) -> Any:
    """A case that `-m gpu` finds where it needs one; the backend says why it cannot run."""
    marks = [pytest.mark.gpu(says_why=True)] if device == "cuda" else []
    return pytest.param(*values, marks=marks, id=name)


@pytest.mark.parametrize("case", [on_device(c, device=c.device, name=str(c)) for c in CASES])
def test_backend_errs_at_most_twice_as_much_as_pytorch(case: Case) -> None:
    args = case.arguments()
    op = OPS[case.op]
    with ops.use(case.backend):
        found = as_tuple(op(*args))
    plain = as_tuple(op.reference(*args))
    exact = as_tuple(op.reference(*in_float64(args)))
    assert len(found) == len(plain)
    for ours, theirs, truth in zip(found, plain, exact, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        if not ours.is_floating_point() or case.dtype in BITWISE.get(case.op, ()):
            assert torch.equal(ours, theirs)
            continue
        assert torch.equal(ours.isnan(), truth.isnan()), "NaN in other places"
        known = truth.isfinite()
        error = (ours.double() - truth)[known].abs()
        allowed = (theirs.double() - truth)[known].abs()
        bound = 2 * (allowed.max() if allowed.numel() else 0) + one_ulp(truth[known], ours.dtype)
        assert (error <= bound).all(), f"error {error.max():.3g}, PyTorch's {allowed.max():.3g}"


INPLACE_CASES = [
    on_device(name, backend, device=device, name=f"{name}-{backend}")
    for name, op in INPLACE.items()
    for backend, device in [("reference", "cpu"), *((b.name, b.device) for b in op.backends)]
]


@pytest.mark.parametrize(("name", "backend"), INPLACE_CASES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_inplace_form_equals_the_functional_one(
    name: str, dtype: torch.dtype, backend: str
) -> None:
    functional = OPS[name.removesuffix("_")]
    (asked,) = [b for b in INPLACE[name].backends if b.name == backend] or [None]
    if asked is not None and (reason := asked.missing()) is not None:
        pytest.skip(f"{backend}: {reason}")
    for shared in samples(functional.name, dtype):
        args = clone(shared, "cpu" if asked is None else asked.device)
        tensors = [a for a in args if isinstance(a, Tensor)]
        if asked is not None and asked.refusal(tensors) is not None:
            continue
        with ops.use(backend):
            expected = as_tuple(functional(*args))
            before = clone(args)
            result = INPLACE[name](*args)
        at = INPLACE[name].mutates
        rest = expected[len(at) :]
        if rest:
            assert len(as_tuple(result)) == len(rest)
            assert all(map(torch.equal, as_tuple(result), rest))
        else:
            assert all(a is args[i] for a, i in zip(as_tuple(result), at, strict=True))
        for i, value in zip(at, expected, strict=False):
            assert torch.equal(args[i], value), f"argument {i}"
        for i, (argument, old) in enumerate(zip(args, before, strict=True)):
            if isinstance(argument, Tensor) and i not in at:
                assert torch.equal(argument.nan_to_num(7), old.nan_to_num(7)), "changed an input"


@pytest.mark.parametrize("name", OPS)
def test_samples_cover_odd_sizes_and_an_empty_batch(name: str) -> None:
    op = OPS[name]
    assert op.bytes_moved is not None, f"{name} has no cost"
    made = samples(name, torch.float32)
    assert any(args[0].numel() == 0 for args in made), "no empty batch"
    assert any(args[0].numel() % 2 for args in made), "no odd size"
    assert any(not args[0].is_contiguous() for args in made), "nothing non-contiguous"
    assert all(op.bytes_moved(*args) >= 0 for args in made)


@pytest.mark.parametrize("name", ops.list_ops())
def test_torch_op_passes_opcheck(name: str) -> None:
    torch_op = getattr(torch.ops.deitsec, name).default
    made = [clone(args) for args in samples(name.removesuffix("_"), torch.float32)]
    strided = next(args for args in made if not args[0].is_contiguous())
    for args in (made[2], made[-2], strided):
        # opcheck calls NaN unlike NaN
        finite = [a.nan_to_num() if isinstance(a, Tensor) else a for a in args]
        torch.library.opcheck(torch_op, tuple(finite))


@pytest.mark.parametrize("name", ops.list_ops())
def test_op_compiles_without_a_graph_break(name: str) -> None:
    op = ops.list_ops()[name]
    (args, *_) = (a for a in samples(name.removesuffix("_"), torch.float32) if len(a[0]) > 1)
    expected = as_tuple(op(*clone(args)))
    torch.compiler.reset()  # the ops share a line of code, which may be compiled eight times
    compiled = torch.compile(lambda *a: op(*a), fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(as_tuple(compiled(*clone(args))), expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.slow
def test_inductor_keeps_the_fused_step() -> None:
    x0, grad = torch.rand(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    x = (x0 + 0.01).clamp(0, 1)

    def twice(x: Tensor) -> Tensor:
        return ops.linf_step(ops.linf_step(x, grad, x0, 0.01, 0.03), grad, x0, 0.01, 0.03)

    assert torch.equal(torch.compile(twice, fullgraph=True)(x), twice(x))


def clone(args: tuple[Any, ...], device: str | None = None) -> tuple[Any, ...]:
    return tuple(a.to(device, copy=True) if isinstance(a, Tensor) else a for a in args)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_new_memory_is_poisoned(device: str) -> None:
    x = torch.rand(1000, device=device)
    assert torch.empty(1000, device=device).isnan().all()
    # the compiled kernels allocate through the same function
    assert torch.ops.aten.new_empty.default(x, [1000]).isnan().all()
