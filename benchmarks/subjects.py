"""An op and what it is held against; a case is one at a shape and dtype."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Inputs = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """An op, how to call it, and its baseline.

    Attributes:
        op: its name in the results.
        make: inputs of a shape, dtype and device.
        fused: calls deitsec.
        plain: calls tuned PyTorch on the same inputs.
        exact: the meaning, on inputs widened to fp64; None where the baseline means another thing.
        passes: bytes per element of the baseline, in units of the element's size.
        moved: the same of a perfect implementation, where the op's own cost does not say it.
        value: the differentiable part of `plain`, which is what torch.compile is given; None where
            that is all of it.
        registered: the op's name in `deitsec.ops.list_ops()`, where `op` is another.
        draws: whether both draw random numbers, and thus others.
    """

    op: str
    make: Callable[[tuple[int, ...], torch.dtype, str], Inputs]
    fused: Callable[..., Any]
    plain: Callable[..., Any]
    exact: Callable[..., Any]
    passes: float
    moved: float | None = None
    value: Callable[..., Any] | None = None
    registered: str | None = None
    draws: bool = False

    def compiled(self) -> Callable[..., Any]:
        """The baseline under torch.compile; autograd calls the compiled backward."""
        if self.value is None:
            return torch.compile(self.plain, dynamic=False)
        return functools.partial(self.plain, value=torch.compile(self.value, dynamic=False))


@dataclass(frozen=True, kw_only=True)
class Case:
    """One measurement.

    Attributes:
        compiled: whether torch.compile of the baseline is a side.
        written: whether the op's reference is one: the formula as one writes it in PyTorch.
    """

    subject: Subject
    shape: tuple[int, ...]
    dtype: torch.dtype
    compiled: bool = False
    written: bool = False

    def __str__(self) -> str:
        """The name that pytest and the result file give it."""
        shape = "x".join(map(str, self.shape))
        return f"{self.subject.op}-{shape}-{str(self.dtype).removeprefix('torch.')}"
