"""Attention as one operator: two matrix products of the same heads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from torch import Tensor, fx
from torch.nn import functional as F

from gate2static.graphs import Ids, function_of
from gate2static.prune.analysis.need import any_reader
from gate2static.prune.analysis.nodes import argument
from gate2static.prune.analysis.numbering import Numbering
from gate2static.prune.emission.emitter import Emitter
from gate2static.prune.rules.matrix_product import MatrixProduct
from gate2static.prune.rules.rule import Matches


@dataclass(frozen=True, kw_only=True, eq=False)
class Attention(MatrixProduct):
    """scaled_dot_product_attention(q, k, v, mask): a pair of matrices is a head, and a column one channel of v."""

    @classmethod
    def match(cls, node: fx.Node, earlier: Matches) -> Self | None:
        if node.target is not F.scaled_dot_product_attention or node.kwargs.get("enable_gqa"):
            return None
        operands = [earlier[argument(node, i, name)] for i, name in enumerate(("query", "key", "value"))]
        mask = argument(node, 3, "attn_mask")
        ndim = len(node.meta["info"].shape or ())
        if any(len(operand.shape) != ndim for operand in operands):
            return None
        values = operands[2]
        free = 2 if values.dims and ndim - 1 in values.dims else None
        masks = () if mask is None else (earlier[mask],)
        return cls._of(node, operands, masks, free, (ndim - 2, ndim - 2, ndim - 1))

    def macs(self, need: Tensor, numbering: Numbering | None) -> Tensor:
        assert numbering is not None
        assert numbering.sources is not None
        head = self._pairs(numbering.sources)
        columns = any_reader(need, numbering.views, numbering.size)  # (size,)
        heads = any_reader(columns, head, int(head.max()) + 1)
        return heads.sum() * self._head_macs + columns.sum() * self._column_macs

    def live_macs(self, live: Ids, numbering: Numbering) -> int:
        assert numbering.sources is not None
        heads = len(np.unique(self._pairs(numbering.sources[live]))) if len(live) else 0
        return heads * self._head_macs + len(live) * self._column_macs

    def _call(self, operands: Sequence[Any], emitter: Emitter) -> fx.Node:
        q, k, v, *mask = operands
        kwargs = {"attn_mask": mask[0]} if mask else {}
        kwargs["is_causal"] = argument(self.node, 5, "is_causal", False)
        kwargs["scale"] = self.node.kwargs.get("scale")
        return emitter.graph.call_function(function_of(self.node), (q, k, v), kwargs)

    @property
    def _head_macs(self) -> int:
        """MACs of q·k for one head; of everything where the values have no channels."""
        depth, width = self._depth_and_width()
        return self._macs_per_channel * (depth + (0 if self.free is not None else width))

    @property
    def _column_macs(self) -> int:
        """MACs of one channel of the values."""
        return 0 if self.free is None else self._macs_per_channel

    @property
    def _macs_per_channel(self) -> int:
        """MACs of one channel of q·k, or of the product with v, in one head: both contract positions alike."""
        depth, width = self._depth_and_width()
        heads = self.channels if self.free is None else self.channels // width
        return self.info.macs // heads // (depth + width)

    def _depth_and_width(self) -> tuple[int, int]:
        """Returns the channels per head of the queries and of the values."""
        return self.inputs[0].shape[-1], self.inputs[2].shape[-1]
