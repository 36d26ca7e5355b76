"""What `prune` promises besides equality: its input untouched, the same bytes twice, any number of tasks, any dtype."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from gate2static.errors import ArtefactError, PruneError
from gate2static.gates import gate_decisions, set_gates
from gate2static.prune import expected_macs, plan, prune
from gate2static.prune.rules.dense import Dense
from tests import zoo


@torch.no_grad()
def _check(gated: Any, static: Any, x: Tensor) -> None:
    gated, static = copy.deepcopy(gated).double(), copy.deepcopy(static).double()
    assert zoo.relative_error(gated(x.double()).values(), static(x.double()).values()) <= 1e-9


@pytest.mark.parametrize("name", ["densenet", "many_rules"])
@pytest.mark.parametrize("training", [False, True])
def test_pruning_leaves_the_gated_model_as_it_was(name: str, training: bool) -> None:
    gated, x = zoo.make_gated(name)
    gated.train(training)
    before = copy.deepcopy(gated.state_dict())
    flags = {key: module.training for key, module in gated.named_modules()}
    static = prune(gated)
    after = gated.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert {key: module.training for key, module in gated.named_modules()} == flags
    assert all(parameter.requires_grad for parameter in gated.parameters())
    _check(gated.eval(), static, x)


def test_pruning_twice_gives_the_same_bytes_and_other_gates_or_weights_give_others() -> None:
    gated, _ = zoo.make_gated("many_rules")
    first = prune(gated).manifest
    assert prune(gated).manifest == first
    assert prune(copy.deepcopy(gated)).manifest == first
    with torch.no_grad():
        gated.heads["a"].linear.weight[0, 0] += 1e-3
    assert prune(gated).manifest.digest != first.digest
    set_gates(gated, False)
    assert prune(gated).manifest.gates != first.gates


def test_a_static_network_refuses_images_of_another_size() -> None:
    gated, x = zoo.make_gated("two_scales")
    static = prune(gated)
    assert static(x[:1])["a"].shape[0] == 1
    wanted = r"takes inputs of shape \(batch, 3, 12, 12\), and was given \(batch, 3, 16, 12\). Resize them"
    with pytest.raises(ArtefactError, match=wanted):
        static(torch.zeros(2, 3, 16, 12))
    with pytest.raises(ArtefactError, match="was given none"):
        static()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet12", "densenet"])
def test_the_whole_road_on_a_whole_network(name: str) -> None:
    gated, x = zoo.make_gated(name, tasks=3)
    static = prune(gated)
    _check(gated, static, x)
    macs = static.manifest.macs
    assert macs.static == int(expected_macs(gated)) == zoo.counted_macs(static, (x,))
    assert macs.shared < macs.static < macs.separate < macs.gated
    assert static.manifest.parameters.static == sum(p.numel() for p in static.parameters())
    assert static.manifest.parameters.gated == sum(p.numel() for p in gated.parameters())


@pytest.mark.parametrize("batch", [1, 5])
def test_one_task_is_a_task_too(batch: int) -> None:
    gated, _ = zoo.make_gated("two_scales", tasks=1)
    static = prune(gated)
    x = torch.randn(batch, 3, 12, 12)
    _check(gated, static, x)
    assert static.manifest.macs.static == int(expected_macs(gated)) == zoo.counted_macs(static, (x,))
    for specific in (False, True):
        set_gates(gated, specific)
        costs = prune(gated).manifest
        assert costs.macs.static == costs.macs.separate == costs.macs.shared
        assert costs.parameters.static == costs.parameters.separate


@pytest.mark.parametrize("group_size", [2, 4, 100])
def test_channels_of_a_group_are_pruned_alike(group_size: int) -> None:
    gated, x = zoo.make_gated("two_scales", tasks=3, group_size=group_size)
    decisions = gate_decisions(gated)
    for gates in decisions.values():
        for start in range(0, gates.shape[1], group_size):
            group = gates[:, start : start + group_size]
            assert torch.equal(group, group[:, :1].expand_as(group))
    static = prune(gated)
    _check(gated, static, x)
    assert static.manifest.macs.static == int(expected_macs(gated)) == zoo.counted_macs(static, (x,))
    assert static.manifest.gates == {
        unit: ["".join(str(int(gate)) for gate in row) for row in gates] for unit, gates in decisions.items()
    }


@pytest.mark.slow
def test_aligned_layers_keep_a_multiple_or_all_channels_and_stay_exact() -> None:
    gated, x = zoo.make_gated("resnet12", tasks=3, p=0.3)
    static = prune(gated, align=8)
    _check(gated, static, x)
    assert static.manifest.macs.static == zoo.counted_macs(static, (x,)) > int(expected_macs(gated))
    decided = plan(gated, align=8).channels
    seen = 0
    for node, rule in decided.rules.items():
        if isinstance(rule, Dense) and rule.streams > 1:
            alive = torch.from_numpy(decided.live[node]) // rule.channels
            counts = torch.bincount(alive, minlength=rule.streams)
            assert all(int(n) % 8 == 0 or int(n) == rule.channels for n in counts)
            seen += len(counts)
    assert seen > 50


@pytest.mark.parametrize("align", [0, -8])
def test_an_impossible_alignment_is_refused(align: int) -> None:
    gated, _ = zoo.make_gated("two_scales")
    with pytest.raises(PruneError, match=f"align, the number of channels, is {align}; allowed is a whole"):
        prune(gated, align=align)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_a_static_model_may_have_another_dtype(dtype: torch.dtype) -> None:
    gated, x = zoo.make_gated("two_scales")
    static = prune(gated, dtype=dtype)
    assert {p.dtype for p in static.parameters()} == {dtype}
    assert {spec.dtype for spec in (*static.manifest.inputs, *static.manifest.outputs)} == {str(dtype)[6:]}
    tolerance = 1e-5 if dtype is torch.float64 else 2e-2
    assert zoo.relative_error(gated(x).values(), [y.float() for y in static(x.to(dtype)).values()]) <= tolerance


def test_the_manifest_says_what_the_network_is() -> None:
    gated, _ = zoo.make_gated("two_scales", tasks=3)
    manifest = prune(gated).manifest
    assert manifest.tasks == ("a", "b", "c")
    assert [(spec.name, spec.shape, spec.dtype) for spec in manifest.inputs] == [("x", (3, 12, 12), "float32")]
    assert [(spec.name, spec.shape) for spec in manifest.outputs] == [("a", (3,)), ("b", (3,)), ("c", (3,))]
    assert list(manifest.gates) == list(gated.gates)
    assert all(sum(shares) == pytest.approx(1.0) for shares in manifest.contributions.values())
    assert manifest.versions["torch"] == torch.__version__
