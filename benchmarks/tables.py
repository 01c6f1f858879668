"""Times and Markdown tables of the page."""


def seconds(value: float) -> str:
    """A time with three digits and its unit."""
    for unit, factor in (("s", 1), ("ms", 1e3)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e6:.3g} µs"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def per_second(value: float) -> str:
    """A rate with three digits, thousands apart."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
