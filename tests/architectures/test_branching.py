"""Branching: groups of tasks that share a stage run it once, and part for good."""

import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

import gate2static as g2s
from gate2static.architectures import Architecture, architecture, as_gated
from gate2static.errors import ArchitectureError

TASKS = ("a", "b", "c", "d")
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
PLACES = ["0", "1"]
PAIRS = [["a", "c"], ["d", "b"]]


def backbone() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Conv2d(taken, given, 3, padding=1) for taken, given in ((3, 4), (4, 5), (5, 6))))


def build(groups: Any = None, places: Any = PLACES, tasks: Sequence[str] = TASKS) -> Architecture:
    torch.manual_seed(1)
    heads = {task: nn.Conv2d(6, number + 1, 1) for number, task in enumerate(tasks)}
    return architecture("branching", backbone(), heads=heads, example_inputs=(X,), places=places, groups=groups)


def randomised(network: Architecture) -> Architecture:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def test_tasks_run_the_stages_of_their_groups() -> None:
    network = randomised(build([PAIRS, [["a"], ["c"], ["b", "d"]]]))
    assert {name: len(stages) for name, stages in network.streams.items()} == {  # type: ignore[arg-type]
        "a+b+c+d": 1,
        "a+c": 1,
        "b+d": 2,
        "a": 1,
        "c": 1,
    }
    ways = {"a": ["a+b+c+d", "a+c", "a"], "c": ["a+b+c+d", "a+c", "c"]}
    for task, streams in ways.items():
        values: Any = [X]
        for stream in streams:
            values = network.streams[stream][0](*values)  # type: ignore[index, operator]
        torch.testing.assert_close(network(X)[task], network.heads[task](*values))


def test_a_static_network_has_each_shared_stage_once() -> None:
    network = randomised(build([PAIRS, [["a"], ["c"], ["b", "d"]]]))
    gated = as_gated(network, (X,))
    static = g2s.prune(gated)
    assert g2s.verify(gated, static).passed
    macs = [64 * 9 * taken * given for taken, given in ((3, 4), (4, 5), (5, 6))]
    heads = 64 * 6 * (1 + 2 + 3 + 4)
    assert static.manifest.macs["static"] == macs[0] + 2 * macs[1] + 3 * macs[2] + heads


def test_one_place_needs_no_list_of_lists() -> None:
    assert list(build(PAIRS, ["0"]).streams) == ["a+b+c+d", "a+c", "b+d"]


def test_without_groups_all_tasks_part_behind_the_middle_place() -> None:
    assert {name: len(stages) for name, stages in build().streams.items()} == {  # type: ignore[arg-type]
        "a+b+c+d": 1,
        **dict.fromkeys(TASKS, 2),
    }


def test_groups_start_from_trained_backbones() -> None:
    trained = {key: torch.ones_like(value) for key, value in backbone().state_dict().items()}
    network = build(PAIRS, ["0"]).load_streams({"a+c": trained})
    assert all(bool((p == 1).all()) for p in network.streams["a+c"].parameters())
    assert not any(bool((p == 1).all()) for p in network.streams["b+d"].parameters())


REFUSED: list[tuple[Any, Any, str]] = [
    (None, [], "branching branches behind places, and places is empty"),
    ("a", PLACES, "groups of branching are 'a'; allowed is a list of groups per place"),
    ([["a", 1]], PLACES, "groups of branching are [['a', 1]]; allowed is"),
    (PAIRS, PLACES, "branching has 1 lists of groups, and the backbone is cut at 2 places"),
    ([["a", "b"], ["c"]], ["0"], "'d' is in no group; every one of a, b, c, d is in one group"),
    ([["a", "b"], ["b", "c", "d"]], ["0"], "'b' is in two groups"),
    ([["a", "b", "c", "d", "e"]], ["0"], "'e' is no task"),
    ([PAIRS, [["a", "b"], ["c", "d"]]], PLACES, "branching joins a and b behind a place in front of which they have"),
]


@pytest.mark.parametrize(("groups", "places", "message"), REFUSED)
def test_groups_that_are_no_tree_are_refused(groups: Any, places: Any, message: str) -> None:
    with pytest.raises(ArchitectureError, match=re.escape(message)):
        build(groups, places)


@pytest.mark.parametrize("name", ["cross_stitch", "nddr"])
def test_what_mixes_behind_places_needs_one(name: str) -> None:
    heads = {task: nn.Conv2d(6, 1, 1) for task in TASKS}
    with pytest.raises(ArchitectureError, match=f"{name} mixes streams behind places, and places is empty"):
        architecture(name, backbone(), heads=heads, example_inputs=(X,), places=[])
