"""The common style of all pictures; its colours differ for colour-blind readers and in greyscale."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from io import BytesIO
from typing import TYPE_CHECKING, Any

from gate2static.runtimes.optional import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TASK_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
"""The palette of Okabe and Ito, reordered so that the first three colours also differ in lightness."""

_RC: dict[str, Any] = {
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


def context(changes: Mapping[str, Any] | None = None) -> AbstractContextManager[None]:
    """Returns the context that pictures are drawn in, which does not change matplotlib's global state.

    Args:
        changes: Settings of matplotlib that differ from the common style.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    styled: AbstractContextManager[None] = require("matplotlib").rc_context({**_RC, **(changes or {})})
    return styled


def new_figure(width_inch: float, height_inch: float) -> "Figure":
    """Returns an empty figure that needs no window system.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    with context():
        figure: Figure = require("matplotlib.figure").Figure(figsize=(width_inch, height_inch), layout="constrained")
        return figure


def png_bytes(figure: "Figure", dpi: int = 144) -> bytes:
    """Returns a figure as the bytes of a PNG file.

    Args:
        figure: The figure to draw.
        dpi: Dots per inch; the default is twice the 72 of a common screen, so that pictures stay sharp when zoomed.
    """
    buffer = BytesIO()
    with context():
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()
