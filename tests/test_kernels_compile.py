"""Every Triton kernel compiles for sm_80 and sm_90, without spills, with 16-byte accesses.

No GPU is needed. What is compiled is what the launchers launch: they are called with meta tensors
while each kernel is replaced by a recorder, so that the variants and options cannot drift apart.
"""

import importlib
import os
import pkgutil
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from deitsec import ops

if os.environ.get("TRITON_INTERPRET", "0") == "1":
    pytest.skip("an interpreted kernel cannot be compiled", allow_module_level=True)
triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
TYPES = {
    FP32: "*fp32",
    BF16: "*bf16",
    FP16: "*fp16",
    torch.uint8: "*u8",
    torch.int64: "*i64",
    torch.bool: "*i1",
    torch.float64: "*fp64",
}
MODULES = {
    module.name: importlib.import_module(f"deitsec.kernels.{module.name}")
    for module in pkgutil.iter_modules(importlib.import_module("deitsec.kernels").__path__)
}
KERNELS = {
    (module, name): value
    for module, contents in MODULES.items()
    for name, value in vars(contents).items()
    if isinstance(value, triton.JITFunction) and name.endswith("_kernel")
}
Launch = tuple[str, tuple[Any, ...], dict[str, Any]]


def meta(*shape: int, dtype: torch.dtype = FP32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def calls() -> Iterator[tuple[str, str, tuple[Any, ...]]]:
    """Op, what is special about the call, and its arguments."""
    # divisible by 16 or not, and beyond int32
    sizes = [(dtype, 3 * 224**2) for dtype in (FP32, BF16, FP16)] + [(FP32, 4099), (BF16, 1 << 32)]
    for dtype, size in sizes:
        case, images = f"{TYPES[dtype][1:]}-{size}", meta(2, size, dtype=dtype)
        levels, ids = meta(2, size, dtype=torch.uint8), meta(2, dtype=torch.int64)
        yield "linf_step", case, (images, images, images, 0.1, 0.2)
        yield "linf_step", f"{case}-uint8", (images, images, levels, 0.1, 0.2)
        yield "linf_step_", case, (images, images, images, 0.1, 0.2)
        yield "quantize_uint8", case, (images, levels, 8)
        wins, scores = meta(2, dtype=torch.bool), meta(2)
        for name in ("track_best", "track_best_"):
            yield name, case, (images, wins, scores, images, wins, scores, True)
        six, flags = (images,) * 6, (wins, wins, scores)
        for name in ("apgd_step", "apgd_step_"):
            yield name, case, (*six, *flags, 0.75, 0.2)
        yield "random_start", case, (images, ids, 0.1, -5, 1)
        planes = images.view(2, 3, 224, 224) if size == 3 * 224**2 else images[:, None, None, :]
        yield "square_window", case, (planes, planes, ids, ids, 1, 0.1, -5, 1)
        if size < 1 << 32:
            wide = meta(2, size)
            for name in ("adam_tanh_step", "adam_tanh_step_"):
                yield name, case, (wide, wide, wide, images, images, scores, ids, 0.01, 1.0)
            yield "saliency_pair", case, (images, images, images > 0)
            yield "row_norms", case, (images, images)
            yield "row_norms", f"{case}-short", (images[:, :3072], images[:, :3072])
            steps = (
                "l2_step",
                "l2_step_",
                "l1_step",
                "l1_step_",
                "momentum_step",
                "momentum_step_",
            )
            for short in (False, True):
                rows = images[:, :3072] if short else images
                label = f"{case}-short" if short else case
                between = {"l1": (ids, 1.0), "l2": (1.0,)}
                yield "l1_projection", label, (rows, rows, 12.0)
                values, gradients = meta(2, 4), meta(2, 4, rows.shape[1], dtype=dtype)
                for p in (torch.inf, 2.0, 1.0):
                    order = f"{label}-p{p:.0f}"
                    yield "fab_projection", order, (rows, rows, scores, p)
                    yield "fab_step", order, (rows, rows, rows, scores, 1.05, 0.1, p)
                    if p > 1:
                        crossing = (rows, rows, gradients, values, wins, 0.02, p)
                        yield "deepfool_step", order, crossing
                for step in steps:
                    if step.startswith("momentum"):
                        momentum = wide[:, : rows.shape[1]]
                        yield step, label, (rows, rows, momentum, rows, 1.0, 0.1, 0.2)
                    else:
                        yield step, label, (rows, rows, rows, *between[step[:2]], 12.0)

    # several rows a program; one row; the longest held whole; chunked, odd and even
    classes = [(FP16, 1000)]
    classes += [(d, k) for d in (FP32, BF16) for k in (10, 101, 1000, 8192, 20011, 100_000)]
    for dtype, k in classes:
        case, logits = f"{TYPES[dtype][1:]}-{k}", meta(2, k, dtype=dtype)
        labels = meta(2, dtype=torch.int64)
        for name in ("cross_entropy_loss", "margin_loss", "dlr_loss"):
            yield name, case, (logits, labels)
        yield "targeted_dlr_loss", case, (logits, labels, labels)
        for hard in (False, True):
            mode = f"{case}-{'hard' if hard else 'soft'}"
            yield "distillation_rows", mode, (logits, logits, labels, 4.0, 0.5, hard, 1.0, True)
            if dtype == FP32 and k in (1000, 100_000):
                bare = (logits, logits, None, 4.0, 1.0, hard, 1.0, False)
                yield "distillation_rows", f"{mode}-bare", bare


def module_of(op: str) -> str:
    """The module of `deitsec.kernels` that holds an op's kernels."""
    (target,) = (b.target for b in ops.list_ops()[op].backends if b.name == "triton")
    return target.split(":")[0].rsplit(".", 1)[-1]


def recorded(op: str, args: tuple[Any, ...]) -> list[Launch]:
    """The kernel, arguments and keywords of each launch that the launcher makes."""
    launches: list[Launch] = []

    class Recorder:
        def __init__(self, name: str) -> None:
            self.name = name

        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda *args, **keywords: launches.append((self.name, args, keywords))

    module = module_of(op)
    recorders = {name: Recorder(name) for owner, name in KERNELS if owner == module}
    with mock.patch.dict(vars(MODULES[module]), recorders):
        getattr(MODULES[module], op)(*args)
    return launches


def specialised(module: str, launch: Launch) -> tuple[ASTSource, dict[str, Any]]:
    """What Triton makes of a launch: types, constants and divisibility; and its options."""
    name, args, keywords = launch
    kernel = KERNELS[module, name]
    values = dict(zip(kernel.arg_names, args, strict=False)) | keywords
    options = {key: values.pop(key) for key in keywords if key not in kernel.arg_names}
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for parameter in kernel.params:
        value = values[parameter.name]
        # what Triton looks into: 1 becomes a constant, multiples of 16 are known to be that
        looked_into = type(value) is int and not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (looked_into and value == 1):
            signature[parameter.name] = "constexpr"
            constants[parameter.name] = value
            continue
        if isinstance(value, Tensor):
            signature[parameter.name] = TYPES[value.dtype]
        elif isinstance(value, int):
            signature[parameter.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
        else:
            assert isinstance(value, float), f"{name}: {parameter.name} is {value!r}"
            signature[parameter.name] = "fp32"
        if isinstance(value, Tensor) or (looked_into and value % 16 == 0):
            attributes[parameter.num,] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    return source, options


def wide_accesses(launch: Launch) -> int:
    """16-byte accesses of a thread that reads or writes each whole row or image once."""
    name, args, keywords = launch
    tile = keywords.get("block") or keywords["chunk"]
    tile *= keywords.get("rows", 1)
    elements = tile // (32 * keywords["num_warps"])
    whole = [a for a in args if isinstance(a, Tensor) and a.numel() >= 1000]
    if name == "_copy_rows_kernel":
        whole = whole[-2:]  # a row comes from one of best and x
    if any((a.numel() // 2) % 8 for a in whole):
        return 0
    return sum(elements * a.dtype.itemsize // 16 for a in whole)


CALLS = {f"{op}-{case}": (op, args) for op, case, args in calls()}


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("call", CALLS)
def test_compiles_without_spills_and_with_wide_accesses(
    call: str, capability: int, tmp_path: Path
) -> None:
    op, args = CALLS[call]
    launches = recorded(op, args)
    assert launches, f"{op} launched nothing"
    for launch in launches:
        source, options = specialised(module_of(op), launch)
        # bitwise parity needs it, and Triton's default differs between versions
        assert options["enable_fp_fusion"] is False
        target = GPUTarget("cuda", capability, 32)
        compiled = triton.compile(source, target=target, options=options)
        cubin = tmp_path / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        usage = subprocess.run(
            [CUOBJDUMP, "-res-usage", cubin], capture_output=True, text=True, check=True
        ).stdout
        found = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", usage)
        assert found is not None, usage
        registers, stack, local = map(int, found.groups())
        wide = len(re.findall(r"(?:ld|st)\.global\S*\.v4\.b32", compiled.asm["ptx"]))
        print(f"{launch[0]} sm_{capability}: {registers} registers, {wide} 16-byte accesses")
        assert (stack, local) == (0, 0), f"{launch[0]} spills: {usage}"
        assert wide >= wide_accesses(launch), f"{launch[0]}: {wide} 16-byte accesses"


def test_every_kernel_is_compiled() -> None:
    launched = {
        (module_of(op), name) for op, args in CALLS.values() for name, _, _ in recorded(op, args)
    }
    assert launched == set(KERNELS)
