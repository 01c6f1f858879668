"""The network that tells adversarial images from clean ones while a generator is trained."""

from torch import Tensor, nn
from torch.nn.functional import leaky_relu

_SLOPE, _GROUP = 0.2, 4


class Discriminator(nn.Module):
    """Images (B, C, H, W) in [0, 1] -> (B,) scores: 1 is clean and 0 adversarial.

    Convolutions of stride 2 that see patches, whose scores are averaged, so that it takes images of
    any size.

    Attributes:
        channels: C.
        width: channels of its first layer, a multiple of 4; the next ones have 2 and 4 times as
            many.
    """

    def __init__(self, channels: int, *, width: int = 8) -> None:
        """Draw the weights from the global generator."""
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, 2, padding=1)
        self.second = nn.Conv2d(width, 2 * width, 3, 2, padding=1, bias=False)
        self.second_norm = nn.GroupNorm(2 * width // _GROUP, 2 * width)
        self.third = nn.Conv2d(2 * width, 4 * width, 3, 2, padding=1, bias=False)
        self.third_norm = nn.GroupNorm(4 * width // _GROUP, 4 * width)
        self.last = nn.Conv2d(4 * width, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores."""
        maps = leaky_relu(self.first(2 * images - 1), _SLOPE)
        maps = leaky_relu(self.second_norm(self.second(maps)), _SLOPE)
        maps = leaky_relu(self.third_norm(self.third(maps)), _SLOPE)
        return self.last(maps).mean((1, 2, 3))
