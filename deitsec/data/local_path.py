"""The path that a user wrote after a scheme."""

from pathlib import Path

from deitsec.data.errors import DataError, reason


def local_path(text: str) -> Path:
    """Expand ~ and make sure that the file system can be asked about the path; it need not exist.

    Raises:
        DataError: if it cannot, for want of a home folder or a permission, or over the length.
    """
    try:
        path = Path(text).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        advice = "give one that can be read"
        raise DataError(f"bad path {text!r} ({reason(error)}): {advice}") from error
    return path
