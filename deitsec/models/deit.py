"""`deit_micro`: a distilled DeiT for images of 28 to 32 pixels."""

from torch import nn

from deitsec.models.timm_import import import_timm

_PATCHES_A_SIDE = 4


def deit_micro(
    *,
    num_classes: int = 10,
    in_chans: int = 3,
    image_size: int = 32,
    patch_size: int | None = None,
    embed_dim: int = 96,
    depth: int = 4,
    num_heads: int = 4,
    mlp_ratio: float = 4.0,
) -> nn.Module:
    """Build timm's distilled vision transformer, small (DeiT, arXiv:2012.12877).

    The defaults above are the model: a checkpoint records them, so changing them breaks no saved
        one.

    Args:
        num_classes: number of logits of each of the two heads.
        in_chans: channels of the images.
        image_size: side of the square images, a multiple of patch_size; `next_whole_side` finds one
            for images of any size.
        patch_size: side of a patch; None takes a quarter of the image's: 16 patches, which is what
            a CPU trains on 28 to 32 pixels in under a minute.
        embed_dim: width of a token, a multiple of num_heads.
        depth: number of transformer blocks.
        num_heads: attention heads of a block.
        mlp_ratio: hidden width of a block's dense layers over embed_dim.

    Raises:
        ValueError: if image_size is no multiple of patch_size, or embed_dim none of num_heads.
        ImportError: if timm cannot be imported.
    """
    if patch_size is None:
        patch_size = max(1, image_size // _PATCHES_A_SIDE)
    if image_size % patch_size or image_size < patch_size:
        raise ValueError(
            f"image_size must be a multiple of patch_size={patch_size}, got {image_size}"
        )
    if embed_dim % num_heads:
        raise ValueError(f"embed_dim must be a multiple of num_heads={num_heads}, got {embed_dim}")
    return import_timm("models.deit").VisionTransformerDistilled(
        img_size=image_size,
        patch_size=patch_size,
        in_chans=in_chans,
        num_classes=num_classes,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        mlp_ratio=mlp_ratio,
        global_pool="token",
    )


def next_whole_side(image_size: int) -> int:
    """Return the smallest side, at least `image_size`, that 4 x 4 patches cover without a rest."""
    return -(-image_size // _PATCHES_A_SIDE) * _PATCHES_A_SIDE
