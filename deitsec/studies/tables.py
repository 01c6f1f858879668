"""Tables and figures of a page, as text."""

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are figures."""
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def share(value: float | None, digits: int = 2) -> str:
    """A share in percent; `not measured` where there is none."""
    return "not measured" if value is None else f"{100 * value:.{digits}f}%"


def seconds(value: float) -> str:
    """A time, in the unit that people would use."""
    if value < 120:
        return f"{value:.0f} s"
    minutes = round(value / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
