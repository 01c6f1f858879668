"""A small dataset's model, and shards that are changed behind its manifest's back."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deitsec.data import load_data
from deitsec.shards import read_manifest, read_shard, shard_name, write_manifest
from deitsec.shards.shard_file import write_shard

SPECS = ("fgsm:eps=8/255", "pgd_l2:eps=1.0,steps=2", "fgsm:eps=8/255,target=3")
ROWS, SHARD_ROWS, BATCH = 44, 16, 8
SHARD = 3  # of the first attack, its second share: rows 16 to 31 of the source


def templates(seed: int = 0) -> nn.Module:
    """Scores by the mean image of each class: right on most digits, and easily fooled."""
    digits = load_data("digits").train
    assert digits is not None
    pixels = digits.images(torch.arange(len(digits))).flatten(1).double() / 255
    means = torch.stack([pixels[digits.labels == label].mean(0) for label in range(10)])
    model = nn.Sequential(nn.Flatten(), nn.Linear(1024, 10))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        noise = 1e-3 * torch.randn(means.shape, generator=generator).double()
        model[1].weight.copy_((means + noise).float())
        model[1].bias.copy_(-(means**2).sum(1).float() / 2)
    return model.eval()


def rewritten(folder: Path, shard: int, **columns: Any) -> None:
    """Put a shard of other columns there, and its hash and counts into the manifest."""
    rows, about = read_shard(folder / shard_name(shard))
    rows = dataclasses.replace(rows, **columns)
    sha256, size = write_shard(folder, rows, about)
    manifest = read_manifest(folder)
    counts = {
        "rows": len(rows),
        "successes": int(rows.success.sum()),
        "correct": int((rows.clean_prediction == rows.label).sum()),
    }
    entries = tuple(
        dataclasses.replace(entry, sha256=sha256, bytes=size, **counts)
        if entry.shard == shard
        else entry
        for entry in manifest.shards
    )
    write_manifest(folder, dataclasses.replace(manifest, shards=entries))


def column(folder: Path, name: str, shard: int = SHARD) -> Any:
    return getattr(read_shard(folder / shard_name(shard))[0], name).copy()
