"""Layers with parametrizations or hooks are pruned like plain ones."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from gate2static.gates import gate, set_gates
from gate2static.gates.model import GatedModel
from gate2static.prune import prune
from gate2static.verify import verify

IMAGE = torch.randn(2, 3, 12, 12)


def gated(change: Callable[[nn.Sequential], object]) -> GatedModel:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU())
    change(backbone)
    heads = {task: nn.Conv2d(6, 2, 1) for task in ("a", "b")}
    model = gate(backbone.eval(), tasks=list(heads), example_inputs=(IMAGE,), heads=heads)
    torch.manual_seed(1)
    for branch in model.branches.values():
        for parameter in branch.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    torch.manual_seed(2)
    set_gates(model, {unit: torch.rand_like(g.alpha) < 0.5 for unit, g in model.gates.items()})
    return model.eval()


def parametrized(function: Callable[[nn.Module], object]) -> Callable[[nn.Sequential], object]:
    return lambda backbone: function(backbone[3])


CHANGES = {
    "weight norm": parametrized(parametrizations.weight_norm),
    "spectral norm": parametrized(parametrizations.spectral_norm),
    "pre-hook": lambda backbone: backbone[3].register_forward_pre_hook(lambda _, args: (args[0] * 0.5,)),
    "pre-hook with names": lambda backbone: backbone[3].register_forward_pre_hook(
        lambda _, args, kwargs: ((args[0].tanh(),), kwargs), with_kwargs=True
    ),
    "hook": lambda backbone: backbone[3].register_forward_hook(lambda _, args, out: out * 2 + 1),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_nothing_is_lost_by_parametrizations_and_hooks(change: Callable[[nn.Sequential], object]) -> None:
    """The layer was a barrier: 19 % of what could be removed was."""
    plain, changed = gated(lambda _: None), gated(change)
    static = prune(changed)
    assert not static.manifest.barriers
    assert static.manifest.macs.static == prune(plain).manifest.macs.static
    assert verify(changed, static).passed


def test_pruning_leaves_the_parametrizations_of_the_gated_model() -> None:
    """Torch's own way to remove one deletes a property from the class, which all copies share."""
    model = gated(CHANGES["weight norm"])
    prune(model)
    model.train()(IMAGE)["a"].sum().backward()
    assert model.branches["a"].get_submodule("3.parametrizations.weight").original0.grad is not None


def test_hooks_act_in_training_once() -> None:
    model = gated(lambda backbone: backbone[3].register_forward_hook(lambda _, args, out: out + 100))
    set_gates(model, True)
    branch = model.branches["a"]
    first, norm, rectifier, layer, _ = branch.children()
    features: Tensor = rectifier(norm(first(IMAGE)))
    expected = nn.functional.conv2d(features, layer.weight, layer.bias) + 100
    torch.testing.assert_close(model.encoder(IMAGE)[0], expected.relu())


def test_hooks_that_only_look_are_called_in_training() -> None:
    seen: list[Tensor] = []
    model = gated(lambda backbone: backbone[3].register_forward_hook(lambda _, args, out: seen.append(out)))
    seen.clear()
    model.train()(IMAGE)
    assert len(seen) == 3
