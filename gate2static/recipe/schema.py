"""What a recipe may say, with the paper's hyper-parameters as defaults where the paper gives them."""

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

from gate2static.recipe.budget import Budget
from gate2static.recipe.strict import Positive, Strict

NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


def _plain(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """One line for what none of several types fits, where pydantic has one for each of them."""
    if isinstance(value, dict):
        value = {name: _immutable(item) for name, item in value.items()}
    try:
        return check(_immutable(value))
    except ValidationError:
        raise ValueError(
            "allowed: a number, text, true, false, null, a list of these, or lists of text by name"
        ) from None


def _immutable(value: Any) -> Any:
    """What strict parsing takes: a validator gets JSON's lists as lists, and those are no tuples."""
    return tuple(value) if isinstance(value, list) else value


Option = Annotated[
    bool | int | float | str | tuple[bool | int | float | str, ...] | dict[str, tuple[str, ...]] | None,
    WrapValidator(_plain),
]
"""A data set's or a model's own option; its owner checks it (`gate2static.recipe.parse`)."""

# Names become folders, module names and ONNX output names, so only what is safe in all three.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
TaskName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]


class DataRecipe(Strict):
    """Which data set, and its own options."""

    name: str
    options: dict[str, Option] = Field(default_factory=dict)


class TaskRecipe(Strict):
    """One task: a target of the data set, its kind, weight ω_t (eq. 1) and hinge target τ_t (eq. 4).

    The paper gives no τ values (papers/README reading 6). Our default 0 lets the hinge always push towards sharing,
    so that λ_s alone sets the trade-off.
    """

    name: TaskName
    kind: str
    weight: Positive = 1.0
    target: Fraction = 0.0


class DecoderRecipe(Strict):
    """What draws the maps of dense tasks, and its own options; tasks that name always get a linear head."""

    name: str = "auto"
    """`auto` is the decoder that the paper uses with the backbone."""
    options: dict[str, Option] = Field(default_factory=dict)


class ModelRecipe(Strict):
    """Which backbone, its own options such as `width`, and the decoder of dense tasks."""

    name: str
    options: dict[str, Option] = Field(default_factory=dict)
    decoder: DecoderRecipe = DecoderRecipe()


class GatingRecipe(Strict):
    """How the backbone is gated.

    The paper does not give α's first value (papers/README reading 6). Ours lies slightly on the task-specific side, so
    that the gated network starts close to the single-task networks it is initialised from.
    """

    group_size: Count = 1
    """Neighbouring channels that share one gate."""
    gate_init: float = 0.05
    """Mean of the first α; a gate is task-specific while α > 0."""
    gate_init_std: NotNegative = 0.05
    """Standard deviation of the first α: a shared branch that no gate picks gets no gradient."""
    mixing: Literal["softmax", "hard"] = "softmax"
    """The shared stream mixes the tasks' features (eq. 3), or takes one task's, group by group."""
    tie_residual: bool = False
    """Layers that write to the same residual stream share their gates."""
    shared_init: Literal["shared", "initial"] = "shared"
    """The shared branch starts from the trained shared network, or from the backbone's first weights as in the paper,
    where those are ImageNet's."""


class ScheduleRecipe(Strict):
    """How a learning rate falls: section A.1 (`step`) and A.2 (`poly`) of the paper."""

    kind: Literal["constant", "step", "poly"] = "constant"
    step_epochs: Count = 20
    """`step`: epochs between two falls."""
    factor: Positive = 1 / 3
    """`step`: what each fall multiplies by."""
    power: Positive = 0.9
    """`poly`: the rate is (1 - progress) ** power."""


class WeightOptimiserRecipe(Strict):
    """Adam for the weights; the paper's CelebA values."""

    lr: Positive = 1e-3
    heads_lr: Positive | None = None
    """Of the heads, where theirs is another; the paper trains DPT's encoder with 1e-5 and its decoders with 1e-4."""
    weight_decay: NotNegative = 1e-4
    schedule: ScheduleRecipe = ScheduleRecipe(kind="step")


class GateOptimiserRecipe(Strict):
    """SGD for α and β. The paper says 0.1 and leaves momentum, decay and schedule open (papers/README reading 6)."""

    lr: Positive = 0.1
    momentum: Fraction = 0.0
    weight_decay: NotNegative = 0.0
    schedule: ScheduleRecipe = ScheduleRecipe()


