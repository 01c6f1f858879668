"""Whether a worker's machine sees what the machine that started the run sees."""

import secrets
import socket
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import deitsec
from deitsec.data import DataError
from deitsec.environment import package_version
from deitsec.generation.workload import Workload

_TRIED = 16  # rows of the source that one is looked for among that can be read


@dataclass(frozen=True, kw_only=True, eq=False)
class Site:
    """What every worker must find.

    Attributes:
        folder: where the shards go, absolute.
        probe: a file in it.
        row: (1,) int64 a row of the source, or none where none of the first could be read.
        pixels: (1, C, H, W) uint8, as it was read.
    """

    folder: Path
    probe: str
    row: Tensor
    pixels: Tensor

    def check(self, work: Workload) -> None:
        """Look whether this machine is fit to work.

        Raises:
            ValueError: other versions than the manifest says, a folder that is not the same, or
                another image in the place of the one that was read at the start.
        """
        here = socket.gethostname()
        for name, wanted in work.configuration.versions.items():
            found = deitsec.__version__ if name == "deitsec" else package_version(name) or "none"
            if found != wanted:
                raise ValueError(
                    f"the worker on {here} has {name} {found} and the run {wanted}: install the "
                    "same everywhere"
                )
        if not (self.folder / self.probe).is_file():
            raise ValueError(
                f"the worker on {here} does not see {self.folder}: choose a folder that all "
                "machines of the cluster share, under one path"
            )
        try:
            found = work.images.images(self.row)
        except DataError as error:
            raise ValueError(f"the worker on {here} cannot read the data: {error}") from None
        if not torch.equal(found, self.pixels):
            raise ValueError(
                f"the worker on {here} reads another image in row {int(self.row[0])} of the data: "
                "the files or the versions of Pillow differ"
            )


@contextmanager
def prepared_site(work: Workload, folder: Path) -> Generator[Site]:
    """What workers of a run will have to find; the probe is removed at the end.

    Raises:
        OSError: the folder cannot be written.
    """
    row, pixels = _readable(work)
    # named as what an interrupted run leaves, so that the next one removes it
    probe = folder.absolute() / f".probe.{secrets.token_hex(4)}.part"
    probe.touch()
    try:
        yield Site(folder=folder.absolute(), probe=probe.name, row=row, pixels=pixels)
    finally:
        probe.unlink(missing_ok=True)


def _readable(work: Workload) -> tuple[Tensor, Tensor]:
    rows, _ = work.plan.rows_of(work.plan.job(0))
    for row in rows[:_TRIED].split(1):
        try:
            return row, work.images.images(row)
        except DataError:
            continue
    nothing = rows[:0]
    return nothing, work.images.images(nothing)
