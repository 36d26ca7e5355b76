"""The tracer: which modules and functions a trace keeps whole, and which it takes apart.

1. It keeps torch's layers whole, childless layers derived from them, and childless modules that behave differently in
   training. The graph is what will be deployed, but these must still follow `train()` and `eval()`.
2. It takes apart what the pruner understands better in pieces: norms with activation, attention, shuffles, gated linear
   units, and einsums over one letter. It also follows functions that are marked with `torch.fx.wrap`.
3. What it cannot follow is named in `Tracer.failed`, and the next trace keeps that whole.
"""

import functools
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import fx, nn
from torch.nn import functional as F

from gate2static.program.calls import Call
from gate2static.program.layer_kinds import layer_class
from gate2static.program.operators import RUNNING_NORMS, WEIGHT_LAYERS, is_norm
from gate2static.program.rewrites.attention import attention_weights, written_out
from gate2static.program.rewrites.canonical_names import canonical
from gate2static.program.rewrites.decompose import LAYERS, in_steps
from gate2static.program.rewrites.gradients import is_custom
from gate2static.program.rewrites.library_functions import as_function as rearrangement_layer
from gate2static.program.rewrites.norm_activation import plain_norm
from gate2static.program.rewrites.training_reads import random_state
from gate2static.program.tracing.known_values import ValueTracer

_OWN_PACKAGES = ("torch", __name__.partition(".")[0])

_CONTAINERS = (nn.Transformer, nn.TransformerDecoder, nn.TransformerDecoderLayer)
"""Modules of torch that consist of layers, so that fx would keep them whole, but that have no form of their own."""

_ATTENTION_ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
"""The arguments of `scaled_dot_product_attention` in the order of their positions."""


class FixedDrawError(fx.proxy.TraceError):
    """Random numbers that were drawn while a network was traced, so that the graph would hold them for good."""


