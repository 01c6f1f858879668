"""The projection on the L1 ball around an image within [0, 1]: a program a row."""

# Triton reads the kernels in its own way, which Python's types do not describe.
# pyright: reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportOperatorIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from .l1_ball import options_for, project_row


@triton.jit
def _l1_projection_kernel(z, x0, out, elements, eps, chunk: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * elements
    project_row(z, None, x0, out, start, elements, 0, 0.0, eps, chunk)


def l1_projection(z: Tensor, x0: Tensor, eps: float) -> Tensor:
    """The nearest point of the ball within the box; computed in fp32, deterministic."""
    out = torch.empty_like(z)
    if z.numel() == 0:
        return out
    rows = z.shape[0]
    elements = z.numel() // rows
    with torch.cuda.device_of(z):
        _l1_projection_kernel[(rows,)](z, x0, out, elements, float(eps), **options_for(elements))
    return out
