"""Checks that a traced backbone trains as the backbone does, so that nothing that training does is lost in silence.

Both run in training mode on the example inputs, from the same random state: their outputs, every gradient and every
buffer must agree, and once more their outputs and buffers in a second run. One stream is enough, since all streams are
copies of it. Where they draw random numbers in another order, their outputs must vary alike.
"""

import contextlib
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from gate2static.errors import TraceError
from gate2static.gates.check_lift import random_constants
from gate2static.graphs import copied, copy_structure
from gate2static.messages import brief
from gate2static.program.calls import Call, Example, call_of
from gate2static.program.program import Program
from gate2static.program.rewrites.training_reads import random_state
from gate2static.program.structures import tensors_of
from gate2static.program.units import gated_unit

_SEEDS = 12
"""How often a network runs to see how much its outputs vary."""


_NAMES = "by_name"
"""The submodule of a traced backbone that has all parameters and buffers under the backbone's names."""


class _InconclusiveError(Exception):
    """A network does not run in training mode or is not finite there; the message is what stands behind "it"."""


@dataclass(frozen=True)
class _Step:
    """What a network does in one step of training.

    Attributes:
        outputs: The leaves of its output.
        gradients: Parameter -> its gradient; zeros where it has none.
        buffers: Buffer -> its value after the step.
        draws: Whether random numbers were drawn.
    """

    outputs: list[Tensor]
    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]
    draws: bool


def check_training(
    backbone: nn.Module, root: nn.Module, program: Program, inputs: Sequence[Any] | Mapping[str, Any]
) -> dict[str, bool]:
    """Checks that the traced backbone trains as the backbone does.

    Args:
        backbone: The backbone; neither it nor the global random states are changed.
        root: The traced copy of the backbone, which still has the backbone's parameters.
        program: The program, whose gates are passed by.
        inputs: The backbone's arguments by position, or by name where they are a dict; batch first.

    Returns:
        Module of the backbone -> whether it is in training mode after `train()`, which the backbone may override.

    Raises:
        TraceError: The traced backbone trains differently; the message names what differs.
    """
    modes = {name: module.training for name, module in copied(backbone).train().named_modules()}

    def difference(constants: Callable[[list[nn.Module]], AbstractContextManager[Any]]) -> str:
        plain = copied(backbone).train()
        traced = _without_gates(root, program)
        set_modes(traced, {**modes, _NAMES: True})
        with constants([plain, root]):
            call, tensors = call_of(plain, inputs, "the backbone")
            return _difference(backbone, plain, traced, (call, tuple(map(_two_samples, tensors))))

    try:
        try:
            deviation = difference(random_constants)
        except _InconclusiveError:
            # It may train with its own constants only, such as a scale of zero under a root.
            deviation = difference(nullcontext)
    except _InconclusiveError as error:
        warnings.warn(
            "whether the gated network trains as the backbone does is not known: in training mode the backbone "
            f"{error} on the example inputs. Give example inputs on which the backbone trains, or go on if it is to "
            "run in evaluation mode only.",
            UserWarning,
            stacklevel=4,
        )
        return modes
    if deviation:
        raise TraceError(
            f"the gated network would not train as the backbone does: in training mode {deviation}. The forward of the "
            "backbone probably does something in training that does not follow from `training` of its modules, or "
            "keeps something from one call to the next; move that into a submodule without children whose forward "
            "reads self.training, which stays whole."
        )
    return modes


def set_modes(branch: nn.Module, modes: Mapping[str, bool]) -> None:
    """Sets whether each module of a traced backbone is in training mode.

    Args:
        branch: The traced backbone. The layers that the trace made follow the module in which they stand.
        modes: Module of the backbone -> whether it is in training mode; "" for the backbone itself.
    """
    for name, module in branch.named_modules():
        while name not in modes:
            name = name.rpartition(".")[0]
        module.training = modes[name]


