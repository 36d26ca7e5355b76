"""Makes every stream different, so that no error hides behind equal or zero weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from gate2static.gates import GatedModel

_NORM_GAIN = 0.25
"""With the usual weights of batch norms deep random networks make rounding errors a million times as large."""


@torch.no_grad()
def perturb(gated: GatedModel, *, specific: float) -> None:
    """Draw each stream's parameters anew around their initial values, and the gates.

    Layer scales and norm weights that start at or near zero are drawn around 0.5: they would hide what they scale.
    """
    own = [p for branch in (*gated.branches.values(), gated.heads) for p in branch.named_parameters()]
    for name, parameter in own:
        if not parameter.is_floating_point():
            continue
        noise = torch.randn_like(parameter)
        spread = float(parameter.std()) if parameter.numel() > 1 else 0.0
        if spread > 0:
            parameter.add_(0.3 * spread * noise)
        elif name.endswith("bias") or (parameter.squeeze().dim() > 1 and not parameter.any()):
            parameter.add_(0.1 * noise)
        else:
            parameter.copy_(torch.where(parameter.abs() < 0.1, 0.5, parameter) * (0.5 + torch.rand_like(parameter)))
    for module in gated.modules():
        if isinstance(module, _BatchNorm) and module.affine:
            module.weight.mul_(_NORM_GAIN)
    for unit in gated.gates.values():
        unit.alpha.copy_(torch.where(torch.rand_like(unit.alpha) < specific, 1.0, -1.0))
        unit.beta.normal_()


@contextmanager
def settled_norms(gated: nn.Module) -> Iterator[None]:
    """Batch norms take the statistics of the forward pass inside, spread a little; no channel's variance is tiny.

    With a random network's own statistics signals neither die nor explode on the way to the outputs.
    """
    norms = [m for m in gated.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    before = [m.momentum for m in norms]
    for module in norms:
        module.momentum = 1.0
    try:
        yield
    finally:
        for module, momentum in zip(norms, before, strict=True):
            module.momentum = momentum
            mean, variance = module.running_mean, module.running_var
            assert mean is not None
            assert variance is not None
            variance.lerp_(variance.mean(), 0.5).mul_(0.75 + 0.5 * torch.rand_like(variance))
            mean.add_(0.1 * variance.sqrt() * torch.randn_like(mean))
