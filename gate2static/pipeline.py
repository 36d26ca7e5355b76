"""The road from a checkpoint to a pruned, verified and exported network.

The command line and the demo call these functions. They return values and print nothing.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gate2static.bench import NETWORK_BACKENDS, Stopwatch
from gate2static.budget import BudgetReport
from gate2static.errors import CheckpointError
from gate2static.export import onnx_errors
from gate2static.export.equality import check_equal, onnx_tolerances
from gate2static.export.formats import FileReport
from gate2static.export.package.folder import default_folder, export_package
from gate2static.export.task_subset import for_tasks
from gate2static.gates import GatedModel
from gate2static.prune import Plan, apply, plan
from gate2static.prune.emission.layout import find_target
from gate2static.recipe import Budget
from gate2static.report import gated_checks, known_latencies, onnx_checks
from gate2static.report.content import Check
from gate2static.restore import load_checkpoint
from gate2static.static import StaticModel, load_static
from gate2static.train import (
    Projected,
    gated_baseline,
    project_checkpoint,
    trained_budget,
    with_meaning,
)
from gate2static.verify import EquivalenceReport, refuse_fine_tuned, verify
from gate2static.verify.inputs_file import read_inputs
from gate2static.verify.task_metrics import Evaluation, evaluate_files


@dataclass(frozen=True, kw_only=True)
class PruneRequest:
    """The options of a pruning.

    Attributes:
        align: Every layer keeps a multiple of this many channels.
        target: The runtime that the network is laid out for, as `prune` takes it.
        dtype: The static network's dtype; None keeps the dtype that the network was trained in.
        dynamic: The names of the sizes of images that are free.
        budget: The most that the static network may cost; None prunes the gates as they were trained.
        tasks: The tasks that the static network has; None stands for all.
        threads: CPU threads for a budget that is timed on this machine; None leaves the number to torch.
        model: The name of the code that builds the network of an own training loop's checkpoint.
    """

    align: int = 1
    target: str = "any"
    dtype: torch.dtype | None = None
    dynamic: tuple[str, ...] = ()
    budget: Budget | None = None
    tasks: tuple[str, ...] | None = None
    threads: int | None = None
    model: str | None = None

    @property
    def is_aligned(self) -> bool:
        """Returns whether layers keep channels that only fill them up."""
        return self.align > 1 or find_target(self.target).align > 1


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """A pruning that is planned and not done yet.

    Attributes:
        checkpoint: The file or folder that the network was loaded from.
        request: The options of the pruning.
        plan: The channels that stay, and their layout; `prune_to_folder` applies exactly this plan.
        projected: The network's projection onto the requested budget; None where no budget was requested.
    """

    checkpoint: Path
    request: PruneRequest
    plan: Plan
    projected: Projected | None = None


@dataclass(frozen=True, kw_only=True)
class PrunedNetwork:
    """A static network that was written.

    Attributes:
        static: The network, as it lies in its folder.
        broken_promise: The budget that the gates meet and that the static network may miss, because its layout or
            dtype changes the cost; None where the manifest states the budget or there is none.
        checkpoint: The checkpoint of the projected network, which `verify_folder` compares with; None without a
            projection.
    """

    static: StaticModel
    broken_promise: BudgetReport | None = None
    checkpoint: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """Returns what was written, as plain values."""
        broken = self.broken_promise
        return {
            "projected_checkpoint": None if self.checkpoint is None else str(self.checkpoint),
            "broken_promise": None if broken is None else broken.model_dump(mode="json"),
            "manifest": self.static.manifest.model_dump(mode="json"),
        }


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The comparison of a static network with its gated network and, if asked for, with its ONNX file.

    Attributes:
        checks: The comparisons, in the form that `record` writes into a manifest.
        report: The comparison with the gated network; None for a network that was fine-tuned since it was pruned, of
            which only the ONNX file was compared.
        errors: The ONNX file's relative error by task; empty without an ONNX file.
        tolerances: The largest allowed relative error by task; empty without an ONNX file.
    """

    checks: tuple[Check, ...]
    report: EquivalenceReport | None
    errors: dict[str, float]
    tolerances: dict[str, float]

    def require(self) -> None:
        """Raises a VerificationError unless all networks compute the same function."""
        if self.report is not None:
            self.report.require()
        check_equal(self.errors, self.tolerances)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An export folder that was written.

    Attributes:
        folder: The folder.
        reports: One report per file.
        description: The content of `model.json`.
    """

    folder: Path
    reports: tuple[FileReport, ...]
    description: dict[str, Any]


def load_network(checkpoint: Path, model: str | None = None) -> GatedModel:
    """Loads the network of a checkpoint, or of a run's `separate/` folder as one gated network.

    Args:
        checkpoint: The file or folder.
        model: The name of the code that builds the network of an own training loop's checkpoint.

    Raises:
        CheckpointError: The file or folder does not hold such a network.
    """
    if checkpoint.name == "separate" and checkpoint.is_dir():
        if model is not None:
            raise CheckpointError(f"{checkpoint}: a run wrote it, and its recipe builds the network; leave out --model")
        return gated_baseline(checkpoint.parent, "separate")
    return load_checkpoint(checkpoint, model)


def prepare_pruning(checkpoint: Path, request: PruneRequest) -> Pruning:
    """Loads a checkpoint's network, projects it onto the request's budget if there is one, and plans its pruning.

    Args:
        checkpoint: The checkpoint, or a run's `separate/` folder.
        request: The options of the pruning.

    Raises:
        CheckpointError: The checkpoint cannot be read, or has no gates to change for a budget.
        BudgetError: No setting of the gates meets the budget.
        BenchError: The budget's device is unknown, lacks a layer, or fails.
        PruneError: The network cannot be pruned as requested.
    """
    gated = load_network(checkpoint, request.model)
    projected = _project(checkpoint, gated, request)
    pruning_plan = plan(
        gated, align=request.align, target=request.target, dynamic=request.dynamic, tasks=request.tasks
    )
    return Pruning(checkpoint=checkpoint, request=request, plan=pruning_plan, projected=projected)


def _project(checkpoint: Path, gated: GatedModel, request: PruneRequest) -> Projected | None:
    if request.budget is None:
        return None
    stopwatch = _stopwatch(request.budget, request.threads)
    # A latency model predicts networks as trained; only a stopwatch sees the layout.
    target = "any" if stopwatch is None else request.target
    return project_checkpoint(checkpoint, gated, request.budget, measure=stopwatch, target=target)


def prune_to_folder(pruning: Pruning, output: Path) -> PrunedNetwork:
    """Prunes a network as planned, and writes the static network and, beside it, the checkpoint of a projected network.

    Args:
        pruning: The plan, as of `prepare_pruning`.
        output: The static network's folder.

    Raises:
        PruneError: The network cannot be captured.
        ArtefactError: The folder cannot be written, or holds something else.
    """
    # The plan that `--dry-run` prints, not a second one.
    static = apply(pruning.plan, dtype=pruning.request.dtype)
    projected = pruning.projected
    report = projected.report if projected else trained_budget(pruning.checkpoint)
    keeps_budget = report is not None and (projected is not None or _keeps_cost(report, pruning.request))
    if report is not None and keeps_budget:
        static.manifest = static.manifest.model_copy(update={"budget": report.model_dump(mode="json")})
    static.manifest = with_meaning(static.manifest, pruning.checkpoint)
    static.save(output)
    broken_promise = None if keeps_budget else report
    if projected is None:
        return PrunedNetwork(static=static, broken_promise=broken_promise)
    # After the static network: without it, a projected checkpoint would belong to nothing.
    checkpoint = projected_checkpoint(output)
    projected.save(checkpoint)
    return PrunedNetwork(static=static, broken_promise=broken_promise, checkpoint=checkpoint)


def projected_checkpoint(output: Path) -> Path:
    """Returns the path of a static network's projected checkpoint: `static` has `static.ckpt.pt` beside it."""
    folder = Path(os.path.realpath(output))  # a loop of links is refused where it is written
    return folder.parent / f"{folder.name}.ckpt.pt"


