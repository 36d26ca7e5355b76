"""Where a backbone can be cut: the ends of stages, of blocks, and of modules by name.

A *cut* is a value that everything behind it comes from. Neighbouring cuts of one shape are a group, and the end of a
stage is the last cut of its group: the end of `layer1` in a ResNet. A ResNet's blocks end at cuts within a group.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise, takewhile
from typing import Any, Literal

from torch import fx, nn

from gate2static.arguments import described
from gate2static.errors import ArchitectureError
from gate2static.program.annotate import info
from gate2static.program.structures import tensors_of
from gate2static.program.units import owns_state

Places = Literal["stages", "last blocks", "blocks"] | Sequence[str]
"""Where a backbone is cut: at the ends of its stages; there and before each stage's last block; at the ends of all
blocks; or behind modules, by their paths."""

_LEAST = 0.005
"""A part with less than this share of the parameters, such as a stem, is no stage of its own."""
_FEWEST = 3
"""The fewest stages that are looked for in the tree of modules."""
_PARTS = 4
"""The number of stages of a backbone whose values all have one shape, such as a plain transformer."""


@dataclass(frozen=True)
class Cut:
    """A place to cut, behind the node of this number.

    Attributes:
        number: The node.
        values: The values that what follows is computed from.
        returned: Further values, which are only returned in the end, as a pyramid's are.
    """

    number: int
    values: tuple[fx.Node, ...]
    returned: tuple[fx.Node, ...]

    @property
    def all_values(self) -> tuple[fx.Node, ...]:
        """The values that cross the cut: those that are worked on, and those that are only returned."""
        return (*self.values, *self.returned)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first value, without the batch."""
        return (info(self.values[0]).shape or ())[1:]


def choose_cuts(root: nn.Module, nodes: list[fx.Node], places: Places) -> list[Cut]:
    """Returns the cuts at some places, in data-flow order.

    Args:
        root: The owner of the modules that the graph calls.
        nodes: The nodes of the backbone's annotated graph.
        places: Where to cut.

    Raises:
        ArchitectureError: There is no such place, or the stages cannot be found.
    """
    if not isinstance(places, str):
        return _named(nodes, places)
    if places not in ("stages", "last blocks", "blocks"):
        raise ArchitectureError(
            f"places is {places!r}; allowed are 'stages', 'last blocks', 'blocks' and a list of modules' paths."
        )
    cuts = _single(_cuts(nodes))
    ends, depth = _stage_ends(root, nodes, cuts)
    blocks = _with_parameters(root, nodes, [cut for cut in cuts if _depth(nodes, cut) <= depth + 1])
    if len(ends) < _FEWEST and len(blocks) > len(ends):
        # Values of one shape throughout, as in a plain transformer: parts of equally many blocks.
        parts = min(_PARTS, len(blocks))
        ends = [blocks[round((part + 1) * len(blocks) / parts) - 1] for part in range(parts)]
    chosen = blocks if places == "blocks" else ends
    if places == "last blocks":
        chosen = [cut for end in ends for cut in (_before_last_block(root, nodes, cuts, end), end)]
    if not chosen or _share_behind(root, nodes, chosen[-1]) > 0.5:
        raise ArchitectureError(
            "most of the backbone lies behind the last value that everything passes through, so its stages cannot be "
            f"found; name the modules behind which it is to be cut, such as places={_some_children(root)!r}"
        )
    return chosen


def _named(nodes: list[fx.Node], places: Any) -> list[Cut]:
    """Returns the cuts behind modules of the backbone."""
    if not isinstance(places, Sequence) or not all(isinstance(path, str) for path in places):
        given = described(places) if not isinstance(places, Sequence) else repr(places)
        raise ArchitectureError(
            f"places is {given}; allowed are 'stages', 'last blocks', 'blocks' and a list of modules' paths."
        )
    cuts = [_behind(nodes, path) for path in places]
    for (first, one), (second, other) in pairwise(zip(places, cuts, strict=True)):
        if one.number >= other.number:
            raise ArchitectureError(
                f"places has {second!r} behind {first!r}, which ends no earlier; give every place once, in the order "
                "in which the backbone runs them."
            )
    return cuts


def _single(cuts: list[Cut]) -> list[Cut]:
    """Returns the cuts through which everything passes: behind them there is one value to work on.

    What is only returned was such a value itself; a path that runs beside the others makes no cuts.
    """
    single: list[Cut] = []
    passed: set[fx.Node] = set()
    for cut in cuts:
        if len(cut.values) == 1 and passed.issuperset(cut.returned):
            single.append(cut)
            passed.update(cut.values)
    return single


def _stage_ends(root: nn.Module, nodes: list[fx.Node], cuts: list[Cut]) -> tuple[list[Cut], int]:
    """Returns the ends of stages, and how deep in the tree of modules they were found.

    Stages are modules of modules: cuts between modules further up come first, and cuts inside blocks last.
    """
    best: tuple[list[Cut], int] = ([], 0)
    for depth in sorted({_depth(nodes, cut) for cut in cuts}):
        visible = [cut for cut in cuts if _depth(nodes, cut) <= depth]
        groups = [list(group) for _, group in groupby(visible, key=lambda cut: cut.shape)]
        ends = _large(root, nodes, [group[-1] for group in groups])
        if len(ends) > len(best[0]):
            best = ends, depth
        if len(best[0]) >= _FEWEST:
            break
    return best


