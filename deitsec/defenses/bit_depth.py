"""Bit-depth reduction: fewer grey levels, so that small changes are rounded away."""

from torch import Tensor, nn


class BitDepth(nn.Module):
    """Rounds each value to the nearest of 2^bits even levels (Xu et al., arXiv:1704.01155, 3.1).

    Its gradient is 0 everywhere: an attack that follows it stands still, and finds nothing. That
    says nothing of the classifier behind; `BPDA` looks past it.

    Args:
        bits: 1 to 8.

    Raises:
        ValueError: bits out of range.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        if not 1 <= bits <= 8:
            raise ValueError(f"bits must be in 1 to 8, got {bits}")
        self.bits = bits

    def forward(self, images: Tensor) -> Tensor:
        """Round images (B, C, H, W) in [0, 1]."""
        most = 2**self.bits - 1
        return (images * most).round() / most
