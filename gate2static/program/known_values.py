"""What a node holds, found out while its graph is still being traced.

A forward may decide on sizes: `if x.shape[2] % 7`, `for i in range(len(parts))`. Such a value is the same for every
batch, so the trace may use it. It is found by running the nodes it comes from on fake tensors at two batch sizes.
"""

import functools
import operator
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.proxy import Attribute, TraceError
from torch.utils import _pytree as pytree

from gate2static.graphs import function_of, quiet
from gate2static.program.annotate import BATCHES, fake_inputs
from gate2static.program.rewrites.gradients import (
    as_function,
    autocast_devices,
    custom_functions,
    mark,
    refuse_autocast,
    stays_whole,
)
from gate2static.program.rewrites.integer_sizes import recorded_integers

_UNKNOWN = object()
_FACTORIES = ("zeros", "ones", "empty", "rand", "randn")
"""Functions of torch that take sizes one by one, which torch.fx does not record by itself; so does `Tensor.expand`."""


class FollowsBatchError(TraceError):
    """Python needs a number that depends on the batch size, so the code cannot run whole either."""


class KnownProxy(fx.Proxy):
    """A proxy that can stand where Python needs a number, if its value does not depend on the batch size."""

    tracer: "ValueTracer"

    def __getattr__(self, k: str) -> Attribute:
        return _KnownAttribute(self, k)

    def __setitem__(self, index: Any, value: Any) -> None:
        if self.tracer.shape(self) is None:
            raise TypeError("only a tensor's items can be assigned while tracing")
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    def __len__(self) -> int:
        return self.tracer.length(self)

    def __index__(self) -> int:
        try:
            return self.__int__()
        except FollowsBatchError as error:
            # Functions that torch.fx does not record ask for it; they can run whole.
            raise TraceError(str(error)) from error

    def __int__(self) -> int:
        return int(self.tracer.constant(self))

    def __float__(self) -> float:
        return float(self.tracer.constant(self))


class _KnownAttribute(Attribute, KnownProxy):
    """An attribute of a known proxy. The type of a device is a plain string, which `torch.autocast` insists on."""

    def __getattr__(self, k: str) -> Any:
        found = super().__getattr__(k)
        return self.tracer.constant(found) if (self.attr, k) == ("device", "type") else found