def verify_folder(
    checkpoint: Path,
    static_dir: Path,
    onnx: Path | None = None,
    inputs: Path | None = None,
    *,
    model: str | None = None,
) -> Verification:
    """Compares a static network with the network that it was pruned from, and changes neither.

    A network that was fine-tuned since is compared with its ONNX file alone.

    Args:
        checkpoint: The gated network's checkpoint, or a run's `separate/` folder.
        static_dir: The static network's folder.
        onnx: An fp32 ONNX file of the static network, which is compared too.
        inputs: A file of inputs to compare on, as of `read_inputs`; None draws them.
        model: The name of the code that builds the network of an own training loop's checkpoint.

    Raises:
        VerificationError: The file of inputs cannot be read, or does not fit.
        ArtefactError: The folder holds no static network, or one that was fine-tuned and there is no ONNX file.
        CheckpointError: The checkpoint cannot be read.
        ExportError: The ONNX file cannot be read.
    """
    static = load_static(static_dir)
    if onnx is None:
        refuse_fine_tuned(static)
    given = None if inputs is None else read_inputs(inputs, static.manifest.inputs)
    is_fine_tuned = static.manifest.fine_tuned_from is not None
    report = None if is_fine_tuned else verify(load_network(checkpoint, model), static, inputs=given)
    errors = onnx_errors(static, onnx, inputs=given) if onnx else {}
    tolerances = onnx_tolerances(static) if onnx else {}
    checks = (*(gated_checks(report) if report else ()), *onnx_checks(errors, tolerances))
    return Verification(checks=checks, report=report, errors=errors, tolerances=tolerances)


