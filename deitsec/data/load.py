"""From a URI to a data source."""

import os
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial
from types import MappingProxyType

from deitsec.data.digits import load_digits_source
from deitsec.data.downloads import load_download
from deitsec.data.errors import DataError
from deitsec.data.folder import load_folder
from deitsec.data.hugging_face import load_hugging_face
from deitsec.data.npz import load_npz
from deitsec.data.resize import check_image_size
from deitsec.data.shards import load_shards
from deitsec.data.source import DataSource
from deitsec.shards import MANIFEST

_NAMED: Mapping[str, Callable[[int | None], DataSource]] = MappingProxyType(
    {
        "digits": load_digits_source,
        "mnist": partial(load_download, "mnist"),
        "cifar10": partial(load_download, "cifar10"),
    }
)
# scheme -> what follows the colon, and who loads it
_LOCATED: Mapping[str, tuple[str, Callable[[str, int | None], DataSource]]] = MappingProxyType(
    {
        "npz": ("FILE", load_npz),
        "folder": ("DIR", load_folder),
        "shards": ("DIR", load_shards),
        "hf": ("NAME", load_hugging_face),
    }
)

_DESCRIPTIONS = {
    "digits": "scikit-learn's 1,797 handwritten digits at 32 x 32; nothing is downloaded",
    "mnist": "70,000 handwritten digits, 28 x 28; downloaded by torchvision",
    "cifar10": "60,000 colour images, 32 x 32; downloaded by torchvision",
    "npz:FILE": "x_test, y_test and, for training, x_train, y_train; uint8 NHW or NHWC",
    "folder:DIR": "image files, one folder a class, below DIR or DIR/train and DIR/test",
    "hf:NAME": "a Hugging Face dataset, downloaded, or a folder that datasets opens",
    "shards:DIR": "images that deitsec generate wrote to DIR, or to DIR/train and DIR/test",
}


def load_data(uri: str, *, image_size: int | None = None) -> DataSource:
    """Open the data that a URI names.

    - `digits`: scikit-learn's digits, 1 x 32 x 32; nothing is downloaded.
    - `mnist`, `cifar10`: downloaded once to $DEITSEC_DATA, or `data` in $DEITSEC_CACHE
      (~/.cache/deitsec).
    - `npz:FILE`: x_test, y_test and, for training, x_train, y_train; uint8 (N, H, W) or (N, H, W,
      C).
    - `folder:DIR`: image files, one folder for each class, below DIR or DIR/train and DIR/test (or
      DIR/val).
    - `shards:DIR`: adversarial images and their labels, as `deitsec generate` writes them to DIR,
      or to DIR/test and DIR/train.
    - `hf:NAME` or `hf:NAME:CONFIG`: a dataset of the Hugging Face Hub, or a folder that
      `datasets.load_dataset` opens.

    Args:
        uri: one of the above.
        image_size: None for the size as stored (for a folder, that of its first test image), or the
            side S >= 1: the largest centred square of each image, resampled to S x S.

    Raises:
        DataError: if the URI names no source, or the data cannot be used; one line says how to mend
            it.
        TypeError: if `uri` is no string or `image_size` no integer.
        ValueError: if `image_size` is below 1.
    """
    if not isinstance(uri, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"uri must be a str such as 'digits' or 'npz:FILE', got {uri!r}")
    check_image_size(image_size)
    scheme, colon, argument = uri.partition(":")
    if scheme in _NAMED:
        if colon:
            raise DataError(f"{scheme} takes nothing after its name, got {uri!r}: write {scheme}")
        return _NAMED[scheme](image_size)
    if scheme in _LOCATED:
        placeholder, load = _LOCATED[scheme]
        if not argument:
            raise DataError(f"{uri!r} names no path: write {scheme}:{placeholder}")
        return load(argument, image_size)
    raise DataError(_unknown(uri, scheme))


def list_sources() -> dict[str, str]:
    """What `load_data` takes, and what each one is."""
    return dict(_DESCRIPTIONS)


def _unknown(uri: str, scheme: str) -> str:
    """Say which sources there are, and which one was probably meant."""
    located = [f"{name}:{placeholder}" for name, (placeholder, _) in _LOCATED.items()]
    message = f"unknown data source {uri!r}; available: {', '.join([*_NAMED, *located])}"
    close = get_close_matches(scheme.strip().lower(), [*_NAMED, *_LOCATED], n=1)
    meant = close[0] + uri[len(scheme) :] if close else ""
    if uri.lower().endswith(".npz") and not close:
        meant = f"npz:{uri}"
    elif uri and os.path.isfile(os.path.join(os.path.expanduser(uri), MANIFEST)):
        meant = f"shards:{uri}"
    elif uri and os.path.isdir(os.path.expanduser(uri)):
        meant = f"folder:{uri}"
    return f"{message}; did you mean {meant}?" if meant else message
