"""The report: a versioned JSON document, its verdict and checks, plots and one HTML page.

Nothing is imported until it is used: plots need matplotlib, the page needs jinja2.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deitsec.report.checks import sanity_checks
    from deitsec.report.defense import Defense, DefenseLine, read_defense
    from deitsec.report.document import SCHEMA, load_schema, validate
    from deitsec.report.example import Example
    from deitsec.report.html import render_html
    from deitsec.report.plots import draw_plots
    from deitsec.report.report import Report
    from deitsec.report.verdict import judge

__all__ = [
    "SCHEMA",
    "Defense",
    "DefenseLine",
    "Example",
    "Report",
    "draw_plots",
    "judge",
    "load_schema",
    "read_defense",
    "render_html",
    "sanity_checks",
    "validate",
]

_HOMES = {
    "SCHEMA": "document",
    "Defense": "defense",
    "DefenseLine": "defense",
    "Example": "example",
    "Report": "report",
    "draw_plots": "plots",
    "judge": "verdict",
    "load_schema": "document",
    "read_defense": "defense",
    "render_html": "html",
    "sanity_checks": "checks",
    "validate": "document",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
