"""`GatedModel`: a backbone lifted to T+1 streams, with one head per task, and what is read and set of its gates."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor, fx, nn

from gate2static.arguments import described, require_kind
from gate2static.errors import Gate2StaticError, GateError
from gate2static.gates.channel_gate import Gate
from gate2static.gates.check_training import set_modes
from gate2static.graphs import detached_tensors
from gate2static.program.annotate import info
from gate2static.program.program import Program

SHARED = "shared"
"""The name of the shared stream, which no task may have."""


class GatedModel(nn.Module):
    """T task streams and a shared one through copies of one backbone.

    Attributes:
        tasks: The names of the tasks in the order of the streams.
        program: What is computed, for which streams, and where the gates are.
        encoder: The lifted network: `branches` (one per stream), `gates` (one per unit), and the code.
        heads: Task -> head, which is called on the features of the task's stream.
    """

    def __init__(
        self, *, tasks: tuple[str, ...], program: Program, encoder: fx.GraphModule, heads: nn.ModuleDict
    ) -> None:
        super().__init__()
        self.tasks = tasks
        self.program = program
        self.encoder = encoder
        self.heads = heads
        # In a tuple, so that it is no submodule: copies and state dicts know only the encoder.
        self._settled: tuple[fx.GraphModule, ...] = ()
        # Module of the backbone -> its mode after `train()`, where the backbone's own leaves some in evaluation.
        self._modes: dict[str, bool] = {}

    @property
    def gates(self) -> dict[str, Gate]:
        """Unit -> gate, in data-flow order."""
        return {u.name: cast(Gate, self.encoder.get_submodule(f"gates.{u.name}")) for u in self.program.units}

    @property
    def branches(self) -> dict[str, nn.Module]:
        """Stream -> its copy of the backbone, the shared stream last."""
        return {s: self.encoder.get_submodule(f"branches.{s}") for s in (*self.tasks, SHARED)}

    @property
    def settled_encoder(self) -> fx.GraphModule | None:
        """The network that runs in training instead of the encoder; None where the encoder runs itself."""
        return self._settled[0] if self._settled else None

    def __call__(self, *inputs: Any, **keywords: Any) -> Any:
        """Runs `forward`; where that fails on inputs that the network does not take, the error says so.

        Raises:
            GateError: Inputs of another number, kind, shape, dtype or device than the example inputs.
        """
        try:
            return super().__call__(*inputs, **keywords)
        except (Gate2StaticError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            # Looked at only now, so that a call that works costs nothing.
            difference = self._difference(self.program.call.tensors(inputs, keywords))
            if difference is None:
                raise
            raise GateError(
                f"the gated model {difference}. Give what the example inputs were, with any batch size."
            ) from error

    def _difference(self, inputs: list[Any]) -> str | None:
        """Returns how tensors differ from those of the example inputs; None where they do not."""
        examples = [info(node) for node in self.program.graph.find_nodes(op="placeholder")]
        if len(inputs) != len(examples) or not all(isinstance(x, Tensor) for x in inputs):
            given = ", ".join(map(described, inputs)) or "nothing"
            return f"takes {len(examples)} tensors and was given {given}"
        weight = next(p for p in self.parameters() if p.is_floating_point())
        for number, (x, example) in enumerate(zip(inputs, examples, strict=True)):
            assert example.shape is not None  # `gate` takes tensors only
            assert example.dtype is not None
            dtype = weight.dtype if example.dtype.is_floating_point else example.dtype
            if x.dtype != dtype:
                return f"takes input {number} as {dtype} and was given {x.dtype}"
            if x.device != weight.device:
                return f"is on {weight.device} and input {number} on {x.device}"
            if x.dim() != len(example.shape) or x.shape[1:] != example.shape[1:]:
                sizes = ", ".join(map(str, example.shape[1:]))
                return f"was traced on input {number} of shape (batch, {sizes}) and was given {tuple(x.shape)}"
        return None

    def forward(self, *inputs: Any, **named: Any) -> dict[str, Any]:
        """Computes the output of every task's head.

        Args:
            inputs: The backbone's arguments by position, batch first.
            named: The backbone's arguments by name.

        Returns:
            Task -> what its head returns: a tensor, or a structure of tensors.

        Raises:
            GateError: The arguments are not those of the example inputs, or are of a size for which the backbone's code
                decides otherwise than it did when it was gated.
        """
        tensors = self.program.call.tensors(inputs, named)
        if self.program.decisions is not None:
            self.program.decisions.check(tensors)
        encoder = self.settled_encoder if self.training and self.settled_encoder is not None else self.encoder
        features = encoder(*tensors)
        return {task: self.heads[task](f) for task, f in zip(self.tasks, self.features(features), strict=True)}

    def features(self, encoded: Sequence[Any]) -> list[Any]:
        """Returns the encoder's output as heads take it: in the structure that the backbone returns."""
        structure = self.program.structure
        return list(encoded) if structure.is_tensor else [structure.build(tensors) for tensors in encoded]

    def train(self, mode: bool = True) -> Self:
        """Sets the mode of all modules; those that the backbone's own `train` leaves in evaluation stay there."""
        super().train(mode)
        if mode and not all(self._modes.values()):
            for branch in self.branches.values():
                set_modes(branch, self._modes)
        return self

    def train_with(self, encoder: fx.GraphModule | None) -> None:
        """Lets training run another form of the encoder.

        Evaluation, copies and files know nothing of it. Moving, converting or loading the model ends it, and so does
        setting its gates.

        Args:
            encoder: A network with the same parameters, as `lift_settled` makes it. None lets the encoder itself run.
        """
        self._settled = () if encoder is None else (encoder,)

    def __repr__(self) -> str:
        """Returns one line; torch's own would have a line for every layer of every branch."""
        decisions = [gate.decisions() for gate in self.gates.values()]
        shares = torch.cat(decisions, dim=1).double().mean(dim=1).tolist()
        own = ", ".join(f"{task} {share:.0%}" for task, share in zip(self.tasks, shares, strict=True))
        count = sum(parameter.numel() for parameter in self.parameters())
        return (
            f"GatedModel({len(self.gates)} gated units, {len(self.tasks) + 1} streams, {count / 1e6:.2f} M parameters; "
            f"task-specific channels: {own}; gate2static.summary has the table)"
        )

    def __len__(self) -> int:
        """Returns the number of tasks; torch.compile's wrapper asks for it wherever Python asks `if model:`."""
        return len(self.tasks)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copies the model, also after a training step of layers that keep what they compute, which torch refuses."""
        memo.update(detached_tensors(self))
        duplicate = type(self).__new__(type(self))
        memo[id(self)] = duplicate
        duplicate.__setstate__(copy.deepcopy(self.__getstate__(), memo))  # type: ignore[no-untyped-call]  # torch does not annotate it
        return duplicate

    def __getstate__(self) -> dict[str, Any]:
        """Returns what is copied and pickled."""
        return {**self.__dict__, "_settled": ()}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.train_with(None)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch does not annotate it
        return self

    def _load_from_state_dict(self, *args: Any) -> None:
        self.train_with(None)
        super()._load_from_state_dict(*args)


def gated_model(value: Any, *, error: type[Gate2StaticError] = GateError) -> GatedModel:
    """Returns the gated model that an argument is, or that a wrapper for training or `torch.compile` holds.

    Args:
        value: The argument.
        error: The exception class for other values.

    Raises:
        Gate2StaticError: The argument is something else (of type `error`); the message says what to pass.
    """
    inner = value
    while isinstance(inner, nn.Module) and not isinstance(inner, GatedModel):
        # DataParallel, DistributedDataParallel and AveragedModel call it `module`.
        inner = inner._modules.get("_orig_mod", inner._modules.get("module"))
    if isinstance(inner, GatedModel):
        return inner
    advice = "make one with `gate2static.gate`"
    if isinstance(value, nn.Module):
        inside = [name for name, module in value.named_modules() if isinstance(module, GatedModel)]
        advice = f"pass its `.{inside[0]}`" if inside else advice
    raise error(f"the model is {described(value)}; allowed is a GatedModel: {advice}.")


def weight_parameters(gated: GatedModel) -> list[nn.Parameter]:
    """Returns all parameters except the gates': those of branches and heads.

    Raises:
        GateError: The argument is no gated model.
    """
    gated = gated_model(gated)
    of_gates = {id(p) for p in gate_parameters(gated)}
    return [p for p in gated.parameters() if id(p) not in of_gates]


def gate_parameters(gated: GatedModel) -> list[nn.Parameter]:
    """Returns α and β of every unit; those that tied units share are there once.

    Raises:
        GateError: The argument is no gated model.
    """
    by_identity = {id(p): p for gate in gated_model(gated).gates.values() for p in gate.parameters()}
    return list(by_identity.values())


def gate_decisions(gated: GatedModel) -> dict[str, Tensor]:
    """Returns unit -> (T, C) bool, True where the task takes its own channel.

    Raises:
        GateError: The argument is no gated model.
    """
    return {name: gate.decisions() for name, gate in gated_model(gated).gates.items()}


def set_gates(gated: GatedModel, decisions: bool | Mapping[str, Tensor]) -> None:
    """Forces gates by setting their logits to ±1.

    Args:
        gated: The model, changed in place.
        decisions: True for all task-specific (T separate backbones), False for all shared (one backbone), or unit ->
            (T, groups) bool. Units that are not named keep their gates, unless they are tied to one that is.

    Raises:
        GateError: The model is no gated model, a unit is unknown, a shape is wrong, or tied units are given different
            decisions.
    """
    gated = gated_model(gated)
    gates = gated.gates
    allowed = "True, False, or a dict from unit to a tensor of torch.bool"
    require_kind(decisions, (bool, Mapping), name="decisions", allowed=allowed, error=GateError)
    if isinstance(decisions, bool):
        decisions = {name: torch.full_like(g.alpha, float(decisions)) > 0.5 for name, g in gates.items()}
    first_of_ties: dict[int, str] = {}
    for name, decision in decisions.items():
        if name not in gates:
            raise GateError(f"there is no unit {name!r}; the units are {', '.join(gates)}.")
        require_kind(decision, Tensor, name=f"the decision for unit {name!r}", allowed="a tensor", error=GateError)
        if decision.shape != gates[name].alpha.shape or decision.dtype != torch.bool:
            raise GateError(
                f"decisions for unit {name!r} are {decision.dtype} of shape {tuple(decision.shape)}; allowed are "
                f"torch.bool of shape (tasks, gates), here {tuple(gates[name].alpha.shape)}."
            )
        first = first_of_ties.setdefault(id(gates[name].alpha), name)
        if not torch.equal(decisions[first], decision):
            raise GateError(
                f"units {first!r} and {name!r} are tied and are given different decisions; give both the same, or "
                "gate without tie_residual."
            )
    gated.train_with(None)
    for name, decision in decisions.items():
        with torch.no_grad():
            gates[name].alpha.copy_(torch.where(decision, 1.0, -1.0))
