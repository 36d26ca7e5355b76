"""Shapes and MACs of every node of a traced graph, found without computing anything.

The graph runs twice on fake tensors, at two batch sizes. A dimension that differs between the two runs follows the
batch, and a number that differs is a read of the batch size and not a constant. MACs are those of torch's own FLOP
counter.
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
from gate2static.program.operators import FLOPS
from gate2static.program.structures import tensors_of

BATCHES = (2, 3)
"""The two batch sizes that networks run with; sizes that differ between them follow the batch."""

InputsAt = Callable[[int], tuple[Any, ...]]
"""Batch size -> the inputs of a graph, as fake tensors."""


class NodeError(TraceError):
    """A node that does not run on the example inputs.

    Args:
        message: The text of the error.
        node: The node that does not run, or None for the output.
    """

    def __init__(self, message: str, node: fx.Node | None) -> None:
        super().__init__(message)
        self.node = node


@dataclass(frozen=True, kw_only=True)
class NodeInfo:
    """The facts about the value of a node that do not depend on the input's numbers.

    Attributes:
        streams: The streams that the node exists for. Tasks are 0 … T-1, and the shared stream is T.
        shape: The shape of a tensor at batch size 2. None for a value that is not a tensor.
        dtype: The dtype of a tensor. None for a value that is not a tensor.
        batch_multiple: The factor k of a first dimension that is k · batch; 0 where it does not follow the batch.
        batch_dims: All dimensions that follow the batch.
        constant: The value of a node that is neither a tensor nor dependent on the batch size. None for others.
        values: The values at each of `BATCHES` of a node that is not a tensor.
        macs: Multiply-accumulates of the node itself, per sample and for one stream.
    """

    streams: tuple[int, ...]
    shape: tuple[int, ...] | None = None
    dtype: torch.dtype | None = None
    batch_multiple: int = 0
    batch_dims: tuple[int, ...] = ()
    constant: Any = None
    values: tuple[Any, ...] = (None, None)
    macs: int = 0

    def at(self, batch: int) -> tuple[int, ...]:
        """Returns the shape at another batch size."""
        shape = list(self.shape or ())
        for d in self.batch_dims:
            shape[d] = shape[d] // BATCHES[0] * batch
        return tuple(shape)


@dataclass(frozen=True)
class _Result:
    """The value of a node in one run, and the MACs that it took for the whole batch."""

    value: Any
    macs: int


def info(node: fx.Node) -> NodeInfo:
    """Returns what `annotate` found about a node."""
    node_info: NodeInfo = node.meta["info"]
    return node_info


def annotate(
    root: nn.Module, graph: fx.Graph, inputs: InputsAt, streams: tuple[int, ...], what: str
) -> Callable[[int], Any]:
    """Sets `node.meta["info"]` on every node of a graph.

    Args:
        root: The owner of the modules that the graph calls.
        graph: The graph to annotate, changed in place.
        inputs: Batch size -> the graph's inputs, as fake tensors.
        streams: The streams that every `NodeInfo` records.
        what: The graph's name in an error, such as "the backbone".

    Returns:
        Batch size -> the graph's output, as fake tensors.

    Raises:
        NodeError: The graph does not run on these inputs.
    """
    runs = {batch: _run(root, graph, inputs(batch), what) for batch in BATCHES}
    small, large = (runs[batch] for batch in BATCHES)
    for node in graph.nodes:
        node.meta["info"] = _compare(small[node], large[node], streams)
    output = next(iter(graph.find_nodes(op="output")))
    outputs = {batch: run[output].value for batch, run in runs.items()}
    return outputs.__getitem__


def fake_inputs(mode: FakeTensorMode, examples: tuple[Any, ...]) -> InputsAt:
    """Returns a function from a batch size to fake tensors that are shaped like the examples otherwise."""

    def at(batch: int) -> tuple[Any, ...]:
        def fake(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            with mode:
                return torch.empty((batch, *x.shape[1:]), dtype=x.dtype, device=x.device)

        return tuple(pytree.tree_map(fake, x) for x in examples)

    return at


def measure_macs(call: Callable[[], Any]) -> tuple[Any, int]:
    """Returns the result of `call` and the MACs that it took."""
    # The counter knows matrix products, which the plain form of attention consists of, but no fused kernel.
    plain = sdpa_kernel(SDPBackend.MATH)
    with torch.no_grad(), quiet(), plain, FlopCounterMode(display=False, custom_mapping=dict(FLOPS)) as counter:
        result = call()
    return result, counter.get_total_flops() // 2


class _Recorder(fx.Interpreter):
    """Runs a graph and remembers the value and the MACs of each node."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.results: dict[str, _Result] = {}

    def run_node(self, n: fx.Node) -> Any:
        value, macs = measure_macs(lambda: super(_Recorder, self).run_node(n))
        self.results[n.name] = _Result(value, macs)
        return value


