"""Thinning by Torch-Pruning, which most people would try first: train, cut channels everywhere alike, train on."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
import torch_pruning
from torch import Tensor, nn

import gate2static as g2s
from gate2static.data import Splits, describe_data
from gate2static.models import MultiTaskNetwork, build_model
from gate2static.recipe import Recipe
from gate2static.tasks import Task, build_tasks
from gate2static.train.loop import batches, checkpoints
from gate2static.train.loop.loop import train_network
from gate2static.train.loop.network_run import NetworkRun
from gate2static.train.loop.progress import TrainingProgress
from gate2static.train.processes.devices import start_fabric

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Criterion = Literal["magnitude", "taylor"]
_TAYLOR_BATCHES = 20
_STEPS = 40
"""Cuts in which the MACs are brought down, each by a little."""


class Beside(nn.Module):
    """Networks side by side as one: what a user deploys who keeps one network per task."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps images to the outputs of all networks."""
        outputs: dict[str, Tensor] = {}
        for network in self.networks:
            outputs.update(network(x))
        return outputs


def thinned(
    recipe: Recipe,
    run_dir: Path,
    kind: Literal["separate", "shared"],
    criterion: Criterion,
    share: float,
    splits: Splits,
) -> nn.Module:
    """Returns the trained networks of a run, thinned to a share of their own MACs and trained on.

    Args:
        recipe: The recipe of the thinned networks' further training (`training.shared`).
        run_dir: A run whose networks were trained for the epochs before it.
        kind: The networks to thin.
        criterion: What a channel is worth: the norm of its weights, or the first-order change of the loss.
        share: The MACs to keep.
        splits: The data.
    """
    tasks = build_tasks(recipe.tasks, describe_data(recipe.data))
    fabric = start_fabric(recipe)
    fabric.launch()
    groups = [tasks] if kind == "shared" else [(task,) for task in tasks]
    networks = []
    for group in groups:
        path = run_dir / ("shared" if kind == "shared" else f"separate/{group[0].name}") / checkpoints.FILE
        name = f"thinned-{kind}-{criterion}-{share:g}"
        networks.append(_one(recipe, run_dir, path, group, name, share, criterion, splits, fabric))
    return Beside(networks)


def _one(
    recipe: Recipe,
    run_dir: Path,
    path: Path,
    tasks: Sequence[Task],
    name: str,
    share: float,
    criterion: Criterion,
    splits: Splits,
    fabric: "Fabric",
) -> nn.Module:
    backbone, heads, examples = build_model(recipe, initial_weights=False)
    network = MultiTaskNetwork(backbone, {task.name: heads[task.name] for task in tasks})
    network.load_state_dict(checkpoints.load_checkpoint(path)["model"])
    _cut(network, recipe, examples[0], tasks, share, criterion, splits)
    run = NetworkRun(
        name=f"{name}/{'-'.join(task.name for task in tasks)}",
        kind="shared",
        model=network,
        tasks=tuple(tasks),
        recipe=recipe,
        run_dir=run_dir,
    )
    with TrainingProgress(enabled=False, total_cost=1) as progress:
        train_network(run, splits, fabric=fabric, go_on=True, progress=progress)
    return network.eval()


def _cut(
    network: MultiTaskNetwork,
    recipe: Recipe,
    example: Tensor,
    tasks: Sequence[Task],
    share: float,
    criterion: Criterion,
    splits: Splits,
) -> None:
    """Removes channels until a share of the MACs is left, in place."""
    network.eval()
    importance: torch_pruning.importance.Importance
    if criterion == "taylor":
        importance = torch_pruning.importance.GroupTaylorImportance()
    else:
        importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    final_layers = [
        module for task in tasks for module in network.heads[task.name].modules() if _outputs(module) == task.channels
    ]
    pruner = torch_pruning.pruner.BasePruner(
        network, example, importance, iterative_steps=_STEPS, pruning_ratio=1 - 0.5 * share, ignored_layers=final_layers
    )
    count = batches.length(splits.train)
    order = batches.epoch_order(count, recipe.training.shared.batch_size, seed=recipe.seed, epoch=0)
    whole, _ = torch_pruning.utils.count_ops_and_params(network, example)
    for _step in range(_STEPS):
        if criterion == "taylor":
            network.zero_grad()
            loader = batches.train_loader(splits.train, order[:_TAYLOR_BATCHES], epoch=0)
            for images, targets in batches.loaded(loader):
                outputs = network(images)
                torch.stack([t.weight * t.loss(outputs[t.name], targets[t.name]) for t in tasks]).sum().backward()
        pruner.step()
        macs, _ = torch_pruning.utils.count_ops_and_params(network, example)
        if macs <= share * whole:
            return


def _outputs(module: nn.Module) -> int:
    """Returns a layer's number of outputs; 0 for what is no layer."""
    if isinstance(module, nn.Linear):
        return module.out_features
    return module.out_channels if isinstance(module, nn.Conv2d) else 0


def as_static(network: nn.Module, example: Tensor) -> g2s.StaticModel:
    """Returns any network as a static one, so that it is folded, exported and timed as all others are."""
    gated = g2s.gate(_Outputs(network), tasks=["all"], example_inputs=(example,), heads={"all": nn.Identity()})
    g2s.set_gates(gated, False)
    return g2s.prune(gated.eval(), target="ort-cpu")


class _Outputs(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network(x).values())