class StageRecipe(Strict):
    """How one kind of network is trained."""

    epochs: Count = 60
    batch_size: Count = 128
    """Images an optimiser step, over all processes and accumulated parts."""
    weights: WeightOptimiserRecipe = WeightOptimiserRecipe()
    patience: Count | None = None
    """Stop after so many epochs in which the validation metrics did not get better on average."""


class GatedStageRecipe(StageRecipe):
    """How the gated network is trained: the weights as everywhere, the gates on an optimiser of their own."""

    gates: GateOptimiserRecipe = GateOptimiserRecipe()
    sparsity: Literal["hinge", "l1"] = "hinge"
    """`l1` (table 6) is the hinge of eq. 4 with every target at 0."""
    settle_steps: Count | None = None
    """Gates that keep their side for so many steps stay there, and training computes only what the others need."""


class TrainingRecipe(Strict):
    """The three kinds of training, and what they have in common: where and how training computes and saves."""

    single: StageRecipe = StageRecipe()
    shared: StageRecipe = StageRecipe()
    gated: GatedStageRecipe = GatedStageRecipe()
    checkpoint_steps: Count | None = None
    """Also save every so many steps within an epoch; the end of an epoch always saves."""
    keep: Literal["last", "best"] = "last"
    """Which checkpoint of a network goes on: the last, or the best on the validation split. While gates close, the best
    epoch of a gated network is simply its least sparse one."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: Count | Literal["auto"] = 1
    """Processes that train together, one a GPU; `auto` takes all GPUs. Under torchrun it decides instead."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    accumulate: Count = 1
    """Parts that a process cuts its share of a batch into, to save memory; batch norm sees one part at a time."""
    clip_norm: Positive | None = None
    """Largest norm of the weights' gradient; gates are not clipped."""
    channels_last: bool = False
    compile: bool = False
    """Whether torch.compile makes the network's code; in a single process only."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that load data, for each process that trains."""

    @field_validator("devices", mode="before")
    @classmethod
    def _a_number_or_all(cls, value: object) -> object:
        if value != "auto" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError("allowed is a number from 1 on, or auto for all GPUs")
        return value

    @model_validator(mode="after")
    def _compiled_code_lasts(self) -> "TrainingRecipe":
        if self.compile and self.gated.settle_steps is not None:
            # After a few networks torch would stop compiling, and say so only in its log.
            raise ValueError("settled gates change the network that trains; remove compile, or gated.settle_steps")
        return self


class Recipe(Strict):
    """A whole run: data, tasks, network, gating, training, and the sparsity weights to try."""

    name: Name
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    data: DataRecipe
    tasks: Annotated[tuple[TaskRecipe, ...], Field(min_length=1)]
    model: ModelRecipe
    gating: GatingRecipe = GatingRecipe()
    training: TrainingRecipe = TrainingRecipe()
    sparsity_weight: NotNegative = 0.05
    """λ_s of eq. 5 for `train`; with a budget, where λ_s starts."""
    budget: Budget | None = None
    """What the static network of `train` may cost at most."""
    sweep: Annotated[tuple[NotNegative, ...], Field(min_length=1)] = (0.01, 0.03, 0.05, 0.07, 0.1)
    """λ_s values for `sweep`: the paper's."""
    sweep_targets: tuple[Fraction, ...] = ()
    """τ values that `sweep` gives to the tasks in all combinations, with every λ_s (appendix C); tasks keep their own
    where there are none."""
    runs_dir: str = "runs"

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Recipe":
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError(f"tasks must have different names, found {', '.join(names)}")
        for key in ("sweep", "sweep_targets"):
            values = [f"{value:g}" for value in getattr(self, key)]
            if len(set(values)) < len(values):
                raise ValueError(f"{key} must hold different values, found {', '.join(values)}")
        return self

    @model_validator(mode="after")
    def _budget_fits(self) -> "Recipe":
        if self.budget is None:
            return self
        names = [task.name for task in self.tasks]
        if isinstance(self.budget.macs, dict) and (unknown := sorted(set(self.budget.macs) - set(names))):
            raise ValueError(f"budget.macs: found {', '.join(unknown)}; the tasks are {', '.join(names)}")
        if self.training.gated.patience or self.training.keep == "best":
            raise ValueError(
                "a budget is met at the end of training; remove it, or training.gated.patience and training.keep"
            )
        if self.sparsity_weight == 0:
            raise ValueError("sparsity_weight is 0, and a budget steers it by factors; give a positive value")
        return self

    @property
    def targets(self) -> dict[str, float]:
        """The hinge targets τ_t of eq. 4 by task."""
        return {task.name: task.target for task in self.tasks}
