"""Which modules a trace keeps whole, and which it takes apart.

Whole: torch's layers, childless layers derived from them, and childless modules that behave differently in training.
Apart: what pruning understands better in pieces, which are norms with activation, attention, shuffles and gated linear
units. A function marked with `torch.fx.wrap` is followed too, where that works.
"""

import functools
import types
from collections.abc import Callable
from typing import Any

from torch import fx, nn
from torch.nn import functional as F

from gate2static.program.known_values import ValueTracer
from gate2static.program.layer_kinds import has_own_forward, layer_class
from gate2static.program.rewrites.attention import attention_weights, written_out
from gate2static.program.rewrites.canonical_names import canonical
from gate2static.program.rewrites.decompose import LAYERS, in_steps
from gate2static.program.rewrites.gradients import is_custom
from gate2static.program.rewrites.norm_activation import plain_norm

WEIGHT_LAYERS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
)
_NORMS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)
_OWN_PACKAGES = ("torch", __name__.partition(".")[0])
_CONTAINERS = (nn.Transformer, nn.TransformerDecoder, nn.TransformerDecoderLayer)
_TRAINS_DIFFERENTLY = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


def is_norm(module: nn.Module | None) -> bool:
    """Whether the module is a norm of torch, or one that timm or torchvision computes in its own way."""
    if module is None or has_own_forward(module):
        return False
    kind = layer_class(module)
    return isinstance(module, _NORMS) or (kind is not None and issubclass(kind, _NORMS))


class Tracer(ValueTracer):
    """See the module.

    Args:
        inputs: the leaves of the example inputs.
        defaults: the leaves of the arguments that keep their defaults.
        whole: names of submodules, and functions, to keep whole because they cannot be traced.
        dropouts: dropout of the n-th attention in training, where it is known.
        own: whether the traced module is a copy that will run. If not, norms with activation stay whole.
        integers: whether `int` of what follows the batch is recorded.

    Attributes:
        attentions: dropout of each attention that was traced.
        failed: the innermost submodule or marked function that could not be traced.
        followed: the marked functions that were followed.
        classes: submodules that the graph calls as another class: name -> that class.
    """

    def __init__(
        self,
        inputs: tuple[Any, ...] = (),
        defaults: tuple[Any, ...] = (),
        *,
        whole: frozenset[Any] = frozenset(),
        dropouts: tuple[float, ...] = (),
        own: bool = True,
        integers: bool = False,
    ) -> None:
        super().__init__(inputs, defaults, own=own, integers=integers)
        self._whole, self._dropouts = whole, dropouts
        self.attentions: list[float] = []
        self.failed: Any = None
        self.followed: set[Any] = set()
        self.classes: dict[str, type[nn.Module]] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module becomes one node."""
        if module_qualified_name in self._whole:
            return True
        if isinstance(m, (*_CONTAINERS, *LAYERS)):
            return False
        if super().is_leaf_module(m, module_qualified_name) or isinstance(m, _TRAINS_DIFFERENTLY):
            return True
        layer = isinstance(m, WEIGHT_LAYERS) or layer_class(m) is not None or is_norm(m)
        names = _names_used(vars(m).get("forward", type(m).forward))
        return next(m.children(), None) is None and (layer or "training" in names)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Record a call of a module, whole or in pieces."""
        if self.evaluating:
            return forward(*args, **kwargs)
        name = self.path_of_module(m)
        if name not in self._whole:
            form, plain = written_out(m), plain_norm(m) if self.own else None
            if plain is not None:
                self.classes[name] = plain
                return self._norm_then_activation(m, name, args, kwargs)
            if form is not None and (result := form(self, m, *args, **kwargs)) is not NotImplemented:
                self._use_plain_projection(m)
                return result
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            if self.failed is None and not self.is_leaf_module(m, name):
                self.failed = name
            raise

    def create_proxy(
        self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *rest: Any, **options: Any
    ) -> Any:
        """Record an operation, or the steps it consists of."""
        target, args, kwargs = canonical(kind, target, args, kwargs, self.shape)
        if kind == "call_function" and (result := in_steps(target, args, kwargs, self.shape)) is not NotImplemented:
            return result
        if kind == "call_function" and target is F.scaled_dot_product_attention:
            return self._attention(args, kwargs)
        if kind == "call_function" and is_users(target) and target not in self._whole and not is_custom(target):
            return self._follow(target, args, kwargs)
        return super().create_proxy(kind, target, args, kwargs, *rest, **options)

    def _follow(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
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
        value: Any = self.create_proxy("call_module", name, args, kwargs)
        for child in ("drop", "act"):
            following = getattr(module, child, None)
            value = value if following is None or isinstance(following, nn.Identity) else following(value)
        return value

    def _use_plain_projection(self, module: nn.Module) -> None:
        """The output projection of attention is a linear layer under another name."""
        if isinstance(module, nn.MultiheadAttention):
            self.classes[self.path_of_module(module.out_proj)] = nn.Linear

    def _attention(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        dropout = given.get("dropout_p", 0.0)
        index = len(self.attentions)
        self.attentions.append(dropout)
        trained = self._dropouts[index] if index < len(self._dropouts) else 0.0
        plain = not given.get("is_causal", False) and not given.get("enable_gqa", False)
        if self.own and trained and not dropout and plain and (shape := self.shape(given["query"])):
            scale = shape[-1] ** -0.5 if given.get("scale") is None else given["scale"]
            weights = attention_weights(
                given["query"], given["key"], given.get("attn_mask"), scale=scale, dropout=trained
            )
            return weights.matmul(given["value"])
        return super().create_proxy("call_function", F.scaled_dot_product_attention, args, kwargs)


def is_users(function: Any) -> bool:
    """Whether a function that a node calls is not torch's, but one that was marked with `torch.fx.wrap`."""
    return isinstance(function, types.FunctionType) and function.__module__.partition(".")[0] not in _OWN_PACKAGES


@functools.cache
def _names_used(forward: Callable[..., Any]) -> tuple[str, ...]:
    code = getattr(forward, "__code__", None)
    return code.co_names if code is not None else ()


def is_leaf(module: nn.Module) -> bool:
    """Whether tracing would keep the module whole if it stood inside another."""
    return written_out(module) is None and Tracer().is_leaf_module(module, "")
