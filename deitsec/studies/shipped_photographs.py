"""Photographs that Python packages ship, and views of them: what can be had without a download."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deitsec.data.resize import cover

_OPTIONAL = "scikit-image"  # not among the project's requirements; its files are read, not its code
_OPTIONAL_FILES = {
    "astronaut": "astronaut.png",
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "motorcycle": "motorcycle_left.png",
    "rocket": "rocket.jpg",
}
_CLOSER = (0.6, 0.4)  # shares of the shorter side, after the whole
_CORNERS = ((0, 0), (1, 1), (0, 1), (1, 0))
MOST_VIEWS = (1 + len(_CLOSER)) * (1 + len(_CORNERS))


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """A photograph in a package.

    Attributes:
        name: a word for what it shows.
        package: as pip installs it.
        load: reads it: (H, W, 3) uint8.
    """

    name: str
    package: str
    load: Callable[[], NDArray[np.uint8]]


def china() -> NDArray[np.uint8]:
    """Scikit-learn's photograph of a temple, wide."""
    return _of_scikit_learn("china.jpg")


def flower() -> NDArray[np.uint8]:
    """Scikit-learn's photograph of a flower, wide."""
    return _of_scikit_learn("flower.jpg")


def hopper() -> NDArray[np.uint8]:
    """Matplotlib's photograph of Grace Hopper in uniform, tall."""
    from matplotlib import cbook, image

    samples: Any = cbook  # its stubs leave this unknown
    return image.imread(samples.get_sample_data("grace_hopper.jpg", asfileobj=False))


def shipped_photographs() -> tuple[Photograph, ...]:
    """Those of scikit-learn and matplotlib, and where it is installed scikit-image's."""
    found = [
        Photograph(name="temple", package="scikit-learn", load=china),
        Photograph(name="flower", package="scikit-learn", load=flower),
        Photograph(name="officer", package="matplotlib", load=hopper),
    ]
    spec = find_spec("skimage")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        files = {name: Path(folder) / "data" / file for name, file in _OPTIONAL_FILES.items()}
        found += [
            Photograph(name=name, package=_OPTIONAL, load=partial(_read, file))
            for name, file in files.items()
            if file.is_file()  # other versions fetch some of them
        ]
    return tuple(found)


def views(photograph: NDArray[np.uint8], number: int, *, side: int, crop: float) -> Tensor:
    """Square views of a photograph, the whole first, as one looks closer.

    The first is the centred square of `crop` times the shorter side, which is how a classifier is
    tested whose images are resized to side / crop and cut; then the same from the corners, and both
    again with squares of 0.6 and 0.4 of the shorter side.

    Args:
        photograph: (H, W, 3) uint8.
        number: of views, 1 to 15.
        side: to which each is brought, bicubic with antialiasing.
        crop: share of the shorter side, in (0, 1].

    Returns:
        (number, 3, side, side) uint8.

    Raises:
        ValueError: more views than there are, or none.
    """
    shares, places = (crop, *_CLOSER), ((0.5, 0.5), *_CORNERS)
    if not 1 <= number <= MOST_VIEWS:
        raise ValueError(f"views of a photograph must be 1 to {MOST_VIEWS}, got {number}")
    pixels = torch.as_tensor(np.array(photograph)).permute(2, 0, 1)[None]
    height, width = pixels.shape[-2:]
    found: list[Tensor] = []
    for share, (down, right) in islice(product(shares, places), number):
        size = round(share * min(height, width))
        top, left = int(down * (height - size)), int(right * (width - size))
        found.append(cover(pixels[..., top : top + size, left : left + size], (side, side)))
    return torch.cat(found)


def named_by_package(photographs: Sequence[Photograph]) -> dict[str, list[str]]:
    """The names of photographs, by their package."""
    packages = dict.fromkeys(photograph.package for photograph in photographs)
    return {
        package: [one.name for one in photographs if one.package == package] for package in packages
    }


def _of_scikit_learn(name: str) -> NDArray[np.uint8]:
    from sklearn.datasets import load_sample_image  # pyright: ignore[reportMissingTypeStubs]

    return load_sample_image(name)


def _read(file: Path) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))