class ValueTracer(fx.Tracer):
    """Answers questions about values with what two runs on fake tensors agree on.

    Args:
        inputs: the leaves of the example inputs, in the order of the graph's first placeholders.
        defaults: the leaves of the arguments that keep their defaults, which have the last placeholders.
        own: whether the traced module is a copy that will run. If not, its graph is for evaluation alone.
        integers: whether `int` of what follows the batch is recorded.
    """

    def __init__(
        self,
        inputs: tuple[Any, ...] = (),
        defaults: tuple[Any, ...] = (),
        *,
        own: bool = True,
        integers: bool = False,
    ) -> None:
        super().__init__()
        self.own, self._integers = own, integers
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        at = fake_inputs(self._mode, inputs)
        self._placeholders = {batch: [*at(batch), *defaults] for batch in BATCHES}
        self._values: dict[fx.Node, tuple[Any, ...]] = {}
        self.evaluating = False
        self._autocast = autocast_devices()
        self._marking = True
        self._whole_functions: dict[str, bool] = {}

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """The graph of a module; see fx.Tracer."""
        plain = {name: getattr(torch, name) for name in _FACTORIES}
        for name, function in plain.items():
            setattr(torch, name, self._recorded(function, "call_function", function))
        Tensor.expand = self._recorded(Tensor.expand, "call_method", "expand")  # type: ignore[method-assign]
        self._autocast = autocast_devices()
        functions = custom_functions(self._autograd_function) if self.own else nullcontext()
        integers = recorded_integers(root, self._integer, self._count) if self._integers else nullcontext()
        try:
            with torch.enable_grad(), functions, integers:
                return super().trace(root, concrete_args)
        finally:
            del Tensor.expand  # what it inherits stands again
            for name, function in plain.items():
                setattr(torch, name, function)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """Record a node; see fx.Tracer."""
        refuse_autocast(self._autocast)
        node = super().create_node(*args, **kwargs)
        if self._marking:
            mark(node)
        return node

    def _autograd_function(
        self, kind: type[torch.autograd.Function], run: Callable[[], Any], args: tuple[Any, ...]
    ) -> Any:
        settings = [x for x in pytree.tree_leaves(args) if not isinstance(x, fx.Proxy)]
        key = f"{id(kind)} {settings}"
        if key not in self._whole_functions:
            known = pytree.tree_map_only(fx.Proxy, lambda proxy: self.values(proxy.node)[0], args)
            self._whole_functions[key] = stays_whole(kind, args, known)
        if self._whole_functions[key]:
            return self.create_proxy("call_function", as_function(kind), args, {})
        self._marking, before = False, self._marking  # it runs without gradients, which its backward knows about
        try:
            return run()
        finally:
            self._marking = before

    def _integer(self, proxy: fx.Proxy) -> Any:
        """`int` of a proxy: a number, or a multiple of the batch size."""
        found = self._batches([int(v) for v in self.values(proxy.node) if isinstance(v, int | float)])
        return int(self.constant(proxy)) if found is None else found

    def _count(self, proxy: fx.Proxy) -> Any:
        """`len` of a proxy, likewise."""
        found = self._batches([len(v) for v in self.values(proxy.node) if isinstance(v, Tensor) and v.dim()])
        return self.length(proxy) if found is None else found

    def _batches(self, counts: list[int]) -> Any:
        """What is so many at the two batch sizes, as a multiple of the batch size; None where it is none."""
        multiple, rest = divmod(counts[0], BATCHES[0]) if len(counts) == len(BATCHES) else (0, 0)
        if not multiple or rest or counts[1] != multiple * BATCHES[1]:
            return None
        for node in self.graph.find_nodes(op="placeholder"):
            if [len(v) if isinstance(v, Tensor) and v.dim() else 0 for v in self.values(node)] == [*BATCHES]:
                count: Any = self.proxy(node).size(0)
                return count if multiple == 1 else count * multiple
        return None

    def _recorded(self, function: Callable[..., Any], kind: str, target: Any) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if any(isinstance(x, fx.Proxy) for x in args):
                return self.create_proxy(kind, target, args, kwargs)
            return function(*args, **kwargs)

        return call

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Of a node; see fx.Tracer."""
        return KnownProxy(node, self)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Of a module: parameters are recorded, but not while nodes run."""
        return attr_val if self.evaluating else super().getattr(attr, attr_val, parameter_proxy_cache)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """`bool` of a proxy."""
        return bool(self.constant(obj))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """`iter` of a proxy: the keys of a dict, else as many items as it is known to have."""
        first, second = self.values(obj.node)
        if isinstance(first, dict) and isinstance(second, dict) and [*first] == [*second]:
            return iter(first)
        return iter([operator.getitem(obj, i) for i in range(self.length(obj))])

    def constant(self, proxy: fx.Proxy) -> Any:
        """The value of a proxy that is not a tensor.

        Raises:
            TraceError: it is a tensor, depends on the batch size, or could not be computed.
        """
        first, second = self.values(proxy.node)
        if first is _UNKNOWN or any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(first)):
            raise TraceError("symbolically traced variables cannot be used as inputs to control flow")
        return _agreed(first, second)

    def length(self, proxy: fx.Proxy) -> int:
        """`len` of a proxy.

        Raises:
            TraceError: it depends on the batch size or could not be computed.
        """
        first, second = self.values(proxy.node)
        try:
            return int(_agreed(len(first), len(second)))
        except TypeError as error:
            raise TraceError("Proxy object cannot be iterated") from error

    def shape(self, value: Any) -> tuple[int, ...] | None:
        """Of a tensor, at batch size 2; None where it could not be computed."""
        if isinstance(value, fx.Proxy | fx.Node):
            value = self.values(value if isinstance(value, fx.Node) else value.node)[0]
        return tuple(value.shape) if isinstance(value, Tensor) else None

    def is_pure(self, node: fx.Node) -> bool:
        """Whether the node runs on fake tensors and leaves its inputs as they are."""
        inputs = [leaf for n in node.all_input_nodes for leaf in pytree.tree_leaves(self.values(n))]
        tensors = [leaf for leaf in inputs if isinstance(leaf, Tensor)]
        versions = [t._version for t in tensors]
        self._values.pop(node, None)
        known = not any(value is _UNKNOWN for value in self.values(node))
        return known and versions == [t._version for t in tensors]

    def values(self, node: fx.Node) -> tuple[Any, ...]:
        """What the node holds at each of the two batch sizes."""
        wanted, todo = {node}, [node]
        while todo:
            new = [n for n in todo.pop().all_input_nodes if n not in wanted and n not in self._values]
            wanted.update(new)
            todo.extend(new)
        self.evaluating = True
        try:
            with torch.no_grad(), quiet():
                for n in self.graph.nodes:
                    if n in wanted and n not in self._values:
                        self._values[n] = tuple(self._evaluate(n, i) for i in range(len(BATCHES)))
        finally:
            self.evaluating = False
        return self._values[node]

    def _evaluate(self, node: fx.Node, run: int) -> Any:
        if node.op == "placeholder":
            leaves = self._placeholders[BATCHES[run]]
            position = next(i for i, n in enumerate(self.graph.find_nodes(op="placeholder")) if n is node)
            return leaves[position] if position < len(leaves) else _UNKNOWN
        if any(self._values[n][run] is _UNKNOWN for n in node.all_input_nodes):
            return _UNKNOWN
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: self._values[n][run])
        try:
            with self._mode:
                return self._call(node)(*args, **kwargs)
        except Exception:  # noqa: BLE001  # what does not run here is said when it is needed
            return _UNKNOWN

    def _call(self, node: fx.Node) -> Callable[..., Any]:
        if node.op == "call_function":
            return function_of(node)
        if node.op == "call_method":
            return lambda owner, *args, **kwargs: getattr(owner, str(node.target))(*args, **kwargs)
        value: Any = self.root
        for atom in str(node.target).split("."):
            value = getattr(value, atom)
        return value if node.op == "call_module" else lambda: value


def _agreed(first: Any, second: Any) -> Any:
    if first != second:
        raise FollowsBatchError(
            f"the forward decides on a value that depends on the batch size ({first} and {second} for "
            "batches of 2 and 3)"
        )
    return first
