"""The uniform start: four draws from one Philox4x32-10, keyed by the sample."""

# Triton reads the kernels in its own way, which Python's types do not describe.
# pyright: reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportOperatorIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

# two Philox calls a thread, 8 elements
_BLOCK, _NUM_WARPS = 1024, 4


@triton.jit(do_not_specialize=["seed_low", "seed_high", "stream"])
def _random_start_kernel(
    x0, sample_ids, out, elements, eps, seed_low, seed_high, stream, block: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    start = tl.program_id(1).to(tl.int64) * block
    sample = tl.load(sample_ids + row)
    quad = (start // 4 + tl.arange(0, block // 4)).to(tl.uint32)
    zero = quad * 0
    word0, word1, word2, word3 = tl.philox_impl(
        quad,
        zero + (sample & 0xFFFFFFFF).to(tl.uint32),
        zero + ((sample >> 32) & 0xFFFFFFFF).to(tl.uint32),
        zero + stream.to(tl.uint32),
        seed_low.to(tl.uint32),
        seed_high.to(tl.uint32),
    )
    # join puts its pair last: [quad, (0, 1)] of these two is 0, 1, 2, 3
    words = tl.join(tl.join(word0, word2), tl.join(word1, word3)).reshape([block])
    noise = (words >> 8).to(tl.int32).to(tl.float32) * 1.1920928955078125e-07 - 1.0  # 2**-23

    within = start + tl.arange(0, block)
    inside = within < elements
    offsets = row * elements + within
    clean = tl.load(x0 + offsets, mask=inside).to(tl.float32)
    moved = clean + eps * noise
    raised = tl.maximum(moved, 0.0, propagate_nan=tl.PropagateNan.ALL)
    clipped = tl.minimum(raised, 1.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(out + offsets, clipped, mask=inside)


def random_start(x0: Tensor, sample_ids: Tensor, eps: float, seed: int, stream: int = 0) -> Tensor:
    """Uniform point of the eps-ball around x0, clipped to [0, 1].

    The draws are bitwise the reference's; so is the result in fp32.
    """
    out = torch.empty_like(x0)
    if x0.numel() == 0:
        return out
    elements = x0.numel() // x0.shape[0]
    with torch.cuda.device_of(x0):
        _random_start_kernel[(x0.shape[0], triton.cdiv(elements, _BLOCK))](
            x0,
            sample_ids,
            out,
            elements,
            float(eps),
            _as_int32(seed),
            _as_int32(seed >> 32),
            _as_int32(stream),
            block=_BLOCK,
            num_warps=_NUM_WARPS,
            enable_fp_fusion=False,
        )
    return out


def _as_int32(value: int) -> int:
    """The low 32 bits as a signed number, so that the argument has one type: i32."""
    return ((value + 2**31) & 0xFFFFFFFF) - 2**31
