"""The contract of rules, held by every rule of networks that have something for each."""

from dataclasses import FrozenInstanceError, fields
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gate2static.gates.model import gate_decisions
from gate2static.prune.analyse import ChannelAnalysis, analyse
from gate2static.prune.rules import RULES, Barrier, Matches, Rule
from tests import zoo
from tests.prune.rules.toys import After, make_toy

ORDER = (
    "Placeholder", "StoredTensor", "TakeStream", "GateRule", "SizeRead",  # what no layer or operator computes
    "Identity", "ChannelParameters", "Dense", "Grouped", "LayerNorm", "GroupNorm",  # layers
    "Concat", "Padding", "Rearrange", "BroadcastMap", "UnaryMap", "MatrixProduct", "Attention",  # operators
    "Barrier",  # everything else
)  # fmt: skip


def _padded(x: Tensor) -> Tensor:
    return F.pad(x, (0, 0, 0, 0, 1, 1))


@cache
def _analyses() -> tuple[ChannelAnalysis, ...]:
    torch.manual_seed(0)
    zoos = [analyse(zoo.make_gated(name)[0]) for name in ("many_rules", "token_rules")]
    return (*zoos, make_toy(After(nn.Dropout(0.5), _padded)).analysis)


def _rules(kind: type[Rule]) -> list[tuple[ChannelAnalysis, Rule]]:
    """Returns all rules of a kind, with the analyses that they are from."""
    return [(a, rule) for a in _analyses() for rule in a.rules.values() if type(rule) is kind]


@pytest.fixture(params=RULES, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> type[Rule]:
    """Every kind of rule, of which there is an example."""
    assert _rules(request.param)
    return request.param  # type: ignore[no-any-return]


def test_rules_are_tried_in_this_order() -> None:
    assert tuple(kind.__name__ for kind in RULES) == ORDER


def test_the_barrier_takes_every_node_that_it_is_asked_about() -> None:
    assert RULES[-1] is Barrier
    for analysis in _analyses():
        matches = Matches(analysis.gated, dict(analysis.rules))
        assert all(isinstance(Barrier.match(node, matches), Barrier) for node in analysis.rules)


def test_a_rule_is_whole_when_it_is_made_and_never_changes(kind: type[Rule]) -> None:
    for _, rule in _rules(kind):
        assert set(vars(rule)) == {field.name for field in fields(rule)}
        with pytest.raises(FrozenInstanceError):
            rule.channels = 0  # type: ignore[misc]


def test_every_stream_views_every_channel_within_the_pool(kind: type[Rule]) -> None:
    for analysis, rule in _rules(kind):
        numbering = analysis.number(gate_decisions(analysis.gated))[rule.node]
        assert numbering.views.shape == (rule.streams, rule.channels)
        assert 0 <= numbering.views.min() <= numbering.views.max() < numbering.size
        assert numbering.sources is None or len(numbering.sources) == numbering.size
        assert (rule.channels == 1) or rule.dims  # an opaque value is one channel


def test_who_needs_nothing_needs_nothing_of_the_inputs_and_more_need_never_needs_less(kind: type[Rule]) -> None:
    for analysis, rule in _rules(kind):
        gates = {unit: decision.double() for unit, decision in gate_decisions(analysis.gated).items()}
        some = torch.rand(rule.streams, rule.channels, dtype=torch.float64).round()
        needs = [rule.need_of_inputs(need, gates) for need in (torch.zeros_like(some), some, torch.ones_like(some))]
        for source, *(of_nothing, of_some, of_all) in zip(rule.inputs, *needs, strict=True):
            assert of_all.shape == (source.value.streams, source.channels)
            assert not of_nothing.any()
            assert bool(((of_nothing <= of_some) & (of_some <= of_all) & (of_all <= 1)).all())


def test_the_macs_of_a_need_are_those_of_the_channels_that_live_for_it(kind: type[Rule]) -> None:
    for analysis, rule in _rules(kind):
        numbering = analysis.number(gate_decisions(analysis.gated))[rule.node]
        need = torch.rand(rule.streams, rule.channels, dtype=torch.float64).round()
        live = np.unique(numbering.views[need.numpy() > 0])
        assert rule.macs(need, numbering) == rule.live_macs(live, numbering)


def test_origins_are_channels_of_an_inputs_pool(kind: type[Rule]) -> None:
    for analysis, rule in _rules(kind):
        numberings = analysis.number(gate_decisions(analysis.gated))
        inputs = [source.numbering(numberings[source.node]) for source in rule.inputs]
        for number, ids in rule.origins(numberings[rule.node], inputs):
            assert len(ids) == numberings[rule.node].size
            assert -1 <= ids.min() <= ids.max() < inputs[number].size
