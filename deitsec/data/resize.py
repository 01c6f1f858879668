"""The one rule by which an image comes to another size."""

from torch import Tensor
from torch.nn.functional import interpolate


def check_image_size(image_size: int | None) -> None:
    """Refuse an image size that is neither None nor a positive integer.

    Raises:
        TypeError: if it is not an integer.
        ValueError: if it is below 1.
    """
    if image_size is None:
        return
    if type(image_size) is not int:  # not isinstance: True is no size
        raise TypeError(f"image_size must be an int or None, got {image_size!r}")
    if image_size < 1:
        raise ValueError(f"image_size must be >= 1, got {image_size}")


def centred_box(given: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Find the largest centred box in an image that has the aspect ratio of `size`.

    Args:
        given: (h, w) of the image, each >= 1.
        size: (H, W) to which the box will be resampled, each >= 1.

    Returns:
        top, left, bottom, right in whole pixels; the whole image where its aspect ratio fits.
    """
    (h, w), (height, width) = given, size
    scale = max(height / h, width / w)
    box_h = min(h, max(1, round(height / scale)))
    box_w = min(w, max(1, round(width / scale)))
    top, left = (h - box_h) // 2, (w - box_w) // 2
    return top, left, top + box_h, left + box_w


def cover(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring images to a size, keeping their aspect ratio.

    The `centred_box` is cut out and resampled, bicubic with antialiasing. Images that have the size
    already come back as they are.

    Args:
        images: (n, C, h, w) uint8.
        size: (H, W) wanted, each >= 1.

    Returns:
        (n, C, H, W) uint8, contiguous.
    """
    top, left, bottom, right = centred_box((images.shape[-2], images.shape[-1]), size)
    boxes = images[..., top:bottom, left:right]
    if not len(images):
        return images.new_empty((0, images.shape[1], *size))
    if boxes.shape[-2:] != size:
        boxes = interpolate(boxes, size=size, mode="bicubic", antialias=True)
    # Channels-last storage is a permuted view, and indexing and resampling keep its strides.
    return boxes.contiguous()
