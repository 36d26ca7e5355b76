"""Quantisation-aware training of a pruned network, and its int8 ONNX file.

Run:  python -m examples.quantisation_aware [FOLDER]
In training, weights and the inputs of convolutions and linear layers are rounded as `quantize_onnx` rounds them: to 8
bits, symmetric, weights by output channel. So the file has the weights that were trained, without another rounding.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.ao.quantization import FakeQuantize, MovingAverageMinMaxObserver, disable_observer
from torch.nn.utils import parametrize

import gate2static as g2s
from examples.plain_loop import batches, network, task_loss
from gate2static.export import Int8Report, quantize_onnx

LAYERS = (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)


class RoundedWeight(nn.Module):
    """Rounds a weight to ±127 steps per output channel; the gradient passes straight through."""

    def forward(self, weight: Tensor) -> Tensor:
        """Returns the rounded weight."""
        scale = weight.detach().flatten(1).abs().amax(1).clamp(min=1e-12) / 127
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -127, 127)


def add_rounding(trainable: g2s.TrainableModel) -> list[tuple[nn.Module, str]]:
    """Rounds weights and inputs of layers from now on; returns where weights are rounded."""
    graph_module, rounded, weights = trainable.network, {}, []
    for node in [node for node in graph_module.graph.nodes if node.target in LAYERS]:
        x, weight = node.args[:2]
        if x not in rounded:
            name = f"rounding_{len(rounded)}"
            observer = MovingAverageMinMaxObserver.with_args(
                averaging_constant=0.1, dtype=torch.qint8, qscheme=torch.per_tensor_symmetric
            )
            graph_module.add_submodule(name, FakeQuantize(observer, quant_min=-127, quant_max=127))
            with graph_module.graph.inserting_before(node):
                rounded[x] = graph_module.graph.call_module(name, (x,))
        node.replace_input_with(x, rounded[x])
        layer, _, leaf = weight.target.rpartition(".")
        weights.append((graph_module.get_submodule(layer), leaf))
        parametrize.register_parametrization(*weights[-1], RoundedWeight())
    graph_module.recompile()
    return weights


def train(folder: Path, *, epochs: int = 3, rounding: bool = True) -> tuple[g2s.TrainableModel, Int8Report]:
    """Trains a pruned network and writes its float and int8 files; returns the network, which evaluates rounded."""
    loader = batches()
    trainable = g2s.prune(network()).trainable()
    weights = add_rounding(trainable) if rounding else []
    optimiser = torch.optim.Adam([p for p in trainable.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(epochs):
        for x, *targets in loader:
            task_loss(trainable(x), *targets).backward()
            optimiser.step()
            optimiser.zero_grad()
    trainable.eval().apply(disable_observer)
    for layer, leaf in weights:
        parametrize.remove_parametrizations(layer, leaf)  # the rounded weight stays
    folder.mkdir(parents=True, exist_ok=True)
    g2s.export_onnx(trainable.static(), folder / "model.onnx")
    images = [x.numpy() for x, *_ in loader]
    return trainable, quantize_onnx(folder / "model.onnx", folder / "model.int8.onnx", images)


if __name__ == "__main__":
    print(train(Path(sys.argv[1] if len(sys.argv) > 1 else "int8-run"))[1])
