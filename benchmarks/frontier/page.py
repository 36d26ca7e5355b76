"""The page of a frontier: which networks no other beats, in accuracy and in time at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from matplotlib.backends.backend_agg import FigureCanvasAgg

from gate2static.recipe import Recipe
from gate2static.report.figures import style
from gate2static.report.figures.trade_off import TradeOffPoint, name_points

_COLOURS = ("separate", "shared", "branch", "random", "saliency", "learned", "distilled", "thinned")


@dataclass(frozen=True, kw_only=True)
class Result:
    """One trained network.

    Attributes:
        seed: The seed of its training.
        name: Its name in tables.
        family: How it was made.
        metrics: The main metric of each task on the test images.
        delta_mtl: Δ_MTL against the separate networks of the same seed and training, as a fraction.
        macs: MACs over those of the separate networks.
        latency: Latency over that of the separate networks, on ONNX Runtime with one thread, measured side by side.
    """

    seed: int
    name: str
    family: str
    metrics: dict[str, float]
    delta_mtl: float
    macs: float
    latency: float


@dataclass(frozen=True, kw_only=True)
class _Summary:
    """All seeds of one network."""

    name: str
    family: str
    gains: Sequence[float]
    macs: float
    latency: float

    @property
    def gain(self) -> float:
        """Δ_MTL in per cent, the mean over seeds."""
        return mean(self.gains)

    @property
    def spread(self) -> float:
        """The standard deviation over seeds, in per cent; 0 for one seed."""
        return stdev(self.gains) if len(self.gains) > 1 else 0.0


def write_page(path: Path, recipe: Recipe, results: Sequence[Result]) -> None:
    """Writes the table and the picture of a frontier.

    Args:
        path: The Markdown file; the picture lies beside it, with the same stem and the recipe's name.
        recipe: What was trained.
        results: All networks of all seeds.
    """
    summaries = _summaries(results)
    best = frontier(summaries)
    picture = path.with_name(f"{path.stem}_{recipe.name}.png")
    _draw(picture, summaries, best)
    seeds = sorted({result.seed for result in results})
    images = recipe.data.options.get("train_images", "all")
    introduction = (
        f"{len(seeds)} seeds. Every network was trained for {recipe.training.shared.epochs} epochs of {images} images "
        "in all. Δ_MTL is against the separate networks of the same seed, ± the standard deviation over seeds; MACs "
        "and latency (ONNX Runtime, one thread, interleaved rounds) are over theirs. **Bold** networks lie on the "
        "frontier: no other is as fast, and better by more than one standard deviation (the larger of the two). With "
        "few seeds a network may be there because of its spread alone."
    )
    lines = [
        f"## {recipe.name}",
        "",
        introduction,
        "",
        f"![Δ_MTL against latency]({picture.name})",
        "",
        "| network | Δ_MTL (%) | MACs | latency | seeds |",
        "|---|---:|---:|---:|---:|",
    ]
    for summary in sorted(summaries, key=lambda s: s.latency):
        name = f"**{summary.name}**" if summary in best else summary.name
        spread = f" ± {summary.spread:.2f}" if len(summary.gains) > 1 else ""
        costs = f"{summary.macs:.2f} | {summary.latency:.2f}"
        lines.append(f"| {name} | {summary.gain:+.2f}{spread} | {costs} | {len(summary.gains)} |")
    lines += _against_random(results)
    _replace_section(path, recipe.name, lines)


def _against_random(results: Sequence[Result]) -> list[str]:
    """Returns a table of the networks of the same MACs as random gates, compared with these seed by seed."""
    lines = []
    for name in dict.fromkeys(result.name for result in results if result.family == "random"):
        budget = name.removeprefix("random-")
        random = {result.seed: result.delta_mtl for result in results if result.name == name}
        for other in dict.fromkeys(result.name for result in results if result.name.endswith(f"-{budget}")):
            gains = [100 * (r.delta_mtl - random[r.seed]) for r in results if r.name == other and r.seed in random]
            if other != name and len(gains) > 1:
                error = stdev(gains) / len(gains) ** 0.5
                lines.append(f"| {other} | {mean(gains):+.2f} ± {error:.2f} | {len(gains)} |")
    if not lines:
        return []
    head = "**Against random gates of the same MACs**, by seed: the mean difference in Δ_MTL, ± its standard error."
    return ["", head, "", "| network | points | seeds |", "|---|---:|---:|", *lines]


def frontier(summaries: Sequence[_Summary]) -> list[_Summary]:
    """Returns the networks that no other is as fast as and better by more than one standard deviation.

    A network with a large spread is hard to beat in this sense: that it is among them is then no merit.
    """
    return [
        one
        for one in summaries
        if not any(
            other.latency <= one.latency and other.gain > one.gain + max(other.spread, one.spread)
            for other in summaries
            if other is not one
        )
    ]


def _summaries(results: Sequence[Result]) -> list[_Summary]:
    found = []
    for name in dict.fromkeys(result.name for result in results):
        of_name = [result for result in results if result.name == name]
        found.append(
            _Summary(
                name=name,
                family=of_name[0].family,
                gains=[100 * result.delta_mtl for result in of_name],
                macs=mean(result.macs for result in of_name),
                latency=mean(result.latency for result in of_name),
            )
        )
    return found


def _draw(path: Path, summaries: Sequence[_Summary], best: Sequence[_Summary]) -> None:
    figure = style.new_figure(7.4, 4.8)
    with style.context({"axes.grid.axis": "both"}):
        axes = figure.subplots()
        for index, family in enumerate(_COLOURS):
            members = [s for s in summaries if s.family == family]
            if members:
                axes.errorbar(
                    [s.latency for s in members],
                    [s.gain for s in members],
                    yerr=[s.spread for s in members],
                    fmt="o" if family != "separate" else "s",
                    color=style.TASK_COLOURS[index % len(style.TASK_COLOURS)],
                    markersize=6,
                    elinewidth=0.7,
                    label=family,
                )
        axes.axhline(0.0, color="#666666", linewidth=0.8, linestyle="--", zorder=0)
        axes.set_xlabel("latency / separate networks")
        axes.set_ylabel("Δ_MTL (%), higher is better")
        axes.legend(fontsize=7, ncols=2)
        points = {
            s.name: TradeOffPoint(name=s.name, kind=s.family, cost=s.latency, delta_mtl_percent=s.gain)
            for s in summaries
        }
        name_points(axes, [points[s.name] for s in best], list(points.values()))
    FigureCanvasAgg(figure).print_png(path)


def _replace_section(path: Path, name: str, lines: Sequence[str]) -> None:
    """Writes one recipe's section of the page and leaves the others."""
    text = path.read_text() if path.exists() else "# The frontier of accuracy against cost\n"
    head, *sections = text.split("\n## ")
    kept = [section for section in sections if section.partition("\n")[0] != name]
    body = "\n".join(lines).removeprefix("## ")
    path.write_text("\n## ".join([head.rstrip("\n") + "\n", *(s.rstrip("\n") + "\n" for s in [*kept, body])]))
