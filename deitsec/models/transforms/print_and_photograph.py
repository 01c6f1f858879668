"""What happens to an image that is printed, and photographed by a phone."""

from deitsec.models.transforms.blur import GaussianBlur
from deitsec.models.transforms.geometry import Perspective, Rotation
from deitsec.models.transforms.jpeg import JPEG
from deitsec.models.transforms.tone import Brightness, Contrast, GaussianNoise
from deitsec.models.transforms.transform import Compose, check_strength


def print_and_photograph(strength: float = 1.0) -> Compose:
    """Return what a print and a phone's camera do to an image, in the order in which they do it.

    The paper is turned by at most 5 degrees and seen from an angle (corners within 5% of the
    side), lit otherwise (contrast within 20%, brightness within 10%), out of focus by up to 1
    pixel, taken with noise of 2% and saved as JPEG of quality 60 to 95. The kinds of change are
    those of Kurakin et al. (arXiv:1607.02533, sections 3 and 4).

    Args:
        strength: scales all of it; in (0, 2].

    Raises:
        ValueError: a strength out of range.
    """
    check_strength("strength", strength, most=2 + 1e-9)
    return Compose(
        transforms=(
            Rotation(degrees=5 * strength),
            Perspective(limit=0.05 * strength),
            Contrast(limit=0.2 * strength),
            Brightness(limit=0.1 * strength),
            GaussianBlur(sigma=strength),
            GaussianNoise(std=0.02 * strength),
            JPEG(quality=(max(5, round(95 - 35 * strength)), 95)),
        )
    )
