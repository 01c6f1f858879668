"""What the data room says when the data is at fault."""


class DataError(ValueError):
    """Data that cannot be used, told in one line: what, which file and row, how to mend it."""

    def __init__(self, message: str) -> None:
        """Keep `message` on one line, whatever a path or a library put into it."""
        super().__init__(" ".join(message.splitlines()))


def reason(error: BaseException) -> str:
    """Name an error of another library in one line of at most 160 characters."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:160].removesuffix(": ")
