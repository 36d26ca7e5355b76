"""What a graph may take: every value's size and all the work, found on tensors without content before anything runs.

The bounds follow from the inputs, the weights and the MACs of the manifest, with room for any real network. A graph is
looked at for two batch sizes, since arithmetic on sizes can make a small value of a large batch and the reverse.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from gate2static.static.capturing.meta_tensors import META, run_without_content
from gate2static.static.vetting.work import element_count, estimate, named_arguments

MOST_PARTS = 16_384
"""The most tensors that one operator may return."""
MOST_STEPS = 2**18
"""The most steps that all recurrent layers take together; they run one after the other."""
_LARGEST_SIZE = 2**62


class BoundsError(ValueError):
    """A graph that takes more than any network of its inputs and weights."""


class MixedTypesError(BoundsError):
    """A product of two types, which no bound says anything about."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a graph may take, per sample.

    Attributes:
        elements: The most elements of one value.
        live: The most elements of all values that are needed at one time.
        work: The most multiplications, or what takes as long.
    """

    elements: int
    live: int
    work: int


def bounds_for(inputs: int, weights: int, macs: int) -> Bounds:
    """Returns what a network may take.

    Args:
        inputs: The elements of a sample's inputs.
        weights: The elements of all weights.
        macs: The multiply-accumulates of a sample that the manifest names.
    """
    elements = 2**26 + 1024 * inputs + 16 * weights
    return Bounds(elements=elements, live=4 * elements, work=2**34 + 16 * max(0, macs))


def shapes_within(network: fx.GraphModule, inputs: Sequence[Tensor], bounds: Bounds) -> tuple[Any, ...]:
    """Runs a graph on tensors without content, node by node, and refuses what takes too much.

    Args:
        network: The graph of known operators whose arguments were checked.
        inputs: The inputs without content; all that have a batch have the same, at least 1.
        bounds: What the graph may take per sample.

    Returns:
        The outputs, without content.

    Raises:
        BoundsError: A value, all values or the work are out of bounds.
        Exception: Whatever torch raises where arguments do not fit.
    """
    return _BoundedRun(network, inputs, bounds).outputs()


class _BoundedRun:
    """One pass over a graph.

    Attributes:
        samples: The batch size of the inputs; bounds grow with it.
        values: Node -> its tensor without content, its size or its parts, as long as a later node reads it.
        live: The elements of those values.
        work: The work so far.
        steps: The steps of recurrent layers so far.
    """

    def __init__(self, network: fx.GraphModule, inputs: Sequence[Tensor], bounds: Bounds) -> None:
        self.network = network
        self.bounds = bounds
        self.inputs = iter(inputs)
        self.samples = max((len(x) for x in inputs if x.dim()), default=1)
        self.values: dict[fx.Node, Any] = {}
        self.readers = {node: len(node.users) for node in network.graph.nodes}
        self.live = 0
        self.work = 0
        self.steps = 0

    def outputs(self) -> tuple[Any, ...]:
        for node in self.network.graph.nodes:
            if node.op == "output":
                return tuple(self.values[output] for output in node.args[0])
            self.values[node] = self.value_of(node)
            self.live += element_count(self.values[node])
            if self.live > self.bounds.live * self.samples:
                raise BoundsError(f"{node}: values of more than {self.bounds.live:,} elements are needed at one time")
            self.forget_arguments(node)
        raise BoundsError("the graph has no output")

    def value_of(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return next(self.inputs)
        if node.op == "get_attr":
            return torch.empty_like(_stored(self.network, str(node.target)), device=META)
        args = fx.map_arg(node.args, self.values.__getitem__)
        kwargs = fx.map_arg(node.kwargs, self.values.__getitem__)
        if not isinstance(node.target, torch._ops.OpOverload):
            return _size_arithmetic(node.target, args)
        self.check_before(node.target, args, kwargs)
        value = run_without_content(node.target, args, kwargs)
        self.check_after(node, args, kwargs, value)
        return value

    def check_before(self, operator_: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Refuses what would take long even on tensors without content, or would trust its arguments."""
        packet = operator_.overloadpacket.__name__
        if packet in _PARTS and _PARTS[packet](named_arguments(operator_, args, kwargs)) > MOST_PARTS:
            raise BoundsError(f"{operator_} makes more than {MOST_PARTS:,} tensors")
        if packet in _RECURRENT:
            self.steps += _recurrent_steps(named_arguments(operator_, args, kwargs))
            if self.steps > MOST_STEPS:
                raise BoundsError(f"recurrent layers take more than {MOST_STEPS:,} steps")
        if packet in _EXACT_SIZES:
            _EXACT_SIZES[packet](named_arguments(operator_, args, kwargs))

    def check_after(self, node: fx.Node, args: Sequence[Any], kwargs: Mapping[str, Any], value: Any) -> None:
        """Refuses values and work that are out of bounds."""
        elements = element_count(value)
        if elements > self.bounds.elements * self.samples:
            raise BoundsError(
                f"{node} ({node.target}) has {elements // self.samples:,} elements per sample, more than "
                f"{self.bounds.elements:,}"
            )
        assert isinstance(node.target, torch._ops.OpOverload)
        work, scratch = estimate(node.target, args, kwargs, value)
        if scratch > 4 * self.bounds.elements * self.samples:
            raise BoundsError(f"{node} ({node.target}) needs too much memory")
        self.work += work
        if self.work > self.bounds.work * self.samples:
            raise BoundsError(f"up to {node} ({node.target}) the graph takes more than {self.bounds.work:,} operations")

    def forget_arguments(self, node: fx.Node) -> None:
        """Drops values that no later node reads."""
        for read in {*node.all_input_nodes}:
            self.readers[read] -= 1
        for read in {*node.all_input_nodes, node}:
            if not self.readers[read]:
                self.live -= element_count(self.values[read])


