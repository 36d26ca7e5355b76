"""Which of torch's layers a module computes, and where its channels are."""

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

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
"""Classes of timm and torchvision that relate channels as a torch layer does: padding first, weights standardised
an output channel, another fast path, the channels moved to the end and back."""


def layer_class(module: nn.Module | None) -> type[nn.Module] | None:
    """The torch layer whose channels a module relates alike.

    That is the layer it is or, where it overrides nothing that computes, is a subclass of, or the layer that a class of
    timm or torchvision stands for. None for anything else, and for a layer with hooks, parametrizations or a forward of
    its own, which may change what it computes.
    """
    if module is None or module._forward_hooks or module._forward_pre_hooks or is_parametrized(module):
        return None
    if has_own_forward(module):
        return None
    kind = type(module)
    if kind.__module__.startswith(("timm.", "torchvision.")) and kind.__name__ in _LIBRARY_LAYERS:
        return _LIBRARY_LAYERS[kind.__name__]
    base = next(c for c in kind.__mro__ if getattr(nn, c.__name__, None) is c)
    same = all(getattr(kind, name, None) is getattr(base, name, None) for name in ("forward", "_conv_forward"))
    return base if same else None


def has_own_forward(module: nn.Module) -> bool:
    """Whether somebody replaced the forward of this one module, so that its class does not say what it computes."""
    return not {"forward", "_conv_forward"}.isdisjoint(vars(module))


def channel_dim(module: nn.Module | None, ndim: int) -> int:
    """The channel dimension of a layer's output with `ndim` dimensions: the last of linear layers and layer norms."""
    first = type(module).__name__ in (*_LAYER_NORMS_2D, *_RMS_NORMS_2D)
    last = isinstance(module, nn.Linear | nn.LayerNorm | nn.RMSNorm) or layer_class(module) is nn.RMSNorm
    return ndim - 1 if last and not first else 1
