"""The tensor operators of one forward pass with their sizes, recorded on tensors without content.

Operators are what torch dispatches below its compositions (`linear` is `addmm`, plain attention is matrix products and
a softmax), so a module in any form gives the same list: user code, a captured graph, a folded one.
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
        index: which value it is; reshaping keeps it. -1 for weights and everything that follows from weights alone.
        shape: as this operator sees it.
    """

    index: int
    shape: tuple[int, ...]
    size_bytes: int

    @property
    def is_constant(self) -> bool:
        """Whether it is known before the network runs."""
        return self.index < 0


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator that runs.

    Attributes:
        name: torch's, such as "convolution" or "addmm".
        inputs: the tensors it reads, weights included, in the order of its arguments.
        arguments: its other arguments by the names of its schema, defaults included.
        macs: multiply-accumulates.
        dtype: of its result.
    """

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    arguments: dict[str, Any] = field(default_factory=dict)
    macs: int = 0
    dtype: torch.dtype = torch.float32

    @property
    def size_bytes(self) -> int:
        """Bytes that it reads and writes, each tensor once."""
        return sum(value.size_bytes for value in (*self.inputs, *self.outputs))


def record(network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Operator, ...]:
    """The operators of `network(*inputs)` in the order in which they run; nothing is computed.

    Args:
        network: any module, in evaluation mode; its weights may be fake tensors.
        inputs: batch first; the batch size is the one that is predicted for. Real or fake tensors.

    Raises:
        BenchError: the network does not run on these inputs.
    """
    everything = (*inputs, *network.parameters(), *network.buffers())
    mode = next((x.fake_mode for x in everything if isinstance(x, FakeTensor)), None)
    mode = mode or FakeTensorMode(allow_non_fake_inputs=True)
    fake = tuple(x if isinstance(x, FakeTensor) else mode.from_tensor(x) for x in inputs)
    recorder = _Recorder(fake)
    # The plain form of attention is made of operators that every table knows.
    try:
        with torch.no_grad(), quiet(), sdpa_kernel(SDPBackend.MATH), mode, recorder:
            network(*fake)
    except Exception as error:  # a network runs arbitrary operators
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BenchError(
            f"the network does not run on inputs of shape {shapes}: {reason}; pass inputs as its forward takes them"
        ) from error
    return tuple(recorder.operators)


class _Recorder(TorchDispatchMode):
    """Writes down every operator that reads a value that depends on the inputs."""

    def __init__(self, inputs: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: list[Operator] = []
        self._indices: dict[int, int] = {}
        self._alive: list[Tensor] = []  # an id stays a tensor's for as long as the tensor lives
        for tensor in inputs:
            self._name(tensor, len(self._alive))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        read = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        written = [x for x in pytree.tree_leaves(result) if isinstance(x, Tensor)]
        variable = [x for x in read if id(x) in self._indices]
        if not written or not variable:
            return result
        name = func._overloadpacket.__name__
        if name in RESHAPES or (name == "expand" and written[0].shape == variable[0].shape):
            self._name(written[0], self._indices[id(variable[0])])
            return result
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


def _arguments(schema: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    named = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
    named |= {argument.name: value for argument, value in zip(schema.arguments, args, strict=False)} | kwargs
    return {k: v for k, v in named.items() if not any(isinstance(x, Tensor) for x in pytree.tree_leaves(v))}
