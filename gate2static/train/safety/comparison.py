"""Comparison of networks with a run's single-task networks, on the same images."""

from collections.abc import Mapping, Sequence
from functools import cached_property, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch import distributed as dist
from torch.utils.data import Dataset

from gate2static.data import Sample
from gate2static.recipe import Recipe
from gate2static.tasks import Blocks, Measured, PairedTest, Replicates, Task, paired_tests
from gate2static.train.evaluation import evaluate
from gate2static.train.loop.batches import Share, evaluation_loader, length, loaded
from gate2static.train.networks import single_networks

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Tests = dict[str, dict[str, PairedTest]]
"""Task -> metric -> the test of a network against the single-task network."""


class Comparison:
    """Measures networks on one split, and compares them with the run's single-task networks there.

    Args:
        run_dir: The run's folder, with the trained single-task networks.
        split: The images.
        tasks: The recipe's tasks.
        recipe: The run's recipe.
        fabric: The processes and devices; every process measures its share of the images.
    """

    def __init__(
        self, run_dir: Path, split: Dataset[Sample], tasks: Sequence[Task], recipe: Recipe, fabric: "Fabric"
    ) -> None:
        self._run_dir = run_dir
        self._split = split
        self._tasks = tuple(tasks)
        self._recipe = recipe
        self._fabric = fabric

    def measure(self, network: nn.Module) -> tuple[dict[str, dict[str, float]], dict[str, Measured]]:
        """Returns all metrics of a network by task and name, and what `tests` compares.

        Args:
            network: Maps images (N, C, H, W) to a dict of outputs by task; it is moved to the run's device.
        """
        training = self._recipe.training
        share = Share.of(self._fabric)
        # The size of a part in training, which fits in memory.
        size = training.gated.batch_size // (share.world_size * training.accumulate)
        loader = evaluation_loader(self._split, size, share=share, workers=training.workers)
        blocks = Blocks(self._tasks, length(self._split), rank=share.rank, world_size=share.world_size)
        scores = evaluate(network.to(self._fabric.device), loaded(loader), self._tasks, blocks=blocks)
        return scores, _gathered(blocks.measured())

    def tests(self, measured: Mapping[str, Measured], *, margin: float = 0.0) -> Tests:
        """Returns the tests of a network against the single-task networks, by task and metric.

        Tasks with fewer than two images that count have none.

        Args:
            measured: What was measured of the network, as of `measure`.
            margin: The loss to test against, as a share of the single-task networks' metrics.
        """
        return {
            task.name: paired_tests(
                Replicates(task, measured[task.name]), self._single[task.name], task, margin=margin
            )
            for task in self._tasks
            if task.name in self._single
        }

    @cached_property
    def _single(self) -> dict[str, Replicates]:
        """The single-task networks' metrics, for tasks with two blocks at least: a single one cannot be left out."""
        measured = self.measure(_SideBySide(single_networks(self._recipe, self._run_dir)))[1]
        return {
            task.name: Replicates(task, measured[task.name])
            for task in self._tasks
            if len(measured[task.name].blocks) > 1
        }


class _SideBySide(nn.Module):
    """Single-task networks as one network.

    Args:
        networks: Task -> its network.
    """

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(networks)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {task: network(images)[task] for task, network in self.networks.items()}


def _gathered(measured: dict[str, Measured]) -> dict[str, Measured]:
    """Returns what all processes have measured together."""
    if not (dist.is_available() and dist.is_initialized()):
        return measured
    of_processes: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(of_processes, measured)
    return {task: reduce(Measured.with_part, (part[task] for part in of_processes)) for task in measured}