class Tracer(ValueTracer):
    """Traces a module into layers and operators, see the module.

    Args:
        call: The call to trace; None for a tracer that only says what it would keep whole.
        inputs: The tensors of the example inputs, in the order of `call.names`.
        whole: Names of submodules, and functions, to keep whole because they cannot be traced.
        dropouts: The dropout probability of the n-th attention in training, where it is known.
        trains: Whether the traced copy will train in place of the module. If not, the graph keeps to the modules that
            exist: norms with activation stay whole, and attention stays one operator.
        integers: Whether `int` and `len` of what follows the batch are recorded.
        training: Whether the module is traced in training mode.

    Attributes:
        attentions: The dropout probability of each attention in the order of the trace.
        failed: The innermost submodule, by name, or the marked function that could not be traced.
        followed: The marked functions that were followed.
        classes: Name of a submodule -> the class as which the graph calls it, where that is not its own.
        hooks: Name of a submodule -> its hooks that are part of the graph, so that it must not call them itself.
    """

    def __init__(
        self,
        call: Call | None = None,
        inputs: tuple[Any, ...] = (),
        *,
        whole: frozenset[Any] = frozenset(),
        dropouts: tuple[float, ...] = (),
        trains: bool = True,
        integers: bool = False,
        training: bool = False,
    ) -> None:
        super().__init__(call, inputs, trains=trains, integers=integers, training=training)
        self.whole = whole
        self._dropouts = dropouts
        self.attentions: list[float] = []
        self.failed: Any = None
        self.followed: set[Any] = set()
        self.classes: dict[str, type[nn.Module]] = {}
        self.hooks: dict[str, set[int]] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Returns whether a module becomes one node."""
        if module_qualified_name in self.whole:
            return True
        # These are torch's, so torch.fx would keep them whole.
        if isinstance(m, (*_CONTAINERS, *LAYERS)):
            return False
        if super().is_leaf_module(m, module_qualified_name) or isinstance(m, RUNNING_NORMS):
            return True
        if next(m.children(), None) is not None:
            return False
        is_layer = isinstance(m, WEIGHT_LAYERS) or layer_class(m) is not None or is_norm(m)
        return is_layer or "training" in _names_used(vars(m).get("forward", type(m).forward))

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Records the call of a module, whole or in pieces."""
        if self.evaluating:
            return forward(*args, **kwargs)
        name = self.path_of_module(m)
        if name not in self.whole:
            pieces = self._in_pieces(m, name, args, kwargs)
            if pieces is not NotImplemented:
                return pieces
            if self.trains and (m._forward_pre_hooks or m._forward_hooks) and self.is_leaf_module(m, name):
                return self._with_hooks(m, name, args, kwargs)
        try:
            with self._no_fixed_draws(f"{name!r}"):
                return super().call_module(m, forward, args, kwargs)
        except Exception:
            # The innermost module raises first.
            if self.failed is None and not self.is_leaf_module(m, name):
                self.failed = name
            raise

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """Returns the graph of a module; see fx.Tracer."""
        with self._no_fixed_draws("its forward"):
            return super().trace(root, concrete_args)

    def create_proxy(
        self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *rest: Any, **options: Any
    ) -> Any:
        """Records an operation, or the steps that it consists of."""
        target, args, kwargs = canonical(kind, target, args, kwargs, self.shape)
        if kind == "call_function":
            steps = in_steps(target, args, kwargs, self.shape)
            if steps is not NotImplemented:
                return steps
            if target is F.scaled_dot_product_attention:
                return self._attention(args, kwargs)
            if is_users(target) and target not in self.whole and not is_custom(target):
                return self._follow(target, args, kwargs)
        return super().create_proxy(kind, target, args, kwargs, *rest, **options)

    @contextmanager
    def _no_fixed_draws(self, what: str) -> Iterator[None]:
        """Refuses random numbers that are drawn while the module is traced in training mode, for they stay the same.

        Args:
            what: What is traced in this context, in the error.

        Raises:
            FixedDrawError: Something was drawn.
        """
        before = random_state() if self.training else None
        yield
        if self.training and random_state() != before:
            raise FixedDrawError(f"{what} draws random numbers in training that are not drawn by a function of torch")

    def _in_pieces(self, module: nn.Module, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Records the pieces of a module that has a form of its own.

        Args:
            module: The module that is called.
            name: Its name.
            args: Its positional arguments, with proxies for tensors.
            kwargs: Its named arguments.

        Returns:
            The result, or `NotImplemented` for modules that have no form, or are used in a way that has none.
        """
        norm = plain_norm(module) if self.trains else None
        if norm is not None:
            self.classes[name] = norm
            return self._norm_then_activation(module, name, args, kwargs)
        of_einops = rearrangement_layer(module)
        if of_einops is not None:
            return of_einops(*args, **kwargs)
        form = written_out(module)
        if form is None:
            return NotImplemented
        result = form(self, module, *args, **kwargs)
        if result is not NotImplemented and isinstance(module, nn.MultiheadAttention):
            # The output projection of attention is a linear layer under another class.
            self.classes[self.path_of_module(module.out_proj)] = nn.Linear
        return result

    def _with_hooks(self, module: nn.Module, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Records the call of a layer, and what its hooks make of its inputs and its output.

        Hooks that change nothing, and those that cannot be followed, stay with the layer.

        Args:
            module: The layer.
            name: Its name.
            args: Its positional arguments, with proxies for tensors.
            kwargs: Its named arguments.
        """
        followed: set[int] = set()
        for key, hook in module._forward_pre_hooks.items():
            takes_names = key in module._forward_pre_hooks_with_kwargs
            result = _followed(hook, (module, args, kwargs) if takes_names else (module, args))
            if result is None:
                continue
            followed.add(key)
            if takes_names:
                args, kwargs = result
            else:
                args = result if isinstance(result, tuple) else (result,)
        out: Any = self.create_proxy("call_module", name, args, kwargs)
        for key, hook in module._forward_hooks.items():
            takes_names = key in module._forward_hooks_with_kwargs
            result = _followed(hook, (module, args, kwargs, out) if takes_names else (module, args, out))
            if result is not None:
                followed.add(key)
                out = result
        self.hooks[name] = followed
        return out

    def _follow(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Records the inside of a function that is marked with `torch.fx.wrap`.

        Raises:
            TraceError: The function returns something else than one value, so that it stays whole.
        """
        self.followed.add(function)
        try:
            result = function(*args, **kwargs)
            if isinstance(result, fx.Proxy):
                return result
            raise fx.proxy.TraceError("a marked function that returns one value is followed; this one stays whole")
        except Exception:
            self.failed = self.failed or function
            raise

    def _norm_then_activation(self, module: nn.Module, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Records a norm with activation as the norm, its dropout and its activation; a gate stands after the norm."""
        value: Any = self.create_proxy("call_module", name, args, kwargs)
        for child in ("drop", "act"):
            following = getattr(module, child, None)
            if following is not None and not isinstance(following, nn.Identity):
                value = following(value)
        return value

    def _attention(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Records attention as one operator, or written out where it needs dropout that follows `train()`.

        Args:
            args: The positional arguments of `scaled_dot_product_attention`.
            kwargs: The named arguments.
        """
        named = {**dict(zip(_ATTENTION_ARGUMENTS, args, strict=False)), **kwargs}
        dropout = named.get("dropout_p", 0.0)
        index = len(self.attentions)
        self.attentions.append(dropout)
        # In eval mode, code such as `p if self.training else 0.0` passes zero; a trace in training mode found p.
        trained = self._dropouts[index] if index < len(self._dropouts) else 0.0
        if self.training and isinstance(dropout, int | float):
            trained = dropout
        is_plain = not named.get("is_causal", False) and not named.get("enable_gqa", False)
        needs_dropout = self.trains and trained and is_plain and (self.training or not dropout)
        # (…, L, D): queries of L positions and D channels each.
        shape = self.shape(named["query"]) if needs_dropout else None
        if not shape:
            return super().create_proxy("call_function", F.scaled_dot_product_attention, args, kwargs)
        scale = named.get("scale")
        weights = attention_weights(
            named["query"],
            named["key"],
            named.get("attn_mask"),
            scale=shape[-1] ** -0.5 if scale is None else scale,
            dropout=trained,
        )
        return weights.matmul(named["value"])


def _followed(hook: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Returns what a hook makes of proxies; None where it returns nothing, is torch's own, or cannot be followed."""
    if getattr(hook, "__module__", "").partition(".")[0] == "torch":
        return None
    try:
        return hook(*args)
    except Exception:  # noqa: BLE001  # the hook stays with the layer, which stays whole
        return None


def is_users(function: Any) -> bool:
    """Returns whether a function that a node calls is not torch's, but was marked with `torch.fx.wrap` by a user."""
    return isinstance(function, types.FunctionType) and function.__module__.partition(".")[0] not in _OWN_PACKAGES


def is_leaf(module: nn.Module) -> bool:
    """Returns whether a trace would keep the module whole if it stood inside another module."""
    return written_out(module) is None and Tracer().is_leaf_module(module, "")


@functools.cache
def _names_used(forward: Callable[..., Any]) -> tuple[str, ...]:
    """Returns the names that the code of a function reads; none for functions without Python code."""
    code = getattr(forward, "__code__", None)
    return code.co_names if code is not None else ()
