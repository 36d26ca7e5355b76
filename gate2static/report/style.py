"""What every picture shares: size, type, and colours that stay apart for colour-blind readers and in greyscale."""

from io import BytesIO
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

TASK_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
"""The palette of Okabe and Ito, the order changed so that the first three differ in lightness too."""

TASK_HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "ooo", "+++")
"""A second channel besides colour, for print."""

RC: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "grid.color": "#DDDDDD",
    "hatch.color": "white",
    "hatch.linewidth": 0.8,
    "legend.frameon": False,
    "svg.hashsalt": "gate2static",
}


def new_figure(width_inch: float, height_inch: float) -> Figure:
    """Returns an empty figure that belongs to no window system and leaves matplotlib's global state alone."""
    with mpl.rc_context(RC):
        return Figure(figsize=(width_inch, height_inch), layout="constrained")


def png_bytes(figure: Figure, dpi: int = 144) -> bytes:
    """Returns `figure` as a PNG.

    Args:
        figure: what to draw.
        dpi: dots per inch; the default is twice a common screen's 72, so that the picture stays sharp when zoomed.
    """
    buffer = BytesIO()
    with mpl.rc_context(RC):
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()
