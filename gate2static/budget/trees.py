"""Trees of tasks: all ways to branch behind a number of places, and a greedy walk where they are too many.

A tree is one partition of the tasks 0 … T-1 per place, each as fine as that of the place before, or finer.
"""

from collections.abc import Callable, Iterator
from functools import cache
from itertools import combinations, product
from math import comb

Group = tuple[int, ...]
Partition = tuple[Group, ...]
Tree = tuple[Partition, ...]


@cache
def count_trees(tasks: int, places: int) -> int:
    """Returns the number of trees of some tasks behind some places: for one place, the Bell number.

    Of the tasks, the first one shares its group with j - 1 others, and the other groups are a tree of what is left.
    """
    if tasks == 0 or places == 0:
        return 1
    return sum(
        comb(tasks - 1, j - 1) * count_trees(j, places - 1) * count_trees(tasks - j, places)
        for j in range(1, tasks + 1)
    )


def all_trees(tasks: int, places: int) -> Iterator[Tree]:
    """Yields every tree once."""
    yield from _below((tuple(range(tasks)),), places)


def greedy_trees(tasks: int, places: int, price: Callable[[Tree], tuple[float, float]]) -> Iterator[Tree]:
    """Yields the trees on a walk from all tasks apart to all tasks together.

    Each step joins the two groups behind one place that add the least disagreement per MAC saved.

    Args:
        tasks: T.
        places: The number of places.
        price: Tree -> its disagreement and its MACs.
    """
    tree: Tree = (tuple((task,) for task in range(tasks)),) * places
    yield tree
    while joined := list(_joined(tree, tasks)):
        disagreement, macs = price(tree)
        ranked = []
        for candidate in joined:
            more, less = price(candidate)
            ranked.append(((more - disagreement) / max(macs - less, 1.0), candidate))
        tree = min(ranked)[1]
        yield tree


def _below(parent: Partition, places: int) -> Iterator[Tree]:
    """Yields the trees whose first partition is no coarser than a partition."""
    if places == 0:
        yield ()
        return
    for parts in product(*(list(_partitions(group)) for group in parent)):
        partition = tuple(sorted(group for part in parts for group in part))
        for rest in _below(partition, places - 1):
            yield (partition, *rest)


def _partitions(tasks: Group) -> Iterator[Partition]:
    """Yields every partition of some tasks."""
    if not tasks:
        yield ()
        return
    first, *others = tasks
    for size in range(len(others) + 1):
        for beside in combinations(others, size):
            left = tuple(task for task in others if task not in beside)
            for rest in _partitions(left):
                yield ((first, *beside), *rest)


def _joined(tree: Tree, tasks: int) -> Iterator[Tree]:
    """Yields the trees in which two groups behind one place are one, where they are one behind the place before."""
    parents: Partition = (tuple(range(tasks)),)
    for place, partition in enumerate(tree):
        for a, b in combinations(partition, 2):
            if any(set(a + b) <= set(parent) for parent in parents):
                others = [group for group in partition if group not in (a, b)]
                yield (*tree[:place], tuple(sorted([tuple(sorted(a + b)), *others])), *tree[place + 1 :])
        parents = partition
