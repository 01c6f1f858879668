"""A radius that is not the usual one of its data, told on the page."""

from collections.abc import Mapping
from typing import Any

from deitsec.report.wording import grey_levels


def radius_note(found: Mapping[str, Any]) -> str:
    """A sentence, with a space before it, where another radius than the usual was asked for.

    Args:
        found: `eps`, and `usual_eps` (`suite_eps` of the data; older results have none).
    """
    eps, usual = found["eps"], found.get("usual_eps", found["eps"])
    if eps == usual:
        return ""
    size = "smaller" if eps < usual else "larger"
    return (
        f" That is a {size} radius than the {grey_levels(usual)} that such data are usually "
        "attacked with: it was asked for, and nothing here is told of the usual one."
    )
