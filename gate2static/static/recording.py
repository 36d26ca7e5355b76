"""The operators that a network runs at one batch size, recorded while it runs on tensors without content.

Operators are recorded where torch.export records them: before autograd, and before any of them is taken apart, so that
a convolution is one `aten.conv2d`. Below that point all tensors lie on the meta device, which knows shapes only and
takes a third of the time of fake tensors. The network's code is told that they lie where its inputs do.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._dispatch.python import enable_pre_dispatch, enable_python_dispatcher, no_python_dispatcher
from torch.backends import cudnn
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode, PythonKeyTracer
from torch.fx.node import map_aggregate
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from gate2static.static.aten_forms import CANONICAL, form_in_aten
from gate2static.static.capturing.meta_tensors import META, run_without_content, without_content

_aten = torch.ops.aten
_PRE_DISPATCH = torch._C.DispatchKeySet(torch._C.DispatchKey.PreDispatch)
_OF_THE_DEVICE = {
    Tensor.device.__get__: lambda device: device,
    Tensor.is_cpu.__get__: lambda device: device.type == "cpu",  # type: ignore[attr-defined]
    Tensor.is_cuda.__get__: lambda device: device.type == "cuda",  # type: ignore[attr-defined]
    Tensor.is_meta.__get__: lambda device: device.type == "meta",  # type: ignore[attr-defined]
}
"""What code asks tensors about their device -> the answer for a device."""


class UnrecordedError(Exception):
    """The network does something that a list of operators cannot hold."""


@dataclass(frozen=True)
class Call:
    """One operator that ran.

    Attributes:
        operator: An overload of torch's, or a function on sizes that the network's own graph calls.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        result: The tensors without content, or the size, that it returned.
    """

    operator: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    result: Any


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What a network ran, and on which tensors.

    Attributes:
        batch: The batch size.
        inputs: The inputs, without content.
        stored: Name of a parameter or buffer -> the tensor without content that stood for it.
        calls: The operators in order. What else their arguments hold are tensors with content: the network's constants.
        outputs: The leaves of what the network returned.
    """

    batch: int
    inputs: tuple[Tensor, ...]
    stored: Mapping[str, Tensor]
    calls: tuple[Call, ...]
    outputs: tuple[Any, ...]


def record(network: nn.Module, examples: tuple[Tensor, ...], batch: int) -> Recording:
    """Records what a network runs.

    Args:
        network: The network, in eval mode; it is not changed.
        examples: Inputs like those to record for, batch first.
        batch: The batch size to record for.

    Returns:
        The operators, on inputs of that batch size.

    Raises:
        UnrecordedError: The network writes into a tensor, or runs under autocast or a transform of functions.
        Exception: Anything that the network's own code raises.
    """
    # Modules may keep what they compute, which would be tensors without content.
    copied = without_content(network)
    inputs = tuple(x.new_empty((batch, *x.shape[1:]) if x.dim() else (), device=META) for x in examples)
    device = examples[0].device
    recorder = _Recorder(device)
    stored = stored_tensors(copied)
    recorder.count((*inputs, *stored.values()))
    with torch.no_grad(), cudnn.flags(enabled=False), _before_autograd(), recorder, _ClaimedDevice(device):
        if isinstance(network, fx.GraphModule):
            outputs = _WithSizes(copied, network.graph, recorder.calls).run(*inputs)
        else:
            outputs = copied(*inputs)
    return Recording(
        batch=batch,
        inputs=inputs,
        stored=stored,
        calls=tuple(recorder.calls),
        outputs=tuple(recorder.known(x) if isinstance(x, Tensor) else x for x in pytree.tree_leaves(outputs)),
    )


def stored_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Returns a network's parameters, then its buffers, by name; a tensor with two names stands under both."""
    parameters = network.named_parameters(remove_duplicate=False)
    return dict(chain(parameters, network.named_buffers(remove_duplicate=False)))


@contextmanager
def _before_autograd() -> Iterator[None]:
    """Has operators called before autograd and before they are taken apart."""
    with enable_python_dispatcher(), enable_pre_dispatch():
        yield


@contextmanager
def _plain() -> Iterator[None]:
    """Has operators called as ever: what computes shapes is torch's own code, and no part of the network."""
    with no_python_dispatcher(), torch._C._ExcludeDispatchKeyGuard(_PRE_DISPATCH), torch._C.DisableTorchFunction():
        yield


