"""Finds which layer of torch a module computes, and along which dimension its channels lie."""

from torch import nn

_CONVOLUTIONS = (
    "Conv2dSame",
    "Conv2dSameExport",
    "StdConv2d",
    "StdConv2dSame",
    "ScaledStdConv2d",
    "ScaledStdConv2dSame",
)
_LAYER_NORMS_2D = ("LayerNorm2d", "LayerNorm2dFp32", "LayerNormExp2d")
_RMS_NORMS_2D = ("RmsNorm2d", "RmsNorm2dFp32", "SimpleNorm2d", "SimpleNorm2dFp32")

_LIBRARY_LAYERS: dict[str, type[nn.Module]] = {
    **dict.fromkeys(_CONVOLUTIONS, nn.Conv2d),
    "Linear": nn.Linear,
    "FrozenBatchNorm2d": nn.BatchNorm2d,
    **dict.fromkeys(("GroupNorm", "GroupNorm1"), nn.GroupNorm),
    **dict.fromkeys(("LayerNorm", "LayerNormFp32", *_LAYER_NORMS_2D), nn.LayerNorm),
    **dict.fromkeys(("RmsNorm", "RmsNormFp32", "SimpleNorm", "SimpleNormFp32", *_RMS_NORMS_2D), nn.RMSNorm),
}
"""Class name in timm or torchvision -> the layer of torch that relates channels in the same way.

Their forwards differ from torch's in what does not concern channels: they pad first, standardise the weights of each
output channel, take another fast path, or move the channels to the end and back.
"""

_COMPUTING_METHODS = ("forward", "_conv_forward")


def layer_class(module: nn.Module | None) -> type[nn.Module] | None:
    """Returns the layer of torch that relates channels as a module does, or None where there is none.

    This is the module's own class, the class that it is derived from without overriding what computes, or the layer
    that a class of timm or torchvision stands for. It is None for layers with hooks or a forward of their own, since
    these may change what is computed. A parametrized layer computes what its class computes, on whatever its weight is.
    """
    if module is None or module._forward_hooks or module._forward_pre_hooks:
        return None
    if has_own_forward(module):
        return None
    kind = type(module)
    if kind.__module__.startswith(("timm.", "torchvision.")) and kind.__name__ in _LIBRARY_LAYERS:
        return _LIBRARY_LAYERS[kind.__name__]
    base = next(c for c in kind.__mro__ if getattr(nn, c.__name__, None) is c)
    overrides = any(getattr(kind, name, None) is not getattr(base, name, None) for name in _COMPUTING_METHODS)
    return None if overrides else base


def has_own_forward(module: nn.Module) -> bool:
    """Returns whether the forward of this one module was replaced, so that its class does not say what it computes."""
    return not set(_COMPUTING_METHODS).isdisjoint(vars(module))


def channel_dim(module: nn.Module | None, ndim: int) -> int:
    """Returns the dimension along which the output of a layer has its channels.

    Args:
        module: A convolution, a linear layer or a norm.
        ndim: The number of dimensions of the output.
    """
    channels_first = type(module).__name__ in (*_LAYER_NORMS_2D, *_RMS_NORMS_2D)
    channels_last = isinstance(module, nn.Linear | nn.LayerNorm | nn.RMSNorm) or layer_class(module) is nn.RMSNorm
    # The two-dimensional layer norms of timm are derived from nn.LayerNorm.
    return ndim - 1 if channels_last and not channels_first else 1
