"""The page: tables of medians over seeds, and a plot."""

from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib.pyplot as plt

Row = dict[str, Any]

_HEAD = """# MACs that become time

Efficiency is (MACs over those of the shared network) / (latency over that of the shared network): 1 means that every
MAC that pruning removed was paid back in time. Random gates: each group of channels of each of T = 3 tasks is specific
with probability p; input 224×224, batch 1, random weights, medians over seeds (of the
plainest lowering the first). The shared network, three separate ones and the static ones are timed side by side, in
rounds, in one process. `separate` is the latency of three separate networks over that of the shared one: a static
network above it would better not be gated.

Made by `python -m benchmarks.latency_fidelity`.

## What it says

- **64 channels a gate, hard mixing** pay back nearly everything on ResNet-18 and most of it on ResNet-50 and ViT-small:
  layers are cut into blocks that others read whole, so that ONNX Runtime keeps its blocked layout throughout and copies
  little. Hard mixing saves the mixing besides. A transformer's products are as fast in blocks as in one piece; what it
  loses are biases, norms and copies, which the shared network has once.
- **16 channels a gate, softmax** stay well below the 0.90 that we want. Layers of 16 channels run at two thirds of the
  speed of wide ones, so cutting into blocks does not pay; what is left is copies that bring the channels of each stream
  together and the arithmetic of mixing and adding, stream by stream. Dense 3×3 layers hide some of it, the 1×1 layers
  of a ResNet-50 and the products of a ViT do not. An eighth to a quarter of it is spent on what the stem makes.
- **One gate a channel** is worst where channels come last: ONNX Runtime gathers a ViT's tokens number by number.
- **MobileNets do not gain by fine gates**: their layers move more than they multiply, and activations that stood
  behind one layer stand behind cut tensors, where ONNX Runtime does not fuse them.
- **Above p of about 0.5 such networks are slower than separate ones.** Their MACs are then 0.8 to 0.95 of theirs, and
  no lowering of ours earns back the copies. Give them a budget in latency instead (`budgets.md`), or wider groups.
- The plainest lowering is not far behind where layers are not cut: it puts every stream together after each gate, which
  is also one of the two forms that `--target ort-cpu` chooses from, by what they move.
"""


def write_page(path: Path, rows: list[Row]) -> None:
    """Write the page and the plot beside it."""
    plot(path.with_name("latency.png"), rows)
    sections = [
        _HEAD,
        "![Efficiency against the share of specific gates](latency.png)\n",
    ]
    for backend, threads in sorted({(r["backend"], r["threads"]) for r in rows}):
        chosen = [r for r in rows if (r["backend"], r["threads"]) == (backend, threads)]
        sections.append(f"## {backend}, {threads} thread{'s' * (threads > 1)}\n\n{_table(chosen)}")
    sections.append(f"## Where the time goes (ONNX Runtime, ours)\n\n{_profiles(rows)}")
    if passes := [r for r in rows if r["lowering"].startswith("no ")]:
        sections.append(f"## Without one pass at a time\n\n{_passes(rows, passes)}")
    path.write_text("\n".join(sections))