def _depth(nodes: list[fx.Node], cut: Cut) -> int:
    """Returns the number of modules around both what is in front of a cut and what is behind it."""
    pairs = zip(_path(nodes[cut.number]), _path(nodes[cut.number + 1]), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _path(node: fx.Node) -> list[str]:
    """Returns the path of the module that a node runs in, or that it runs."""
    if node.op == "call_module":
        return str(node.target).split(".")
    stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    return stack[-1].split(".") if stack and stack[-1] else []


def _before_last_block(root: nn.Module, nodes: list[fx.Node], cuts: list[Cut], end: Cut) -> Cut:
    """Returns the last cut of the end's shape with parameters between it and the end; the end where there is none."""
    before = [cut for cut in cuts if cut.number < end.number and cut.shape == end.shape]
    return next((cut for cut in reversed(before) if _size(root, nodes, cut.number, end.number)), end)


def _cuts(nodes: list[fx.Node]) -> list[Cut]:
    """Returns every place behind which few values are needed, each set of values once."""
    *computing, output = nodes
    flows = _flowing(nodes)
    order = {node: number for number, node in enumerate(nodes)}
    results = list(dict.fromkeys(tensors_of(output.args[0])))
    last_use = {
        node: max((order[user] for user in node.users if user in flows - {output}), default=-1) for node in flows
    }
    for result in results:
        last_use[result] = max(last_use[result], order[result] + 1)  # it can be cut behind a result
    cuts: list[Cut] = []
    live: dict[fx.Node, None] = {}
    for number, node in enumerate(computing):
        if node not in flows:
            continue
        live = {value: None for value in (*live, node) if last_use[value] > number}
        values = tuple(live)
        returned = tuple(result for result in results if order[result] <= number and result not in live)
        can_be_cut = all(value.op != "placeholder" and info(value).batch_multiple == 1 for value in values)
        if values and can_be_cut and (not cuts or cuts[-1].values != values):
            cuts.append(Cut(number, values, returned))
    return cuts


def _flowing(nodes: list[fx.Node]) -> set[fx.Node]:
    """Returns the nodes that depend on the inputs."""
    flows: set[fx.Node] = set()
    for node in nodes:
        if node.op in ("placeholder", "output") or any(value in flows for value in node.all_input_nodes):
            flows.add(node)
    return flows


def _behind(nodes: list[fx.Node], path: str) -> Cut:
    """Returns the cut behind a module of the backbone."""
    inside = [number for number, node in enumerate(nodes) if _is_inside(node, path)]
    if not inside:
        raise ArchitectureError(f"the backbone runs no module {path!r}; give the paths of modules that it runs.")
    cuts = [cut for cut in _cuts(nodes) if cut.number <= inside[-1]]
    if not cuts or cuts[-1].number < inside[0]:
        raise ArchitectureError(f"behind {path!r} the backbone needs values that have no batch, so it cannot be cut.")
    return cuts[-1]


def _is_inside(node: fx.Node, path: str) -> bool:
    paths = [name for name, _ in node.meta.get("nn_module_stack", {}).values()]
    if node.op == "call_module":
        paths.append(str(node.target))
    return any(name == path or name.startswith(f"{path}.") for name in paths)


def _with_parameters(root: nn.Module, nodes: list[fx.Node], cuts: list[Cut]) -> list[Cut]:
    """Returns, of cuts between which there are no parameters, the last ones: the ends of blocks."""
    ends: list[Cut] = []
    for cut in cuts:
        start = ends[-1].number if ends else -1
        if ends and ends[-1].shape == cut.shape and not _size(root, nodes, start, cut.number):
            ends[-1] = cut
        elif _size(root, nodes, start, cut.number):
            ends.append(cut)
    return ends


def _large(root: nn.Module, nodes: list[fx.Node], cuts: list[Cut]) -> list[Cut]:
    """Returns the cuts that end a part of some size."""
    whole = _size(root, nodes, -1, len(nodes))
    chosen: list[Cut] = []
    for cut in cuts:
        start = chosen[-1].number if chosen else -1
        if _size(root, nodes, start, cut.number) >= _LEAST * whole:
            chosen.append(cut)
    return chosen


def _size(root: nn.Module, nodes: list[fx.Node], start: int, end: int) -> int:
    """Returns the number of parameters behind one node and up to another."""
    found: dict[int, int] = {}
    for node in nodes[start + 1 : end + 1]:
        if not owns_state(root, node):
            continue
        if node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            value = getattr(root.get_submodule(owner), name)
            found[id(value)] = value.numel()
        else:
            found |= {id(p): p.numel() for p in root.get_submodule(str(node.target)).parameters()}
    return sum(found.values())


def _share_behind(root: nn.Module, nodes: list[fx.Node], cut: Cut) -> float:
    return _size(root, nodes, cut.number, len(nodes)) / max(1, _size(root, nodes, -1, len(nodes)))


def _some_children(root: nn.Module) -> list[str]:
    return [name for name, child in root.named_children() if any(True for _ in child.parameters())][:4]
