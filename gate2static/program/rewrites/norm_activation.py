"""Takes timm's norms with activation apart: the norm belongs to the unit, and the activation comes after the gate."""

import sys

from torch import nn

from gate2static.program.layer_kinds import has_own_forward

_MODULE = "timm.layers.norm_act"


def plain_norm(module: nn.Module) -> type[nn.Module] | None:
    """Returns the class whose forward is the norm alone, on the same parameters.

    A fused module computes norm, `drop` and `act`. Its children stay where they are, so that the names in its state
    dict stay too.

    Args:
        module: Any module.

    Returns:
        The class, or None for modules that are no norm with activation.
    """
    kind = type(module)
    if kind.__module__ != _MODULE or not hasattr(module, "act") or has_own_forward(module):
        return None
    if isinstance(module, nn.SyncBatchNorm):
        return nn.SyncBatchNorm
    if isinstance(module, nn.BatchNorm2d):
        return nn.BatchNorm2d
    name = kind.__name__.replace("NormAct", "Norm").replace("Norm1Act", "Norm1")
    # timm and torchvision are loaded, since the module is one of timm's.
    owner = sys.modules["torchvision.ops.misc" if name.startswith("Frozen") else "timm.layers.norm"]
    norm: type[nn.Module] | None = getattr(owner, name, None)
    return norm
