"""Values that are known while their graph is still being traced.

A forward may decide on sizes: `if x.shape[2] % 7`, `for i in range(len(parts))`. Such a value is the same for every
batch, so the trace may use it. The tracer finds it by running the nodes it comes from at two batch sizes
(`value_runs`). What the two runs agree on is a constant; what differs would fix the batch, and is an error.

While a trace runs, functions of torch and of Python are replaced (`size_functions`, `integer_sizes`, `gradients`), and
`ValueTracer.trace` puts them back. So networks must not be traced by several threads at once.
"""

import operator
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import TraceError
from torch.utils import _pytree as pytree

from gate2static.program.annotate import BATCHES
from gate2static.program.calls import Call
from gate2static.program.rewrites.gradients import (
    as_function,
    autocast_devices,
    custom_functions,
    mark,
    refuse_autocast,
    stays_whole,
)
from gate2static.program.rewrites.integer_sizes import recorded_integers
from gate2static.program.rewrites.library_functions import followed_libraries
from gate2static.program.rewrites.size_functions import recorded_size_functions
from gate2static.program.rewrites.training_reads import noticed_reads, recorded_random_functions
from gate2static.program.size_decisions import user_line
from gate2static.program.structures import Structure, follow, take_apart, tensors_of
from gate2static.program.tracing.known_proxies import FollowsBatchError, KnownProxy
from gate2static.program.tracing.value_runs import UNKNOWN, ValueRuns


