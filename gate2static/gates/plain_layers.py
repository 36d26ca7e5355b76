"""Parametrized layers, such as those of `torch.nn.utils.parametrizations`, as the plain layers that are deployed."""

import copy
from dataclasses import replace

from torch import nn
from torch.nn.utils import parametrize

from gate2static.gates.model import SHARED, GatedModel
from gate2static.program.signatures import layer_signature, signature_of


def with_plain_layers(gated: GatedModel) -> GatedModel:
    """Returns a model whose parametrized layers hold the weights that their parametrizations compute in evaluation.

    Args:
        gated: The model; it is not changed.

    Returns:
        The model itself where no layer is parametrized, else a copy; both have the same program but for signatures.
    """
    if not any(map(parametrize.is_parametrized, gated.modules())):
        return gated
    plain = copy.copy(gated)
    plain._modules = {name: copy.deepcopy(module).eval() for name, module in gated._modules.items() if module}
    changed = {name: module for name, module in plain.named_modules() if parametrize.is_parametrized(module)}
    for layer in changed.values():
        _keep_weights(layer)
    of_branch = {name: changed.get(f"encoder.branches.{SHARED}.{name}") for name in gated.program.layers}
    layers = {name: layer_signature(layer) for name, layer in of_branch.items() if layer is not None}
    heads = {
        task: signature_of(plain.heads[task])
        for task in gated.program.heads
        if any(f"{name}.".startswith(f"heads.{task}.") for name in changed)
    }
    plain.program = replace(
        gated.program, layers={**gated.program.layers, **layers}, heads={**gated.program.heads, **heads}
    )
    return plain


def _keep_weights(layer: nn.Module) -> None:
    """Makes a parametrized layer a plain one.

    Torch's own way deletes properties from the layer's class, which all copies of the layer share.
    """
    weights = {name: getattr(layer, name).detach() for name in layer.get_submodule("parametrizations")._modules}
    del layer._modules["parametrizations"]
    layer.__class__ = type(layer).__mro__[1]
    for name, value in weights.items():
        layer.register_parameter(name, nn.Parameter(value, requires_grad=False))
