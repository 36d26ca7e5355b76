"""The schema of a recipe; defaults are the paper's hyper-parameters where the paper gives them."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from gate2static.recipe.architecture import ArchitectureRecipe
from gate2static.recipe.balancing import BalancingRecipe
from gate2static.recipe.budget import Budget
from gate2static.recipe.option import Option
from gate2static.recipe.presets import Preset
from gate2static.recipe.safe import SafeRecipe
from gate2static.recipe.search import SearchRecipe
from gate2static.recipe.strict import Count, Fraction, NotNegative, Positive, Strict
from gate2static.recipe.training import TrainingRecipe

_MOST_NETWORKS = 10_000
_LONGEST_NAME = 100

# Names become folders, module names and ONNX output names, so only characters that are safe in all three.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=_LONGEST_NAME)]
TaskName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=_LONGEST_NAME)]


class DataRecipe(Strict):
    """The data set and its options."""

    name: str
    """The data set's name (docs/data.md)."""
    options: dict[str, Option] = Field(default_factory=dict)
    """The data set's own options, such as `root`, the folder of its files."""


class TaskRecipe(Strict):
    """One task: a target of the data set, its kind, its weight ω_t (eq. 1) and its hinge target τ_t (eq. 4).

    The paper gives no values of τ (docs/paper.md, note 6). With our default 0 the hinge always pushes towards sharing,
    so that λ_s alone sets the trade-off.
    """

    name: TaskName
    """The name of the data set's target, and of the task's output in every file."""
    kind: str
    """The kind of task, which decides on the loss and the metrics (docs/models_and_tasks.md)."""
    weight: Positive = 1.0
    """The weight ω_t of the task's loss in networks that tasks share."""
    target: Fraction = 0.0
    """The hinge target τ_t: the mean of the task's σ(α) below which sparsity no longer pushes."""


class DecoderRecipe(Strict):
    """The decoder of dense tasks and its options; tasks of classes or attributes always get a linear head."""

    name: str = "auto"
    """The decoder's name; `auto` stands for the decoder that the paper uses with the backbone."""
    options: dict[str, Option] = Field(default_factory=dict)
    """The decoder's own options, such as `width`."""


class ModelRecipe(Strict):
    """The backbone, its options such as `width`, and the decoder of dense tasks."""

    name: str
    """The network's name, such as `resnet20` or `timm/resnet18` (docs/models_and_tasks.md)."""
    options: dict[str, Option] = Field(default_factory=dict)
    """The network's own options, such as `width` and `pretrained`."""
    decoder: DecoderRecipe = DecoderRecipe()
    """The decoder behind the backbone."""


class GatingRecipe(Strict):
    """The options of the gates.

    The paper does not give the first value of α (docs/paper.md, note 6). Ours is slightly on the task-specific side, so
    that the gated network starts close to the single-task networks that it is initialised from.
    """

    preset: Preset = "paper"
    """Named values for what the recipe does not give: the paper's, or `deploy` for fast networks, which needs a budget
    (docs/learning_gates.md)."""
    group_size: Annotated[int, Field(ge=1, le=65_536)] | Literal["layer"] = 1
    """Neighbouring channels that share one gate; `layer` gives each layer one gate per task."""
    gate_init: float = 0.05
    """Mean of the first α; a gate is task-specific while α > 0."""
    gate_init_std: NotNegative = 0.05
    """Standard deviation of the first α. With 0 no gate would start as shared, and the shared branch would get no
    gradient."""
    mixing: Literal["softmax", "hard"] = "softmax"
    """How the shared stream continues: a mix of the tasks' features (eq. 3), or a copy of one task's feature per
    group."""
    tie_residual: bool = False
    """Whether layers that write to the same residual stream share their gates."""
    shared_init: Literal["shared", "initial"] = "shared"
    """The start of the shared branch where `branch_init` is single: the trained shared network, or the backbone's first
    weights as in the paper, where these are ImageNet's. With another `branch_init` it starts as the tasks' branches."""
    branch_init: Literal["single", "shared", "initial"] = "single"
    """The start of the tasks' branches and heads: the trained single-task networks as in the paper; the shared network;
    or the backbone's first weights, pretrained ones where there are any. The last two are common ancestors, whose
    channels correspond."""
    branch_epoch: Count | None = None
    """The epoch of the shared network's training whose weights `branch_init: shared` starts from and saliency is
    estimated at; None is its last. With `branch_init: shared`, E epochs of the gated network then make E +
    `branch_epoch` for every task."""
    decisions: Literal["learned", "saliency", "random", "modules"] = "learned"
    """How gates are decided: by the training (the paper); by saliency before it, or at random, both as far as the
    budget allows; or all those of the modules in `private`."""
    private: dict[TaskName, Annotated[tuple[str, ...], Field(max_length=1000)]] = Field(default_factory=dict)
    """With `decisions: modules`, task -> the paths of the backbone's modules that it has for itself, such as `layer4`:
    a network that branches. What a task does not name, it shares; `""` is the whole backbone."""
    prefix: bool = False
    """With `decisions: saliency`, whether a layer's private channels are its first ones, which move in one piece."""

    @model_validator(mode="after")
    def _options_belong_together(self) -> "GatingRecipe":
        if self.branch_epoch is not None and self.branch_init != "shared" and self.decisions != "saliency":
            raise ValueError("branch_epoch is for branch_init: shared and decisions: saliency; add one, or remove it")
        if self.private and self.decisions != "modules":
            raise ValueError("private says what decisions: modules makes private; add that, or remove private")
        if self.prefix and self.decisions != "saliency":
            raise ValueError("prefix orders what decisions: saliency ranks; add that, or remove it")
        return self


