"""The search for trees of tasks: all of them, their costs, and that tasks which agree share."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gate2static as g2s
from gate2static.budget import branching
from gate2static.budget.trees import Tree, all_trees, count_trees, greedy_trees
from gate2static.errors import ArchitectureError, BudgetError, GateError

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
PLACES = ("0", "1")


def backbone() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))


def heads() -> dict[str, nn.Module]:
    """Heads without weights of their own: the losses alone differ."""
    return {task: nn.Identity() for task in "abc"}


def batches(count: int = 4) -> Iterator[tuple[Tensor, None]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        yield torch.randn(4, 3, 6, 6, generator=generator), None


def losses(outputs: dict[str, Tensor], _: Any) -> dict[str, Tensor]:
    """The losses of a and c agree, at scales that differ, and b wants the opposite."""
    return {"a": outputs["a"].sum(), "b": -outputs["b"].sum(), "c": 10 * outputs["c"].sum()}


def search(macs: float = 0.8, **changes: Any) -> g2s.BranchingSearch:
    arguments = {"heads": heads(), "example_inputs": (X,), "batches": batches(), "losses": losses, "places": PLACES}
    return g2s.search_branching(backbone(), macs=macs, **{**arguments, **changes})


@pytest.mark.parametrize(("tasks", "places", "count"), [(3, 1, 5), (5, 1, 52), (3, 3, 22), (4, 2, 60), (2, 4, 5)])
def test_all_trees_are_found_once(tasks: int, places: int, count: int) -> None:
    trees = list(all_trees(tasks, places))
    assert len(set(trees)) == len(trees) == count_trees(tasks, places) == count
    assert all(map(is_nested, trees))


def test_counts_need_no_enumeration() -> None:
    assert (count_trees(5, 4), count_trees(6, 4)) == (3455, 44590)
    assert count_trees(30, 8) > 10**30


def is_nested(tree: Tree) -> bool:
    tasks = sorted(task for group in tree[0] for task in group)
    partitions = [(tuple(tasks),), *tree]
    return all(
        sorted(task for group in fine for task in group) == tasks
        and all(any(set(group) <= set(parent) for parent in coarse) for group in fine)
        for coarse, fine in pairwise(partitions)
    )


def test_the_walk_goes_from_separate_to_shared() -> None:
    trees = list(greedy_trees(4, 3, lambda tree: (0.0, float(sum(map(len, tree))))))
    assert trees[0] == (((0,), (1,), (2,), (3,)),) * 3
    assert trees[-1] == (((0, 1, 2, 3),),) * 3
    assert len(trees) == 3 * 3 + 1
    assert all(map(is_nested, trees))


def test_tasks_that_agree_share() -> None:
    found = search()
    assert (found.tried, found.count) == (12, 12)
    expected = torch.tensor([[1.0, -1, 1], [-1, 1, -1], [1, -1, 1]], dtype=torch.float64)
    torch.testing.assert_close(found.affinities, torch.stack([expected, expected]))
    best = found.trees[0]
    assert best.groups == ((("a", "c"), ("b",)),) * 2
    assert best.disagreement == 0
    together = next(tree for tree in found.trees if all(len(groups) == 1 for groups in tree.groups))
    # a and c each meet one that agrees and one that does not (0 and 2), and b two that do not.
    assert together.disagreement == pytest.approx((1 + 1 + 2) / 3)


def test_the_walk_finds_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(branching, "MOST_TREES", 1)
    found = search()
    assert found.tried == 5
    assert found.trees[0].groups == ((("a", "c"), ("b",)),) * 2


def test_macs_are_those_of_the_static_network() -> None:
    maps = {task: nn.Conv2d(4, number, 1) for number, task in enumerate("abc", start=1)}
    found = search(1.0, heads=maps)
    for tree in found.trees[::5]:
        network = g2s.architecture(
            "branching", backbone(), heads=maps, example_inputs=(X,), places=PLACES, groups=tree.groups
        )
        assert int(g2s.expected_macs(g2s.as_gated(network, (X,)))) == tree.macs
    limit = found.trees[0].macs - 1
    assert all(tree.macs <= limit for tree in search(limit, heads=maps).trees)


def test_nothing_that_is_given_changes() -> None:
    network = nn.Sequential(backbone()[0], nn.BatchNorm2d(4), backbone()[1]).eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    g2s.search_branching(
        network, heads=heads(), example_inputs=(X,), batches=batches(), losses=losses, macs=1, places=["0"]
    )
    assert not network[1].training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"macs": 0.1}, BudgetError, r"macs is 0\.1, and the shared network takes 2,240, or 0\.3333 of separate networks"),
    ({"macs": "half"}, BudgetError, "macs is 'half'"),
    ({"batches": []}, GateError, "the search was given no batches"),
    ({"losses": lambda outputs, _: {"a": outputs["a"].sum()}}, GateError, r"losses are given for \['a'\]"),
    ({"places": []}, ArchitectureError, "branching branches behind places, and places is empty"),
]


@pytest.mark.parametrize(("changes", "error", "message"), REFUSED)
def test_what_cannot_be_searched_is_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        search(**changes)
