"""Draws the pictures of the concept pages: `python docs/site_tools/draw_concepts.py` writes SVG files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

CONCEPTS = Path(__file__).parents[1] / "concepts"
SEG, DEPTH, SHARED = "#0072B2", "#E69F00", "#8a939c"  # distinguishable for colour-blind readers
INK, MUTED, EDGE = "#1d2329", "#5b6570", "#c9d0d6"

# Text becomes paths, which look alike everywhere; ids are the same in every run.
mpl.rcParams.update({"svg.fonttype": "path", "svg.hashsalt": "gate2static", "font.family": "DejaVu Sans"})


def canvas(width: float, height: float) -> tuple[Any, Axes]:
    """Returns a figure whose axes count in hundredths of an inch, with y downwards."""
    figure = plt.figure(figsize=(width / 100, height / 100), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    return figure, axes


def box(axes: Axes, x: float, y: float, width: float, height: float, text: str = "", **style: Any) -> None:
    """Draws a rounded box with a text in its middle."""
    size = style.pop("size", 11)
    colour = style.pop("text_color", INK)
    style = {"facecolor": "white", "edgecolor": EDGE, "linewidth": 1.2, **style}
    shape = FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=5", **style)
    axes.add_patch(shape)
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", size=size, color=colour, linespacing=1.35)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], **style: Any) -> None:
    """Draws an arrow."""
    style = {"color": MUTED, "linewidth": 1.3, "arrowstyle": "-|>", "mutation_scale": 10, **style}
    axes.add_patch(FancyArrowPatch(start, end, shrinkA=0, shrinkB=0, **style))


def channels(axes: Axes, x: float, y: float, colours: Sequence[str | None]) -> None:
    """Draws a value as a column of channels; None is a channel that nobody computes."""
    for number, colour in enumerate(colours):
        border = "-" if colour else (0, (2, 2))
        look = {"facecolor": colour or "white", "edgecolor": colour or EDGE, "linestyle": border}
        shape = "round,pad=0,rounding_size=3"
        axes.add_patch(FancyBboxPatch((x + 21 * number, y), 17, 24, boxstyle=shape, **look))


def text(axes: Axes, x: float, y: float, words: str, **style: Any) -> None:
    """Writes a text, from its left end unless told otherwise."""
    axes.text(x, y, words, **{"size": 11, "color": INK, "va": "center", "linespacing": 1.4, **style})


def streams() -> Any:
    """Two layers of a network of two tasks: three streams, and a gate behind each layer."""
    figure, axes = canvas(960, 430)
    rows = {"seg": (95, SEG), "shared ψ": (215, SHARED), "depth": (335, DEPTH)}
    picks = [
        {
            "seg": [SEG, SHARED, SEG, SHARED],
            "shared ψ": [SEG, SHARED, DEPTH, SHARED],
            "depth": [SHARED, SHARED, DEPTH, SHARED],
        },
        {
            "seg": [SHARED, SEG, SHARED, SHARED],
            "shared ψ": [SHARED, DEPTH, SHARED, SHARED],
            "depth": [SHARED, DEPTH, SHARED, SHARED],
        },
    ]
    layer_x, own_x, gate_x, mixed_x = (105, 520), (205, 620), (318, 733), (390, 805)
    for words, x in (("layer 1", 140), ("gate 1", 340), ("layer 2", 555), ("gate 2", 755)):
        text(axes, x, 30, words, weight="bold", ha="center")
    for name, (y, colour) in rows.items():
        text(axes, 20, y, name, color=colour if colour != SHARED else MUTED, weight="bold")
        for number in (0, 1):
            words = "shared\nweights" if colour == SHARED else "own\nweights"
            box(axes, layer_x[number], y - 24, 70, 48, words, size=9.5)
            arrow(axes, (layer_x[number] + 70, y), (own_x[number] - 4, y))
            channels(axes, own_x[number], y - 12, [colour] * 4)
            arrow(axes, (own_x[number] + 84, y), (gate_x[number] - 6, y))
            channels(axes, mixed_x[number], y - 12, picks[number][name])
            arrow(axes, (gate_x[number] + 50, y), (mixed_x[number] - 4, y))
        arrow(axes, (mixed_x[0] + 84, y), (layer_x[1] - 3, y))
        arrow(axes, (mixed_x[1] + 84, y), (932, y))
    for x in gate_x:
        box(axes, x - 4, 70, 54, 290, facecolor="#f4f6f8")
        text(axes, x + 23, 95, "1 0 1 0" if x == gate_x[0] else "0 1 0 0", size=8.5, ha="center")
        text(axes, x + 23, 335, "0 0 1 0" if x == gate_x[0] else "0 1 0 0", size=8.5, ha="center")
        text(axes, x + 23, 215, "mix", size=10, ha="center", color=MUTED)
        arrow(axes, (x + 23, 200), (x + 23, 112))
        arrow(axes, (x + 23, 230), (x + 23, 318))
    words = "1: the task takes its own channel      0: it takes the shared one      mix: ψ continues as what tasks took"
    text(axes, 20, 405, words, color=MUTED, size=10.5)
    return figure


def pruning() -> Any:
    """The channels of a network's last layer, which of them are needed, and what the static network computes."""
    figure, axes = canvas(960, 430)
    for words, x in (
        ("1. Fix the gates", 30),
        ("2. Ask, from the heads back,\nwho needs each channel", 300),
        ("3. Compute each needed\nchannel once", 680),
    ):
        text(axes, x, 38, words, weight="bold", size=11)
    streams = {"seg": (115, SEG), "shared ψ": (215, SHARED), "depth": (315, DEPTH)}
    gates = {"seg": (1, 0, 0, 0, 0, 1), "depth": (0, 0, 1, 0, 0, 1)}
    needed = {name: [streams[name][1] if bit else None for bit in bits] for name, bits in gates.items()}
    # A shared channel is needed where some task has no channel of its own.
    needed["shared ψ"] = [None if a and b else SHARED for a, b in zip(*gates.values(), strict=True)]
    for name, (y, colour) in streams.items():
        text(axes, 30, y, name, color=colour if colour != SHARED else MUTED, weight="bold")
        channels(axes, 115, y - 12, [colour] * 6)
        if name in gates:
            text(axes, 115, y + 28, f"gate: {' '.join(map(str, gates[name]))}", size=9.5, color=MUTED)
        channels(axes, 305, y - 12, needed[name])
        channels(axes, 685, y - 12, [colour for colour in needed[name] if colour])
    for name, y in (("seg", 165), ("depth", 265)):
        box(axes, 530, y - 18, 95, 36, f"head {name}", size=10)
        own = streams[name][0]
        up = -5 if name == "seg" else 5
        arrow(axes, (528, y + up), (436, own), linewidth=1.2)
        arrow(axes, (528, y - up), (436, 215), linewidth=1.2)
        box(axes, 855, y - 18, 90, 36, f"head {name}", size=10)
        arrow(axes, (730, own), (852, y + up), linewidth=1.2)
        arrow(axes, (792, 215), (852, y - up), linewidth=1.2)
    text(axes, 305, 362, "dashed: no head needs it", size=9.5, color=MUTED)
    for y, words in ((143, "2 of seg's own"), (243, "5 shared"), (343, "2 of depth's own")):
        text(axes, 685, y, words, size=9.5, color=MUTED)
    words = "Separate networks compute 12 channels here, one shared network computes 6, this network computes 9."
    text(axes, 30, 405, words, color=MUTED, size=10.5)
    return figure