def export_folder(
    static_dir: Path,
    output: Path | None = None,
    *,
    tasks: Sequence[str] | None = None,
    judge: Callable[[Evaluation], None] | None = None,
    data: Mapping[str, Any] | None = None,
    **options: Any,
) -> Exported:
    """Exports a static network as a folder that can be deployed without gate2static.

    Args:
        static_dir: The static network's folder.
        output: The export folder; None takes `exports/<name>`.
        tasks: The tasks to export; None exports all.
        judge: Is given the task metrics of the static network and the ONNX files, and raises where these shall not be
            deployed: they never get their place in the folder then. None measures nothing.
        data: The data to measure on: `recipe`, `split` and `images` of `evaluate_files`.
        options: The other arguments of `export_package`.

    Raises:
        ArtefactError: The folder holds no static network.
        ExportError: The options do not go together, or a step failed.
        MissingDependencyError: An engine's library is not there.
        VerificationError: An ONNX file does not compute what the static network computes.
    """
    static = load_static(static_dir)
    latencies = known_latencies(static_dir)
    if tasks is not None:
        static = for_tasks(static, tasks)
        latencies = ()  # those of the whole network
    folder = output or default_folder(static_dir, tasks or ())

    def accept(files: list[Path]) -> None:
        if judge is not None:
            judge(_named_alone(evaluate_files([static_dir, *files], **(data or {}))))

    reports, description = export_package(static, folder, latencies=latencies, accept=accept, **options)
    return Exported(folder=folder, reports=reports, description=description)


def _named_alone(evaluation: Evaluation) -> Evaluation:
    """Returns an evaluation whose files have no folder in their names, since they are still in a temporary one."""
    reference, *files = evaluation.networks
    return replace(evaluation, networks=(reference, *(replace(file, name=Path(file.name).name) for file in files)))


def _stopwatch(budget: Budget, threads: int | None) -> Stopwatch | None:
    """Returns what times networks on the budget's device, where the device is a backend of this machine."""
    if budget.device is None or budget.device not in NETWORK_BACKENDS:
        return None
    return Stopwatch(budget.device, threads=threads)


def _keeps_cost(report: BudgetReport, request: PruneRequest) -> bool:
    """Returns whether the static network costs what the projection at the end of the training measured."""
    laid_out_as_measured = request.target == report.target and request.dtype is None
    return not request.is_aligned and request.tasks is None and (report.unit == "MACs" or laid_out_as_measured)
