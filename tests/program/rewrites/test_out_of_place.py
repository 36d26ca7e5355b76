"""Tracing takes in-place writes out, so that streams which share a value never see each other's."""

import operator
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gate2static.errors import TraceError
from gate2static.program.rewrites.out_of_place import functionalise, set_item
from gate2static.program.tracing.trace import trace


class Net(nn.Module):
    """Reads a value before and after it is written."""

    def __init__(self, write: Callable[[Tensor], Tensor] | nn.Module) -> None:
        super().__init__()
        self.conv, self.write = nn.Conv2d(3, 4, 1), write

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        before = y * 2
        return before + self.write(y) + y


WRITES: dict[str, Callable[[Tensor], Tensor] | nn.Module] = {
    "method": lambda y: y.relu_(),
    "method with arguments": lambda y: y.clamp_(min=-0.1, max=0.2),
    "torch function": torch.relu_,
    "functional with a flag": lambda y: F.leaky_relu(y, 0.2, inplace=True),
    "functional with a flag by position": lambda y: F.elu(y, 1.0, True),
    "layer": nn.Hardswish(inplace=True),
    "chain": lambda y: F.hardtanh(y.add_(1.0).mul_(3.0), inplace=True),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_readers_after_a_write_read_what_was_written(write: Callable[[Tensor], Tensor] | nn.Module) -> None:
    net, x = Net(write).eval(), torch.randn(2, 3, 4, 4)
    root, graph = trace(net, (x,), "the network")
    traced = torch.fx.GraphModule(root, graph)
    interpreter, values = torch.fx.Interpreter(traced, garbage_collect_values=False), {}
    found = interpreter.run(x)
    values = {node: value.clone() for node, value in interpreter.env.items() if isinstance(value, Tensor)}
    torch.testing.assert_close(found, net(x))
    # Nothing was written: running the last node again changes no value.
    interpreter.run(x)
    assert all(torch.equal(interpreter.env[node], value) for node, value in values.items())
    versions = [value._version for value in interpreter.env.values() if isinstance(value, Tensor)]
    assert set(versions) == {0}


def assign(y: Tensor) -> Tensor:
    y[:, 1:3] = y[:, :2] * 2
    return y


def write_into_items(y: Tensor) -> Tensor:
    y[1:].zero_()
    y[:, 1:][:, :, 2].mul_(3.0)
    return y


def write_into_one_of_several(y: Tensor) -> Tensor:
    parts = y.chunk(2, 1)
    return torch.cat([parts[0].relu_(), parts[1]], 1)


@pytest.mark.parametrize("write", [assign, write_into_items])
def test_readers_after_a_write_into_items_read_what_was_written(write: Callable[[Tensor], Tensor]) -> None:
    net, x = Net(write).eval(), torch.randn(2, 3, 4, 4)
    root, graph = trace(net, (x,), "the network")
    torch.testing.assert_close(torch.fx.GraphModule(root, graph)(x), net(x))


def test_one_of_several_results_is_written_alone() -> None:
    root, graph = trace(Net(write_into_one_of_several).eval(), (torch.randn(2, 3, 4, 4),), "the network")
    torch.fx.GraphModule(root, graph)(torch.randn(2, 3, 4, 4))
    assert not any(n.target is set_item for n in graph.nodes)


def test_a_layers_flag_is_cleared_on_the_copy_alone() -> None:
    net = Net(nn.ReLU(inplace=True))
    root, _ = trace(net, (torch.zeros(1, 3, 4, 4),), "the network")
    assert net.write.inplace
    assert not root.write.inplace


def _graph(target: Callable[..., object], *args: object) -> torch.fx.Graph:
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    graph.call_function(target, (x, *args))
    graph.output(x)
    functionalise(nn.Module(), graph)
    return graph


def test_operators_and_items_written_by_hand_built_graphs_come_out_too() -> None:
    x = torch.randn(3, 2)
    for target, args, expected in (
        (operator.iadd, (1,), x + 1),
        (operator.imul, (2,), x * 2),
        (operator.setitem, (0, 5.0), set_item(x, 0, 5.0)),
    ):
        network = torch.fx.GraphModule(nn.Module(), _graph(target, *args))
        before = x.clone()
        assert torch.equal(network(x), expected)
        assert torch.equal(x, before)


def test_a_write_without_a_counterpart_is_refused() -> None:
    with pytest.raises(TraceError, match="the method fill_diagonal_ writes in place and has no out-of-place form"):
        trace(Net(lambda y: y.fill_diagonal_(0.0)), (torch.zeros(1, 3, 4, 4),), "the network")
