"""The gate: no speed is reported for a wrong answer."""

from typing import Any

import torch
from torch import Tensor


def as_tuple(result: Any) -> tuple[Tensor, ...]:
    """One tensor or several, as several."""
    return tuple(result) if isinstance(result, tuple) else (result,)


def widened(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same inputs with floating tensors in fp64."""
    return tuple(
        a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in inputs
    )


def assert_parity(found: Any, plain: Any, exact: Any) -> None:
    """An error against fp64 of at most twice PyTorch's own, and one unit in the last place.

    Integers must be PyTorch's.

    Raises:
        AssertionError: which output is off, and by how much.
    """
    for index, (ours, theirs, truth) in enumerate(
        zip(as_tuple(found), as_tuple(plain), as_tuple(exact), strict=True)
    ):
        if not ours.is_floating_point():
            assert torch.equal(ours, theirs), f"output {index} differs"
            continue
        truth = truth.double()
        size = truth.to(ours.dtype).abs()
        ulp = (torch.nextafter(size, torch.full_like(size, float("inf"))) - size).double()
        allowed = (theirs.double() - truth).abs().max()
        error = (ours.double() - truth).abs()
        assert (error <= 2 * allowed + ulp).all(), (
            f"output {index}: error {error.max():.3g}, PyTorch's own {allowed:.3g}"
        )
