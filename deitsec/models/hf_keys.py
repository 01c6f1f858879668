"""Reads the state dict of a transformers ViT or DeiT under timm's names."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# (transformers, timm), applied in this order to names without their "vit." or "deit." prefix.
_RENAMES = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"blocks.\1.attn.proj."),
    (r"^encoder\.layer\.(\d+)\.intermediate\.dense\.", r"blocks.\1.mlp.fc1."),
    (r"^encoder\.layer\.(\d+)\.output\.dense\.", r"blocks.\1.mlp.fc2."),
    (r"^encoder\.layer\.(\d+)\.layernorm_before\.", r"blocks.\1.norm1."),
    (r"^encoder\.layer\.(\d+)\.layernorm_after\.", r"blocks.\1.norm2."),
    (r"^layernorm\.", "norm."),
    (r"^(?:cls_)?classifier\.", "head."),
    (r"^distillation_classifier\.", "head_dist."),
)
_QUERY = re.compile(r"^encoder\.layer\.(\d+)\.attention\.attention\.query\.(weight|bias)$")
_PREFIX = re.compile(r"^(?:vit|deit)\.")
_MARK = re.compile(r"^(?:vit|deit)\.embeddings\.patch_embeddings\.projection\.weight$")


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a transformers ViT/DeiT state dict to timm's names, query, key and value joined.

    Any other state dict comes back as it is. A name without a counterpart is kept, so that it is
    reported.

    Args:
        state: tensors by name.
    """
    if not any(_MARK.match(name) for name in state):
        return dict(state)
    bare = {_PREFIX.sub("", name): tensor for name, tensor in state.items()}
    renamed: dict[str, Tensor] = {}
    for name in list(bare):
        query = _QUERY.match(name)
        parts = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if query and all(part in bare for part in parts):
            block, kind = query.groups()
            renamed[f"blocks.{block}.attn.qkv.{kind}"] = torch.cat(
                [bare.pop(part) for part in parts]
            )
    for name, tensor in bare.items():
        for pattern, replacement in _RENAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed
