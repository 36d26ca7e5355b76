"""timm's norms with activation, taken apart: the norm belongs to the unit, the activation comes after the gate."""

import sys

from torch import nn

from gate2static.program.layer_kinds import has_own_forward

_MODULE = "timm.layers.norm_act"


def plain_norm(module: nn.Module) -> type[nn.Module] | None:
    """The class whose forward is the norm alone, on the same parameters; None for other modules.

    A fused module computes norm, `drop` and `act`. Its children stay where they are, so the names in its state dict do.
    """
    kind = type(module)
    if kind.__module__ != _MODULE or not hasattr(module, "act") or has_own_forward(module):
        return None
    if isinstance(module, nn.SyncBatchNorm):
        return nn.SyncBatchNorm
    if isinstance(module, nn.BatchNorm2d):
        return nn.BatchNorm2d
    # timm is loaded, since the module is its own.
    plain = kind.__name__.replace("NormAct", "Norm").replace("Norm1Act", "Norm1")
    owner = sys.modules["torchvision.ops.misc" if plain.startswith("Frozen") else "timm.layers.norm"]
    found: type[nn.Module] | None = getattr(owner, plain, None)
    return found
