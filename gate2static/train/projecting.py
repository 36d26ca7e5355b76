"""Projection of a finished gated network onto a budget, without training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gate2static.budget import BudgetReport, Measure, project_to_budget
from gate2static.errors import CheckpointError
from gate2static.gates import GatedModel
from gate2static.recipe import Budget
from gate2static.train.loop import checkpoints


def trained_budget(path: Path) -> BudgetReport | None:
    """Returns the report of the projection at the end of a training; None for a network without a budget.

    Args:
        path: A checkpoint, or a folder of single-task networks, which never have a budget.

    Raises:
        CheckpointError: The checkpoint cannot be read.
    """
    if path.is_dir():
        return None
    return reported_budget(checkpoints.read_checkpoint(path), path)


def reported_budget(content: dict[str, Any], path: Path) -> BudgetReport | None:
    """Returns the budget report inside a checkpoint; None where it has none.

    Args:
        content: The checkpoint.
        path: Its file, for the error message.

    Raises:
        CheckpointError: The report is damaged.
    """
    budget = content["position"].get("budget", {})
    report = budget.get("report") if isinstance(budget, dict) else budget
    try:
        return None if report is None else BudgetReport.model_validate(report)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise CheckpointError(f"{path}: damaged: its budget report: {first['msg']}; use another copy") from None


@dataclass(frozen=True, kw_only=True)
class Projected:
    """The network of a checkpoint, projected onto a budget.

    Attributes:
        gated: The projected network.
        report: The flipped gates, and the cost before and after.
        content: The checkpoint's content with the projected network in it.
    """

    gated: GatedModel
    report: BudgetReport
    content: dict[str, Any]

    def save(self, path: Path) -> None:
        """Writes the checkpoint of the projected network, which the static network is equal to.

        Raises:
            TrainingError: The file cannot be written.
        """
        checkpoints.save_checkpoint(path, self.content)


def project_checkpoint(
    path: Path,
    gated: GatedModel,
    budget: Budget,
    *,
    measure: Measure | None = None,
    target: str = "any",
) -> Projected:
    """Projects the network of a checkpoint onto a budget.

    Args:
        path: A gated network's checkpoint; the file is not changed.
        gated: The network of the checkpoint, changed in place.
        budget: The most that the static network may cost.
        measure: Measures a static network's cost, as for `project_to_budget`.
        target: The runtime to lay the static network out for, as for `project_to_budget`.

    Raises:
        CheckpointError: The checkpoint cannot be read or holds no gated network.
        BudgetError: No setting of the gates meets the budget.
        BenchError: The budget's device is unknown, lacks a layer, or fails.
    """
    content = checkpoints.read_checkpoint(path)
    if content["kind"] not in ("gated", checkpoints.OWN):
        raise CheckpointError(
            f"{path}: holds a {content['kind']} network, which has no gates to flip; give a gated one"
        )
    report = project_to_budget(gated, budget, measure=measure, target=target)
    # The controller's state stays, and the report takes the place of an earlier one.
    budget_state = {**content["position"].get("budget", {}), "report": report.model_dump(mode="json")}
    position = {**content["position"], "budget": budget_state}
    projected_content = {**content, "model": gated.state_dict(), "position": position}
    return Projected(gated=gated, report=report, content=projected_content)
