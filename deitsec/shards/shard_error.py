"""What is said of an adversarial dataset that is at fault."""


class ShardError(ValueError):
    """A shard or manifest that cannot be used, told in one line: what, where, how to mend it."""

    def __init__(self, message: str) -> None:
        """Keep `message` on one line, whatever a path or a library put into it."""
        super().__init__(" ".join(message.split()))


def reason(error: BaseException) -> str:
    """The first line of what a library says, or the kind of error; at most 200 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
