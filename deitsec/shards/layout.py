"""What the files of an adversarial dataset are called."""

import re
from pathlib import Path

MANIFEST = "manifest.json"
SELECTION = "selection.npy"
LOCK = ".generate.lock"

_SHARD = re.compile(r"shard-(\d{5,})\.parquet")
_WRITTEN = r"shard-\d{5,}\.parquet|manifest\.json|selection\.npy|probe"
_PART = re.compile(rf"\.({_WRITTEN})\.[0-9a-f]{{8}}\.part")


def shard_name(number: int) -> str:
    """The name of a shard, `shard-00042.parquet`; more digits from 100,000 on."""
    return f"shard-{number:05d}.parquet"


def shard_numbers(folder: Path) -> list[int]:
    """The numbers of the shards in a folder under their final names, ascending."""
    found = (_SHARD.fullmatch(path.name) for path in folder.iterdir())
    numbers = (int(match[1]) for match in found if match and match[0] == shard_name(int(match[1])))
    return sorted(numbers)


def unfinished_files(folder: Path) -> list[Path]:
    """What an interrupted run left under temporary names (`deitsec.whole_files`)."""
    return [path for path in folder.iterdir() if _PART.fullmatch(path.name)]
