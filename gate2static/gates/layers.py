"""Which of torch's layers a module computes."""

from torch import nn


def layer_class(module: nn.Module | None) -> type[nn.Module] | None:
    """The torch layer that a module is or, where it overrides nothing that computes, is a subclass of.

    None for anything else, and for a layer with hooks, which may change what it computes.
    """
    if module is None or module._forward_hooks or module._forward_pre_hooks:
        return None
    kind = type(module)
    base = next(c for c in kind.__mro__ if c.__module__.startswith("torch.nn."))
    same = all(getattr(kind, name, None) is getattr(base, name, None) for name in ("forward", "_conv_forward"))
    return base if same else None
