"""The look of the plots, and how a figure becomes a PNG that is small enough to send on.

Figures are drawn 4.4 inches wide, the width of a phone, so that their text needs no zoom there.
matplotlib is imported inside the functions: a report without plots does not need it.
"""

import io
import math
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 4.4
"""Inches."""

CLEAN, PALE, ATTACKED = "#0072B2", "#B9D8EA", "#D55E00"
"""Blue, its tint and vermilion of the colour-blind-safe palette of Okabe and Ito."""
SERIES = (ATTACKED, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#0072B2", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, FAINT = "#1f2933", "#9aa5b1"

_LIMIT_BYTES = 300_000
_DPI = 220
_SMALLEST_DPI = 60
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e4e7eb",
    "text.color": INK,
    "text.parse_math": False,  # a class may be called $x$
    "text.usetex": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "legend.frameon": False,
}


@contextmanager
def plot_style() -> Generator[None]:
    """Draw in the report's style, whatever the user's own; put theirs back afterwards."""
    import matplotlib

    library: Any = matplotlib  # its stubs leave paths unknown
    with library.rc_context(_STYLE), warnings.catch_warnings():
        # A class name in a script that the font lacks is drawn as boxes; the page has it in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def new_figure(height: float, *, width: float = WIDTH) -> Any:
    """An empty matplotlib Figure, in inches, that no global state knows of.

    It is Any to the type checker: matplotlib's stubs leave most keywords unknown.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def png_bytes(figure: "Figure") -> bytes:
    """Render a figure as a PNG of at most 300 KB.

    A figure of photographs and noise does not compress: it goes to 256 colours, then to fewer
    pixels, until it fits.
    """
    dpi = _DPI
    while True:
        content = _render(figure, dpi)
        if len(content) > _LIMIT_BYTES:
            content = _to_palette(content)
        if len(content) <= _LIMIT_BYTES or dpi <= _SMALLEST_DPI:
            return content
        shrink = 0.95 * math.sqrt(_LIMIT_BYTES / len(content))  # bytes go by the area
        dpi = max(_SMALLEST_DPI, int(shrink * dpi))


def _render(figure: Any, dpi: int) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.05)
    return buffer.getvalue()


def _to_palette(content: bytes) -> bytes:
    from PIL import Image  # matplotlib depends on it

    buffer = io.BytesIO()
    with Image.open(io.BytesIO(content)) as image:
        image.convert("RGB").quantize(256).save(buffer, format="png", optimize=True)
    return buffer.getvalue()
