"""Names of folders for classes: safe on any file system, in the order of the labels."""

import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

_LENGTH = 60  # characters, of up to 4 bytes each; file systems take 255
# by Windows, and by the files beside the folders
_RESERVED = re.compile(
    r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?|rows\.csv|source-manifest\.json", re.IGNORECASE
)


def class_folders(names: Sequence[str]) -> tuple[str, ...]:
    """A folder name for each class.

    Readers number the classes by the sorted names, torchvision and deitsec as strings, timm with
    numbers by their value. Where the names do not sort as the labels do, or two are alike but for
    case, each gets its label in front: `07_cat`.

    Args:
        names: of the classes, whatever is in them.

    Returns:
        Names of letters, digits, spaces and `._-` that begin with no point and are no path.
    """
    safe = [_safe(name) for name in names]
    if _ascends(safe) and _ascends([_natural(name) for name in safe]):
        return tuple(safe)
    width = len(str(len(safe) - 1))
    return tuple(f"{label:0{width}d}_{name}" for label, name in enumerate(safe))


def _safe(name: str) -> str:
    kept = "".join(
        letter if letter.isalpha() or letter in "0123456789 ._-" else "_"
        for letter in unicodedata.normalize("NFC", name)
    )
    kept = kept[:_LENGTH].strip(" .") or "_"
    return f"{kept}_" if _RESERVED.fullmatch(kept) else kept


def _natural(name: str) -> tuple[Any, ...]:
    """What timm sorts by: text and numbers by turns, without case."""
    parts = re.split(r"(\d+)", name.lower())
    return tuple(int(part) if place % 2 else part for place, part in enumerate(parts))


def _ascends(values: Sequence[Any]) -> bool:
    return all(before < after for before, after in pairwise(values))
