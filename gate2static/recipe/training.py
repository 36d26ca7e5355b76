"""The part of a recipe that says how networks are trained; defaults are the paper's where the paper gives them."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from gate2static.recipe.balancing import BalancingRecipe
from gate2static.recipe.strict import Count, Fraction, NotNegative, Positive, Strict


class ScheduleRecipe(Strict):
    """The schedule of a learning rate (paper, sections A.1 `step` and A.2 `poly`)."""

    kind: Literal["constant", "step", "poly"] = "constant"
    """How the rate changes: not at all, by a factor every few epochs, or as (1 - progress) to a power."""
    step_epochs: Count = 20
    """For `step`, the epochs between two changes."""
    factor: Positive = 1 / 3
    """For `step`, the factor of each change."""
    power: Positive = 0.9
    """For `poly`, the exponent: the rate is multiplied by (1 - progress) ** power."""
    warmup_steps: Annotated[int, Field(ge=0, le=10**9)] = 0
    """The first steps, over which the rate rises linearly: step k of N has k / N of what the schedule says."""


class WeightOptimiserRecipe(Strict):
    """The optimiser of the weights; the defaults are the paper's values for CelebA."""

    kind: Literal["adam", "sgd"] = "adam"
    """The optimiser."""
    lr: Positive = 1e-3
    """The learning rate."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The momentum of `sgd`."""
    heads_lr: Positive | None = None
    """The heads' learning rate, if it differs; the paper trains DPT's encoder with 1e-5 and its decoders with 1e-4."""
    weight_decay: NotNegative = 1e-4
    """The weight decay, as torch adds it to gradients."""
    schedule: ScheduleRecipe = ScheduleRecipe(kind="step")
    """The schedule of the learning rate."""

    @model_validator(mode="after")
    def _momentum_is_of_sgd(self) -> "WeightOptimiserRecipe":
        if self.momentum and self.kind != "sgd":
            raise ValueError(
                f"momentum is an option of kind: sgd, found kind: {self.kind}; write kind: sgd, or remove it"
            )
        return self


class GateOptimiserRecipe(Strict):
    """The optimiser of α and β.

    `sgd` is the paper's, which gives lr 0.1, but no momentum, decay or schedule (docs/paper.md, note 6). `scaled` is
    `gates.GateOptimiser`: λ then has a unit and means the same for every network and every number of steps, τ is a
    share of channels, and the other values here are not used.
    """

    kind: Literal["sgd", "scaled"] = "sgd"
    """The optimiser."""
    lr: Positive = 0.1
    """The learning rate of `sgd`."""
    momentum: Fraction = 0.0
    """The momentum of `sgd`."""
    weight_decay: NotNegative = 0.0
    """The weight decay of `sgd`."""
    schedule: ScheduleRecipe = ScheduleRecipe()
    """The schedule of the learning rate of `sgd`."""


class NetworkRecipe(Strict):
    """The training of one kind of network."""

    epochs: Count = 60
    """Passes over the training images."""
    batch_size: Count = 128
    """Images per optimiser step, over all processes and accumulated parts."""
    weights: WeightOptimiserRecipe = WeightOptimiserRecipe()
    """The optimiser of the weights."""
    patience: Count | None = None
    """The number of epochs without better validation metrics (on average) after which training stops; None never
    stops."""


class SharedNetworkRecipe(NetworkRecipe):
    """The training of a network that several tasks share."""

    balancing: BalancingRecipe = BalancingRecipe()
    """How the tasks' losses and gradients are balanced; the default is their sum."""


class GatedNetworkRecipe(SharedNetworkRecipe):
    """The training of the gated network, whose gates have their own optimiser.

    A method that uses gradients acts on the shared branch alone; task branches, heads and gates get the sum's.
    """

    gates: GateOptimiserRecipe = GateOptimiserRecipe()
    """The optimiser of the gates."""
    sparsity: Literal["hinge", "l1"] = "hinge"
    """The sparsity loss: the hinge of eq. 4, or `l1` (table 6), which is the hinge with every target at 0."""
    settle_steps: Count | None = None
    """The number of steps after which a gate that kept its side is frozen, so that training skips unneeded channels."""
    freeze_at: Fraction | None = None
    """The share of the gated training after which all gates are frozen, on the budget if there is one; the rest is that
    of the static network. 0 freezes before the first step; None never freezes, as in the paper."""


