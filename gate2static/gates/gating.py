"""`gate`: from a backbone and its heads to a gated model."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

from torch import Tensor, nn

from gate2static.arguments import described, require_kind, require_number
from gate2static.errors import GateError
from gate2static.gates.arguments import MOST_CHANNELS, check_backbone, check_inputs, check_tasks, check_values
from gate2static.gates.channel_gate import Gate, Mixing
from gate2static.gates.check_lift import check_lift
from gate2static.gates.check_training import check_training, set_modes
from gate2static.gates.lift import lift
from gate2static.gates.model import SHARED, GatedModel
from gate2static.gates.residual_ties import residual_ties
from gate2static.gates.traced_module import mark_traced
from gate2static.graphs import copied, quiet
from gate2static.messages import brief
from gate2static.program.program import build_program
from gate2static.program.structures import tensors_of
from gate2static.recipe.presets import PRESETS, Preset


@quiet()
def gate(
    backbone: nn.Module,
    *,
    tasks: Sequence[str],
    example_inputs: Sequence[Any] | Mapping[str, Any],
    heads: Mapping[str, nn.Module],
    preset: Preset = "paper",
    group_size: int | Literal["layer"] | None = None,
    gate_init: float | None = None,
    gate_init_std: float | None = None,
    mixing: Mixing | None = None,
    tie_residual: bool = False,
    shared_state: Mapping[str, Tensor] | None = None,
    task_states: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> GatedModel:
    """Lifts a backbone to T+1 gated streams (GatedMTL, section 3.1).

    It must not run in several threads at once, because torch.fx patches torch's functions while it traces.

    The gated network trains as the backbone does: what a forward does under `if self.training:` is kept, and so is what
    an overridden `train()` leaves in evaluation. The backbone and its traced copy take a step of training side by side
    on copies; where outputs, gradients or buffers differ, and for what cannot be kept, there is an error. One thing is
    not seen there: a region with autocast switched off is computed as the code around it.

    Args:
        backbone: Any module that torch.fx can trace and that returns a tensor or a structure of tensors. It is copied,
            not changed.
        tasks: The names of the T tasks.
        example_inputs: The arguments of the backbone, batch first: a tuple of them by position, or a dict of them by
            name. They are tensors, and tuples, lists, dicts, named tuples and dataclasses of tensors. Arguments by name
            may also be plain values, which are fixed.
        heads: Task -> module that is called on the backbone's output and returns a tensor, or a structure of tensors.
            Heads are copied, not changed; what they share stays shared.
        preset: What the next four arguments are where they are not given. `paper` is one gate per channel and softmax
            mixing; `deploy` is for fast networks: one gate per layer and task, hard mixing, and gates that start open
            (docs/learning_gates.md).
        group_size: The number of neighbouring channels that share one gate; "layer" gives each layer one gate per task.
        gate_init: The mean of the initial gate logits. Positive values start the tasks on their own features.
        gate_init_std: The standard deviation of the initial gate logits, drawn from torch's global generator.
        mixing: How the shared stream continues after a gate. `softmax` weighs the tasks' picked features (eq. 3).
            `hard` takes, group by group, that of the task with the largest mixing logit, which costs nothing once
            pruned.
        tie_residual: Whether units that write to the same residual stream (`residual_ties`) share one α and, with hard
            mixing, one β: the same `nn.Parameter`.
        shared_state: The backbone's `state_dict` from which the shared branch starts. None: the backbone's own.
        task_states: Task -> the backbone's `state_dict` from which its branch starts. Tasks without one start from the
            backbone's own.

    Returns:
        A module that is called like the backbone and returns a dict from task to the output of its head.

    Raises:
        GateError: The backbone, inputs, tasks, heads, states, group size or mixing do not exist or fit together.
        TraceError: The backbone cannot be traced or does not run on the example inputs.
    """
    check_backbone(backbone)
    check_inputs(example_inputs)
    check_values(tensors_of(example_inputs))
    if preset not in PRESETS:
        raise GateError(f"preset is {described(preset)}; allowed are {' and '.join(map(repr, PRESETS))}.")
    of_preset = PRESETS[preset]
    group_size = of_preset["group_size"] if group_size is None else group_size
    gate_init = of_preset["gate_init"] if gate_init is None else gate_init
    gate_init_std = of_preset["gate_init_std"] if gate_init_std is None else gate_init_std
    mixing = of_preset["mixing"] if mixing is None else mixing
    # A group is never wider than its layer.
    width = MOST_CHANNELS if group_size == "layer" else group_size
    tasks = check_tasks(tasks, heads, width, task_states or {})
    gate_init = require_number(gate_init, name="gate_init", error=GateError)
    gate_init_std = require_number(gate_init_std, name="gate_init_std", least=0, error=GateError)
    if mixing not in get_args(Mixing):
        raise GateError(f"mixing is {mixing!r}; allowed are {' and '.join(map(repr, get_args(Mixing)))}.")
    # Copied together, so that what heads share stays shared.
    ordered_heads = dict(copied(nn.ModuleDict({task: heads[task] for task in tasks})).items())
    # Heads are traced as they are deployed.
    eval_heads = dict(copied(nn.ModuleDict(ordered_heads)).eval().items())
    root, program = build_program(backbone, eval_heads, example_inputs)
    states = {task: (task_states or {}).get(task) for task in tasks}
    states[SHARED] = shared_state
    branches = {stream: copied(root) for stream in states}
    weight = next(p for p in backbone.parameters() if p.is_floating_point())
    gates = {
        unit.name: Gate(
            tasks=len(tasks),
            channels=unit.channels,
            dim=unit.dim,
            group_size=min(width, unit.channels),
            gate_init=gate_init,
            gate_init_std=gate_init_std,
            mixing=mixing,
        ).to(weight.device, weight.dtype)
        for unit in program.units
    }
    if tie_residual:
        _tie(gates, residual_ties(root, program))
    encoder = lift(program, branches, gates)
    # Before the branches get weights of their own, each stream must compute what the backbone computes.
    check_lift(backbone, encoder, list(branches.values()), example_inputs)
    modes = check_training(backbone, root, program, example_inputs)
    for stream, state in states.items():
        _load_branch(branches[stream], state, stream, backbone)
    gated = GatedModel(tasks=tuple(tasks), program=program, encoder=encoder, heads=nn.ModuleDict(ordered_heads))
    gated._modes = modes
    gated.train(backbone.training)
    for branch in gated.branches.values():
        set_modes(branch, {name: module.training for name, module in backbone.named_modules()})
        mark_traced(branch, backbone)
    for task, head in gated.heads.items():
        # A head in another mode than the backbone follows the backbone.
        if heads[task].training == backbone.training:
            set_modes(head, {name: module.training for name, module in heads[task].named_modules()})
    return gated


def _tie(gates: Mapping[str, Gate], groups: Iterable[Sequence[str]]) -> None:
    """Lets the units of each group share the parameters of the group's first unit."""
    for first, *others in groups:
        for name in others:
            gates[name].alpha = gates[first].alpha
            # The softmax of eq. 3 has a β per channel, of which each unit keeps its own.
            if gates[first].hard:
                gates[name].beta = gates[first].beta


def _load_branch(branch: nn.Module, state: Mapping[str, Tensor] | None, stream: str, backbone: nn.Module) -> None:
    """Loads the state dict of a backbone into a branch; None leaves the branch as it is."""
    if state is None:
        return
    allowed = "a state dict, as `state_dict()` of the backbone returns it"
    require_kind(state, Mapping, name=f"the state for stream {stream!r}", allowed=allowed, error=GateError)
    # The layers that the trace made are tied to the backbone's parameters: their names stand for what is loaded anyway.
    of_backbone = backbone.state_dict()
    tied = {key: value for key, value in branch.state_dict().items() if key not in of_backbone}
    try:
        branch.load_state_dict({**tied, **state})
    except RuntimeError as error:
        raise GateError(f"the state for stream {stream!r} does not fit the backbone: {brief(error, 300)}") from error
