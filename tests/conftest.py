"""One thread and one seed for every test, so that a failure on one machine is a failure on the next."""

import gc
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

if TYPE_CHECKING:
    from gate2static.static import StaticModel

torch.set_num_threads(1)

TINY = (
    "tasks=[{name: left, kind: classification}, {name: mask, kind: mask}]",
    "data.options={train_images: 64, val_images: 40, test_images: 40}",
    "model.options={width: 0.125, blocks: 1}",
    "training.single.epochs=1",
    "training.shared.epochs=1",
    "training.gated.epochs=1",
    "training.device=cpu",
    "sweep=[60]",
)
"""The demo's recipe with as little training as runs at all."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts slow tests first, so that the processes of a run end together."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _what_is_imported_is_no_garbage() -> None:
    """Timing collects garbage first, which takes half a second as long as the modules of torch are looked through."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _operators_are_read_once() -> Iterator[None]:
    """The exporter reads its table of operators at every export, which takes as long as exporting a small network."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture(scope="session")
def tiny() -> Sequence[str]:
    """Overrides for the demo's recipe."""
    return TINY


@pytest.fixture(scope="session")
def static() -> "StaticModel":
    """Two tasks on one convolution and norm, small enough to time in milliseconds."""
    from gate2static.gates import gate
    from gate2static.prune import prune

    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        heads = {"a": nn.Conv2d(4, 1, 1), "b": nn.Conv2d(4, 2, 1)}
        return prune(gate(backbone, tasks=["a", "b"], example_inputs=(torch.randn(2, 3, 8, 8),), heads=heads).eval())


@pytest.fixture
def run() -> Callable[..., Result]:
    """Runs a command line and checks its exit status."""

    def invoke(*args: object, code: int = 0) -> Result:
        from gate2static.cli.commands import app

        result = CliRunner().invoke(app, [str(arg) for arg in args])
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return invoke


@pytest.fixture(scope="session")
def demo_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished demo."""
    from gate2static import delivering, demo

    run_dir = tmp_path_factory.mktemp("demo") / "demo-run"
    with pytest.MonkeyPatch.context() as patch:
        quick = delivering.benchmark
        options = {"rounds": 2, "duration_s": 0.02, "warmup_s": 0.0}
        patch.setattr(delivering, "benchmark", lambda targets, **_: quick(targets, **options))
        demo.run_demo(run_dir, overrides=TINY)
    return run_dir


@pytest.fixture(scope="session")
def pruned() -> "StaticModel":
    """A pruned network that no test changes."""
    from gate2static.prune import prune
    from tests import zoo

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return prune(zoo.make_gated("many_rules")[0])