def _run(root: nn.Module, graph: fx.Graph, inputs: tuple[Any, ...], what: str) -> dict[fx.Node, _Result]:
    """Runs a graph on fake tensors and returns node -> its result.

    Args:
        root: The owner of the modules that the graph calls.
        graph: The graph to run.
        inputs: The graph's inputs, as fake tensors.
        what: The graph's name in an error.

    Raises:
        NodeError: The graph does not run on these inputs.
    """
    leaves = pytree.tree_leaves(inputs)
    mode = next((x.fake_mode for x in leaves if hasattr(x, "fake_mode")), None)
    # fx.GraphModule copies the graph, and the copies keep the names.
    recorder = _Recorder(fx.GraphModule(root, graph))
    try:
        with mode if mode is not None else FakeTensorMode(allow_non_fake_inputs=True):
            recorder.run(*leaves)
    except Exception as error:
        failed = next((n for n in graph.nodes if n.name not in recorder.results), None)
        raise NodeError(_does_not_run(what, leaves, failed, error), failed) from error
    return {node: recorder.results[node.name] for node in graph.nodes}


def _does_not_run(what: str, inputs: list[Any], failed: fx.Node | None, error: Exception) -> str:
    """Returns the message of an error for a graph that stops at the node `failed`."""
    shapes = ", ".join(str(tuple(x.shape)) if isinstance(x, Tensor) else repr(x) for x in inputs)
    place = failed.name if failed else "its output"
    text = str(error).strip()
    reason = text.splitlines()[0] if text else type(error).__name__
    return (
        f"{what} does not run on inputs of shape {shapes}: at {place}: {reason}. "
        "Pass example_inputs as its forward takes them, with the batch first; any batch size must work."
    )


def _compare(small: _Result, large: _Result, streams: tuple[int, ...]) -> NodeInfo:
    """Returns what the two runs, at the batch sizes `BATCHES`, say of a node."""
    value = small.value
    macs = _of_one_sample(small.macs, large.macs)
    if isinstance(value, Tensor):
        sizes = zip(value.shape, large.value.shape, strict=True)
        batch_dims = tuple(d for d, (few, more) in enumerate(sizes) if few != more)
        return NodeInfo(
            streams=streams,
            shape=tuple(value.shape),
            dtype=value.dtype,
            batch_multiple=value.shape[0] // BATCHES[0] if 0 in batch_dims else 0,
            batch_dims=batch_dims,
            macs=macs,
        )
    if tensors_of(value):
        # A structure of tensors: the nodes that pick from it say what is in it.
        return NodeInfo(streams=streams, macs=macs)
    values = (value, large.value)
    constant = value if value == large.value else None
    return NodeInfo(streams=streams, constant=constant, values=values, macs=macs)


def _of_one_sample(two: int, three: int) -> int:
    """Returns the MACs at batch size 1, given those at batch sizes 2 and 3."""
    # MACs grow with the batch to the power of 1 as a rule, of 0 for work on weights alone, and of 2 for attention
    # between samples.
    for power in (1, 0, 2):
        if two * 3**power == three * 2**power:
            return two // 2**power
    return max(0, 2 * two - three)