def equality() -> Any:
    """Three networks, and what is compared between them with which tolerance."""
    figure, axes = canvas(960, 345)
    for x, words in (
        (30, "gated network\nin evaluation"),
        (275, "static network\n(folder on disk)"),
        (520, "deployed form\nnorms folded"),
        (765, "ONNX file\nin ONNX Runtime"),
    ):
        box(axes, x, 85, 165, 62, words, size=11, facecolor="#f4f6f8")
    for x, words in ((195, "prune"), (440, "deployed()"), (685, "export")):
        arrow(axes, (x, 116), (x + 78, 116))
        text(axes, x + 38, 100, words, size=9.5, ha="center", color=MUTED)
    checks = (
        (130, 357, 185, "verify, in float64: equal to 1e-9\nand bit for bit what pruning gives"),
        (90, 572, 275, "verify, in the deployed precision: at most\n16 times the gated network's own rounding error"),
        (640, 847, 185, "export and verify --onnx: equal to 1e-5,\nor to 16 times the rounding error of float32"),
    )
    for left, right, y, words in checks:
        for x in (left, right):
            axes.plot([x, x], [147, y], color=SEG, linewidth=1.4)
        axes.plot([left, right], [y, y], color=SEG, linewidth=1.4)
        text(axes, (left + right) / 2, y + 27, words, size=10, ha="center", color=SEG)
    words = "Three steps change the form of the network. What it computes is compared on the same inputs."
    text(axes, 30, 38, words, size=11, color=MUTED)
    return figure


def draw_all(folder: Path) -> None:
    """Writes all pictures into a folder."""
    for name, draw in (("streams", streams), ("pruning", pruning), ("equality", equality)):
        figure = draw()
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        plt.close(figure)


if __name__ == "__main__":
    draw_all(CONCEPTS)