def _without_gates(root: nn.Module, program: Program) -> fx.GraphModule:
    """Returns one stream of a program, without gates, on buffers of its own."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in program.backbone():
        is_gate = node.target is gated_unit
        copies[node] = copies[node.all_input_nodes[0]] if is_gate else graph.node_copy(node, copies.__getitem__)
    graph.output(fx.map_arg(program.features, copies.__getitem__))
    owner = copy_structure(root)
    traced = fx.GraphModule(owner, graph)
    # What the graph calls may have other names than in the backbone, which the traced copy has too.
    traced.add_module(_NAMES, owner)
    return traced


def _two_samples(x: Tensor) -> Tensor:
    """Returns an input of two samples, which differ; batch norm cannot train on one."""
    if not x.dim() or x.shape[0] > 1:
        return x[:2] if x.dim() else x
    return torch.cat([x, x * 0.5 if x.is_floating_point() else x])


def _difference(backbone: nn.Module, plain: nn.Module, traced: fx.GraphModule, example: Example) -> str:
    """Returns what differs between the two networks in training; "" where nothing does.

    Args:
        backbone: The backbone as it was given.
        plain: A copy of it in training mode, with the parameters that are compared.
        traced: The traced backbone in training mode.
        example: The backbone's call, and the tensors that both take.

    Raises:
        _InconclusiveError: The backbone does not run, or its outputs are not finite.
    """
    buffers = {name: buffer.clone() for name, buffer in traced.named_buffers()}
    differs, draws_otherwise = _compare_twice(plain, traced, example)
    if not differs:
        return ""
    # Forwards keep things in their modules, so what runs again must be as it was.
    again = copied(backbone).train()
    with torch.no_grad():
        for parameter, compared in zip(again.parameters(), plain.parameters(), strict=True):
            parameter.copy_(compared)
        for name, buffer in traced.named_buffers():
            buffer.copy_(buffers[name])
    plain = again
    if draws_otherwise:
        return "" if _vary_alike(plain, traced, example) else differs
    # A norm that divides by almost nothing leaves only rounding errors in float32.
    call, tensors = example
    wide = (call, tuple(x.double() if x.is_floating_point() else x for x in tensors))
    with contextlib.suppress(_InconclusiveError):  # code that insists on one type
        return _compare_twice(plain.double(), copied(traced).double(), wide)[0]
    return differs


def _compare_twice(plain: nn.Module, traced: fx.GraphModule, example: Example) -> tuple[str, bool]:
    """Returns what differs in two steps of training, and whether that may come from other random numbers."""
    call, tensors = example
    # In the second step, what the first one left anywhere would show.
    for seed in range(2):
        # Gradients are those of the first step.
        expected = _step(plain, call, tensors, seed, gradients=seed == 0)
        if not all(bool(torch.isfinite(x).all()) for x in expected.outputs):
            raise _InconclusiveError("returns numbers that are not finite")
        if names := [name for name, buffer in expected.buffers.items() if buffer.requires_grad]:
            raise TraceError(f"the backbone keeps a gradient in its buffer {names[0]!r}; detach what it writes there.")
        try:
            actual = _step(traced, None, tensors, seed, gradients=seed == 0)
        except _InconclusiveError as error:
            return f"it {error}", False
        differs = _outputs_differ(actual, expected)
        if differs:
            return differs, expected.draws
        # From equal outputs on, the same numbers were drawn.
        differs = _state_differs(actual, expected)
        if differs:
            return differs, False
    return "", False


def _step(network: nn.Module, call: Call | None, tensors: Sequence[Tensor], seed: int, *, gradients: bool) -> _Step:
    """Runs a network once in training mode.

    Args:
        network: The network.
        call: How it is called; None for a network that takes the tensors by position.
        tensors: What it is called on.
        seed: What the random states start from.
        gradients: Whether gradients are computed.

    Raises:
        _InconclusiveError: The network does not run.
    """
    named = getattr(network, _NAMES, network)
    parameters = dict(named.named_parameters(remove_duplicate=False)) if gradients else {}
    parameters = {name: p for name, p in parameters.items() if p.requires_grad}
    with _seeded(seed), torch.set_grad_enabled(gradients):
        before = random_state()
        try:
            # A network may write into its inputs.
            clones = [x.clone() for x in tensors]
            args, named_args = (clones, {}) if call is None else call.arguments(clones)
            outputs = tensors_of(network(*args, **named_args))
            of_parameters = _gradients(outputs, list(parameters.values()))
        except Exception as error:
            raise _InconclusiveError(f"does not run ({brief(error)})") from error
        draws = random_state() != before
    return _Step(
        outputs=[x.detach() for x in outputs],
        gradients=dict(zip(parameters, of_parameters, strict=True)),
        buffers=dict(named.named_buffers(remove_duplicate=False)),
        draws=draws,
    )


def _gradients(outputs: Sequence[Tensor], parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Returns the gradients of a weighted sum of outputs; zeros where there are none."""
    generator = torch.Generator().manual_seed(0)
    differentiable = [x for x in outputs if x.requires_grad]
    if not differentiable or not parameters:
        return [torch.zeros_like(p) for p in parameters]
    weights = [torch.rand(x.shape, generator=generator).to(x.device, x.dtype) for x in differentiable]
    gradients = torch.autograd.grad(differentiable, parameters, weights, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds the random generators of torch, NumPy and Python, and restores them when the context ends."""
    numpy_state = np.random.get_state()  # noqa: NPY002  # user code draws from this one
    python_state = random.getstate()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)


def _outputs_differ(actual: _Step, expected: _Step) -> str:
    """Returns which output of two steps differs; "" where none does."""
    if len(actual.outputs) != len(expected.outputs):
        return f"it has {len(actual.outputs)} outputs instead of {len(expected.outputs)}"
    for number, (a, b) in enumerate(zip(actual.outputs, expected.outputs, strict=True)):
        if not _is_close(a, b):
            return f"output {number} differs"
    return ""


def _state_differs(actual: _Step, expected: _Step) -> str:
    """Returns which buffer or gradient of two steps differs; "" where none does."""
    for name, value in expected.buffers.items():
        if not _is_close(actual.buffers[name], value):
            return f"the buffer {name!r} differs"
    finite = [g.abs().nan_to_num(0.0, 0.0) for g in expected.gradients.values() if g.numel()]
    largest = max((float(g.max()) for g in finite), default=0.0)
    # The gradient that comes first on the way back says most about where the difference is.
    for name, gradient in reversed(expected.gradients.items()):
        other = actual.gradients.get(name, torch.zeros_like(gradient))
        if not _is_close(other, gradient, floor=1e-5 * largest):
            return f"the gradient of {name!r} differs"
    return ""


def _is_close(actual: Tensor, expected: Tensor, floor: float = 0.0) -> bool:
    """Returns whether two tensors are equal but for rounding, relative to the largest number of the expected one."""
    if actual.shape != expected.shape:
        return False
    if torch.equal(actual, expected):
        return True
    scale = float(expected.abs().nan_to_num(0.0, 0.0).max()) if expected.dtype != torch.bool else 0.0
    return torch.allclose(expected, actual, rtol=1e-2, atol=1e-3 * scale + floor, equal_nan=True)


def _vary_alike(plain: nn.Module, traced: nn.Module, example: Example) -> bool:
    """Returns whether the outputs of two networks that draw random numbers vary alike."""
    spreads = []
    call, tensors = example
    for network, form in ((plain, call), (traced, None)):
        runs = [_step(network, form, tensors, seed, gradients=False).outputs for seed in range(_SEEDS)]
        spreads.append([torch.stack(leaves).float() for leaves in zip(*runs, strict=True)])
    return len(spreads[0]) == len(spreads[1]) and all(map(_is_alike, *spreads))


def _is_alike(a: Tensor, b: Tensor) -> bool:
    """Returns whether two sets of runs, each (runs, *output), have similar means and spreads."""
    if a.shape != b.shape:
        return False
    spread_a = float(a.std(0).mean())
    spread_b = float(b.std(0).mean())
    scale = float(a.abs().mean())
    tolerance = 1e-4 * scale
    are_near = float((a.mean(0) - b.mean(0)).abs().mean()) <= 1.5 * max(spread_a, spread_b) + tolerance
    return are_near and spread_a <= 2 * spread_b + tolerance and spread_b <= 2 * spread_a + tolerance