class _Recorder(ProxyTorchDispatchMode):
    """Runs every operator on tensors without content and notes it.

    A subclass of torch's tracer because only that is called before autograd.

    Attributes:
        device: The device that tensors claim to lie on.
        calls: The operators that ran.
        results: Identities of the tensors they returned.
        made: Identity of the storage of a tensor that no other tensor went into -> the tensor.
        sharing: Identity of a storage -> how many tensors lie in it.
        latest: Identity of a tensor that was written into -> the tensor that stands for it since.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__(PythonKeyTracer(), "real", pre_dispatch=True)
        self.device = device
        self.calls: list[Call] = []
        self.results: set[int] = set()
        self.made: dict[int, Tensor] = {}
        self.sharing: Counter[int] = Counter()
        self.latest: dict[int, Tensor] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would import its compiler, to tell it that this is not to be compiled."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is _aten.detach_.default:
            return args[0]  # the end of `torch.tensor`; there are no gradients here
        form = form_in_aten(func)
        if form is not None:
            with self:
                result = form(*args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        if func._schema.is_mutable:
            return self.written(func, args, kwargs or {})
        _refuse_transforms(func)
        operands: list[Tensor] = []

        def as_written(value: Any) -> Any:
            if isinstance(value, Tensor):
                operands.append(self.known(value))
                return operands[-1]
            return self.device if value == META else value

        args = map_aggregate(args, as_written)
        named = map_aggregate(kwargs or {}, as_written)
        with _plain():
            result = run_without_content(func, args, named)
        if isinstance(result, Tensor | list | tuple):
            operator = CANONICAL.get(func, func)
            self.calls.append(Call(operator, args, named, result))
            self.results.update(map(id, result if isinstance(result, list | tuple) else (result,)))
            self.count(pytree.tree_leaves(result))
            if isinstance(result, Tensor) and (not operands or _makes_a_tensor(func)):
                self.made[result.untyped_storage()._cdata] = result
        return result

    def count(self, tensors: Iterable[Any]) -> None:
        """Counts the tensors that lie in each storage."""
        for tensor in tensors:
            if isinstance(tensor, Tensor) and tensor.layout is torch.strided:
                self.sharing[tensor.untyped_storage()._cdata] += 1

    def written(self, operator: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        """Records an operator that writes into its first operand as the one that returns what is written.

        Raises:
            UnrecordedError: Other tensors may share the operand's memory, or there is no such operator.
        """
        name = operator._schema.name.partition("::")[2]
        overload = operator._schema.overload_name
        packet = getattr(_aten, name.removesuffix("_"), None) if name.endswith("_") and name[0] != "_" else None
        pure = getattr(packet, overload or "default", None)
        tensor: Tensor = args[0] if args else next(iter(kwargs.values()))
        is_own = id(tensor) in self.results and self.sharing[tensor.untyped_storage()._cdata] == 1
        if pure is None or not is_own:
            raise UnrecordedError(f"{operator} writes into its input")
        result = self.__torch_dispatch__(pure, (), args, dict(kwargs))
        if (result.dtype, result.shape) != (tensor.dtype, tensor.shape):
            raise UnrecordedError(f"{operator} converts what it writes")
        self.latest[id(tensor)] = result
        return tensor

    def known(self, tensor: Tensor) -> Tensor:
        """Returns the tensor as the record knows it: torch copies what `torch.zeros` returns, but not its storage."""
        if type(tensor) is not Tensor and type(tensor) is not nn.Parameter:
            raise UnrecordedError(f"an operator reads a {type(tensor).__name__}")
        while id(tensor) in self.latest:
            tensor = self.latest[id(tensor)]
        if not self.made or not tensor.is_meta or id(tensor) in self.results:
            return tensor
        return self.made.get(tensor.untyped_storage()._cdata, tensor)


def _refuse_transforms(operator: Any) -> None:
    """Refuses what a list of operators cannot say.

    Raises:
        UnrecordedError: The operator runs under autocast or a transform of functions.
    """
    if torch._C._is_any_autocast_enabled() or torch._C._functorch.peek_interpreter_stack() is not None:
        raise UnrecordedError(f"{operator} runs under autocast or a transform of functions")


def _makes_a_tensor(operator: torch._ops.OpOverload) -> bool:
    """Returns whether an operator reads nothing but the shape and type of its operand."""
    name = operator._schema.name.partition("::")[2]
    return name.endswith("_like") or name.startswith("new_")


class _ClaimedDevice(TorchFunctionMode):
    """Tensors without content say that they lie on a device, so that code decides as it does on that device."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.new_tensor:
            # Without content, the new tensor would have none either.
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype, **(kwargs or {})})
        answer = _OF_THE_DEVICE.get(func)
        if answer is None:
            return func(*args, **(kwargs or {}))
        return answer(self.device)  # type: ignore[no-untyped-call]  # getters of a C type


class _WithSizes(fx.Interpreter):
    """Runs a graph and notes its arithmetic on sizes among the operators."""

    def __init__(self, root: nn.Module, graph: fx.Graph, calls: list[Call]) -> None:
        super().__init__(root, graph=graph)
        self.calls = calls

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = super().call_function(target, args, kwargs)
        if type(result) is int and args and all(type(argument) is int for argument in args):
            self.calls.append(Call(target, args, kwargs, result))
        return result
