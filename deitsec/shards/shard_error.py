"""What is said of an adversarial dataset that is at fault."""


class ShardError(ValueError):
    """A shard or manifest that cannot be used, told in one line: what, where, how to mend it."""

    def __init__(self, message: str) -> None:
        """Keep `message` on one line, whatever a path or a library put into it."""
        super().__init__(" ".join(message.split()))
