"""Wrong rewrites, planted one at a time: the equivalence check must see each of them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gate2static.gates import GatedModel, gating
from gate2static.prune import analysis, expected_macs, plan, rules
from gate2static.prune.emit import emit
from gate2static.prune.physical import Emitter
from gate2static.prune.rules import concat, dense, elementwise, flatten, norm
from gate2static.prune.rules import gate as gate_rule

Patch = pytest.MonkeyPatch


@pytest.fixture
def gated(zoo: Any) -> tuple[GatedModel, Tensor]:
    model, x = zoo.make_gated("many_rules", tasks=3)
    return model.double(), x.double()


def _error(gated: GatedModel, x: Tensor, zoo: Any) -> float:
    """How far the static network is off; infinitely far where it does not even run."""
    try:
        static = emit(gated, plan(gated))
        with torch.no_grad():
            return zoo.relative_error(gated(x).values(), static(x))
    except (RuntimeError, IndexError, AssertionError, KeyError, ValueError):
        return float("inf")


def mix_what_was_offered(patch: Patch) -> None:
    """Eq. 3 as printed: φ instead of φ′ (papers/README reading 1)."""

    def forward(self: gating.Gate, *streams: Tensor) -> tuple[Tensor, ...]:
        shape = [1] * streams[0].dim()
        shape[self.dim] = -1
        *picked, _ = original(self, *streams)
        mixed = sum(w.view(shape) * x for w, x in zip(self.mixing(), streams[:-1], strict=True))
        return *picked, mixed

    original = gating.Gate.forward
    patch.setattr(gating.Gate, "forward", forward)


def ignore_the_mixing_weights(patch: Patch) -> None:
    patch.setattr(gating.Gate, "mixing", lambda self: torch.full_like(self.beta, 1 / len(self.beta)))


def swap_open_and_closed(patch: Patch) -> None:
    """The static network alone reads every gate the wrong way round."""

    def number(self: Any, inputs: Any, gated: GatedModel) -> Any:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(gating.Gate, "decisions", lambda gate: ~original_decisions(gate))
            return original(self, inputs, gated)

    original, original_decisions = gate_rule.GateRule.number, gating.Gate.decisions
    patch.setattr(gate_rule.GateRule, "number", number)


def forget_the_order_of_the_inputs(patch: Patch) -> None:
    """A layer reads its channels in another order than its weights expect."""

    def slice_(self: Any, gated: GatedModel, ids: Any, orders: Any) -> Any:
        return original(self, gated, ids, {s: np.sort(order) for s, order in orders.items()})

    original = dense.Dense._slice
    patch.setattr(dense.Dense, "_slice", slice_)


def gather_one_off(patch: Patch) -> None:
    original = Emitter.gather
    patch.setattr(Emitter, "gather", lambda self, node, ids, dim: original(self, node, np.roll(ids, 1), dim))


def view_one_off(patch: Patch) -> None:
    original = Emitter.view
    patch.setattr(Emitter, "view", lambda self, pool, ids: original(self, pool, np.roll(ids, 1)))


def forget_earlier_readers(patch: Patch) -> None:
    patch.setattr(analysis, "either", lambda earlier, later: later)


def forget_the_second_operand(patch: Patch) -> None:
    def demand(self: Any, need: Tensor, gates: Any) -> list[Tensor]:
        first, *others = original(self, need, gates)
        return [first, *(torch.zeros_like(other) for other in others)]

    original = elementwise.Elementwise.demand
    patch.setattr(elementwise.Elementwise, "demand", demand)


def normalise_with_one_streams_statistics(patch: Patch) -> None:
    def normalise(self: Any, view: Any, ids: Any, rows: Any, emitter: Any) -> Any:
        return original(self, view, ids, np.stack([rows[:, 0], rows[:, 1] % self.channels], 1), emitter)

    original = norm.OwnNorm._normalise
    patch.setattr(norm.OwnNorm, "_normalise", normalise)


def concatenate_the_wrong_way_round(patch: Patch) -> None:
    def number(self: Any, inputs: Any, gated: GatedModel) -> Any:
        numbering = original(self, inputs, gated)
        return rules.Numbering(np.roll(numbering.views, 1, axis=1), numbering.size, numbering.rows)

    original = concat.Concat.number
    patch.setattr(concat.Concat, "number", number)


def flatten_pixel_by_pixel(patch: Patch) -> None:
    def expand(self: Any, ids: Any) -> Any:
        expanded = original(self, ids)
        return expanded.reshape(len(ids), -1, self._factor).swapaxes(1, 2).reshape(len(ids), -1)

    original = flatten.Flatten._expand
    patch.setattr(flatten.Flatten, "_expand", expand)


def number_all_streams_alike(patch: Patch) -> None:
    """Value numbering that takes every task for the first."""

    def number(self: Any, inputs: Any, gated: GatedModel) -> Any:
        numbering = original(self, inputs, gated)
        return rules.Numbering(np.repeat(numbering.views[:1], len(numbering.views), 0), numbering.size, numbering.rows)

    original = dense.Dense.number
    patch.setattr(dense.Dense, "number", number)


def run_a_barrier_once_for_all(patch: Patch) -> None:
    def number(self: Any, inputs: Any, gated: GatedModel) -> Any:
        return rules.Numbering(np.zeros((self.streams, 1), dtype=np.int64), 1)

    patch.setattr(rules.Barrier, "number", number)


BUGS = [
    mix_what_was_offered, ignore_the_mixing_weights, swap_open_and_closed, forget_the_order_of_the_inputs,
    gather_one_off, view_one_off, forget_earlier_readers, forget_the_second_operand,
    normalise_with_one_streams_statistics, concatenate_the_wrong_way_round, flatten_pixel_by_pixel,
    number_all_streams_alike, run_a_barrier_once_for_all,
]  # fmt: skip


def test_without_a_planted_bug_the_networks_are_equal(gated: tuple[GatedModel, Tensor], zoo: Any) -> None:
    assert _error(*gated, zoo) <= 1e-9


@pytest.mark.parametrize("plant", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_seen(
    plant: Callable[[Patch], None], gated: tuple[GatedModel, Tensor], zoo: Any, monkeypatch: Patch
) -> None:
    plant(monkeypatch)
    assert _error(*gated, zoo) > 1e-6


def count_every_stream(patch: Patch) -> None:
    def macs(self: Any, need: Tensor, numbering: Any) -> Tensor:
        return torch.ones_like(need).sum() * (self.info.macs // self.channels)

    patch.setattr(dense.Dense, "macs", macs)


def need_the_shared_stream_always(patch: Patch) -> None:
    def demand(self: Any, need: Tensor, gates: Any) -> list[Tensor]:
        (wanted,) = original(self, need, gates)
        return [torch.cat([wanted[:-1], torch.ones_like(wanted[-1:])])]

    original = gate_rule.GateRule.demand
    patch.setattr(gate_rule.GateRule, "demand", demand)


def price_the_soft_gates_in_eval_mode(patch: Patch) -> None:
    patch.setattr(gating.Gate, "decisions", lambda gate: gate.probabilities().detach())


@pytest.mark.parametrize(
    "plant", [count_every_stream, need_the_shared_stream_always, price_the_soft_gates_in_eval_mode]
)
def test_a_wrong_cost_is_seen(
    plant: Callable[[Patch], None], gated: tuple[GatedModel, Tensor], zoo: Any, monkeypatch: Patch
) -> None:
    model, x = gated
    model.gates["first"].alpha.data.fill_(1.0)
    right = zoo.counted_macs(emit(model, plan(model)), (x,))
    assert int(expected_macs(model)) == right
    plant(monkeypatch)
    assert int(expected_macs(model)) != right
