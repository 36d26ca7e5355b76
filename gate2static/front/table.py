"""The front as a table for a terminal."""

from rich.table import Table

from gate2static.front.objectives import KINDS
from gate2static.front.pareto import Front


def front_table(front: Front) -> Table:
    """Returns a table of the points on the front: what each changes, its objectives over the seeds, and its folder."""
    several = "; mean ± standard deviation over the seeds" if any(len(p.networks) > 1 for p in front.points) else ""
    latency = f"; latency {front.latency}" if front.latency else ""
    failed = f"; {front.failed} failed" if front.failed else ""
    stopped = f"; {len(front.stopped)} stopped early" if front.stopped else ""
    title = f"{front.title}: {len(front.best)} of {len(front.points)} points are on the front"
    shared = ", ".join(f"{KINDS[name].title} {found.text(KINDS[name])}" for name, found in front.baseline.items())
    table = Table(title=f"{title}{failed}{stopped}", caption=f"one shared network: {shared}{several}{latency}")
    for objective in front.objectives:
        kind = KINDS[objective]
        table.add_column(f"{kind.title} {'↑' if kind.higher_is_better else '↓'}", justify="right")
    table.add_column("seeds", justify="right")
    table.add_column("recipe", overflow="fold")
    table.add_column("folder", overflow="fold")
    for point in front.best:
        objectives = (point.estimates[objective].text(KINDS[objective]) for objective in front.objectives)
        table.add_row(*objectives, str(len(point.networks)), point.words, str(point.networks[0].folder))
    for words, epochs in front.stopped.items():
        table.add_row(*["–"] * len(front.objectives), "–", words, f"stopped after {epochs} epoch{'s' * (epochs > 1)}")
    return table
