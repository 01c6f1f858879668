"""Why a row was not read: is its content at fault, or is the data not at hand just now?"""

import errno
from collections.abc import Iterator

from deitsec.data import DataError, FolderImageSet, ImageSet, ShardSet

_NOT_AT_HAND = frozenset(
    {
        errno.EACCES,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENODEV,
        errno.ENOENT,
        errno.ENOMEM,
        errno.ENOTCONN,
        errno.ENOTDIR,
        errno.ENXIO,
        errno.EPERM,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)


def check_at_hand(error: DataError) -> None:
    """Refuse to blame a row for what the system did not give.

    A decoder raises OSError without a number, or with EINVAL where a damaged file sends it out of
    the file; a missing file, disk or descriptor, and missing memory, are none of its content.

    Args:
        error: of an image set.

    Raises:
        DataError: the data is not at hand.
    """
    for cause in _causes(error):
        away = isinstance(cause, OSError) and cause.errno in _NOT_AT_HAND
        if away or isinstance(cause, MemoryError):
            said = " ".join(str(cause).split()) or "no more is known"
            raise DataError(
                f"the data is not at hand ({type(cause).__name__}: {said}): bring it back, then go "
                "on with --resume"
            ) from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def plain_reason(error: DataError, images: ImageSet) -> str:
    """The message on one line, with paths that start from the root of the data.

    Shards carry it, and where the data lies must not decide their bytes.
    """
    said, root = " ".join(str(error).split()), _root(images)
    return said if root is None else said.replace(" ".join(f"{root}/".split()), "")


def _root(images: ImageSet) -> str | None:
    inner: object = images
    while (base := getattr(inner, "base", None)) is not None:  # subsets, triggers
        inner = base
    if isinstance(inner, FolderImageSet):
        return str(inner.root)
    return str(inner.folder.path) if isinstance(inner, ShardSet) else None
