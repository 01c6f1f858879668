"""What of this project needs more than the plain installation."""

from importlib.util import find_spec


def require_extra(extra: str, *modules: str) -> None:
    """Refuse in one line to go on without the packages of an extra.

    Args:
        extra: its name in pyproject.toml.
        modules: what is about to be imported.

    Raises:
        ImportError: one of them is not installed.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise ImportError(f"this needs {', '.join(missing)}: pip install 'deitsec[{extra}]'")