class ValueTracer(fx.Tracer):
    """A tracer that knows the values on which two runs on fake tensors agree.

    Args:
        call: The call to trace; None for a tracer that only says what it would keep whole.
        inputs: The tensors of the example inputs, in the order of `call.names`.
        trains: Whether the traced copy will train in place of the module. If not, the graph is for evaluation alone.
        integers: Whether `int` and `len` of what follows the batch are recorded.
        training: Whether the module is traced in training mode, so that random numbers are drawn when the graph runs.

    Attributes:
        trains: Whether the traced copy will train in place of the module.
        training: Whether the module is traced in training mode.
        reads: The modules whose flag `training` was read, by identity -> the files and lines that read it.
        places: The files and lines that read the flag of any module, in order.
        integers: Whether `int` and `len` of what follows the batch are recorded.
        decided: Node whose value Python needed, and whether only its length -> the line of the user's code.
        result: The structure of what the forward returned.
    """

    def __init__(
        self,
        call: Call | None = None,
        inputs: tuple[Any, ...] = (),
        *,
        trains: bool = True,
        integers: bool = False,
        training: bool = False,
    ) -> None:
        super().__init__()
        self.trains = trains
        self.training = training
        self.reads: dict[int, list[str]] = {}
        self.places: list[str] = []
        self.decided: dict[tuple[fx.Node, bool], str] = {}
        self.result: Structure | None = None
        self._call_form = call
        self.integers = integers
        self._runs = ValueRuns(inputs)
        self._autocast = autocast_devices()
        # Whether nodes are marked that are recorded while gradients are off, see `gradients`.
        self._marking = True
        self._whole_functions: dict[str, bool] = {}

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """Returns the graph of a module, whose output is one tensor or a tuple of those of `result`; see fx.Tracer."""
        self._autocast = autocast_devices()
        functions = custom_functions(self._autograd_function) if self.trains else nullcontext()
        integers = recorded_integers(root, self._integer, self._count) if self.integers else nullcontext()
        sizes = recorded_size_functions(self.create_proxy, self.constant)
        libraries = followed_libraries(self._sizes)
        draws = recorded_random_functions(self._random_function) if self.training else nullcontext()
        reads = noticed_reads(self._notice_read) if self.trains else nullcontext()
        with sizes, libraries, torch.enable_grad(), functions, integers, draws, reads:
            return super().trace(root, concrete_args)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """Returns a function without arguments that calls the root as on its example inputs.

        torch.fx would give the forward a proxy for all of `**kwargs`, and take the parameters of a decorated forward
        from its own code. Here the forward gets what a caller gives it, with a proxy in place of each tensor.

        Args:
            root_fn: The forward of the root's class.
            is_module: Whether the root is a module.
            concrete_args: Not used.
        """
        call = self._call_form
        assert call is not None
        args, named = call.arguments([self.create_proxy("placeholder", name, (), {}) for name in call.names])

        def run() -> Any:
            result = self._opened(self.root.forward(*args, **named))
            tensors, self.result = take_apart(result)
            return tensors[0] if self.result.is_tensor else tuple(tensors)

        return run, []

    def _opened(self, result: Any) -> Any:
        """Returns a result in which proxies of structures, such as a whole module's tuple, are taken apart."""
        leaves, structure = take_apart(result)
        opened = []
        for leaf in leaves:
            known = self.values(leaf.node)[0] if isinstance(leaf, fx.Proxy) else leaf
            _, inside = take_apart(known)
            if inside.paths and not inside.is_tensor:
                opened.append(inside.build([follow(path, leaf) for path in inside.paths]))
            else:
                opened.append(leaf)
        return structure.build(opened) if leaves else result

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """Records a node; see fx.Tracer."""
        refuse_autocast(self._autocast)
        node = super().create_node(*args, **kwargs)
        if self._marking:
            mark(node)
        return node

    def create_arg(self, a: Any) -> Any:
        """Returns an argument as graphs store it; see fx.Tracer. NumPy's numbers become Python's."""
        return super().create_arg(a.item() if isinstance(a, np.generic) else a)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Returns the proxy of a node; see fx.Tracer."""
        return KnownProxy(node, self)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Returns an attribute of a module: the proxy of a parameter, or the parameter itself while nodes run."""
        return attr_val if self.evaluating else super().getattr(attr, attr_val, parameter_proxy_cache)

    @property
    def evaluating(self) -> bool:
        """Whether nodes run on fake tensors, so that modules are called and not recorded."""
        return self._runs.are_running

    @property
    def last_read(self) -> str:
        """The file and line that was the last to read a flag `training`; "" where nothing did."""
        return self.places[-1] if self.places else ""

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Returns `bool` of a proxy."""
        return bool(self.constant(obj))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """Returns `iter` of a proxy: the keys of a dict, or as many items as the value is known to have."""
        small, large = self.values(obj.node)
        if isinstance(small, dict) and isinstance(large, dict) and [*small] == [*large]:
            return iter(small)
        return iter([operator.getitem(obj, i) for i in range(self.length(obj))])

    def constant(self, proxy: fx.Proxy) -> Any:
        """Returns the value of a proxy that is not a tensor.

        Raises:
            TraceError: The value is a tensor, depends on the batch size, or could not be computed.
        """
        small, large = self.values(proxy.node)
        if small is UNKNOWN or tensors_of(small):
            raise TraceError("symbolically traced variables cannot be used as inputs to control flow")
        agreed = _agreed(small, large)
        self._decide(proxy.node, is_length=False)
        return agreed

    def is_number(self, proxy: fx.Proxy) -> bool:
        """Returns whether a proxy stands for a number, or a structure of numbers, that does not follow the batch."""
        small, large = self.values(proxy.node)
        numbers = pytree.tree_leaves(small)
        return all(isinstance(number, int | float) for number in numbers) and small == large

    def length(self, proxy: fx.Proxy) -> int:
        """Returns `len` of a proxy.

        Raises:
            TraceError: The length depends on the batch size or could not be computed.
        """
        small, large = self.values(proxy.node)
        try:
            length = int(_agreed(len(small), len(large)))
        except TypeError as error:
            raise TraceError("Proxy object cannot be iterated") from error
        self._decide(proxy.node, is_length=True)
        return length

    def _decide(self, node: fx.Node, *, is_length: bool) -> None:
        """Notes that Python needs a value, unless it is no number or does not come from a size."""
        value = self.values(node)[0]
        if is_length or isinstance(value, bool | int | float | tuple):
            self.decided.setdefault((node, is_length), user_line())

    def shape(self, value: Any) -> tuple[int, ...] | None:
        """Returns the shape of a tensor at batch size 2, or None for what is no tensor or could not be computed.

        Args:
            value: A proxy, a node, or a value.
        """
        if isinstance(value, fx.Proxy | fx.Node):
            node = value if isinstance(value, fx.Node) else value.node
            value = self.values(node)[0]
        return tuple(value.shape) if isinstance(value, Tensor) else None

    def _sizes(self, proxy: fx.Proxy) -> tuple[Any, ...]:
        """Returns the sizes of a proxy: numbers, and proxies where they follow the batch."""
        known: Any = [tuple(value.shape) if isinstance(value, Tensor) else () for value in self.values(proxy.node)]
        pairs = enumerate(zip(*known, strict=True))
        return tuple(small if small == large else proxy.size(d) for d, (small, large) in pairs)

    def is_pure(self, node: fx.Node) -> bool:
        """Returns whether a node runs on fake tensors and leaves its inputs as they are."""
        tensors = [tensor for n in node.all_input_nodes for tensor in tensors_of(self.values(n))]
        # Writing into a tensor counts up its version.
        versions = [tensor._version for tensor in tensors]
        self._runs.forget(node)
        runs = all(value is not UNKNOWN for value in self.values(node))
        return runs and versions == [tensor._version for tensor in tensors]

    def values(self, node: fx.Node) -> tuple[Any, ...]:
        """Returns the value of a node at each of `BATCHES`; `UNKNOWN` where it does not run on fake tensors."""
        return self._runs.values(node, self.root)

    def _autograd_function(
        self, kind: type[torch.autograd.Function], run: Callable[[], Any], args: tuple[Any, ...]
    ) -> Any:
        """Records a custom autograd function, as one call or as what its forward does.

        Args:
            kind: The class of the function.
            run: Runs the forward of the function on its arguments.
            args: The arguments, with proxies for tensors.
        """
        # Whether a function is a derivative may depend on its settings, but not on the numbers in its tensors.
        settings = [x for x in pytree.tree_leaves(args) if not isinstance(x, fx.Proxy)]
        key = f"{id(kind)} {settings}"
        if key not in self._whole_functions:
            known = pytree.tree_map_only(fx.Proxy, lambda proxy: self.values(proxy.node)[0], args)
            with self._runs.running():
                self._whole_functions[key] = stays_whole(kind, args, known)
        if self._whole_functions[key]:
            return self.create_proxy("call_function", as_function(kind), args, {})
        # A forward always runs without gradients, so what it records needs no mark.
        was_marking = self._marking
        self._marking = False
        try:
            return run()
        finally:
            self._marking = was_marking

    def _random_function(self, kind: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Records a function that draws random numbers, unless nodes run meanwhile or it has its own generator."""
        if self.evaluating or kwargs.get("generator") is not None:
            return function(*args, **kwargs)
        return self.create_proxy(kind, function, args, kwargs)

    def _notice_read(self, module: nn.Module, place: str) -> None:
        """Notes who read the flag `training` of a module, unless nodes run meanwhile."""
        if not self.evaluating:
            self.reads.setdefault(id(module), []).append(place)
            self.places.append(place)

    def _integer(self, proxy: fx.Proxy) -> Any:
        """Returns `int` of a proxy.

        Returns:
            A number, or a proxy of a multiple of the batch size where the value follows the batch.
        """
        numbers = [int(value) for value in self.values(proxy.node) if isinstance(value, int | float)]
        multiple = self._batches(numbers)
        return int(self.constant(proxy)) if multiple is None else multiple

    def _count(self, proxy: fx.Proxy) -> Any:
        """Returns `len` of a proxy.

        Returns:
            A number, or a proxy of a multiple of the batch size where the length follows the batch.
        """
        lengths = [len(value) for value in self.values(proxy.node) if isinstance(value, Tensor) and value.dim()]
        multiple = self._batches(lengths)
        return self.length(proxy) if multiple is None else multiple

    def _batches(self, counts: list[int]) -> Any:
        """Returns a proxy of the multiple of the batch size that has these values, or None where there is none.

        Args:
            counts: The values at each of `BATCHES`; fewer where they are no numbers.
        """
        if len(counts) != len(BATCHES):
            return None
        multiple, rest = divmod(counts[0], BATCHES[0])
        if not multiple or rest or counts[1] != multiple * BATCHES[1]:
            return None
        # An input with the batch first, whose size the graph can read.
        for node in self.graph.find_nodes(op="placeholder"):
            lengths = [len(value) if isinstance(value, Tensor) and value.dim() else 0 for value in self.values(node)]
            if lengths == [*BATCHES]:
                batch: Any = self.proxy(node).size(0)
                return batch if multiple == 1 else batch * multiple
        return None


def _agreed(small: Any, large: Any) -> Any:
    """Returns the value of both runs.

    Raises:
        FollowsBatchError: The two differ.
    """
    if small != large:
        raise FollowsBatchError(
            f"the forward decides on a value that depends on the batch size ({small} and {large} for "
            "batches of 2 and 3)"
        )
    return small
