"""The contract of rules, held by every rule of two networks that have something for each."""

from dataclasses import FrozenInstanceError, dataclass, fields
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gate2static.gates.model import gate_decisions
from gate2static.prune.analyse import ChannelAnalysis, analyse
from gate2static.prune.analysis.numbering import Numbering
from gate2static.prune.rules import RULES, Barrier, Matches, Rule
from tests import zoo
from tests.prune.rules.toys import After, make_toy

ORDER = (
    "Placeholder", "StoredTensor", "TakeStream", "GateRule", "SizeRead",  # what no layer or operator computes
    "Identity", "ChannelParameters", "Dense", "Grouped", "LayerNorm", "GroupNorm",  # layers
    "Concat", "Padding", "Rearrange", "BroadcastMap", "UnaryMap", "MatrixProduct", "Attention",  # operators
    "Barrier",  # everything else
)  # fmt: skip


@dataclass(frozen=True)
class Example:
    """A rule, its numbering, and those of its inputs as they are read."""

    rule: Rule
    numbering: Numbering
    inputs: list[Numbering]
    gates: dict[str, Tensor]


def _padded(x: Tensor) -> Tensor:
    return F.pad(x.cumsum(1) + x, (0, 0, 0, 0, 1, 1))


@cache
def _analyses() -> tuple[ChannelAnalysis, ...]:
    torch.manual_seed(0)
    return analyse(zoo.make_gated("token_rules")[0]), make_toy(After(nn.Dropout(0.5), _padded)).analysis


@cache
def _examples() -> tuple[Example, ...]:
    examples = []
    for analysis in _analyses():
        decisions = gate_decisions(analysis.gated)
        numberings = analysis.number(decisions)
        gates = {unit: decision.double() for unit, decision in decisions.items()}
        for node, rule in analysis.rules.items():
            inputs = [source.numbering(numberings[source.node]) for source in rule.inputs]
            examples.append(Example(rule, numberings[node], inputs, gates))
    return tuple(examples)


@pytest.fixture(params=RULES, ids=lambda kind: kind.__name__)
def examples(request: pytest.FixtureRequest) -> list[Example]:
    """All rules of one kind, of which there is at least one."""
    of_kind = [example for example in _examples() if type(example.rule) is request.param]
    assert of_kind
    return of_kind


def _some(rule: Rule) -> Tensor:
    """A need of about half of the channels."""
    return torch.rand(rule.streams, rule.channels, dtype=torch.float64).round()


def test_rules_are_tried_in_this_order() -> None:
    assert tuple(kind.__name__ for kind in RULES) == ORDER


def test_the_barrier_takes_every_node_that_it_is_asked_about() -> None:
    assert RULES[-1] is Barrier
    for analysis in _analyses():
        matches = Matches(analysis.gated, dict(analysis.rules))
        assert all(isinstance(Barrier.match(node, matches), Barrier) for node in analysis.rules)


def test_a_rule_is_whole_when_it_is_made_and_never_changes(examples: list[Example]) -> None:
    for example in examples:
        assert set(vars(example.rule)) == {field.name for field in fields(example.rule)}
        with pytest.raises(FrozenInstanceError):
            example.rule.channels = 0  # type: ignore[misc]


def test_every_stream_views_every_channel_within_the_pool(examples: list[Example]) -> None:
    for example in examples:
        rule = example.rule
        numbering = example.numbering
        assert numbering.views.shape == (rule.streams, rule.channels)
        assert 0 <= numbering.views.min() <= numbering.views.max() < numbering.size
        assert numbering.sources is None or len(numbering.sources) == numbering.size
        assert rule.dims or rule.channels == 1  # an opaque value is one channel


def test_no_need_needs_nothing_and_more_need_never_needs_less(examples: list[Example]) -> None:
    for example in examples:
        rule = example.rule
        some = _some(rule)
        needs = (torch.zeros_like(some), some, torch.ones_like(some))
        of_inputs = [rule.need_of_inputs(need, example.gates) for need in needs]
        for source, none, of_some, of_all in zip(rule.inputs, *of_inputs, strict=True):
            assert of_all.shape == (source.value.streams, source.channels)
            assert not none.any()
            assert bool(((of_some <= of_all) & (of_all <= 1)).all())


def test_the_macs_of_a_need_are_those_of_the_channels_that_live_for_it(examples: list[Example]) -> None:
    for example in examples:
        need = _some(example.rule)
        live = np.unique(example.numbering.views[need.numpy() > 0])
        assert example.rule.macs(need, example.numbering) == example.rule.live_macs(live, example.numbering)


def test_origins_are_channels_of_an_inputs_pool(examples: list[Example]) -> None:
    for example in examples:
        for number, ids in example.rule.origins(example.numbering, example.inputs):
            assert len(ids) == example.numbering.size
            assert -1 <= ids.min() <= ids.max() < example.inputs[number].size
