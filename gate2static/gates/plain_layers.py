"""Parametrized layers, such as those of `torch.nn.utils.parametrizations`, as the plain layers that are deployed."""

import copy

from torch import nn
from torch.nn.utils import parametrize

from gate2static.gates.model import GatedModel


def with_plain_layers(gated: GatedModel) -> GatedModel:
    """Returns a model whose parametrized layers hold the weights that their parametrizations compute in evaluation."""
    if not any(map(parametrize.is_parametrized, gated.modules())):
        return gated
    plain = copy.copy(gated)
    # The program stays the same object: its nodes name the modules.
    plain._modules = {name: copy.deepcopy(module).eval() for name, module in gated._modules.items() if module}
    for module in list(plain.modules()):
        if parametrize.is_parametrized(module):
            _keep_weights(module)
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