def _size_arithmetic(function: Any, args: Sequence[Any]) -> Any:
    """Computes with sizes, or picks a part of what an operator returned.

    Raises:
        BoundsError: Something else than sizes, a division by zero, or a size that no tensor has.
    """
    if function is operator.getitem:
        parts, index = args
        if not isinstance(parts, list | tuple) or type(index) is not int or not 0 <= index < len(parts):
            raise BoundsError(f"there is no part {index}")
        return parts[index]
    if not all(type(value) is int for value in args):
        raise BoundsError("arithmetic on sizes reads something else than sizes")
    if len(args) != (1 if function is operator.neg else 2):
        raise BoundsError(f"{len(args)} arguments for arithmetic on sizes")
    if function in (operator.floordiv, operator.mod) and args[1] == 0:
        raise BoundsError("a size is divided by zero")
    result = function(*args)
    if abs(result) > _LARGEST_SIZE:
        raise BoundsError("a size is larger than any tensor")
    return result


def _stored(network: nn.Module, name: str) -> Tensor:
    tensor: Tensor = getattr(network, name)
    return tensor


# How many tensors an operator is about to return, from its arguments by name.


def _split_parts(named: Mapping[str, Any]) -> int:
    size = named["split_size"]
    if isinstance(size, list | tuple):
        return len(size)
    return -(-_length(named) // size) if size > 0 else 1


def _sections(named: Mapping[str, Any]) -> int:
    for key in ("sections", "chunks"):
        if key in named:
            return int(named[key])
    return len(named["indices"]) + 1


def _length(named: Mapping[str, Any]) -> int:
    """Returns the size of the dimension that an operator works along."""
    tensor = named["self"]
    dim = named.get("dim", 0)
    return int(tensor.shape[dim]) if -tensor.dim() <= dim < tensor.dim() else 0


_PARTS: Mapping[str, Callable[[Mapping[str, Any]], int]] = {
    "chunk": _sections,
    "dsplit": _sections,
    "hsplit": _sections,
    "split": _split_parts,
    "split_with_sizes": lambda named: len(named["split_sizes"]),
    "tensor_split": _sections,
    "unbind": _length,
    "vsplit": _sections,
}

# Recurrent layers.

_RECURRENT = ("gru", "lstm", "rnn_relu", "rnn_tanh")


def _recurrent_steps(named: Mapping[str, Any]) -> int:
    """Returns the steps of a recurrent layer over a sequence (length, batch, features) or with the batch first."""
    sequence = named["input"]
    length = int(sequence.shape[1 if named["batch_first"] and sequence.dim() == 3 else 0])
    layers = int(named["num_layers"])
    if not 1 <= layers <= 64:
        raise BoundsError(f"a recurrent layer of {layers} layers")
    return length * layers * (2 if named["bidirectional"] else 1)


# Operators of which torch trusts that tensors have the right sizes.


def _check_weight_norm(named: Mapping[str, Any]) -> None:
    direction, length, dim = named["v"], named["g"], named.get("dim", 0)
    if not -direction.dim() <= dim < direction.dim() or length.numel() != direction.shape[dim]:
        raise BoundsError("the lengths of a normed weight do not fit its directions")


def _check_batch_norm(named: Mapping[str, Any]) -> None:
    value = named["input"]
    channels = value.shape[1] if value.dim() > 1 else -1
    for key in ("weight", "bias", "running_mean", "running_var"):
        tensor = named[key]
        if tensor is not None and tuple(tensor.shape) != (channels,):
            raise BoundsError(f"{key} of a norm has shape {tuple(tensor.shape)}, not ({channels},)")
    # With the batch's own statistics it would write its running ones; standardised weights have none.
    has_statistics = named["running_mean"] is not None and named["running_var"] is not None
    if named["training"] == has_statistics:
        raise BoundsError("a batch norm in training mode, or one without statistics")


def _check_layer_norm(named: Mapping[str, Any]) -> None:
    sizes = tuple(named["normalized_shape"])
    tails = [named["input"].shape[-len(sizes) :], *(x.shape for x in (named["weight"], named["bias"]) if x is not None)]
    if not sizes or any(tuple(tail) != sizes for tail in tails):
        raise BoundsError(f"a layer norm over {sizes} of {[tuple(tail) for tail in tails]}")


def _check_same_dtype(named: Mapping[str, Any]) -> None:
    """On tensors without content torch multiplies what it does not multiply otherwise."""
    dtypes = {value.dtype for value in named.values() if isinstance(value, Tensor) and value.dtype is not torch.bool}
    if len(dtypes) > 1:
        raise MixedTypesError(f"a product of {' and '.join(sorted(map(str, dtypes)))}")


def _check_rrelu(named: Mapping[str, Any]) -> None:
    if named["training"]:
        raise BoundsError("an operator in training mode")


_EXACT_SIZES: Mapping[str, Callable[[Mapping[str, Any]], None]] = {
    "_weight_norm": _check_weight_norm,
    "_weight_norm_interface": _check_weight_norm,
    "batch_norm": _check_batch_norm,
    "layer_norm": _check_layer_norm,
    "rrelu": _check_rrelu,
    **dict.fromkeys(
        (
            "addmm", "baddbmm", "bmm", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d",
            "conv_transpose3d", "convolution", "linear", "matmul", "mm", "mv", "scaled_dot_product_attention",
        ),
        _check_same_dtype,
    ),
}  # fmt: skip
