"""The examples run, with the libraries that they are for, and do what their first lines say."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import gate2static as g2s
from examples import accelerate_loop, lightning_two_optimisers, plain_loop, quantisation_aware

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def tags(folder: Path) -> set[str]:
    """The tags of all scalars and images in a folder of TensorBoard's."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: set[str] = set()
    for file in folder.rglob("events.out.tfevents.*"):
        events = EventAccumulator(str(file)).Reload()
        found |= {*events.Tags()["scalars"], *events.Tags()["images"]}
    return found


def state(network: nn.Module) -> list[Tensor]:
    return [value.detach().clone() for value in network.state_dict().values()]


def test_lightning_freezes_the_gates_on_a_budget_and_resumes_where_it_stopped(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = lightning_two_optimisers.train(tmp_path / "whole", epochs=3)
    gated = whole.gated
    assert not any(p.requires_grad for p in g2s.gate_parameters(gated))
    macs = g2s.prune(gated).manifest.macs
    assert macs.static <= 0.8 * macs.separate
    assert {"gates/own/seg", "gates/own/depth", "gates/static_macs", "loss"} <= tags(tmp_path / "whole")
    # Epoch 0 ends before the gates are frozen, and epoch 1 with it.
    for epoch in (0, 1):
        (checkpoint,) = (tmp_path / "whole" / "checkpoints").glob(f"epoch={epoch}*.ckpt")
        resumed = lightning_two_optimisers.train(tmp_path / f"resumed-{epoch}", epochs=3, resume=checkpoint)
        assert all(map(torch.equal, state(whole), state(resumed)))


def test_accelerate_resumes_where_it_stopped(tmp_path: Path) -> None:
    torch.manual_seed(0)
    accelerate_loop.train(tmp_path / "state", epochs=1)
    resumed = accelerate_loop.train(tmp_path / "state", epochs=1, resume=True)
    torch.manual_seed(0)
    whole = accelerate_loop.train(tmp_path / "whole", epochs=2)
    assert all(map(torch.equal, state(whole), state(resumed)))
    assert g2s.verify(resumed, g2s.prune(resumed)).passed


def test_a_plain_loop_meets_its_budget_logs_its_gates_and_trains_on_after_pruning(tmp_path: Path) -> None:
    torch.manual_seed(0)
    static = plain_loop.train(tmp_path / "run")
    assert static.manifest.macs.static <= 0.8 * static.manifest.macs.separate
    assert static.manifest.fine_tuned_from is not None
    assert {"gates", "static MACs"} <= tags(tmp_path / "run")


def filters(file: Path) -> dict[str, np.ndarray]:
    """The filters of each convolution of an ONNX file by its name; those of int8 files times their scales."""
    graph = onnx.load(file).graph
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    writer = {name: node for node in graph.node for name in node.output}
    found = {}
    for node in graph.node:
        if node.op_type == "Conv":
            source = writer.get(node.input[1])
            number, scale = (values[name] for name in source.input[:2]) if source else (values[node.input[1]], None)
            found[node.name] = number if scale is None else number * scale[:, None, None, None]
    return found


def test_quantisation_aware_training_leaves_weights_that_int8_does_not_change(tmp_path: Path) -> None:
    def change(*, rounding: bool) -> float:
        torch.manual_seed(0)
        network, report = quantisation_aware.train(tmp_path / str(rounding), epochs=2, rounding=rounding)
        assert not any("parametrizations" in name for name in network.state_dict())
        assert max(report.rms_errors.values()) < 0.05
        whole, rounded = (filters(tmp_path / str(rounding) / name) for name in ("model.onnx", "model.int8.onnx"))
        assert len(whole) >= 4
        assert whole.keys() == rounded.keys()
        return max(float(abs(whole[name] - rounded[name]).max() / abs(whole[name]).max()) for name in whole)

    assert change(rounding=True) < 1e-5
    assert change(rounding=False) > 1e-3


@pytest.mark.parametrize("name", ["accelerate_loop", "lightning_two_optimisers", "plain_loop", "quantisation_aware"])
def test_examples_fit_on_a_page(name: str) -> None:
    lines = Path(__file__).parents[2].joinpath("examples", f"{name}.py").read_text().splitlines()
    assert len(lines) <= 80
