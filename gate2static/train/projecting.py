"""A finished gated network to a budget, without training."""

from pathlib import Path

from gate2static.budget import BudgetReport, project_to_budget
from gate2static.errors import CheckpointError
from gate2static.gates import GatedModel
from gate2static.recipe import Budget
from gate2static.train import checkpoints
from gate2static.train.networks import load_gated


def project_checkpoint(path: Path, budget: Budget, *, target: Path | None) -> tuple[GatedModel, BudgetReport]:
    """Projects the network of a checkpoint to a budget.

    Args:
        path: A gated network's `ckpt.pt`; not changed.
        budget: The most that its static network may cost.
        target: Where to write the checkpoint of the projected network, which is what the static one is equal to.

    Raises:
        CheckpointError: It cannot be read or holds no gated network.
        BudgetError: No setting of the gates meets the budget.
    """
    content = checkpoints.load_checkpoint(path)
    if content["kind"] != "gated":
        raise CheckpointError(
            f"{path}: holds a {content['kind']} network, which has no gates to flip; give a gated one"
        )
    gated, _ = load_gated(path)
    report = project_to_budget(gated, budget)
    if target is not None:
        content["model"] = gated.state_dict()
        content["position"]["budget"] = {
            **content["position"].get("budget", {}),
            "report": report.model_dump(mode="json"),
        }
        checkpoints.save_checkpoint(target, content)
    return gated, report