class Recipe(Strict):
    """The recipe of a whole run: data, tasks, network, gating, training, and the sparsity weights to try."""

    name: Name
    """The run's name, and that of its folder."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """The seed of all random numbers: first weights, first gates, the order of samples."""
    data: DataRecipe
    """The data set."""
    tasks: Annotated[tuple[TaskRecipe, ...], Field(min_length=1, max_length=256)]
    """The tasks that one network shall do."""
    model: ModelRecipe
    """The network."""
    gating: GatingRecipe = GatingRecipe()
    """The gates."""
    training: TrainingRecipe = TrainingRecipe()
    """The training."""
    sparsity_weight: NotNegative = 0.05
    """λ_s of eq. 5 for `train`; with a budget, the first value of λ_s."""
    budget: Budget | None = None
    """The most that the static network of `train` may cost."""
    sweep: Annotated[tuple[NotNegative, ...], Field(max_length=1000)] = (0.01, 0.03, 0.05, 0.07, 0.1)
    """The values of λ_s for `sweep`; the default is the paper's. May be empty where something else is swept."""
    sweep_targets: Annotated[tuple[Fraction, ...], Field(max_length=1000)] = ()
    """Values of τ that `sweep` gives to the tasks in all combinations, with every λ_s (appendix C). Without values,
    tasks keep their own targets."""
    sweep_budgets: Annotated[tuple[Budget, ...], Field(max_length=1000)] = ()
    """Budgets for which `sweep` trains a gated network each, instead of one per λ_s."""
    sweep_balancing: Annotated[tuple[BalancingRecipe, ...], Field(max_length=1000)] = ()
    """Methods that `sweep` trains a shared network with, each in a row of its own, such as `shared-pcgrad`."""
    architectures: Annotated[tuple[ArchitectureRecipe, ...], Field(max_length=1000)] = ()
    """Architectures that `sweep` trains as the shared network is trained, each in a row of its own."""
    safe: SafeRecipe | None = None
    """Whether every gated network and architecture gets a safe one beside it, in a row of its own: tasks that are not
    shown to be as good as their single-task networks take the encoders of these. `true` has the defaults."""
    search: SearchRecipe | None = None
    """What the command `search` tries."""
    runs_dir: str = "runs"
    """The folder for the folders of runs."""

    @field_validator("safe", mode="before")
    @classmethod
    def _true_has_the_defaults(cls, value: object) -> object:
        if isinstance(value, bool):
            return {} if value else None
        if value is not None and not isinstance(value, dict | SafeRecipe):
            raise ValueError("allowed is true, or what differs from the defaults, such as {margin: 0.01}")
        return value

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Recipe":
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError(f"tasks must have different names, found {', '.join(names)}")
        for key in ("sweep", "sweep_targets"):
            values = [f"{value:g}" for value in getattr(self, key)]
            if len(set(values)) < len(values):
                raise ValueError(f"{key} must hold different values, found {', '.join(values)}")
        if not (self.sweep or self.sweep_budgets or self.sweep_balancing or self.architectures):
            raise ValueError("sweep, sweep_balancing and architectures are empty; give a value of λ_s, or a name")
        for key in ("sweep_budgets", "sweep_balancing", "architectures"):
            labels = [entry.label for entry in getattr(self, key)]
            if len(set(labels)) < len(labels):
                raise ValueError(f"{key} must hold different entries, found {', '.join(labels)}")
        for number, entry in enumerate(self.architectures):
            if entry.retrain and entry.before not in self.architectures[:number]:
                policies = f"{entry.label} draws policies of {entry.before.label}"
                raise ValueError(f"architectures: {policies}; add that entry in front of it")
        networks = len(self.sweep) * max(1, len(self.sweep_targets)) ** len(self.tasks)
        if self.sweep_targets and networks > _MOST_NETWORKS:
            raise ValueError(
                f"sweep_targets: {len(self.sweep_targets)} targets of {len(self.tasks)} tasks make more than "
                f"{_MOST_NETWORKS:,} networks; give fewer"
            )
        return self

    @model_validator(mode="after")
    def _decisions_fit(self) -> "Recipe":
        gating, gated = self.gating, self.training.gated
        if gating.decisions != "learned" and gated.freeze_at != 0:
            raise ValueError(
                f"gating.decisions: {gating.decisions} decides before training; add training.gated.freeze_at: 0"
            )
        if gating.decisions == "learned" and gated.freeze_at == 0:
            raise ValueError("training.gated.freeze_at is 0, so no gate would learn; give a share above 0")
        if gating.decisions in ("saliency", "random") and self.budget is None and not self.sweep_budgets:
            raise ValueError(f"gating.decisions: {gating.decisions} needs a budget, such as budget: {{macs: 0.6}}")
        if gating.decisions == "modules" and (self.budget is not None or self.sweep_budgets):
            raise ValueError("gating.decisions: modules says what is private, and a budget would change it; remove one")
        if unknown := sorted(set(gating.private) - {task.name for task in self.tasks}):
            raise ValueError(f"gating.private names {', '.join(unknown)}, which are not among the tasks")
        last = self.training.shared.epochs
        if gating.branch_epoch is not None and gating.branch_epoch > last:
            raise ValueError(f"gating.branch_epoch is {gating.branch_epoch}; training.shared has {last} epochs")
        return self

    @model_validator(mode="after")
    def _freezing_fits(self) -> "Recipe":
        gating, gated = self.gating, self.training.gated
        if gated.freeze_at is not None and 0 < gated.freeze_at < 1 and (gated.patience or self.training.keep == "best"):
            raise ValueError(
                "training.gated.freeze_at freezes gates within the training, and an epoch before may be the best or "
                "the last; remove it, or training.gated.patience and training.keep"
            )
        is_scaled = gating.decisions == "learned" and gated.gates.kind == "scaled"
        if is_scaled and (self.budget is not None or self.sweep_budgets) and gating.gate_init_std == 0:
            raise ValueError(
                "gating.gate_init_std is 0, so all gates would close at once, and a budget could not stop between; "
                "give a spread, such as 0.05"
            )
        if gating.branch_epoch is not None and self.training.shared.patience is not None:
            raise ValueError("training.shared.patience may end before gating.branch_epoch; remove one of them")
        if gated.freeze_at is not None and gated.settle_steps is not None:
            raise ValueError("training.gated: freeze_at freezes all gates at once; remove settle_steps")
        return self

    @model_validator(mode="after")
    def _budget_fits(self) -> "Recipe":
        if self.budget is None and not self.sweep_budgets:
            return self
        names = [task.name for task in self.tasks]
        swept = {f"sweep_budgets.{number}": budget for number, budget in enumerate(self.sweep_budgets)}
        for where, budget in {"budget": self.budget, **swept}.items():
            of_tasks = budget.macs if budget is not None and isinstance(budget.macs, dict) else {}
            if unknown := sorted(set(of_tasks) - set(names)):
                raise ValueError(f"{where}.macs: found {', '.join(unknown)}; the tasks are {', '.join(names)}")
        fits_from_the_start = self.training.gated.freeze_at == 0
        if not fits_from_the_start and (self.training.gated.patience or self.training.keep == "best"):
            raise ValueError(
                "a budget is met at the end of training; remove it, or training.gated.patience and training.keep"
            )
        if self.sparsity_weight == 0 and self.gating.decisions == "learned":
            raise ValueError("sparsity_weight is 0, and a budget steers it by factors; give a positive value")
        return self

    @model_validator(mode="after")
    def _safe_fits(self) -> "Recipe":
        if self.safe is None:
            return self
        if len(self.tasks) < 2:
            raise ValueError("safe: a task is worse for sharing with others, and there is one task; remove safe")
        if self.training.gated.balancing.method == "cosreg":
            raise ValueError(
                "safe: trains on with frozen gates, which have no second derivatives, and training.gated.balancing: "
                "cosreg needs these; use another method"
            )
        budget = self.safe.budget
        of_tasks = budget.macs if budget is not None and isinstance(budget.macs, dict) else {}
        if unknown := sorted(set(of_tasks) - {task.name for task in self.tasks}):
            names = ", ".join(task.name for task in self.tasks)
            raise ValueError(f"safe.budget.macs: found {', '.join(unknown)}; the tasks are {names}")
        return self

    @property
    def code_names(self) -> set[str]:
        """The names of data set, backbone, kinds and methods, which may be the user's own code (`plugins`)."""
        training = self.training
        balancing = (training.shared.balancing, training.gated.balancing, *self.sweep_balancing)
        kinds = (task.kind for task in self.tasks)
        return {self.data.name, self.model.name, *kinds, *(method.method for method in balancing)}

    @property
    def targets(self) -> dict[str, float]:
        """The hinge targets τ_t of eq. 4 by task."""
        return {task.name: task.target for task in self.tasks}
