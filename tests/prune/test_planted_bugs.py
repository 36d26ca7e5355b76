"""Wrong rewrites, planted one at a time: the equivalence check must see each of them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gate2static.errors import PruneError
from gate2static.gates import GatedModel, channel_gate
from gate2static.prune import analyse, expected_macs, rules
from gate2static.prune.analysis import channel_access
from gate2static.prune.analysis.numbering import Numbering
from gate2static.prune.emission.layout import LAYOUT
from gate2static.prune.emission.writer import Writer
from gate2static.prune.emit import emit
from gate2static.prune.rules import (
    broadcast_map,
    channel_parameters,
    concat,
    dense,
    group_norm,
    grouped,
    layer_norm,
    matrix_product,
    rearrange,
)
from gate2static.prune.rules import gate as gate_rule
from tests import zoo

Patch = pytest.MonkeyPatch


def _gated(name: str) -> tuple[GatedModel, Tensor]:
    torch.manual_seed(0)
    model, x = zoo.make_gated(name, tasks=3)
    return model.double(), x.double()


def _error(gated: GatedModel, x: Tensor) -> float:
    """How far the static network is off; infinitely far where it does not even run."""
    try:
        static = emit(zoo.planned(gated), LAYOUT)
        with torch.no_grad():
            return zoo.relative_error(gated(x).values(), static(x))
    except (RuntimeError, IndexError, AssertionError, KeyError, ValueError, PruneError):
        return float("inf")


def mix_what_was_offered(patch: Patch) -> None:
    """Eq. 3 as printed: φ instead of φ′ (docs/paper.md, note 1)."""

    def forward(self: channel_gate.Gate, *streams: Tensor) -> tuple[Tensor, ...]:
        shape = [1] * streams[0].dim()
        shape[self.dim] = -1
        *picked, _ = original(self, *streams)
        mixed = sum(w.view(shape) * x for w, x in zip(self.mixing(), streams[:-1], strict=True))
        return *picked, mixed

    original = channel_gate.Gate.forward
    patch.setattr(channel_gate.Gate, "forward", forward)


def ignore_the_mixing_weights(patch: Patch) -> None:
    patch.setattr(channel_gate.Gate, "mixing", lambda self: torch.full_like(self.beta, 1 / len(self.beta)))


def swap_open_and_closed(patch: Patch) -> None:
    """The static network alone reads every gate the wrong way round."""

    def number(self: Any, inputs: Any, decisions: Any, gated: GatedModel) -> Any:
        return original(self, inputs, {name: ~decision for name, decision in decisions.items()}, gated)

    original = gate_rule.GateRule.number
    patch.setattr(gate_rule.GateRule, "number", number)


def forget_the_order_of_the_inputs(patch: Patch) -> None:
    """A layer reads its channels in another order than its weights expect."""

    def slice_(self: Any, gated: GatedModel, ids: Any, orders: Any) -> Any:
        return original(self, gated, ids, {s: np.sort(order) for s, order in orders.items()})

    original = dense.Dense._slice
    patch.setattr(dense.Dense, "_slice", slice_)


def gather_one_off(patch: Patch) -> None:
    original = Writer.gather
    patch.setattr(Writer, "gather", lambda self, node, ids, *rest: original(self, node, np.roll(ids, 1), *rest))


def view_one_off(patch: Patch) -> None:
    original = Writer.view
    patch.setattr(Writer, "view", lambda self, pool, ids: original(self, pool, np.roll(ids, 1)))


def forget_earlier_readers(patch: Patch) -> None:
    patch.setattr(analyse, "either", lambda earlier, later: later)


def forget_the_second_operand(patch: Patch) -> None:
    def demand(self: Any, need: Tensor, gates: Any) -> list[Tensor]:
        first, *others = original(self, need, gates)
        return [first, *(torch.zeros_like(other) for other in others)]

    original = broadcast_map.BroadcastMap.need_of_inputs
    patch.setattr(broadcast_map.BroadcastMap, "need_of_inputs", demand)


def normalise_with_one_streams_statistics(patch: Patch) -> None:
    def call(self: Any, view: Any, own: Any, emitter: Any) -> Any:
        return original(self, view, own % self.channels, emitter)

    original = channel_parameters.ChannelParameters._call
    patch.setattr(channel_parameters.ChannelParameters, "_call", call)


def _shifted(patch: Patch, rule: Any) -> None:
    """The views of a rule are one channel off."""

    def number(self: Any, *args: Any) -> Any:
        numbering = original(self, *args)
        return Numbering(np.roll(numbering.views, 1, axis=1), numbering.size, numbering.sources)

    original = rule.number
    patch.setattr(rule, "number", number)


def concatenate_the_wrong_way_round(patch: Patch) -> None:
    _shifted(patch, concat.Concat)


def move_channels_elsewhere(patch: Patch) -> None:
    _shifted(patch, rearrange.Rearrange)


def take_the_next_head(patch: Patch) -> None:
    _shifted(patch, matrix_product.MatrixProduct)


def flatten_pixel_by_pixel(patch: Patch) -> None:
    def origin(self: Any) -> Any:
        channel, inner, factor = original(self)
        return channel, (inner + 1) % factor, factor

    original = channel_access.Fine.origin
    patch.setattr(channel_access.Fine, "origin", origin)


def take_the_members_of_another_head(patch: Patch) -> None:
    original = channel_access.Coarse.members
    patch.setattr(channel_access.Coarse, "members", lambda self: np.roll(original(self), 1, axis=0))


def normalise_a_group_with_another_ones_scale(patch: Patch) -> None:
    original = group_norm.picked
    patch.setattr(
        group_norm, "picked", lambda layers, name, owners, channels: original(layers, name, owners, channels[::-1])
    )


def forget_the_order_of_a_norms_scale(patch: Patch) -> None:
    patch.setattr(layer_norm, "select", lambda tensor, dim, order: tensor)


def read_another_group(patch: Patch) -> None:
    original = grouped.Grouped._weight
    patch.setattr(grouped.Grouped, "_weight", lambda *args: original(*args).flip(0))


def number_all_streams_alike(patch: Patch) -> None:
    """Value numbering that takes every task for the first."""

    def number(self: Any, *args: Any) -> Any:
        numbering = original(self, *args)
        return Numbering(np.repeat(numbering.views[:1], len(numbering.views), 0), numbering.size, numbering.sources)

    original = dense.Dense.number
    patch.setattr(dense.Dense, "number", number)


def run_a_barrier_once_for_all(patch: Patch) -> None:
    def number(self: Any, *args: Any) -> Any:
        return Numbering(np.zeros((self.streams, 1), dtype=np.int64), 1)

    patch.setattr(rules.Barrier, "number", number)


EVERYWHERE = [
    mix_what_was_offered, ignore_the_mixing_weights, swap_open_and_closed, forget_the_order_of_the_inputs,
    gather_one_off, view_one_off, forget_earlier_readers, forget_the_second_operand,
    normalise_with_one_streams_statistics, move_channels_elsewhere, number_all_streams_alike,
]  # fmt: skip
BUGS = [
    *(("many_rules", bug) for bug in EVERYWHERE),
    ("many_rules", concatenate_the_wrong_way_round),
    ("many_rules", flatten_pixel_by_pixel),
    ("many_rules", run_a_barrier_once_for_all),
    *(("token_rules", bug) for bug in EVERYWHERE),
    ("token_rules", take_the_next_head),
    ("token_rules", take_the_members_of_another_head),
    ("token_rules", normalise_a_group_with_another_ones_scale),
    ("token_rules", forget_the_order_of_a_norms_scale),
    ("token_rules", read_another_group),
]


@pytest.mark.parametrize("name", ["many_rules", "token_rules"])
def test_without_a_planted_bug_the_networks_are_equal(name: str) -> None:
    assert _error(*_gated(name)) <= 1e-9


@pytest.mark.parametrize(("name", "plant"), BUGS, ids=lambda value: getattr(value, "__name__", value))
def test_a_planted_bug_is_seen(name: str, plant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    gated = _gated(name)
    plant(monkeypatch)
    assert _error(*gated) > 1e-6


def count_every_stream(patch: Patch) -> None:
    def macs(self: Any, need: Tensor, numbering: Any) -> Tensor:
        return torch.ones_like(need).sum() * (self.info.macs // self.channels)

    patch.setattr(dense.Dense, "macs", macs)


def need_the_shared_stream_always(patch: Patch) -> None:
    def demand(self: Any, need: Tensor, gates: Any) -> list[Tensor]:
        (wanted,) = original(self, need, gates)
        return [torch.cat([wanted[:-1], torch.ones_like(wanted[-1:])])]

    original = gate_rule.GateRule.need_of_inputs
    patch.setattr(gate_rule.GateRule, "need_of_inputs", demand)


def price_the_soft_gates_in_eval_mode(patch: Patch) -> None:
    patch.setattr(channel_gate.Gate, "decisions", lambda gate: gate.probabilities().detach())


@pytest.mark.parametrize(
    "plant", [count_every_stream, need_the_shared_stream_always, price_the_soft_gates_in_eval_mode]
)
def test_a_wrong_cost_is_seen(plant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    model, x = _gated("many_rules")
    model.gates["first"].alpha.data.fill_(1.0)
    right = zoo.counted_macs(emit(zoo.planned(model), LAYOUT), (x,))
    assert int(expected_macs(model)) == right
    plant(monkeypatch)
    assert int(expected_macs(model)) != right
