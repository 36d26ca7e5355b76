"""Shapes and MACs of every node of a traced graph, without computing anything.

The graph runs twice on fake tensors, at two batch sizes, so that the dimensions that follow the batch are known and
reads of a tensor's size can be told apart from constants. MACs are those of torch's own FLOP counter.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from gate2static.errors import TraceError
from gate2static.graphs import quiet

BATCHES = (2, 3)
"""The batch sizes that networks are looked at with: what differs between them follows the batch."""


class NodeError(TraceError):
    """A node that does not run.

    Args:
        message: says so.
        node: which; None for the output.
    """

    def __init__(self, message: str, node: fx.Node | None) -> None:
        super().__init__(message)
        self.node = node


@dataclass(frozen=True, kw_only=True)
class Info:
    """What is known about a node's value.

    Attributes:
        streams: the streams that the node exists for; tasks are 0 … T-1, the shared stream is T.
        shape: of a tensor at batch size 2; None for anything else.
        dtype: of a tensor.
        batch_multiple: k where the first dimension is k · batch; 0 where it does not follow the batch.
        batch_dims: all dimensions that follow the batch.
        constant: the value of a node that is not a tensor and does not depend on the batch size.
        values: of a node that is not a tensor, at each of `BATCHES`.
        macs: multiply-accumulates per sample of the node itself, for one stream.
    """

    streams: tuple[int, ...]
    shape: tuple[int, ...] | None = None
    dtype: torch.dtype | None = None
    batch_multiple: int = 0
    batch_dims: tuple[int, ...] = ()
    constant: Any = None
    values: tuple[Any, ...] = (None, None)

    def at(self, batch: int) -> tuple[int, ...]:
        """The shape at another batch size."""
        sizes = enumerate(self.shape or ())
        return tuple(size // BATCHES[0] * batch if d in self.batch_dims else size for d, size in sizes)

    macs: int = 0


def info(node: fx.Node) -> Info:
    """The `Info` of an annotated node."""
    found: Info = node.meta["info"]
    return found


def annotate(
    root: nn.Module, graph: fx.Graph, inputs: Callable[[int], tuple[Any, ...]], streams: tuple[int, ...], what: str
) -> Callable[[int], Any]:
    """Set `node.meta["info"]` on every node.

    Args:
        root: owner of the modules that `graph` calls.
        graph: what to annotate.
        inputs: batch size -> the graph's inputs, as fake tensors.
        streams: recorded in every `Info`.
        what: how to name the graph in an error.

    Returns:
        Batch size -> the graph's output, as fake tensors.

    Raises:
        NodeError: the graph does not run on these inputs.
    """
    runs = {batch: _run(root, graph, inputs(batch), what) for batch in BATCHES}
    small, large = (runs[batch] for batch in BATCHES)
    for node in graph.nodes:
        node.meta["info"] = _compare(small[node], large[node], streams)
    output = next(iter(graph.find_nodes(op="output")))
    results = {batch: run[output][0] for batch, run in runs.items()}
    return results.__getitem__


def fake_inputs(mode: FakeTensorMode, examples: tuple[Any, ...]) -> Callable[[int], tuple[Any, ...]]:
    """Batch size -> fake tensors shaped like the examples."""

    def at(batch: int) -> tuple[Any, ...]:
        def fake(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            with mode:
                return torch.empty((batch, *x.shape[1:]), dtype=x.dtype, device=x.device)

        return tuple(pytree.tree_map(fake, x) for x in examples)

    return at


def measure_macs(call: Callable[[], Any]) -> tuple[Any, int]:
    """The result of `call` and the MACs it took."""
    # The plain form of attention is made of products that the counter knows.
    plain = sdpa_kernel(SDPBackend.MATH)
    with torch.no_grad(), quiet(), plain, FlopCounterMode(display=False) as counter:
        result = call()
    return result, counter.get_total_flops() // 2


class _Recorder(fx.Interpreter):
    """Remembers each node's value and MACs."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.values: dict[fx.Node, tuple[Any, int]] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.values[n] = measure_macs(lambda: super(_Recorder, self).run_node(n))
        return self.values[n][0]


def _run(root: nn.Module, graph: fx.Graph, inputs: tuple[Any, ...], what: str) -> dict[fx.Node, tuple[Any, int]]:
    leaves = pytree.tree_leaves(inputs)
    mode = next((x.fake_mode for x in leaves if hasattr(x, "fake_mode")), None)
    recorder = _Recorder(fx.GraphModule(root, graph))
    # fx.GraphModule copies the graph's nodes one to one, in order.
    try:
        with mode if mode is not None else FakeTensorMode(allow_non_fake_inputs=True):
            recorder.run(*leaves)
    except Exception as error:
        shapes = ", ".join(str(tuple(x.shape)) if isinstance(x, Tensor) else repr(x) for x in leaves)
        where = next((n for n in graph.nodes if n.name not in {m.name for m in recorder.values}), None)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise NodeError(
            f"{what} does not run on inputs of shape {shapes}: at {where.name if where else 'its output'}: {reason}. "
            "Pass example_inputs as its forward takes them, with the batch first; any batch size must work.",
            where,
        ) from error
    by_name = {n.name: value for n, value in recorder.values.items()}
    return {n: by_name[n.name] for n in graph.nodes}


def _compare(small: tuple[Any, int], large: tuple[Any, int], streams: tuple[int, ...]) -> Info:
    (a, macs), (b, more) = small, large
    macs = _of_one_sample(macs, more)
    if isinstance(a, Tensor):
        follow = tuple(d for d, (m, n) in enumerate(zip(a.shape, b.shape, strict=True)) if m != n)
        return Info(
            streams=streams,
            shape=tuple(a.shape),
            dtype=a.dtype,
            batch_multiple=a.shape[0] // BATCHES[0] if 0 in follow else 0,
            batch_dims=follow,
            macs=macs,
        )
    if any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(a)):
        return Info(streams=streams, macs=macs)
    return Info(streams=streams, constant=a if a == b else None, values=(a, b), macs=macs)


def _of_one_sample(two: int, three: int) -> int:
    """MACs at batch size 1 from those at 2 and 3: work on weights alone stays, attention over the batch grows."""
    for power in (1, 0, 2):
        if two * 3**power == three * 2**power:
            return two // 2**power
    return max(0, 2 * two - three)
