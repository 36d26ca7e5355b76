"""Tasks with encoders of their own: what they compute, what the others compute, and who wins a hard mix."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import gate2static as g2s
from gate2static.gates import GatedModel
from gate2static.models import MultiTaskNetwork
from gate2static.train.safety.opening import open_encoders, part_of, put_back

TASKS = ("a", "b", "c")


def block(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = block(3, 8)
        self.second = block(8, 8)
        self.third = block(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.third(y + self.second(y))


def randomised(network: nn.Module) -> nn.Module:
    """Returns the network in evaluation, with running statistics of a trained one."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return network.eval()


@pytest.fixture(scope="module")
def networks() -> dict[str, MultiTaskNetwork]:
    torch.manual_seed(0)
    heads = {task: nn.Conv2d(8, 2, 1) for task in TASKS}
    return {task: randomised(MultiTaskNetwork(Backbone(), {task: heads[task]})).double() for task in TASKS}


@pytest.fixture
def make(images: Tensor) -> Callable[..., GatedModel]:
    def gated(**options: object) -> GatedModel:
        torch.manual_seed(1)
        heads = {task: nn.Conv2d(8, 2, 1) for task in TASKS}
        model = g2s.gate(
            Backbone(), tasks=TASKS, example_inputs=(images.float(),), heads=heads, gate_init_std=1, **options
        )
        with torch.no_grad():
            for gate in model.gates.values():
                gate.alpha.normal_()
                gate.beta.normal_()
        return randomised(model).double()

    return gated


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()


OPTIONS = ({"mixing": "softmax"}, {"mixing": "hard", "group_size": 2}, {"mixing": "hard", "tie_residual": True})


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("opened", [("a", "c"), TASKS])
def test_an_opened_task_is_its_single_task_network(
    make: Callable[..., GatedModel],
    networks: dict[str, MultiTaskNetwork],
    images: Tensor,
    options: dict[str, object],
    opened: tuple[str, ...],
) -> None:
    gated = make(**options)
    before = gated(images)
    open_encoders(gated, {task: networks[task] for task in opened})
    outputs = gated(images)
    deployed = g2s.prune(gated)(images)
    for task in opened:
        expected = networks[task](images)[task].detach()
        assert torch.equal(outputs[task], expected)
        assert not torch.equal(before[task], expected)
        assert torch.allclose(deployed[task], expected, rtol=0, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.parametrize("options", OPTIONS)
def test_other_tasks_neither_read_nor_train_an_opened_one(
    make: Callable[..., GatedModel], networks: dict[str, MultiTaskNetwork], images: Tensor, options: dict[str, object]
) -> None:
    gated = make(**options)
    open_encoders(gated, {"b": networks["b"]})
    outputs = gated(images)
    (outputs["a"].square().sum() + outputs["c"].square().sum()).backward()
    assert all(p.grad is None or not p.grad.any() for p in gated.branches["b"].parameters())
    for parameter in gated.branches["b"].parameters():
        parameter.detach().normal_()
    changed = gated(images)
    assert torch.equal(changed["a"], outputs["a"])
    assert torch.equal(changed["c"], outputs["c"])
    assert not torch.equal(changed["b"], outputs["b"])


def test_a_sharer_wins_where_an_opened_task_won(
    make: Callable[..., GatedModel], networks: dict[str, MultiTaskNetwork]
) -> None:
    gated = make(mixing="hard")
    alpha = torch.tensor([[1.0, 1, 1, 1, 1, 1, 1, 1], [1, -1, -1, 1, 1, 1, 1, 1], [-1, 1, -1, 1, 1, 1, 1, 1]])
    beta = torch.tensor([[9.0, 9, 9, 9, 0, 0, 0, 0], [5, 1, 1, 2, 1, 1, 1, 1], [1, 5, 2, 1, 2, 2, 2, 2]])
    for gate in gated.gates.values():
        gate.alpha.detach().copy_(alpha)
        gate.beta.detach().copy_(beta)
    open_encoders(gated, {"a": networks["a"]})
    for gate in gated.gates.values():
        # Sharers first, of several the one with the largest β; without a sharer the largest β; others as they were.
        assert gate.winners().tolist() == [2, 1, 2, 1, 2, 2, 2, 2]


@pytest.mark.parametrize("options", OPTIONS)
def test_the_network_of_the_other_tasks_computes_and_takes_back_their_part(
    make: Callable[..., GatedModel], networks: dict[str, MultiTaskNetwork], images: Tensor, options: dict[str, object]
) -> None:
    gated = make(**options)
    open_encoders(gated, {"b": networks["b"]})
    heads = {task: nn.Conv2d(8, 2, 1) for task in ("a", "c")}
    part = g2s.gate(Backbone(), tasks=("a", "c"), example_inputs=(images.float(),), heads=heads, **options).double()
    part.load_state_dict(part_of(gated.state_dict(), part.state_dict(), [0, 2]))
    part.eval()
    outputs, of_part = gated(images), part(images)
    for task in ("a", "c"):
        assert torch.allclose(of_part[task], outputs[task], rtol=0, atol=1e-12)
    before = copy.deepcopy(gated.state_dict())
    for value in part.state_dict().values():
        if value.is_floating_point():
            value.abs_().mul_(1.1)
    put_back(gated, part.state_dict(), [0, 2])
    changed, of_part = gated(images), part(images)
    for task in ("a", "c"):
        assert torch.allclose(changed[task], of_part[task], rtol=0, atol=1e-12)
    assert torch.equal(changed["b"], outputs["b"])
    for name, value in gated.state_dict().items():
        if name.startswith(("encoder.branches.b.", "heads.b.")):
            assert torch.equal(value, before[name])
