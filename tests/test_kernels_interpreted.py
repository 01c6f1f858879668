"""The Triton kernels mean what the references say: they run in Triton's interpreter, without a GPU.

Triton reads TRITON_INTERPRET when it is imported, so a second process does the work: this file run
as a script, with the names of cases as arguments. One case by hand:
`TRITON_INTERPRET=1 python tests/test_kernels_interpreted.py linf_step-float32-3`.

The interpreter truncates fp32 to bf16 where a GPU rounds; hence the one ulp in the bound. Left
out for time: fp16 rows above 10,000 elements, which differ from bf16 in the load only.
"""

import contextlib
import functools
import itertools
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from ops_for_tests import BITWISE, DTYPES
from torch import Tensor

from deitsec import ops
from deitsec.ops._samples import SampleMaker

OPS = {
    name: op
    for name, op in ops.list_ops().items()
    if any(backend.name == "triton" for backend in op.backends)
}
GUARD = 64
# one size that is held whole, and one that is swept in chunks
BOTH_PATHS = (33, 20011)


def run_kernel(name: str, *args: Any) -> tuple[Tensor, ...]:
    """What the launcher gives, its outputs poisoned and guarded before."""
    op = OPS[name]
    (backend,) = (backend for backend in op.backends if backend.name == "triton")
    args = tuple(a.clone() if i in op.mutates else a for i, a in enumerate(args))
    with poisoned_outputs():
        result = backend.load()(*args)
    rest = () if result is None else as_tuple(result)
    return (*(args[i] for i in op.mutates), *rest)


def run_reference(name: str, *args: Any) -> tuple[Tensor, ...]:
    """What the op means."""
    return as_tuple(OPS[name.removesuffix("_")].reference(*args))


def as_tuple(result: Any) -> tuple[Tensor, ...]:
    """One output or several, as several."""
    return (result,) if isinstance(result, Tensor) else tuple(result)


