"""The search for a tree of tasks: which tasks share which stages, for a number of MACs.

Tasks that share a stage pull its weights in different directions. How different is measured at a trained shared
network, stage by stage: a_ij is the cosine of the gradients of two tasks' losses with respect to the stage's weights,
averaged over batches. Fifty et al. (2021) compare it with what they prefer, a look ahead at task j's loss after a step
for task i, which it equals to first order but for the losses' scales. As there, a task meets a group with the mean over
the others in it; as in branched multi-task networks (Vandenhende et al. 2020), a tree adds up its stages:

    disagreement = mean over places and tasks of the mean over the others in the task's group of (1 - a_ij)

A task that is alone disagrees with nobody, so without a limit all tasks would part: the limit of MACs makes the tree.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, fx, nn

from gate2static.architectures import as_gated, split
from gate2static.architectures.branching import Branching, stream_of
from gate2static.architectures.places import Places
from gate2static.arguments import require_number
from gate2static.balance.roads import matrix_of
from gate2static.budget.saliency import Losses, called, checked_losses
from gate2static.budget.trees import Tree, all_trees, count_trees, greedy_trees
from gate2static.errors import BudgetError, GateError
from gate2static.program.annotate import info
from gate2static.prune import expected_macs

MOST_TREES = 50_000
"""The most trees that are all tried: six tasks behind four places have 44,590."""


@dataclass(frozen=True, kw_only=True)
class TaskTree:
    """A tree of tasks, and what it costs.

    Attributes:
        groups: The groups of tasks behind every place, as the option `groups` of the architecture `branching`.
        disagreement: How much tasks that share a stage disagree on its weights; 0 where no tasks share one.
        macs: MACs per sample of the static network, heads included.
    """

    groups: tuple[tuple[tuple[str, ...], ...], ...]
    disagreement: float
    macs: int


@dataclass(frozen=True, kw_only=True)
class BranchingSearch:
    """The trees that a search found.

    Attributes:
        trees: The trees within the limit, the one with the least disagreement first.
        affinities: Cosines between the tasks' gradients by stage behind a place, (places, T, T).
        tried: The number of trees that were looked at, those above the limit included.
        count: The number of all trees.
    """

    trees: tuple[TaskTree, ...]
    affinities: Tensor
    tried: int
    count: int


def search_branching(
    backbone: nn.Module,
    *,
    heads: Mapping[str, nn.Module],
    example_inputs: Sequence[Any] | Mapping[str, Any],
    batches: Iterable[tuple[Any, Any]],
    losses: Losses,
    macs: float,
    places: Places = "stages",
) -> BranchingSearch:
    """Searches which tasks should share which stages of a backbone, for a number of MACs.

    All trees are ranked where there are at most 50,000, and else those on a greedy walk from separate networks to a
    shared one. Neither the backbone nor the heads are changed.

    Args:
        backbone: The backbone of a trained shared network.
        heads: Task -> its trained head.
        example_inputs: The backbone's arguments, as for `gate`.
        batches: Batches of inputs and targets, some twenty or more. Inputs are a tensor, a tuple of the backbone's
            arguments, or a dict of them by name.
        losses: Maps outputs and targets to one loss per task.
        macs: The most MACs per sample, heads included; values up to 1 are a share of T separate networks.
        places: Where tasks may part, as for `architecture`.

    Raises:
        ArchitectureError: The backbone or the heads do not allow it.
        BudgetError: No tree is within the limit.
        GateError: There are no batches, or losses are not one finite scalar per task.
    """
    network = shared_branching(backbone, heads=heads, example_inputs=example_inputs, places=places)
    costs = TreeCosts.of(network, example_inputs)
    limit = costs.limit(macs)
    affinities = _affinities(network, batches, losses)
    differences = (1 - affinities).tolist()
    tasks = len(network.tasks)
    places_count = len(affinities)
    count = count_trees(tasks, places_count)

    def price(tree: Tree) -> tuple[float, int]:
        # Rounded, so that trees that only differ in stages without weights are level.
        return round(_disagreement(tree, differences), 9), costs.macs(tree)

    is_small = count <= MOST_TREES
    trees = all_trees(tasks, places_count) if is_small else greedy_trees(tasks, places_count, price)
    priced = [(*price(tree), tree) for tree in trees]
    fitting = sorted(found for found in priced if found[1] <= limit)
    return BranchingSearch(
        trees=tuple(
            TaskTree(groups=_named(tree, network.tasks), disagreement=disagreement, macs=cost)
            for disagreement, cost, tree in fitting
        ),
        affinities=affinities,
        tried=len(priced),
        count=count,
    )


@dataclass(frozen=True, kw_only=True)
class TreeCosts:
    """What trees of tasks cost, in MACs per sample.

    Attributes:
        stages: The MACs of every stage; all tasks share the first one.
        heads: The MACs of all heads.
        tasks: T.
    """

    stages: tuple[int, ...]
    heads: int
    tasks: int

    @classmethod
    def of(cls, network: Branching, example_inputs: Sequence[Any] | Mapping[str, Any]) -> "TreeCosts":
        """Returns the costs of the stages of a network in which all tasks share everything.

        Args:
            network: The network.
            example_inputs: The backbone's arguments.
        """
        chain = network.streams[stream_of(network.tasks)].children()
        stages = tuple(map(_macs, chain))
        whole = int(expected_macs(as_gated(network, example_inputs)))
        return cls(stages=stages, heads=whole - sum(stages), tasks=len(network.tasks))

    def macs(self, tree: Tree) -> int:
        """Returns the MACs of the static network of a tree."""
        first, *others = self.stages
        return first + sum(len(groups) * macs for groups, macs in zip(tree, others, strict=True)) + self.heads

    def limit(self, macs: float) -> float:
        """Returns the most MACs that are allowed.

        Args:
            macs: MACs, or up to 1 a share of T separate networks.

        Raises:
            BudgetError: The number is not positive, or below the MACs of one shared network.
        """
        number = require_number(macs, name="macs", error=BudgetError, least=0.0)
        separate = self.tasks * sum(self.stages) + self.heads
        shared = sum(self.stages) + self.heads
        limit = number * separate if number <= 1 else number
        if limit < shared:
            raise BudgetError(
                f"macs is {number:g}, and the shared network takes {shared:,}, or {shared / separate:.4g} of separate "
                "networks; raise it, or shrink the backbone."
            )
        return limit


def _macs(stage: nn.Module) -> int:
    """Returns the MACs of a stage per sample."""
    assert isinstance(stage, fx.GraphModule)
    return sum(info(node).macs for node in stage.graph.nodes if "info" in node.meta)


def shared_branching(
    backbone: nn.Module,
    *,
    heads: Mapping[str, nn.Module],
    example_inputs: Sequence[Any] | Mapping[str, Any],
    places: Places = "stages",
) -> Branching:
    """Builds the network in which all tasks share all stages, from copies of a backbone and heads.

    Args:
        backbone: The backbone.
        heads: Task -> head.
        example_inputs: The backbone's arguments, as for `gate`.
        places: Where tasks may part.

    Raises:
        ArchitectureError: The backbone or the heads do not allow it.
    """
    stages = split(backbone, example_inputs, places)
    together = [[list(heads)]] * len(stages.shapes)
    return Branching(stages, heads, groups=together)


def _affinities(network: Branching, batches: Iterable[tuple[Any, Any]], losses: Losses) -> Tensor:
    """Returns the mean cosines of the tasks' gradients by stage behind a place, (places, T, T).

    A stage without weights has 1: on it nobody can disagree. A task without a gradient has 0 with all others.
    """
    network.train()
    _, *stages = network.streams[stream_of(network.tasks)].children()
    weights = [[p for p in stage.parameters() if p.requires_grad] for stage in stages]
    parameters = [p for of_stage in weights for p in of_stage]
    totals = torch.zeros(len(stages), len(network.tasks), len(network.tasks), dtype=torch.float64)
    count = 0
    for inputs, targets in batches:
        of_task = checked_losses(losses(called(network, inputs), targets), network.tasks)
        gradients = [
            torch.autograd.grad(of_task[task].reshape(()), parameters, retain_graph=True, allow_unused=True)
            for task in network.tasks
        ]
        start = 0
        for number, of_stage in enumerate(weights):
            totals[number] += _cosines([row[start : start + len(of_stage)] for row in gradients], of_stage)
            start += len(of_stage)
        count += 1
    if not count:
        raise GateError("the search was given no batches; some twenty show which tasks agree.")
    return totals / count


def _cosines(gradients: Sequence[Sequence[Tensor | None]], weights: Sequence[Tensor]) -> Tensor:
    """Returns the cosines between the gradients of the tasks, (T, T) in float64."""
    if not weights:
        return torch.ones(len(gradients), len(gradients), dtype=torch.float64)
    rows = matrix_of(gradients, weights).double()
    unit = rows / rows.norm(dim=1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)
    cosines: Tensor = unit @ unit.T
    return cosines.cpu()


def _disagreement(tree: Tree, differences: Sequence[Sequence[Sequence[float]]]) -> float:
    """Returns the mean over places and tasks of a task's mean difference from the others in its group.

    Args:
        tree: The groups by place.
        differences: 1 - affinity, (places, T, T).
    """
    total = 0.0
    for groups, of_place in zip(tree, differences, strict=True):
        for group in groups:
            # Each pair is in the means of both its tasks.
            pairs = sum(of_place[i][j] + of_place[j][i] for i, j in combinations(group, 2))
            total += pairs / max(1, len(group) - 1)
    return total / (len(tree) * len(differences[0]))


def _named(tree: Tree, tasks: Sequence[str]) -> tuple[tuple[tuple[str, ...], ...], ...]:
    return tuple(tuple(tuple(tasks[task] for task in group) for group in groups) for groups in tree)
