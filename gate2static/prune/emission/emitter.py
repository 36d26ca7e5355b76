"""The static network under construction: how a consumer gets the channels it reads from the tensors that hold them."""

import copy
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from gate2static.errors import PruneError
from gate2static.gates.model import GatedModel
from gate2static.graphs import Ids
from gate2static.program.rewrites.out_of_place import clear_inplace_flags
from gate2static.prune.analysis.channel_dims import to_canonical
from gate2static.prune.analysis.nodes import module_of
from gate2static.prune.analysis.numbering import Numbering, readers
from gate2static.prune.emission.layout import Lowering
from gate2static.prune.emission.parts import Part, Pool, not_computed

if TYPE_CHECKING:
    from gate2static.prune.analysis.channel_access import Reading
    from gate2static.prune.rules.rule import Rule


_TOKENS_DIM, _LONG_RUN = 2, 8


class Emitter:
    """Collects the static network while the rules emit it.

    Attributes:
        gated: the model being pruned.
        graph: the graph under construction.
        root: owner of the modules and tensors that `graph` uses.
        rules: of every node.
        numberings: of every node.
        needs: (S, C) 0/1 need of every node.
        pools: of the nodes emitted so far.
        inputs: the emitted placeholders.
    """

    def __init__(
        self,
        gated: GatedModel,
        rules: Mapping[fx.Node, "Rule"],
        numberings: Mapping[fx.Node, Numbering],
        needs: Mapping[fx.Node, Tensor],
        blocks: Mapping[fx.Node, Ids],
        lowering: Lowering,
    ) -> None:
        self.gated, self.rules, self.numberings, self.needs = gated, rules, numberings, needs
        self.blocks, self.lowering = blocks, lowering
        self.graph, self.root = fx.Graph(), nn.Module()
        self.pools: dict[fx.Node, Pool] = {}
        self.inputs: list[fx.Node] = []
        self._numberings: dict[Any, Numbering] = {}
        self._pools: dict[Any, Pool] = {}
        self._views: dict[tuple[Any, ...], fx.Node] = {}
        self._made: dict[str, list[tuple[str, nn.Module]]] = {}
        calls = Counter(node.target for node in rules if node.op == "call_module")
        self._repeated = {target for target, times in calls.items() if times > 1}

    def numbering(self, reading: "Reading") -> Numbering:
        """The pool and views of an input as it is read."""
        key = (reading.node, reading.dims)
        if key not in self._numberings:
            self._numberings[key] = reading.numbering(self.numberings[reading.node])
        return self._numberings[key]

    def pool(self, reading: "Reading") -> Pool:
        """The emitted channels of an input as it is read."""
        key = (reading.node, reading.dims)
        if key not in self._pools:
            self._pools[key] = reading.pool(self)
        return self._pools[key]

    def canonical(self, rule: "Rule", stream: int) -> Any:
        """A value as `stream` sees it: all channels, in the shape that the user's code gave it."""
        ids, pool = self.numberings[rule.node].views[stream], self.pools[rule.node]
        if rule.dims is None:
            return pool.whole(int(ids[0]))
        return to_canonical(self.graph, self.view(pool, ids), rule.info.shape or (), rule.dims)

    def view(self, pool: Pool, ids: Ids) -> fx.Node:
        """A tensor holding exactly the channels `ids`, in that order."""
        if (whole := next((p for p in pool.parts if np.array_equal(p.ids, ids)), None)) is not None:
            return whole.node  # type: ignore[no-any-return]
        parts, positions = pool.place(ids)
        if (parts < 0).any():
            raise not_computed(f"channel {ids[parts < 0][0]}")
        cuts = np.flatnonzero(np.diff(parts)) + 1
        used = np.unique(parts)
        if len(cuts) < len(used):
            # Each part is read once: a slice or a gather of each, side by side.
            pieces = zip(np.split(parts, cuts), np.split(positions, cuts), strict=True)
            return self.concatenate([self._pick(pool.parts[p[0]], at, pool.dim) for p, at in pieces], pool.dim)
        offsets = np.cumsum([0, *(len(pool.parts[u].ids) for u in used)])
        merged = self.concatenate([pool.parts[u].node for u in used], pool.dim)
        return self.gather(merged, offsets[np.searchsorted(used, parts)] + positions, pool.dim, int(offsets[-1]))

    def sorted_ids(self, pool: Pool, ids: Ids) -> Ids:
        """The order that reads `ids` in as few runs as possible: indices into `ids`."""
        if not self.lowering.permute_weights or self.is_whole(pool, ids):
            return np.arange(len(ids))
        parts, positions = pool.place(ids)
        return np.lexsort((positions, parts)).astype(np.int64)

    def concatenate(self, nodes: Sequence[fx.Node], dim: int | None) -> fx.Node:
        """One tensor of all; the tensor itself where there is one."""
        if len(nodes) == 1:
            return nodes[0]
        return self._once(("cat", *nodes, dim), torch.cat, (list(nodes), dim))

    def gather(self, node: fx.Node, positions: Ids, dim: int | None, size: int) -> fx.Node:
        """The channels at `positions`, of `size`.

        Along the last of several dimensions, as tokens have their channels, a gather copies number by number. So it
        takes groups of channels where all runs consist of whole ones, and other runs are cut out where they are long.
        """
        if dim is None or dim < _TOKENS_DIM:
            return self._select(node, positions, dim)
        runs = np.split(positions, np.flatnonzero(np.diff(positions) != 1) + 1)
        group = math.gcd(size, *(int(run[0]) for run in runs), *map(len, runs))
        if group < _LONG_RUN <= len(positions) / len(runs):
            return self.concatenate([self._slice(node, int(run[0]), len(run), dim) for run in runs], dim)
        if group == 1:
            return self._select(node, positions, dim)
        groups = self._once(("groups", node, dim, group), torch.unflatten, (node, dim, [size // group, group]))
        chosen = self._select(groups, positions[::group] // group, dim)
        return self._once(("together", chosen, dim), torch.flatten, (chosen, dim, dim + 1))

    def _select(self, node: fx.Node, positions: Ids, dim: int | None) -> fx.Node:
        key = ("select", node, dim, positions.tobytes())
        if key not in self._views:
            self._views[key] = self.graph.call_function(
                torch.index_select, (node, dim, self.constant(torch.from_numpy(positions.copy())))
            )
        return self._views[key]

    def _pick(self, part: Part, positions: Ids, dim: int | None) -> fx.Node:
        start, count = int(positions[0]), len(positions)
        if not np.array_equal(positions, start + np.arange(count)):
            return self.gather(part.node, positions, dim, len(part.ids))
        if count == len(part.ids):
            return part.node  # type: ignore[no-any-return]
        return self._slice(part.node, start, count, dim)

    def _slice(self, node: fx.Node, start: int, count: int, dim: int | None) -> fx.Node:
        return self._once(("slice", node, dim, start, count), torch.narrow, (node, dim, start, count))

    def _once(self, key: tuple[Any, ...], function: Any, args: tuple[Any, ...]) -> fx.Node:
        if key not in self._views:
            self._views[key] = self.graph.call_function(function, args)
        return self._views[key]

    def constant(self, value: Tensor, *, trained: bool = False) -> fx.Node:
        """A tensor of the static network; a parameter where it was trained."""
        name = f"constant_{len(self.root._parameters) + len(self.root._buffers)}"
        if trained:
            self.root.register_parameter(name, nn.Parameter(value.detach().clone(), requires_grad=False))
        else:
            self.root.register_buffer(name, value)
        return self.graph.get_attr(name)

    def module(
        self, node: fx.Node, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
    ) -> fx.Node:
        """Call a module that stands for what `node` calls; where that is called repeatedly, equal ones are one."""
        made = self._made.setdefault(str(node.target), [])
        name = next((n for n, other in made if node.target in self._repeated and _are_equal(other, module)), None)
        if name is None:
            name = node.name
            while hasattr(self.root, name):
                name += "_"
            self.root.add_module(name, module)
            made.append((name, module))
        return self.graph.call_module(name, args, dict(kwargs or {}))

    def call_like(self, rule: "Rule", stream: int, replacements: Mapping[fx.Node, Any]) -> fx.Node:
        """Emit the rule's own operation for `stream`, with its input nodes replaced."""
        args = fx.map_arg(rule.node.args, lambda n: replacements[n])
        kwargs = fx.map_arg(rule.node.kwargs, lambda n: replacements[n])
        if rule.node.op == "call_module":
            return self.module(rule.node, detached_copy(self.gated, rule.node, stream), args, kwargs)
        # A view of what was one tensor may be a view of a slice of one now.
        viewed = rule.node.target == "view" and not isinstance(rule.node.args[-1], torch.dtype)
        return self.graph.create_node(rule.node.op, "reshape" if viewed else rule.node.target, args, kwargs)

    def order(self, rule: "Rule", ids: Ids) -> Ids:
        """`ids` sorted by who reads them, so that what a stream reads lies together.

        Reader sets are ranked as Gray codes: neighbours differ in one reader, and for two streams every view is one
        slice.
        """
        if not self.lowering.order_channels:
            return np.sort(ids)
        rank = self._readers(rule)[ids]
        shift = 1
        while shift < 64:
            rank ^= rank >> shift
            shift *= 2
        return ids[np.lexsort((ids, rank))]

    def by_readers(self, rule: "Rule", ordered: Ids) -> list[Ids]:
        """`ordered`, the result of `order`, cut where the readers change."""
        bits = self._readers(rule)[ordered]
        return np.split(ordered, np.flatnonzero(np.diff(bits)) + 1)

    def by_streams(self, rule: "Rule", live: Ids) -> list[Ids]:
        """The channels that each stream needs, in canonical order; those of equal streams once."""
        needs = (self.needs[rule.node] > 0).cpu().numpy()
        found = [view[needed] for view, needed in zip(self.numberings[rule.node].views, needs, strict=True)]
        return [np.array(ids) for ids in dict.fromkeys(tuple(ids.tolist()) for ids in found if len(ids))]

    def in_blocks(self, rule: "Rule", ids: Ids) -> list[Ids]:
        """`ids` cut into blocks; all together where the node has none."""
        if rule.node not in self.blocks or not len(ids):
            return [ids]
        labels = self.blocks[rule.node][ids]
        order = np.argsort(labels, kind="stable")
        return np.split(ids[order], np.flatnonzero(np.diff(labels[order])) + 1)

    def by_parts(self, rule: "Rule", source: Pool, wanted: Ids) -> list[Ids]:
        """The source's channels `wanted`, part by part; parts with the same readers of `rule` count as one.

        `rule` keeps the numbers of its source. Merging such parts costs a copy that their readers would make anyway.
        """
        if not self.lowering.share_elementwise:
            return [p.ids for p in source.parts if np.isin(p.ids, wanted).any()]
        bits = self._readers(rule)
        groups: dict[tuple[int, int], list[Ids]] = {}
        for part in source.parts:
            kept = part.ids[np.isin(part.ids, wanted)]
            if len(kept):
                key = (int(np.bitwise_or.reduce(bits[kept])), -1)
                if rule.node in self.blocks:
                    key = (-1, int(self.blocks[rule.node][kept[0]]))
                groups.setdefault(key, []).append(kept)
        return [np.concatenate(ids) for ids in groups.values()]

    def is_whole(self, pool: Pool, ids: Ids) -> bool:
        """Whether one emitted tensor holds exactly `ids` in that order."""
        return any(np.array_equal(p.ids, ids) for p in pool.parts)

    def _readers(self, rule: "Rule") -> Ids:
        return readers(self.numberings[rule.node], self.needs[rule.node])


def _are_equal(a: nn.Module, b: nn.Module) -> bool:
    """Whether two modules made from one have the same tensors and settings."""
    first, second = a.state_dict(), b.state_dict()
    tensors = first.keys() == second.keys() and all(torch.equal(t, second[name]) for name, t in first.items())
    return tensors and _settings(a) == _settings(b)


def _settings(module: nn.Module) -> list[dict[str, Any]]:
    return [{k: v for k, v in vars(m).items() if isinstance(v, int | float | str | tuple)} for m in module.modules()]


def detached_copy(gated: GatedModel, node: fx.Node, stream: int) -> nn.Module:
    """A copy of the module a node calls, in eval mode and out of place."""
    try:
        module = copy.deepcopy(module_of(gated, node, stream))
    except RuntimeError as error:
        raise PruneError(f"the layer {node.target} cannot be copied: {str(error).splitlines()[0]}") from error
    assert module is not None
    clear_inplace_flags(module)
    return module.eval()
