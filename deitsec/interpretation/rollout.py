"""Attention rollout: how much of each patch reaches the answer, through all blocks."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

FUSIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda attention: attention.mean(1),
    "max": lambda attention: attention.amax(1),
    "min": lambda attention: attention.amin(1),
}


def attention_rollout(
    attention: Sequence[Tensor], *, fusion: str = "mean", discard: float = 0.0, prefix: int = 1
) -> Tensor:
    """Multiply the attention of all blocks, each half itself and half the identity.

    `A_L A_(L-1) ... A_1` with `A = (W + I) / 2`, rows summing to 1, where W is a block's attention
    with its heads fused (Abnar and Zuidema, arXiv:2005.00928, section 3: the half is the residual
    connection).

    Args:
        attention: (B, heads, T, T) of each block, first to last, rows the queries.
        fusion: `mean` (the paper's), `max` or `min` over the heads.
        discard: share of a block's fused weights that are set to 0, the smallest first, those on
            the tokens that are no patch kept; in [0, 1).
        prefix: tokens that come first and are no patch.

    Returns:
        (B, T, T): row i says what share of token i's output comes from each token of the input.

    Raises:
        ValueError: no block, blocks of different numbers of tokens, an unknown fusion, or a
            discarded share out of range.
    """
    if fusion not in FUSIONS:
        raise ValueError(f"fusion must be one of {', '.join(FUSIONS)}, got {fusion!r}")
    if not 0 <= discard < 1:
        raise ValueError(f"discard must be in [0, 1), got {discard}")
    tokens = {weights.shape[-1] for weights in attention}
    if len(tokens) != 1:
        raise ValueError(
            "attention rollout needs blocks of one number of tokens, got "
            f"{', '.join(map(str, sorted(tokens))) or 'no block'}"
        )
    (number,) = tokens
    first = attention[0]
    wide = torch.promote_types(first.dtype, torch.float32)
    identity = torch.eye(number, device=first.device, dtype=wide)
    rolled = identity.expand(len(first), -1, -1)
    for weights in attention:
        fused = _without_least(FUSIONS[fusion](weights.to(wide)), discard, prefix)
        share = fused + identity
        rolled = (share / share.sum(-1, keepdim=True)) @ rolled
    return rolled


def _without_least(fused: Tensor, discard: float, prefix: int) -> Tensor:
    """Fused attention (B, T, T) with the smallest weights on patches set to 0."""
    patches = fused[:, :, prefix:]
    number = int(discard * patches[0].numel())
    if number == 0:
        return fused
    flat = patches.flatten(1)
    least = flat.topk(number, 1, largest=False).indices
    kept = flat.scatter(1, least, 0.0).reshape(patches.shape)
    return torch.cat([fused[:, :, :prefix], kept], 2)