@contextlib.contextmanager
def poisoned_outputs() -> Iterator[None]:
    """New tensors hold NaN or 0xAB and lie between guards that must not change."""
    buffers: list[tuple[Tensor, Tensor]] = []

    def poisoned(shape: Any, dtype: torch.dtype) -> Tensor:
        length = torch.Size(shape).numel()
        flat = torch.full(((length + 2 * GUARD) * dtype.itemsize,), 0xAB, dtype=torch.uint8)
        flat = flat.view(dtype)
        if dtype.is_floating_point:
            flat.fill_(float("nan"))
        buffers.append((flat, flat.clone()))
        return flat[GUARD : GUARD + length].view(shape)

    def empty_like(like: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
        return poisoned(like.shape, dtype or like.dtype)

    plain = torch.Tensor.new_empty

    def new_empty(like: Tensor, *size: int, **options: Any) -> Tensor:
        if "device" in options:  # the interpreter's own
            return plain(like, *size, **options)
        return poisoned(size, options.get("dtype", like.dtype))

    with (
        mock.patch.object(torch, "empty_like", empty_like),
        mock.patch.object(torch.Tensor, "new_empty", new_empty),
    ):
        yield
    for flat, before in buffers:
        assert_bitwise(flat[:GUARD], before[:GUARD], "the memory before an output")
        assert_bitwise(flat[-GUARD:], before[-GUARD:], "the memory after an output")


def assert_bitwise(got: Tensor, expected: Tensor, what: str) -> None:
    """The same values, NaN equal to NaN."""
    torch.testing.assert_close(
        got, expected, rtol=0, atol=0, equal_nan=True, msg=lambda text: f"{what}: {text}"
    )


def assert_as_good(got: Tensor, reference: Tensor, exact: Tensor, what: str) -> None:
    """Error at most twice the reference's largest, plus one ulp of the output."""
    assert got.dtype == reference.dtype, f"{what}: {got.dtype}, expected {reference.dtype}"
    assert got.shape == reference.shape, f"{what}: {got.shape}, expected {reference.shape}"
    finite = reference.isfinite()
    assert_bitwise(got[~finite], reference[~finite], f"{what}, NaN and infinity")
    exact, ulp = exact[finite].double(), torch.finfo(got.dtype).eps
    error = (got[finite].double() - exact).abs()
    allowed = 2 * (reference[finite].double() - exact).abs().amax() if finite.any() else 0.0
    wrong = ~(error <= allowed + ulp * exact.abs() + torch.finfo(got.dtype).smallest_normal)
    assert not wrong.any(), (
        f"{what}: {int(wrong.sum())} of {wrong.numel()} are off, the worst by {error.max():.3g}, "
        f"where the reference is off by at most {allowed / 2:.3g}"
    )


def without_subnormal_bf16(values: Tensor) -> Tensor:
    """Zeros for the subnormal numbers of bf16, which Triton 3.9's interpreter decodes wrong."""
    if values.dtype != torch.bfloat16:
        return values
    return values.masked_fill(values.abs() < torch.finfo(torch.bfloat16).smallest_normal, 0)


@functools.cache
def samples(name: str, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """The op's own samples that dispatch would hand to a kernel."""
    make_samples = OPS[name.removesuffix("_")].make_samples
    assert make_samples is not None, f"{name} has no samples"
    return [
        tuple(without_subnormal_bf16(a) if isinstance(a, Tensor) else a for a in args)
        for args in make_samples(SampleMaker(dtype=dtype))
        if all(a.is_contiguous() for a in args if isinstance(a, Tensor))
        and not (dtype == torch.float16 and args[0].shape[-1] > 10_000)
    ]


def check_sample(name: str, dtype: torch.dtype, index: int) -> None:
    """One of the op's samples against the reference, and the reference in fp64."""
    args = samples(name, dtype)[index]
    wide = [a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args]
    outputs = run_kernel(name, *args), run_reference(name, *args), run_reference(name, *wide)
    for i, (got, reference, exact) in enumerate(zip(*outputs, strict=True)):
        whole = not got.dtype.is_floating_point
        # in half precision the interpreter rounds otherwise than a GPU
        exactly = dtype == torch.float32 and dtype in BITWISE.get(name.removesuffix("_"), ())
        if whole or exactly:
            assert_bitwise(got, reference, f"output {i}")
        else:
            assert_as_good(got, reference, exact, f"output {i}")


def check_predicted_is_the_first_of_equals() -> None:
    for classes in BOTH_PATHS:
        logits = torch.zeros(5, classes)
        logits[1, 7] = logits[1, classes - 1] = 3
        logits[2, 9] = logits[2, classes - 2] = float("nan")
        logits[3] = -float("inf")
        logits[4, 5] = float("inf")
        _, _, predicted = run_kernel("cross_entropy_loss", logits, torch.zeros(5).long())
        assert_bitwise(predicted, torch.tensor([0, 7, 9, 0, 5]), f"{classes} classes")


def check_hard_target_is_the_first_of_equals() -> None:
    for classes in BOTH_PATHS:
        student, teacher = SampleMaker().normal(3, classes), torch.zeros(3, classes)
        teacher[1, 7] = teacher[1, classes - 1] = 3
        teacher[2, 9] = teacher[2, classes - 2] = float("nan")
        rows = (1.0, 1.0, True, 1.0, True)
        _, gradient = run_kernel("distillation_rows", student, teacher, None, *rows)
        negative = (gradient < 0).int().argmax(1)
        assert_bitwise(negative, torch.tensor([0, 7, 9]), f"{classes} classes")


def check_labels_out_of_range_are_nan() -> None:
    for classes in BOTH_PATHS:
        logits = SampleMaker().normal(5, classes)
        labels = torch.tensor([1, -1, classes, 1 << 40, -(1 << 62)])
        wrong = torch.tensor([False, True, True, True, True])
        loss, gradient, predicted = run_kernel("cross_entropy_loss", logits, labels)
        assert_bitwise(predicted, logits.argmax(1), f"{classes} classes, predicted")
        results: list[tuple[Tensor, ...]] = [(loss, gradient)]
        for hard in (False, True):
            rows = (2.0, 0.5, hard, 1.0, True)
            results.append(run_kernel("distillation_rows", logits, logits, labels, *rows))
        for loss, gradient in results:
            assert_bitwise(loss.isnan(), wrong, f"{classes} classes, loss")
            assert_bitwise(gradient.isnan().all(1), wrong, f"{classes} classes, gradient")


def check_classes_out_of_range_are_nan_in_margins() -> None:
    for classes in BOTH_PATHS:
        logits, right = SampleMaker().normal(5, classes), torch.tensor([1, 0, 2, 3, 4])
        labels = torch.tensor([1, -1, classes, 1 << 40, -(1 << 62)])
        wrong = torch.tensor([False, True, True, True, True])
        for name, *given in (
            ("margin_loss", labels),
            ("dlr_loss", labels),
            ("targeted_dlr_loss", labels, right + 5),
            ("targeted_dlr_loss", right + 5, labels),
        ):
            loss, gradient, predicted = run_kernel(name, logits, *given)
            assert_bitwise(predicted, logits.argmax(1), f"{name}, predicted")
            assert_bitwise(loss.isnan(), wrong, f"{name}, loss")
            assert_bitwise(gradient.isnan().all(1), wrong, f"{name}, gradient")


def check_equal_and_nan_logits_in_margins() -> None:
    """Ties across lanes and chunks: the first counts, in the order of the lanes or not."""
    for classes in BOTH_PATHS:
        logits = SampleMaker().normal(8, classes).clamp(max=1)
        for row, count in enumerate((2, 3, 4, 5, 6)):
            places = torch.arange(count) * ((classes - 1) // count)
            logits[row, places.flip(0)] = 3
        logits[1, 2], logits[2, classes - 1], logits[3, classes // 2] = 2, 2, 4
        logits[5, [7, classes - 2]] = float("nan")
        logits[6, 9] = float("inf")
        logits[7] = -float("inf")
        logits[7, [0, classes - 1]] = torch.tensor([1.0, 2.0])
        for label in (0, 7, (classes - 1) // 2, classes - 1):
            labels = torch.full((8,), label)
            for name, *given in (
                ("margin_loss", labels),
                ("dlr_loss", labels),
                ("targeted_dlr_loss", labels, torch.full((8,), (classes - 1) // 3)),
            ):
                outputs = run_kernel(name, logits, *given), run_reference(name, logits, *given)
                for i, (got, reference) in enumerate(zip(*outputs, strict=True)):
                    what = f"{name}, {classes} classes, label {label}, output {i}"
                    torch.testing.assert_close(
                        got, reference, rtol=1e-6, atol=0, equal_nan=True,
                        msg=lambda text, what=what: f"{what}: {text}",
                    )  # fmt: skip


def check_label_entry_keeps_its_digits_on_confident_rows() -> None:
    for classes in BOTH_PATHS:
        logits = SampleMaker().normal(4, classes)
        labels = torch.tensor([0, 3, classes - 1, 5])
        logits[torch.arange(4), labels] += 30
        _, exact, _ = run_reference("cross_entropy_loss", logits.double(), labels)
        _, gradient, _ = run_kernel("cross_entropy_loss", logits, labels)
        rows = (1.0, 0.0, False, 1.0, True)
        _, distilled = run_kernel("distillation_rows", logits, logits, labels, *rows)
        _, hard = run_kernel("distillation_rows", logits, logits, labels, 1.0, 0.5, True, 1.0, True)
        for got in (gradient, distilled, hard):
            torch.testing.assert_close(got.double(), exact, rtol=2e-5, atol=0)


def check_a_common_offset_of_the_logits_changes_nothing() -> None:
    for classes in BOTH_PATHS:
        student = SampleMaker().normal(2, classes)
        teacher = SampleMaker(seed=1).normal(2, classes)
        rows = (4.0, 1.0, False, 1.0, True)
        shifted = (student * 256).round() / 256 + 1024, (teacher * 256).round() / 256 - 2048
        exact = run_reference("distillation_rows", *[t.double() for t in shifted], None, *rows)
        for got, wanted in zip(
            run_kernel("distillation_rows", *shifted, None, *rows), exact, strict=True
        ):
            torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-7)


def check_draws_at_the_ends_of_every_counter() -> None:
    images = SampleMaker().images(4, 1030)
    ids = torch.tensor([0, (1 << 32) - 1, (1 << 63) - 1, -1])
    for seed in (0, 1, -1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, (1 << 63) - 1, -(1 << 63)):
        for stream in (0, 1 << 31, (1 << 32) - 1):
            args = (images, ids, 0.3, seed, stream)
            (got,), (expected,) = (
                run_kernel("random_start", *args),
                run_reference("random_start", *args),
            )
            assert_bitwise(got, expected, f"seed {seed}, stream {stream}")


def check_rows_of_norms_do_not_depend_on_each_other() -> None:
    x, x0 = SampleMaker().images(3, 9000), SampleMaker(seed=1).images(3, 9000)
    together = run_kernel("row_norms", x, x0)
    for row in range(3):
        alone = run_kernel("row_norms", x[row : row + 1], x0[row : row + 1])
        for i, (one, all_rows) in enumerate(zip(alone, together, strict=True)):
            assert_bitwise(one, all_rows[row : row + 1], f"row {row}, output {i}")


def check_norms_of_an_imagenet_row() -> None:
    x, x0 = SampleMaker().images(1, 150528), SampleMaker(seed=1).images(1, 150528)
    x[0, :1000] = x0[0, :1000]
    outputs = (run_kernel("row_norms", x, x0), run_reference("row_norms", x, x0))
    exact = run_reference("row_norms", x.double(), x0.double())
    for i, (got, reference, wanted) in enumerate(zip(*outputs, exact, strict=True)):
        assert_as_good(got, reference, wanted, f"output {i}")


def step_arguments(rows: int, elements: int) -> dict[str, tuple[Any, ...]]:
    """Arguments of each row-wise step, the same for all."""
    make = SampleMaker()
    x0, grad = make.images(rows, elements), make.normal(rows, elements)
    x = (x0 + make.normal(rows, elements, scale=0.02)).clamp(0, 1)
    k, momentum = make.labels(rows, elements) + 1, make.normal(rows, elements, scale=1e-4)
    value, slopes = make.normal(rows), make.normal(rows, 2, elements)
    values, held = make.normal(rows, 2), torch.zeros(rows, dtype=torch.bool)
    scale, count = make.normal(rows), 7 * torch.arange(rows)
    return {
        "adam_tanh_step": (grad, momentum, momentum**2, grad, x0, scale, count, 0.01, 1.0),
        "l2_step": (x, grad, x0, 1.0, 2.0),
        "l1_step": (x, grad, x0, k, 24.0, 12.0),
        "l1_projection": (x + grad, x0, 12.0),
        "momentum_step": (x, grad, momentum, x0, 1.0, 0.01, 0.03),
        "fab_projection": (x, grad, value * elements**0.5, torch.inf),
        "fab_step": (x, x0, grad, value * elements**0.5, 1.05, 0.1, 2.0),
        "deepfool_step": (x - x0, x0, slopes, values, held, 0.02, torch.inf),
    }


def check_rows_of_steps_do_not_depend_on_each_other() -> None:
    for name, args in step_arguments(3, 9000).items():
        together = run_kernel(name, *args)
        for row in range(3):
            own = [a[row : row + 1] if isinstance(a, Tensor) else a for a in args]
            for i, (one, all_rows) in enumerate(zip(run_kernel(name, *own), together, strict=True)):
                assert_bitwise(one, all_rows[row : row + 1], f"{name}, row {row}, output {i}")


def check_steps_of_an_imagenet_row() -> None:
    for name, args in step_arguments(1, 150528).items():
        wide = [a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args]
        outputs = run_kernel(name, *args), run_reference(name, *args), run_reference(name, *wide)
        for i, (got, reference, exact) in enumerate(zip(*outputs, strict=True)):
            assert_as_good(got, reference, exact, f"{name}, output {i}")


def check_every_level_survives_quantisation() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    images = levels.float() / 255
    for radius in (0, 1, 255):
        (got,) = run_kernel("quantize_uint8", images, levels, radius)
        assert_bitwise(got, levels, f"radius {radius}")


def check_every_case_of_the_best_row() -> None:
    scores = (-torch.inf, -1.0, 0.0, 1.0, torch.inf, torch.nan)
    cases = list(itertools.product((False, True), scores, (False, True), scores))
    was, old, now, new = (torch.tensor(column) for column in zip(*cases, strict=True))
    best, x = SampleMaker().normal(len(cases), 3), SampleMaker(seed=1).normal(len(cases), 3)
    for name in ("track_best", "track_best_"):
        for keep_first in (False, True):
            args = (best, was, old, x, now, new, keep_first)
            outputs = zip(run_kernel(name, *args), run_reference(name, *args), strict=True)
            for i, (got, expected) in enumerate(outputs):
                assert_bitwise(got, expected, f"{name}, keep_first {keep_first}, output {i}")


EXTRAS = (
    check_predicted_is_the_first_of_equals,
    check_hard_target_is_the_first_of_equals,
    check_labels_out_of_range_are_nan,
    check_classes_out_of_range_are_nan_in_margins,
    check_equal_and_nan_logits_in_margins,
    check_label_entry_keeps_its_digits_on_confident_rows,
    check_a_common_offset_of_the_logits_changes_nothing,
    check_draws_at_the_ends_of_every_counter,
    check_rows_of_norms_do_not_depend_on_each_other,
    check_norms_of_an_imagenet_row,
    check_rows_of_steps_do_not_depend_on_each_other,
    check_steps_of_an_imagenet_row,
    check_every_level_survives_quantisation,
    check_every_case_of_the_best_row,
)
CASES: dict[str, Callable[[], None]] = {
    f"{name}-{str(dtype).removeprefix('torch.')}-{index}": functools.partial(
        check_sample, name, dtype, index
    )
    for name in OPS
    for dtype in DTYPES
    for index in range(len(samples(name, dtype)))
} | {check.__name__.removeprefix("check_"): check for check in EXTRAS}


@pytest.fixture(scope="module")
def failures(request: pytest.FixtureRequest) -> dict[str, str | None]:
    """What went wrong in each of the selected cases, run in a process that interprets."""
    pytest.importorskip("triton")
    here = [i for i in request.session.items if i.path == request.path]
    names = [str(i.callspec.params["case"]) for i in here if isinstance(i, pytest.Function)]
    process = subprocess.run(
        [sys.executable, __file__, *names],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
    )
    lost = f"never ran: the process ended with {process.returncode}\n{process.stderr}"
    return dict.fromkeys(names, lost) | dict(map(json.loads, process.stdout.splitlines()))


@pytest.mark.parametrize("case", CASES)
def test_interpreted(case: str, failures: dict[str, str | None]) -> None:
    assert failures[case] is None, failures[case]


def main(names: list[str]) -> None:
    """Run the cases; a line of JSON for each with what went wrong: a traceback or null."""
    for name in names:
        failure = None
        try:
            CASES[name]()
        except Exception:
            failure = traceback.format_exc()
        print(json.dumps([name, failure]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
