"""The page: tables of medians over seeds, and a plot."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib.pyplot as plt

from benchmarks.latency_fidelity.cases import LAYOUTS, Gates

Row = dict[str, Any]

MARK = "<!-- What follows is made by python -m benchmarks.latency_fidelity. -->\n"


def write_page(path: Path, rows: list[Row]) -> None:
    """Write the tables and the plot; what the page says before `MARK` stays."""
    picture = path.with_suffix(".png")
    plot(picture, rows)
    said = path.read_text().split(MARK)[0] if path.is_file() else "# MACs that become time\n\n"
    sections = [f"{said}{MARK}", f"![Efficiency against the share of specific gates]({picture.name})\n"]
    for backend, threads in sorted({(r["backend"], r["threads"]) for r in rows}):
        chosen = [r for r in rows if (r["backend"], r["threads"]) == (backend, threads)]
        sections.append(f"## {backend}, {threads} thread{'s' * (threads > 1)}\n\n{_table(chosen)}")
        if passes := [r for r in chosen if r["lowering"].startswith("no ")]:
            sections.append(f"### Without one pass at a time\n\n{_passes(chosen, passes)}")
    if profiled := [r for r in rows if r["lowering"] == "ours" and r["profile_ms"]]:
        sections.append(f"## Where the time goes (ONNX Runtime, ours)\n\n{_profiles(profiled)}")
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
    kinds = list(dict.fromkeys(kind for row in rows for kind in row["profile_ms"]))
    lines = [f"| network | gates | p | {' | '.join(kinds)} |", "|---" * (3 + len(kinds)) + "|"]
    for key, group in _grouped(rows, ("network", "structure", "share")):
        shares = [[r["profile_ms"].get(k, 0) / sum(r["profile_ms"].values()) for r in group] for k in kinds]
        cells = " | ".join(f"{100 * median(values):.0f} %" for values in shares)
        lines.append(f"| {key[0]} | {key[1]} | {key[2]:g} | {cells} |")
    return "\n".join(lines) + "\n"


def _passes(rows: list[Row], without: list[Row]) -> str:
    """Over the lowering that is named for the pass, or over `any`."""
    lines = ["| network | gates | p | pass left out | latency over that with all |", "|---|---|---|---|---|"]
    fields = ("network", "structure", "share", "backend", "threads", "seed")
    full = {(r["lowering"], *(_value(r, f) for f in fields)): r for r in rows}
    for key, group in _grouped(without, ("network", "structure", "share", "lowering")):
        name = key[3].removeprefix("no ")
        with_it = name if name in LAYOUTS else "any"
        ratios = [
            r["latency"] / full[k]["latency"]
            for r in group
            if (k := (with_it, *(_value(r, f) for f in fields))) in full
        ]
        if ratios:
            lines.append(f"| {key[0]} | {key[1]} | {key[2]:g} | {name} | {median(ratios):.2f} |")
    return "\n".join(lines) + "\n"


def plot(path: Path, rows: list[Row]) -> None:
    """Efficiency against p, a panel for each network and backend, a line for each structure; dotted: plainest."""
    panels = sorted({(r["network"], r["backend"]) for r in rows})
    structures = list(dict.fromkeys(_value(r, "structure") for r in rows))
    figure, axes = plt.subplots(1, len(panels), figsize=(1 + 3.6 * len(panels), 4), sharey=True, squeeze=False)
    for axis, panel in zip(axes[0], panels, strict=True):
        for number, structure in enumerate(structures):
            for lowering, style in (("ours", "o-"), ("plain", "x:")):
                chosen = [r for r in rows if (r["network"], r["backend"], r["lowering"]) == (*panel, lowering)]
                chosen = [r for r in chosen if _value(r, "structure") == structure]
                points = [(k[0], _median_efficiency(g)) for k, g in _grouped(chosen, ("share",))]
                if points:
                    label = structure if lowering == "ours" else None
                    axis.plot(*zip(*points, strict=True), style, color=f"C{number}", label=label, markersize=5)
        axis.axhline(1, color="0.7", linewidth=1)
        axis.set(title=", ".join(panel), xlabel="share p of specific gates", xlim=(0, 1), ylim=(0, 1.15))
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
    return Gates(**{field.name: row[field.name] for field in dataclasses.fields(Gates)}).structure


def _of(rows: list[Row], field: str) -> str:
    return f"{median(r[field] for r in rows):.2f}×" if rows else ""


def _median_efficiency(rows: list[Row]) -> float:
    return median(r["macs"] / r["latency"] for r in rows)


def _efficiency(rows: list[Row]) -> str:
    return f"{_median_efficiency(rows):.2f}" if rows else ""
