"""Makes a trained architecture safe: tasks that lose take the single-task networks that the run has anyway.

There is one check, and nothing is trained on: a task that leaves does not change what the others compute.
"""

from functools import partial
from typing import TYPE_CHECKING

from gate2static.architectures import as_gated
from gate2static.architectures.with_own_networks import WithOwnNetworks
from gate2static.budget.meter import Meter
from gate2static.data import Splits
from gate2static.models import build_model
from gate2static.prune import prune
from gate2static.train.loop import checkpoints
from gate2static.train.loop.resume import check_identity
from gate2static.train.networks import architecture_of, build_untrained, single_networks
from gate2static.train.processes.devices import on_first_process
from gate2static.train.safety.comparison import Comparison
from gate2static.train.safety.outcome import Safety, SafetyRound
from gate2static.train.safety.rounds import SafeRun, not_shown, tests_of

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def make_architecture_safe(run: SafeRun, splits: Splits, *, fabric: "Fabric", go_on: bool) -> None:
    """Writes the checkpoint of the safe network that follows from a trained architecture.

    Args:
        run: The architecture; its recipe's `safe` says what counts as no worse.
        splits: The data; `val` decides.
        fabric: The processes and devices, launched.
        go_on: Whether to take the checkpoint that is there.

    Raises:
        RecipeError: There are fewer than two validation images that count for a task.
        TrainingError: The disk is full.
        CheckpointError: A checkpoint cannot be read or belongs to another recipe.
    """
    path = run.run_dir / run.before / checkpoints.kept(run.recipe)
    content = checkpoints.load_checkpoint(path)
    identity = {**content["identity"], "safe": run.wanted.model_dump(mode="json")}
    if go_on and run.checkpoint.exists():
        check_identity(checkpoints.load_checkpoint(run.checkpoint)["identity"], identity, run.checkpoint)
        return
    architecture = architecture_of(run.recipe, content, path)
    singles = single_networks(run.recipe, run.run_dir)
    _, _, examples = build_model(run.recipe, initial_weights=False)
    # Shares are of separate networks, which the recipe's gated network knows.
    budget = run.wanted.budget
    meter = None if budget is None else Meter(build_untrained(run.recipe), budget)

    def with_own(tasks: list[str]) -> WithOwnNetworks:
        return WithOwnNetworks(architecture, {task: singles[task] for task in tasks})

    def fits(tasks: list[str]) -> bool:
        return meter is None or meter.fits(meter.measure(as_gated(with_own(tasks), examples)))

    before = as_gated(architecture, examples)
    comparison = Comparison(run.run_dir, splits.val, run.tasks, run.recipe, fabric)
    tests = tests_of(run, comparison, before, [task.name for task in run.tasks])
    rounds: list[SafetyRound] = []
    own: list[str] = []
    stopped = ""
    while not stopped:
        worse = not_shown(run, tests)
        may_change = run.wanted.rounds is None or len(rounds) < run.wanted.rounds
        opened = next((task for task in worse if may_change and fits([*own, task])), None)
        rounds.append(SafetyRound(tests=tests, worse=worse, opened=opened))
        tests = {task: of_task for task, of_task in tests.items() if task != opened}
        if opened is not None:
            own.append(opened)
        if opened is None or not tests:
            stopped = "safe" if opened is not None or not worse else "budget" if may_change else "rounds"
    safe = with_own(own) if own else architecture
    safety = Safety.model_validate(
        {
            **run.wanted.model_dump(include={"margin", "significance", "metrics"}),
            "epochs": 0,
            "rounds": tuple(rounds),
            "stopped": stopped,
            "macs_before": prune(before).manifest.macs["static"],
            "macs_after": prune(as_gated(safe, examples)).manifest.macs["static"],
        }
    )
    position = {**content["position"], "safety": safety.model_dump(mode="json")}
    recipe = run.recipe.model_dump(mode="json")
    written = {**content, "identity": identity, "recipe": recipe, "model": safe.state_dict(), "position": position}
    on_first_process(fabric, partial(checkpoints.save_checkpoint, run.checkpoint, written))