def _table(rows: list[Row]) -> str:
    lines = [
        "| network | gates | p | seeds | MACs | unpruned | plainest | ours | efficiency: plainest | ours | separate |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for key, group in _grouped(rows, ("network", "structure", "share")):
        ours = [r for r in group if r["lowering"] == "ours"]
        plain = [r for r in group if r["lowering"] == "plain"]
        unpruned = [r for r in group if r["lowering"] == "unpruned"]
        if ours:
            slow = median(r["over_separate"] for r in ours) > 1
            lines.append(
                f"| {key[0]} | {key[1]} | {key[2]:g} | {len(ours)} | {_of(ours, 'macs')} | "
                f"{_of(unpruned, 'latency')} | {_of(plain, 'latency')} | "
                f"{_of(ours, 'latency')}{' (slower than separate)' if slow else ''} | {_efficiency(plain)} | "
                f"**{_efficiency(ours)}** | {_of(ours, 'separate')} |"
            )
    return "\n".join(lines) + "\n"


def _profiles(rows: list[Row]) -> str:
    rows = [r for r in rows if r["lowering"] == "ours" and r["profile_ms"]]
    if not rows:
        return ""
    kinds = list(rows[0]["profile_ms"])
    lines = [f"| network | gates | p | {' | '.join(kinds)} |", "|---" * (3 + len(kinds)) + "|"]
    for key, group in _grouped(rows, ("network", "structure", "share")):
        shares = [[r["profile_ms"][k] / sum(r["profile_ms"].values()) for r in group] for k in kinds]
        cells = " | ".join(f"{100 * median(values):.0f} %" for values in shares)
        lines.append(f"| {key[0]} | {key[1]} | {key[2]:g} | {cells} |")
    return "\n".join(lines) + "\n"


def _passes(rows: list[Row], without: list[Row]) -> str:
    lines = ["| network | gates | p | pass left out | latency over that with all |", "|---|---|---|---|---|"]
    fields = ("network", "structure", "share", "backend", "threads", "seed")
    full = {tuple(_value(r, f) for f in fields): r for r in rows if r["lowering"] == "any"}
    for key, group in _grouped(without, ("network", "structure", "share", "lowering")):
        ratios = [
            r["latency"] / full[k]["latency"] for r in group if (k := tuple(_value(r, f) for f in fields)) in full
        ]
        if ratios:
            lines.append(f"| {key[0]} | {key[1]} | {key[2]:g} | {key[3].removeprefix('no ')} | {median(ratios):.2f} |")
    return "\n".join(lines) + "\n"


def plot(path: Path, rows: list[Row]) -> None:
    """Efficiency against p, one panel a network, one line a structure of gates; the plainest lowering dotted."""
    networks = list(dict.fromkeys(r["network"] for r in rows))
    structures = list(dict.fromkeys(_value(r, "structure") for r in rows))
    figure, axes = plt.subplots(1, len(networks), figsize=(1 + 3.6 * len(networks), 4), sharey=True, squeeze=False)
    for axis, network in zip(axes[0], networks, strict=True):
        for number, structure in enumerate(structures):
            for lowering, style in (("ours", "o-"), ("plain", "x:")):
                chosen = [r for r in rows if (r["network"], r["lowering"]) == (network, lowering)]
                chosen = [r for r in chosen if _value(r, "structure") == structure and r["backend"] == "onnxruntime"]
                points = [(k[0], _median_efficiency(g)) for k, g in _grouped(chosen, ("share",))]
                if points:
                    label = structure if lowering == "ours" else None
                    axis.plot(*zip(*points, strict=True), style, color=f"C{number}", label=label, markersize=5)
        axis.axhline(1, color="0.7", linewidth=1)
        axis.set(title=network, xlabel="share p of specific gates", ylim=(0.2, 1.05))
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("efficiency (solid: ours, dotted: plainest)")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=min(3, len(labels)), frameon=False)
    figure.tight_layout(rect=(0, 0.05 + 0.045 * -(-len(labels) // 3), 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _grouped(rows: Iterable[Row], fields: tuple[str, ...]) -> list[tuple[tuple[Any, ...], list[Row]]]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(_value(row, f) for f in fields), []).append(row)
    return sorted(groups.items())


def _value(row: Row, field: str) -> Any:
    if field != "structure":
        return row[field]
    return f"{row['group_size']:2d} a gate, {row['mixing']}{', tied' if row['tied'] else ''}"


def _of(rows: list[Row], field: str) -> str:
    return f"{median(r[field] for r in rows):.2f}×" if rows else ""


def _median_efficiency(rows: list[Row]) -> float:
    return median(r["macs"] / r["latency"] for r in rows)


def _efficiency(rows: list[Row]) -> str:
    return f"{_median_efficiency(rows):.2f}" if rows else ""
