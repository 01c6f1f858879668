"""What precision means to PyTorch's switches, set for the length of a block."""

import contextlib
from collections.abc import Generator
from typing import Any, Literal

import torch

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
# these switches are set up when torch is imported
_cudnn: Any = torch.backends.cudnn
_mkldnn: Any = torch.backends.mkldnn
_FULL = ("none", "ieee")
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def full_fp32() -> contextlib.AbstractContextManager[None]:
    """fp32 matrix products and convolutions are fp32, whatever the caller allows elsewhere."""
    return _fp32_means("ieee")


def tf32() -> contextlib.AbstractContextManager[None]:
    """fp32 matrix products and convolutions may use TF32: 10 bits of mantissa instead of 23."""
    return _fp32_means("tf32")


@contextlib.contextmanager
def _fp32_means(meaning: str) -> Generator[None]:
    switches: list[Any] = []
    if torch.cuda.is_available():
        switches += [torch.backends.cuda.matmul, _cudnn.conv]
    # a CPU knows bf16 and tf32 for fp32; what is full already is left alone, as PyTorch refuses to
    # name its one setting of old where a switch was set by itself
    switches += [s for s in (_mkldnn.matmul, _mkldnn.conv) if s.fp32_precision not in _FULL]
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = meaning
        yield
    finally:
        for switch, old in zip(switches, before, strict=True):
            switch.fp32_precision = old
