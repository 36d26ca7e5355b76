"""A table of a gated network, unit by unit: who takes which channels, and what that costs."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import fx

from gate2static.gates.model import GatedModel, gated_model
from gate2static.gates.shares import gate_shares
from gate2static.program.annotate import info
from gate2static.prune.analyse import analyse
from gate2static.prune.plan import ChannelPlan, keep_needed
from gate2static.prune.rules.gate import GateRule

_WIDEST_NAME = 40
"""The characters of a unit's name that a table shows; longer names are cut at the front."""


@dataclass(frozen=True, kw_only=True)
class UnitSummary:
    """One row: a gated unit with what is computed for it, or a head.

    Attributes:
        name: The unit's name, or `heads.<task>`.
        channels: The channels of the unit; 0 for a head.
        own_channels: Task -> the channels that it takes from its own branch; empty for a head.
        gated_macs: MACs per sample of all T+1 streams.
        static_macs: MACs per sample of the static network that pruning would make now.
        shared_macs: MACs per sample of one network that all tasks share.
        separate_macs: MACs per sample of T single-task networks.
    """

    name: str
    channels: int
    own_channels: dict[str, int]
    gated_macs: int
    static_macs: int
    shared_macs: int
    separate_macs: int


@dataclass(frozen=True, kw_only=True)
class GateSummary:
    """The table of a gated network; `print` shows it, and `to_dict` has it as plain data.

    Attributes:
        tasks: The names of the tasks.
        units: The rows, in the order of data flow, heads last.
        shares: Task -> its share of task-specific channels over all units.
        total: The sums of the rows.
    """

    tasks: tuple[str, ...]
    units: tuple[UnitSummary, ...]
    shares: dict[str, float]
    total: UnitSummary

    def to_dict(self) -> dict[str, Any]:
        """Returns the table as dicts, lists and numbers, as JSON has them."""
        return asdict(self)

    def __str__(self) -> str:
        gates = [f"own: {task}" for task in self.tasks]
        columns = ("unit", "channels", *gates, "gated", "static", "shared", "separate")
        rows = [columns, *(_cells(unit, self.tasks) for unit in (*self.units, self.total))]
        widths = [max(len(row[number]) for row in rows) for number in range(len(columns))]
        lines = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
        rule = "-" * max(map(len, lines))
        shares = ", ".join(f"{task} {share:.0%}" for task, share in self.shares.items())
        end = f"task-specific channels: {shares}; MACs per sample in millions"
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], end])

    __repr__ = __str__


@torch.no_grad()
def summary(gated: GatedModel) -> GateSummary:
    """Returns a table of a gated network's units: channels per task, and MACs beside those of the alternatives.

    Args:
        gated: The gated model, or a wrapper of it; it is not changed.

    Raises:
        GateError: The argument is no gated model.
        PruneError: Modules of the model were replaced since it was gated.
    """
    gated = gated_model(gated)
    channels = keep_needed(analyse(gated))
    rows: list[UnitSummary] = []
    segment: list[fx.Node] = []
    of_heads: dict[str, list[fx.Node]] = {task: [] for task in gated.tasks}
    for node, rule in channels.rules.items():
        if rule.streams == 1:
            of_heads[gated.tasks[info(node).streams[0]]].append(node)
            continue
        # What stands between two gates belongs to the unit of the second one.
        segment.append(node)
        if isinstance(rule, GateRule):
            own = {task: int(row.sum()) for task, row in zip(gated.tasks, rule.gate.decisions(), strict=True)}
            rows.append(_row(rule.unit, segment, channels, rule.channels, own))
            segment = []
    if any(channels.rules[node].info.macs for node in segment):
        rows.append(_row("behind the last gate", segment, channels))
    rows += [_row(f"heads.{task}", nodes, channels) for task, nodes in of_heads.items()]
    shares = gate_shares(gated)
    return GateSummary(tasks=gated.tasks, units=tuple(rows), shares=shares, total=_total(rows, gated.tasks))


def _row(
    name: str, nodes: Iterable[fx.Node], channels: ChannelPlan, width: int = 0, own: dict[str, int] | None = None
) -> UnitSummary:
    costly = [node for node in nodes if channels.rules[node].info.macs]
    once = sum(channels.rules[node].info.macs for node in costly)
    streams = sum(channels.rules[node].info.macs * channels.rules[node].streams for node in costly)
    # A head has one stream, a unit one per task and the shared one.
    is_head = all(channels.rules[node].streams == 1 for node in costly)
    return UnitSummary(
        name=name,
        channels=width,
        own_channels=own or {},
        gated_macs=streams,
        static_macs=channels.macs(costly),
        shared_macs=once,
        separate_macs=streams if is_head else streams - once,
    )


def _total(rows: Iterable[UnitSummary], tasks: tuple[str, ...]) -> UnitSummary:
    rows = list(rows)
    return UnitSummary(
        name="total",
        channels=sum(row.channels for row in rows),
        own_channels={task: sum(row.own_channels.get(task, 0) for row in rows) for task in tasks},
        gated_macs=sum(row.gated_macs for row in rows),
        static_macs=sum(row.static_macs for row in rows),
        shared_macs=sum(row.shared_macs for row in rows),
        separate_macs=sum(row.separate_macs for row in rows),
    )


def _cells(unit: UnitSummary, tasks: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the cells of a row; a head has no gates."""
    name = unit.name if len(unit.name) <= _WIDEST_NAME else f"…{unit.name[1 - _WIDEST_NAME :]}"
    gates = [str(unit.own_channels[task]) for task in tasks] if unit.channels else [""] * len(tasks)
    macs = (unit.gated_macs, unit.static_macs, unit.shared_macs, unit.separate_macs)
    return (name, str(unit.channels or ""), *gates, *(f"{count / 1e6:.2f}" for count in macs))


def _aligned(row: Iterable[str], widths: Iterable[int]) -> list[str]:
    """Returns cells of the columns' widths: names to the left, numbers to the right."""
    name, *numbers = zip(row, widths, strict=True)
    return [name[0].ljust(name[1]), *(cell.rjust(width) for cell, width in numbers)]
