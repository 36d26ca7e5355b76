"""The report's HTML page, which contains everything that it shows, and its pictures."""

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from jinja2 import Environment, PackageLoader, StrictUndefined

from gate2static.bench.report import UNSTABLE_CV
from gate2static.report.content import Content
from gate2static.report.figures import style
from gate2static.report.figures.conflict import conflict_figure
from gate2static.report.figures.curves import curves_figure
from gate2static.report.figures.gates import gate_figure
from gate2static.report.figures.predictions import Predictions, predictions_figure
from gate2static.report.figures.trade_off import TradeOffPoint, tradeoff_figure
from gate2static.report.table import cells, header


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A rendered figure.

    Attributes:
        name: The file name without its suffix.
        alt: The alternative text for readers who cannot see the picture.
        png: The picture as the bytes of a PNG file.
    """

    name: str
    alt: str
    png: bytes

    @property
    def data_uri(self) -> str:
        """The picture as a `data:` address."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


def trade_off_pictures(content: Content) -> Iterator[Picture]:
    """Draws Δ_MTL against MACs and against latency, each only if at least two networks have both values."""
    axes = (
        ("macs", "Accuracy against arithmetic", "multiply-accumulates (millions per sample)", 1e-6),
        ("latency_ms", "Accuracy against time", "median latency (ms)", 1.0),
    )
    for attribute, title, label, scale in axes:
        points = [
            TradeOffPoint(
                name=row.name.replace("gated-", "" if row.budget else "λ = "),
                kind=row.kind,
                cost=getattr(row, attribute) * scale,
                delta_mtl_percent=row.delta_mtl_percent,
                deviation_percent=(row.spread.delta_mtl_percent if row.spread else None) or 0.0,
                cost_deviation=((getattr(row.spread, attribute) if row.spread else None) or 0.0) * scale,
            )
            for row in content.rows
            if row.delta_mtl_percent is not None and getattr(row, attribute) is not None
        ]
        if len(points) >= 2:
            png = style.png_bytes(tradeoff_figure(points, label, title))
            yield Picture(name=f"tradeoff-{attribute.split('_')[0]}", alt=f"Δ_MTL against {label}", png=png)


def pattern_pictures(content: Content) -> Iterator[Picture]:
    """Draws the gate pattern of every gated network."""
    for row in content.rows:
        if row.kind == "gated" and row.pattern is not None:
            png = style.png_bytes(gate_figure(row.pattern, row.name))
            yield Picture(name=f"gates-{row.name}", alt=f"Gate pattern of {row.name}, layer by layer", png=png)


def conflict_pictures(content: Content) -> Iterator[Picture]:
    """Draws the conflict of the tasks in training, relative to the shared network where there are others."""
    curves = [one for one in content.conflicts if len(one.steps) > 1]
    if not curves:
        return
    baseline = next((one for one in curves if one.name == "shared" and len(curves) > 1), None)
    drawn = [one for one in curves if one is not baseline]
    title = "Conflict of the tasks in training" + ("" if baseline is None else ", over that of the shared network")
    png = style.png_bytes(conflict_figure(drawn, title, baseline=baseline))
    yield Picture(name="conflict", alt=f"{title}, step by step", png=png)


def curve_pictures(content: Content) -> Iterator[Picture]:
    """Draws the learning curves of all networks."""
    if not content.curves:
        return
    metrics = {column.task: f"{column.metric} {'↑' if column.higher_is_better else '↓'}" for column in content.columns}
    png = style.png_bytes(curves_figure(content.curves, metrics))
    yield Picture(name="curves", alt="Validation metrics, epoch by epoch", png=png)


def prediction_pictures(content: Content) -> Iterator[Picture]:
    """Draws a strip of predictions per dense task, of the networks that have the same images and labels."""
    if not content.predictions:
        return
    first = content.predictions[0]
    comparable = [one for one in content.predictions if _has_the_same_shapes(one, first)]
    # Numbered, because a name of a stranger's file may lead out of the folder.
    for number, task in enumerate(first.labels):
        png = style.png_bytes(predictions_figure(comparable, task))
        yield Picture(name=f"predictions-{number}", alt=f"Predictions of {task}", png=png)


def _has_the_same_shapes(one: Predictions, other: Predictions) -> bool:
    """Returns whether two files of predictions are of one run: a folder may hold rows of another."""
    shapes = [{task: values.shape for task, values in each.labels.items()} for each in (one, other)]
    return shapes[0] == shapes[1] and one.images.shape == other.images.shape


_SECTIONS: dict[str, Callable[[Content], Iterator[Picture]]] = {
    "trade_offs": trade_off_pictures,
    "patterns": pattern_pictures,
    "curves": curve_pictures,
    "predictions": prediction_pictures,
    "conflicts": conflict_pictures,
}


def all_pictures(content: Content) -> dict[str, list[Picture]]:
    """Draws all pictures of a report, by the section of the page that shows them."""
    return {section: list(draw(content)) for section, draw in _SECTIONS.items()}


def render_page(content: Content, pictures: Mapping[str, Sequence[Picture]]) -> str:
    """Returns the page's HTML, in which every value from a file is escaped.

    Args:
        content: The report's content.
        pictures: The pictures by section, as of `all_pictures`.
    """
    # Undefined names are errors, so that a renamed field cannot leave a gap in the page unnoticed.
    environment = Environment(
        loader=PackageLoader("gate2static.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("page.html.j2").render(
        content=content,
        version=version("gate2static"),
        header=header(content),
        lines=[cells(content, row) for row in content.rows],
        pictures=pictures,
        checked=[row for row in content.rows if row.checks],
        compared=[row for row in content.rows if row.against_single],
        steady_limit=UNSTABLE_CV,
        unsteady=any(timing.variation > UNSTABLE_CV for timing in content.latencies),
    )
