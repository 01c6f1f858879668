"""Whether DeiT's attention gains by padding its tokens: forward and backward, with a mask and not.

A distilled DeiT has 198 tokens, a plain one 197: no multiple of what tensor cores like. Padding
needs a mask, which keeps some kernels from being used. A padded side is held to the unpadded one.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from benchmarks.interleave import Interleaved, Side
from benchmarks.record import Record
from benchmarks.repeat import Repeat
from benchmarks.settings import Settings

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
QUICK = Settings.found().quick
HEAD_SIZE = 64
TOKENS = (13, 14) if QUICK else (197, 198)
PADDED = (16,) if QUICK else (200, 208, 256)
BATCH = 1 if QUICK else {"cpu": 4, "cuda": 128}[DEVICE]
HEADS = (3,) if QUICK else (3, 6)  # of DeiT-tiny, of DeiT-small
Runs = tuple[Callable[[], tuple[Tensor, ...]], int]


def attention(heads: int, tokens: int, room: int, dtype: torch.dtype) -> Runs:
    """A run that gives output and three gradients in `room` tokens, of which `tokens` are real."""
    generator = torch.Generator().manual_seed(tokens)
    real = torch.randn((4, BATCH, heads, tokens, HEAD_SIZE), generator=generator)
    padded = F.pad(real, (0, 0, 0, room - tokens)).to(DEVICE, dtype)
    query, key, value, into = padded.unbind()
    leaves = [part.clone().requires_grad_() for part in (query, key, value)]
    mask = None
    if room > tokens:
        mask = (torch.arange(room, device=DEVICE) < tokens).expand(1, 1, 1, room)

    def run() -> tuple[Tensor, ...]:
        output = F.scaled_dot_product_attention(*leaves, attn_mask=mask)
        return (output.detach(), *torch.autograd.grad(output, leaves, into))

    return run, tokens


def assert_same(found: Runs, plain: Runs, dtype: torch.dtype) -> None:
    """The real tokens' output and gradients must be those without padding."""
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-4
    for ours, theirs in zip(found[0](), plain[0](), strict=True):
        torch.testing.assert_close(
            ours[:, :, : found[1]], theirs[:, :, : found[1]], rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("heads", HEADS)
def test_padding(heads: int, dtype: torch.dtype, record: Record, repeat: Repeat) -> None:
    """Each number of tokens as it is, and the larger one padded."""
    runs = {str(count): attention(heads, count, count, dtype) for count in TOKENS}
    for room in PADDED:
        name = f"{TOKENS[1]} in {room}"
        runs[name] = attention(heads, TOKENS[1], room, dtype)
        assert_same(runs[name], runs[str(TOKENS[1])], dtype)
    timing = Interleaved({name: Side(run=run) for name, (run, _) in runs.items()})
    repeat(timing.round)
    record.add(
        {
            "kind": "attention",
            "heads": heads,
            "head_size": HEAD_SIZE,
            "batch": BATCH,
            "dtype": str(dtype).removeprefix("torch."),
            "device": DEVICE,
            "seconds": timing.medians(),
            "times": timing.times,
            "disturbed": timing.disturbed,
        }
    )
