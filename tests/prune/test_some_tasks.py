"""`prune(gated, tasks=…)`: a static network for some tasks, equal to the gated one and no larger than it need be."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gate2static.errors import PruneError, VerificationError
from gate2static.gates import GatedModel, set_gates
from gate2static.prune import prune
from gate2static.static import load_static
from gate2static.verify import verify
from tests import zoo


def largest_error(gated: GatedModel, static: Any, x: Tensor) -> float:
    """The largest relative error of a static network's tasks in float64."""
    with torch.no_grad():
        expected, found = gated.double()(x.double()), static.double()(x.double())
    assert list(found) == list(static.tasks)
    return zoo.relative_error([expected[task] for task in found], list(found.values()))


@pytest.mark.parametrize(
    ("name", "mixing"),
    [
        ("two_scales", "softmax"),
        ("two_scales", "hard"),
        pytest.param("token_rules", "softmax", marks=pytest.mark.slow),
    ],
)
def test_it_computes_what_the_gated_network_computes(name: str, mixing: str) -> None:
    gated, x = zoo.make_gated(name, tasks=3, mixing=mixing)
    whole = prune(gated).manifest
    for chosen in (gated.tasks[1:2], (gated.tasks[2], gated.tasks[0])):
        static = prune(gated, tasks=chosen)
        assert static.tasks == tuple(task for task in gated.tasks if task in chosen)
        assert static.manifest.macs.static <= whole.macs.static
        report = verify(gated, static)
        assert report.passed
        assert set(report.per_task) == set(chosen)
        assert largest_error(gated, static, x) <= 1e-9


@pytest.mark.parametrize("specific", [True, False])
def test_all_gates_alike_leave_exactly_one_backbone_for_one_task(specific: bool) -> None:
    gated, _ = zoo.make_gated("two_scales", tasks=3)
    set_gates(gated, specific)
    manifest = prune(gated, tasks=[gated.tasks[1]]).manifest
    assert manifest.macs.static == manifest.macs.separate == manifest.macs.shared
    assert manifest.parameters.static == manifest.parameters.separate == manifest.parameters.shared


def test_what_only_other_tasks_need_goes_and_what_the_mix_needs_stays() -> None:
    gated, _ = zoo.make_gated("two_scales", tasks=2, mixing="softmax")
    last = list(gated.gates)[-1]
    set_gates(gated, False)
    set_gates(gated, {name: torch.ones_like(g.alpha) > 0 for name, g in gated.gates.items() if name != last})
    first = gated.tasks[0]
    one = prune(gated, tasks=[first]).manifest
    # The last unit is shared: the shared stream mixes the other task's channels of the units before.
    assert one.macs.static > one.macs.separate
    with torch.no_grad():
        gated.gates[last].alpha.fill_(1.0)
    assert prune(gated, tasks=[first]).manifest.macs.static == one.macs.separate


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    gated, _ = zoo.make_gated("two_scales", tasks=3)
    static = prune(gated, tasks=gated.tasks[1:])
    static.save(tmp_path / "static")
    loaded = load_static(tmp_path / "static")
    assert loaded.tasks == gated.tasks[1:]
    assert all(len(rows) == 2 for rows in loaded.manifest.gates.values())
    with torch.no_grad():
        next(loaded.parameters()).mul_(1.01)
    report = verify(gated, loaded)
    assert not report.passed, "a wrong number is not seen"
    assert report.changed
    other, _ = zoo.make_gated("two_scales", tasks=2)
    with pytest.raises(VerificationError, match="the gated model has tasks"):
        verify(other, loaded)


def test_a_head_that_was_replaced_is_traced_again() -> None:
    gated, x = zoo.make_gated("two_scales", tasks=3)
    last = gated.tasks[2]
    head = gated.heads[last]
    gated.heads[last] = nn.Sequential(head, nn.Softplus()).eval()
    static = prune(gated, tasks=[last])
    assert verify(gated, static).passed
    assert largest_error(gated, static, x) <= 1e-9


def test_tasks_that_are_none_are_one_line() -> None:
    gated, _ = zoo.make_gated("two_scales", tasks=2)
    odd: list[Any] = [[], "a", ["nowhere"], [3], ["a", "a"], {"a"}, 3, [["a"]]]
    for tasks in odd:
        with pytest.raises(PruneError, match="allowed is a list of different tasks of the network: a, b"):
            prune(gated, tasks=tasks)
