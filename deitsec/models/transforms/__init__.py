"""Random changes of images, for `EOT`: each says how many draws it takes, and uses those.

All are differentiable in the images, each image by its own draws, and follow each other in
`Compose`.
"""

from deitsec.models.transforms.blur import GaussianBlur
from deitsec.models.transforms.geometry import Perspective, Rotation, Scale, Shift
from deitsec.models.transforms.jpeg import JPEG
from deitsec.models.transforms.print_and_photograph import print_and_photograph
from deitsec.models.transforms.tone import Brightness, Contrast, GaussianNoise
from deitsec.models.transforms.transform import Compose, Transform

__all__ = [
    "JPEG",
    "Brightness",
    "Compose",
    "Contrast",
    "GaussianBlur",
    "GaussianNoise",
    "Perspective",
    "Rotation",
    "Scale",
    "Shift",
    "Transform",
    "print_and_photograph",
]
