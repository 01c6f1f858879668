"""The four norms of every perturbation, in one pass."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from deitsec.ops import _checks
from deitsec.ops._op import op
from deitsec.ops._samples import SampleMaker


@op("(Tensor x, Tensor x0) -> (Tensor, Tensor, Tensor, Tensor)")
def row_norms(x: Tensor, x0: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """L-infinity, L2, L1 and L0 norm of each row of x - x0.

    Args:
        x: (B, ...) images, fp32, bf16, fp16 (fp64 by the reference).
        x0: same shape and dtype.

    Returns:
        Four (B,) tensors, fp32 (fp64 for fp64 rows): largest absolute change, Euclidean norm, sum
        of absolute changes, and the number of elements that differ.

    Raises:
        ValueError: shapes differ, or a row without elements.
        TypeError: dtypes that are not floating or differ.
    """
    delta = (x - x0).flatten(1).to(torch.promote_types(x.dtype, torch.float32))
    size = delta.abs()
    return (
        size.amax(1),
        torch.linalg.vector_norm(delta, dim=1),
        size.sum(1),
        (size != 0).sum(1).to(size.dtype),
    )


row_norms.backend("cpp", "torch.ops.deitsec_cpp.row_norms", device="cpu")
row_norms.backend("triton", "deitsec.kernels.row_norms:row_norms", device="cuda")


@row_norms.check
def _check(x: Tensor, x0: Tensor) -> None:
    _checks.same_shape("row_norms", x.shape, x0=x0)
    _checks.floating("row_norms", x=x, x0=x0)
    _checks.rows("row_norms", x=x)


@row_norms.cost
def _cost(x: Tensor, x0: Tensor) -> int:
    return 2 * x.numel() * x.element_size()


@row_norms.samples
def _samples(make: SampleMaker) -> Iterator[tuple[Any, ...]]:
    for shape in ((1, 1, 1, 1), (3, 1, 7, 5), (2, 3, 33, 31), (0, 3, 8, 8), (5, 10007)):
        x0 = make.images(*shape)
        yield (x0 + make.normal(*shape, scale=0.02)).clamp(0, 1), x0
        yield x0.clone(), x0
    sparse = make.images(3, 3, 17, 19)
    changed = sparse.clone()
    changed[1, 2, 3, 4] = 1 - changed[1, 2, 3, 4]
    changed[2, 0, 0, 0] = float("nan")
    yield changed, sparse
    yield changed.transpose(2, 3), sparse.transpose(2, 3)
