"""Records the tensor operators of one forward pass with their sizes, on tensors without content.

Operators are what torch dispatches below its compositions: `linear` is `addmm`, and plain attention is matrix products
and a softmax. So a module in any form gives the same list: user code, a captured graph, or a folded one.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from gate2static.errors import BenchError
from gate2static.graphs import quiet

RESHAPES = frozenset(
    {"view", "_unsafe_view", "reshape", "_reshape_alias", "unsqueeze", "squeeze", "detach", "alias", "lift_fresh"}
)
"""Operators that give the same elements another shape: they cost nothing anywhere, and their result is their input."""


@dataclass(frozen=True, kw_only=True)
class Value:
    """A tensor that an operator reads or writes.

    Attributes:
        index: The number of the value, which reshaping keeps. -1 for weights and all that follows from weights alone.
        shape: The shape that this operator sees.
        size_bytes: The bytes of the tensor.
    """

    index: int
    shape: tuple[int, ...]
    size_bytes: int

    @property
    def is_constant(self) -> bool:
        """True for a value that is known before the network runs."""
        return self.index < 0


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator that runs.

    Attributes:
        name: The name of the operator in torch, such as "convolution" or "addmm".
        inputs: The tensors it reads, weights included, in the order of its arguments.
        outputs: The tensors it writes.
        arguments: Its other arguments by the names of its schema, defaults included.
        macs: The multiply-accumulates.
        dtype: The dtype of its result.
    """

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    arguments: dict[str, Any] = field(default_factory=dict)
    macs: int = 0
    dtype: torch.dtype = torch.float32

    @property
    def size_bytes(self) -> int:
        """The bytes that the operator reads and writes, each tensor once."""
        return sum(value.size_bytes for value in (*self.inputs, *self.outputs))


def record(network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Operator, ...]:
    """Returns the operators of `network(*inputs)` in the order in which they run, without computing anything.

    Args:
        network: Any module in evaluation mode; its weights may be fake tensors.
        inputs: The network's inputs, batch first, at the batch size that is predicted for; real or fake tensors.

    Raises:
        BenchError: The network does not run on these inputs.
    """
    tensors = (*inputs, *network.parameters(), *network.buffers())
    mode = next((x.fake_mode for x in tensors if isinstance(x, FakeTensor)), None)
    mode = mode or FakeTensorMode(allow_non_fake_inputs=True)
    fake = tuple(x if isinstance(x, FakeTensor) else mode.from_tensor(x) for x in inputs)
    recorder = _Recorder(fake)
    # The plain form of attention is made of operators that every table knows.
    plain = sdpa_kernel(SDPBackend.MATH)
    try:
        with torch.no_grad(), quiet(), plain, mode, recorder:
            network(*fake)
    except Exception as error:  # a network runs arbitrary operators
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BenchError(
            f"the network does not run on inputs of shape {shapes}: {reason}; pass inputs as its forward takes them"
        ) from error
    return tuple(recorder.operators)


class _Recorder(TorchDispatchMode):
    """Writes down every operator that reads a value that depends on the inputs.

    Args:
        inputs: The network's inputs, as fake tensors.
    """

    def __init__(self, inputs: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: list[Operator] = []
        self._indices: dict[int, int] = {}
        # An id stays a tensor's for as long as the tensor lives.
        self._alive: list[Tensor] = []
        for tensor in inputs:
            self._name(tensor, len(self._alive))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        read = _tensors((args, kwargs))
        written = _tensors(result)
        variable = [x for x in read if id(x) in self._indices]
        if not written or not variable:
            return result
        name = func._overloadpacket.__name__
        # An expansion to the shape that the tensor has copies nothing.
        is_noop = name == "expand" and written[0].shape == variable[0].shape
        if name in RESHAPES or is_noop:
            self._name(written[0], self._indices[id(variable[0])])
            return result
        # Before the results have numbers, since an operator may write into what it reads.
        inputs = tuple(self._value(x) for x in read)
        for tensor in written:
            self._name(tensor, len(self._alive))
        count = flop_registry.get(func._overloadpacket)
        self.operators.append(
            Operator(
                name=name.rstrip("_") if func._schema.is_mutable else name,
                inputs=inputs,
                outputs=tuple(self._value(x) for x in written),
                arguments=_arguments(func._schema, args, kwargs),
                macs=count(*args, **kwargs, out_val=result) // 2 if count else 0,
                dtype=written[0].dtype,
            )
        )
        return result

    def _name(self, tensor: Tensor, index: int) -> None:
        self._alive.append(tensor)
        self._indices[id(tensor)] = index

    def _value(self, tensor: Tensor) -> Value:
        index = self._indices.get(id(tensor), -1)
        return Value(index=index, shape=tuple(tensor.shape), size_bytes=tensor.numel() * tensor.element_size())


def _tensors(structure: Any) -> list[Tensor]:
    return [x for x in pytree.tree_leaves(structure) if isinstance(x, Tensor)]


def _arguments(schema: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments of a call that hold no tensors, by the names of the operator's schema."""
    named = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
    for argument, value in zip(schema.arguments, args, strict=False):
        named[argument.name] = value
    named |= kwargs
    return {name: value for name, value in named.items() if not _tensors(value)}
