"""What precision means to PyTorch's switches, set for the length of a block."""

import contextlib
from collections.abc import Generator
from typing import Any, Literal

import torch

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16", "fp16")
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(precision: str) -> Precision:
    """The precision of this name.

    Raises:
        ValueError: there is none.
    """
    for known in PRECISIONS:
        if precision == known:
            return known
    raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")


def full_fp32() -> contextlib.AbstractContextManager[None]:
    """fp32 matrix products and convolutions are fp32, whatever the caller allows elsewhere."""
    return _fp32_means("ieee")


def tf32() -> contextlib.AbstractContextManager[None]:
    """fp32 matrix products and convolutions may use TF32: 10 bits of mantissa instead of 23."""
    return _fp32_means("tf32")


@contextlib.contextmanager
def _fp32_means(meaning: str) -> Generator[None]:
    backends: Any = torch.backends
    switches = [backends.cuda.matmul, backends.cudnn.conv]
    if meaning == "ieee":  # a CPU may have been allowed bf16 for fp32, and has no TF32
        switches += [backends.mkldnn.matmul, backends.mkldnn.conv]
    changed: list[tuple[Any, str]] = []
    try:
        for switch in switches:
            before: str = switch.fp32_precision
            if before != meaning and not (before == "none" and meaning == "ieee"):
                changed.append((switch, before))
                switch.fp32_precision = meaning
        yield
    finally:
        for switch, before in changed:
            switch.fp32_precision = "none"
            if switch.fp32_precision != before:  # it was set by itself, and not inherited
                switch.fp32_precision = before
