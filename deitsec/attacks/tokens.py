"""Where a vision transformer's tokens lie on the image."""

import math

from torch import Tensor
from torch.nn import functional


def token_grid(tokens: int, height: int, width: int) -> tuple[int, int, int]:
    """Tokens that are no patch (class, distillation, registers), and patches down and across.

    What comes first is no patch. The patches have the shape of the image, or make a square where
    the model resizes what it is given; whichever leaves fewer tokens over.

    Args:
        tokens: of one image.
        height, width: of the image.
    """
    side = math.gcd(height, width)
    grids: list[tuple[int, int, int]] = []
    for down, across in ((height // side, width // side), (1, 1)):
        times = math.isqrt(tokens // (down * across))
        grids.append((tokens - times * times * down * across, times * down, times * across))
    return min(grids, key=lambda grid: grid[0])


def received(attention: Tensor) -> Tensor:
    """(B, T) share of a block's attention that each token gets, over heads and queries.

    Args:
        attention: (B, heads, T, T), rows the queries.
    """
    return attention.mean((1, 2))


def on_image(values: Tensor, height: int, width: int) -> Tensor:
    """(B, 1, down, across) those of (B, T) values that belong to patches, as these lie."""
    prefix, down, across = token_grid(values.shape[1], height, width)
    return values[:, prefix:].reshape(-1, 1, down, across)


def of_tokens(image: Tensor, tokens: int) -> Tensor:
    """(B, T) means of an image (B, 1, H, W) over each token's patch; 0 for those without one."""
    prefix, down, across = token_grid(tokens, *image.shape[2:])
    return functional.pad(
        functional.adaptive_avg_pool2d(image, (down, across)).flatten(1), (prefix, 0)
    )