class TrainingRecipe(Strict):
    """The training of the three kinds of network, and their common settings."""

    single: NetworkRecipe = NetworkRecipe()
    """The training of one network per task."""
    shared: SharedNetworkRecipe = SharedNetworkRecipe()
    """The training of the one network that all tasks share."""
    gated: GatedNetworkRecipe = GatedNetworkRecipe()
    """The training of the gated network."""
    distillation: NotNegative = 0.0
    """The weight of the distance to the single-task networks' outputs, for the shared and the gated network."""
    conflict_steps: Count | None = None
    """Steps between two measurements of the tasks' conflict and of the methods' weights, for `conflict.csv`; each costs
    T backward passes. Where a batch is divided (`accumulate`), its first part is measured. None measures nothing."""
    tensorboard: bool = False
    """Whether the rows of `log.csv` and `conflict.csv` are written as TensorBoard's event files too, beside them."""
    wandb: bool = False
    """Whether each network is a run of Weights & Biases that gets these rows, in a group of the run folder's name."""
    checkpoint_steps: Count | None = None
    """Steps between two checkpoints within an epoch; None saves at the end of every epoch only."""
    keep: Literal["last", "best"] = "last"
    """The checkpoint that a run uses further: the last, or the best on the validation split. While gates close, the
    best epoch of a gated network is usually its least sparse one."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """The device that trains; `auto` is a GPU where there is one."""
    devices: Count | Literal["auto"] = 1
    """Processes that train together, one per GPU; `auto` uses all GPUs. Under torchrun, torchrun sets the number."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """How processes share a gated network: each holds all of it (`ddp`), or its part of the weights, gradients and
    optimiser states (`fsdp`), for networks that do not fit into one GPU. Other networks are never divided."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """The number format of training: float32, or mixed precision with bfloat16 or float16."""
    accumulate: Count = 1
    """Parts that a process divides its share of a batch into, to save memory; batch norm sees one part at a time."""
    clip_norm: Positive | None = None
    """The largest norm of the weights' gradient; the gates' gradient is not clipped."""
    channels_last: bool = False
    """Whether images and weights lie in memory with their channels last, which is faster on some GPUs."""
    compile: bool = False
    """Whether torch.compile compiles the network; only in a single process."""
    workers: Annotated[int, Field(ge=0, le=1024)] = 0
    """Processes that load data, per training process."""

    @field_validator("devices", mode="before")
    @classmethod
    def _a_number_or_all(cls, value: object) -> object:
        if value != "auto" and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 4096):
            raise ValueError("allowed is a number from 1 to 4096, or auto for all GPUs")
        return value

    @model_validator(mode="after")
    def _compiled_code_lasts(self) -> "TrainingRecipe":
        if self.compile and (self.gated.settle_steps is not None or self.gated.freeze_at is not None):
            # After a few networks torch would stop compiling, and mention it only in its log.
            raise ValueError(
                "settled gates change the network that trains; remove compile, or gated.settle_steps and freeze_at"
            )
        return self

    @model_validator(mode="after")
    def _can_be_divided(self) -> "TrainingRecipe":
        """Everything here reads weights or their gradients as a whole, or puts them in another order in memory."""
        reads = {
            "gated.settle_steps": self.gated.settle_steps is not None,
            "gated.freeze_at": self.gated.freeze_at is not None,
            "gated.balancing": not self.gated.balancing.is_plain,
            "conflict_steps": self.conflict_steps is not None,
            "channels_last": self.channels_last,
            "precision: 16-mixed": self.precision == "16-mixed",
        }
        if self.strategy == "fsdp" and (found := [name for name, is_set in reads.items() if is_set]):
            raise ValueError(f"strategy: fsdp does not go with {', '.join(found)}; remove either")
        return self
