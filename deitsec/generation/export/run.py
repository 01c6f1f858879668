"""`deitsec generate export`: a dataset in the form of another library."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from deitsec.generation.export.hugging_face import write_hugging_face
from deitsec.generation.export.image_folder import write_image_folder
from deitsec.generation.export.png import check_channels
from deitsec.generation.export.web_dataset import write_web_dataset
from deitsec.generation.export.whole_folder import whole_folder
from deitsec.shards import ShardFolder
from deitsec.shards.extra import require_extra

Tick = Callable[[int], None]
_Write = Callable[[ShardFolder, Path, Tick], None]

# form -> who writes it, and what has to be installed
FORMS: Mapping[str, tuple[_Write, tuple[str, ...]]] = MappingProxyType(
    {
        "image-folder": (write_image_folder, ()),
        "webdataset": (write_web_dataset, ("webdataset",)),
        "hugging-face": (write_hugging_face, ("datasets",)),
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What was written.

    Attributes:
        form: in which form.
        out: the folder.
        rows: how many images.
        files: how many files.
        bytes: of all files.
    """

    form: str
    out: Path
    rows: int
    files: int
    bytes: int


def export_dataset(
    path: str | Path,
    out: str | Path,
    *,
    form: str,
    variant: int | None = None,
    only_success: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Exported:
    """Write a dataset as image files, tar files or a Hugging Face dataset.

    Pixels are kept bit for bit. The folder appears when all of it is written and synced; an
    interrupted export leaves nothing under its name, and is started again.

    Args:
        path: folder of `deitsec generate`; its run has ended.
        out: the folder to write; missing or empty.
        form: `image-folder`, `webdataset` or `hugging-face`.
        variant: the rows of one attack on one model only, by its place in the manifest.
        only_success: the rows only whose goal is reached.
        progress: told rows done and rows in all.

    Raises:
        ImportError: a package that the form needs is not installed.
        OSError: the folder cannot be written.
        ShardError: there is no dataset, it is not complete, or a shard is missing or broken.
        ValueError: no such form or variant, `out` holds something, the images are not of 1 or 3
            channels, or a class without images is to be a folder.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    write, modules = FORMS[form]
    require_extra("export", "pyarrow", *modules)
    folder = ShardFolder(Path(path), variant=variant, only_success=only_success)
    check_channels(folder.shape)
    done = 0

    def tick(more: int) -> None:
        nonlocal done
        done += more
        if progress is not None:
            progress(done, len(folder))

    with whole_folder(Path(out)) as part:
        write(folder, part, tick)
        sizes = [file.stat().st_size for file in part.rglob("*") if file.is_file()]
    return Exported(form=form, out=Path(out), rows=len(folder), files=len(sizes), bytes=sum(sizes))
