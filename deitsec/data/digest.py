"""The sha256 by which a report says what data it is about."""

import hashlib
from typing import Protocol, runtime_checkable

import torch

from deitsec.data.image_set import ImageSet

_BLOCK_BYTES = 1 << 22


class Hasher(Protocol):
    """What is used of a hashlib object."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Append bytes."""
        ...


@runtime_checkable
class Stored(Protocol):
    """An image set that hashes what is stored rather than what `images` returns."""

    def feed(self, hasher: Hasher) -> None:
        """Append what is stored."""
        ...


def feed_pixels(images: ImageSet, hasher: Hasher) -> None:
    """Append dtype and shape, the pixels (NCHW) by blocks, and the labels (little-endian int64)."""
    shape = images.shape
    hasher.update(f"uint8 {(len(images), *shape)}\n".encode())
    per_block = max(1, _BLOCK_BYTES // (shape[0] * shape[1] * shape[2]))
    for start in range(0, len(images), per_block):
        rows = torch.arange(start, min(start + per_block, len(images)))
        hasher.update(images.images(rows).contiguous().numpy().data)
    hasher.update(images.labels.numpy().astype("<i8").tobytes())


def source_digest(test: ImageSet, train: ImageSet | None) -> str:
    """Return the hex sha256 of the test split, and of the training split when there is one.

    Memory is bounded by one block of 4 MiB (or one image, where that is larger). Images in memory
    are hashed by their stored pixels and labels, folders by their sorted relative paths and the
    bytes of the files.
    """
    hasher = hashlib.sha256()
    for split, images in (("test", test), ("train", train)):
        if images is None:
            continue
        hasher.update(f"{split} ".encode())
        if isinstance(images, Stored):
            images.feed(hasher)
        else:
            feed_pixels(images, hasher)
    return hasher.hexdigest()
