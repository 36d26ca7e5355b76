"""Traces an `nn.Module` into an `fx.Graph` of layers and operators.

The trace is taken in eval mode, since the graph is what will be deployed. What trains differently from how it is
deployed stays a module, so it still follows `train()` and `eval()`: norms and dropout layers, childless modules whose
`forward` reads `self.training` (stochastic depth), and functional dropout, which becomes a layer here. Where other code
reads `training`, a second trace in training mode says what differs, and that becomes an `InTraining` layer.

A submodule that torch.fx cannot follow stays whole, as one opaque layer. Only where the module's own `forward` cannot
be followed is the trace an error. `torch.export` is no second front end: it reduces layers to operators, and with them
the difference between training and evaluation.
"""

import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from gate2static.errors import TraceError
from gate2static.graphs import KeptTensor, copied, copy_structure
from gate2static.program.calls import Example, call_of
from gate2static.program.refusals import (
    explain,
    explain_mode,
    hooked_modules,
    refuse_frozen,
    refuse_gradient_hooks,
    refuse_hook,
    refuse_impure,
    refuse_kept,
    refuse_shared_forwards,
)
from gate2static.program.rewrites.attention import written_out
from gate2static.program.rewrites.functional_layers import make_weight_layers
from gate2static.program.rewrites.gradients import detach, settle_marks
from gate2static.program.rewrites.in_training import ModeError, add_training
from gate2static.program.rewrites.out_of_place import StoredWriteError, functionalise
from gate2static.program.rewrites.random_layers import make_random_layers, random_call
from gate2static.program.size_decisions import decisions_of
from gate2static.program.tracing.known_proxies import FollowsBatchError
from gate2static.program.tracing.tracer import Tracer


@dataclass(frozen=True)
class _Trace:
    """A trace of a module in one mode."""

    tracer: Tracer
    graph: fx.Graph


def trace(
    module: nn.Module,
    inputs: Sequence[Any] | Mapping[str, Any],
    what: str,
    *,
    trains: bool = True,
    whole: frozenset[Any] = frozenset(),
) -> tuple[nn.Module, fx.Graph]:
    """Traces a module as it is called on some inputs.

    Args:
        module: The module to trace; it is not changed.
        inputs: The arguments by position, or by name where they are a dict: structures of tensors. Only their
            structure and the shapes of tensors are used.
        what: The module's name in an error, such as "the backbone".
        trains: Whether the returned copy will train in place of the module. If not, the graph keeps to the modules
            that exist: functions do not become layers, and norms with activation stay whole.
        whole: Names of submodules, and functions marked with `torch.fx.wrap`, that are not followed.

    Returns:
        A copy of the module in which nothing works in place, and its graph, with a placeholder for each tensor of
        `inputs`. The graph's output is a tensor or a tuple of tensors. Its node has the `Structure` that the module
        returns them in under `structure`, and the `SizeDecisions` of the trace under that name. In the copy, functions
        that own parameters or train differently have become layers, tied to the parameters they use. Submodules whose
        forward torch.fx cannot follow are whole.

    Raises:
        TraceError: torch.fx cannot follow the module's own code; the message names the line.
    """
    if trains:
        refuse_gradient_hooks(module, what)
    # Modules that keep what their forward computed forget it when training begins.
    root = copied(module, KeptTensor).train().eval()
    refuse_shared_forwards(root, what)
    example = call_of(root, inputs, what)
    traces: tuple[_Trace, ...] = ()
    try:
        traces = _follow(root, example, what, trains, whole)
        whole = traces[0].tracer.whole
        if trains:
            _refuse_lost_hooks(root, traces[0], example, what)
        # Before anything is rewritten: the nodes of decisions are read by nothing, and go.
        decisions = decisions_of(traces[0].tracer.decided, traces[0].tracer.root, example[1])
        for one in traces:
            _settle(root, one, what)
        if len(traces) > 1:
            _add_training(root, *traces)
    except (ModeError, StoredWriteError) as error:
        submodule = _not_whole(error.module, whole)
        if not submodule:
            raise TraceError(explain_mode(error, what, [one.tracer for one in traces])) from error
        return trace(module, inputs, what, trains=trains, whole=whole | {submodule})
    except TraceError:
        followed = {function for one in traces for function in one.tracer.followed}
        if followed <= whole:
            raise
        # The refused call may stand inside a marked function, which then stays whole.
        return trace(module, inputs, what, trains=trains, whole=whole | followed)
    graph = traces[0].graph
    if trains:
        make_weight_layers(root, graph, traces[0].tracer.shape)
        make_random_layers(graph, functools.partial(_add_layer, root))
        detach(graph)
    _tidy(graph)
    next(iter(graph.find_nodes(op="output"))).meta["size_decisions"] = decisions
    return root, graph


def _not_whole(module: str, whole: frozenset[Any]) -> str:
    """Returns the name of a module or, where that is whole already, of the innermost module around it that is not."""
    while module in whole:
        module = module.rpartition(".")[0]
    return module


def _settle(root: nn.Module, one: _Trace, what: str) -> None:
    """Brings a trace into the form in which two traces are compared: nothing is written in place.

    Args:
        root: The module; it gets the classes and constants that the graph refers to.
        one: The trace.
        what: The module's name in an error.

    Raises:
        TraceError: The graph calls something that cannot be recorded.
    """
    _adopt(root, one.tracer, one.graph)
    refuse_kept(root, one.graph, what)
    if one.tracer.trains:
        settle_marks(one.graph, one.tracer.shape)
    refuse_frozen(one.graph, what)
    functionalise(root, one.graph, shape_of=one.tracer.shape)


def _add_training(root: nn.Module, evaluated: _Trace, trained: _Trace) -> None:
    """Adds what differs in training to the graph of evaluation."""

    def shape_of(value: Any) -> tuple[int, ...] | None:
        tracer = trained.tracer if value in trained.graph.nodes else evaluated.tracer
        return tracer.shape(value)

    def add(path: str, name: str, layer: nn.Module) -> str:
        # The tracer runs nodes on its own copy of the module.
        assert isinstance(evaluated.tracer.root, nn.Module)
        _add_layer(evaluated.tracer.root, path, name, copy.deepcopy(layer).eval())
        return _add_layer(root, path, name, layer)

    add_training(root, evaluated.graph, trained.graph, shape_of, add)


def _add_layer(root: nn.Module, path: str, name: str, layer: nn.Module) -> str:
    """Adds a layer to a submodule, so that it follows that module's mode, and returns its full name."""
    parent = root.get_submodule(path)
    while hasattr(parent, name):
        name += "_"
    parent.add_module(name, layer.train(parent.training))
    return f"{path}.{name}" if path else name


def _follow(
    root: nn.Module, example: Example, what: str, trains: bool, whole: frozenset[Any]
) -> tuple[_Trace, ...]:
    """Traces a module, and traces it again with what could not be followed kept whole, until that works.

    Returns:
        The trace in eval mode, and where the module may do something else in training, the trace in training mode.
    """
    causes: list[Exception] = []
    traces: list[_Trace] = []
    integers = False
    while not traces:
        try:
            for training in (False, True):
                options: dict[str, Any] = {"trains": trains, "integers": integers, "training": training}
                tracer = Tracer(*example, whole=whole, **options)
                traces.append(_run_tracer(tracer, copy_structure(root).train(training)))
                if not _may_train_otherwise(traces[0]):
                    break
        except StoredWriteError:
            raise
        except Exception as error:
            traces.clear()
            fixes_batch = isinstance(error, FollowsBatchError)
            if fixes_batch and not integers:
                # Replacing `int` and `len` is the exception: only code that fails on the batch is traced like that.
                integers = True
            elif tracer.failed is None or (fixes_batch and isinstance(tracer.failed, str)):
                mode = " in training mode" if tracer.training else ""
                raise TraceError(explain(error, f"{what}{mode}", tracer.last_read)) from error
            else:
                causes.append(error)
                whole |= _alike(root, tracer.failed, whole)
    for one in traces:
        refuse_impure(one.tracer, one.graph, whole, causes, what)
    dropouts = _attention_dropouts(traces[-1].tracer)
    if len(traces) > 1 and any(dropouts) and len(dropouts) == len(traces[0].tracer.attentions):
        tracer = Tracer(*example, whole=whole, dropouts=dropouts, integers=integers)
        traces[0] = _run_tracer(tracer, copy_structure(root))
    return tuple(traces)


def _refuse_lost_hooks(root: nn.Module, evaluated: _Trace, example: Example, what: str) -> None:
    """Refuses hooks on modules that the trace takes apart, unless the graph has what they do.

    Raises:
        TraceError: A hook would not be called any more.
    """
    hooked = hooked_modules(root, evaluated.graph)
    if not hooked:
        return
    bare = copy_structure(root)
    for name in hooked:
        module = bare.get_submodule(name)
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    of = evaluated.tracer
    tracer = Tracer(*example, whole=of.whole, integers=of.integers)
    try:
        without = _run_tracer(tracer, bare)
    except Exception:  # noqa: BLE001  # the forward needs what the hooks do
        return
    if str(without.graph) == str(evaluated.graph):
        refuse_hook(hooked[0], what)


def _may_train_otherwise(evaluated: _Trace) -> bool:
    """Returns whether a module's own code may do something else in training, so that it must be traced there too."""
    tracer = evaluated.tracer
    if not tracer.trains:
        return False
    assert isinstance(tracer.root, nn.Module)
    # An own `train` may set what the forward reads.
    has_own_train = any(type(module).train is not nn.Module.train for module in tracer.root.modules())
    return has_own_train or bool(tracer.reads) or any(map(random_call, evaluated.graph.nodes))


def _alike(root: nn.Module, failed: Any, whole: frozenset[Any]) -> set[Any]:
    """Returns what to keep whole after a failure: all modules of a class that failed twice, or only what failed."""
    if not isinstance(failed, str):
        return {failed}
    kind = type(root.get_submodule(failed))
    alike = {name for name, module in root.named_modules() if name and type(module) is kind}
    failures = alike & (whole | {failed})
    return alike if len(failures) > 1 else {failed}


def _attention_dropouts(trained: Tracer) -> tuple[float, ...]:
    """Returns the dropout probability of each attention in training.

    Code such as `p if self.training else 0.0` freezes it to zero in eval mode.
    """
    return tuple(p if isinstance(p, int | float) else 0.0 for p in trained.attentions)


def _run_tracer(tracer: Tracer, root: nn.Module) -> _Trace:
    """Traces a module in the mode that it is in.

    Args:
        tracer: The tracer to run.
        root: The module. One that has a form of its own (`written_out`) runs under a class with that forward.

    Raises:
        StoredWriteError: The forward of a module that is not kept whole wrote into a buffer.
    """
    before = {name: (buffer, buffer._version) for name, buffer in root.named_buffers()}
    graph = _run_forward(tracer, root)
    called = tuple(f"{node.target}." for node in graph.find_nodes(op="call_module"))
    for name, (buffer, version) in before.items():
        # What a layer does with its buffers is its own business.
        if name.startswith(called):
            continue
        owner, _, key = name.rpartition(".")
        now = getattr(root.get_submodule(owner), key)
        is_new = isinstance(now, Tensor) and now.shape == buffer.shape and not now.equal(buffer)
        if isinstance(now, fx.Proxy) or is_new or (now is buffer and buffer._version != version):
            raise StoredWriteError(name, owner)
    return _Trace(tracer, graph)


def _run_forward(tracer: Tracer, root: nn.Module) -> fx.Graph:
    """Returns the graph of a module; see `_run_tracer`."""
    kind = type(root)
    form = written_out(root)
    if form is None:
        return tracer.trace(root)

    @functools.wraps(kind.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return form(tracer, self, *args, **kwargs)

    root.__class__ = type(kind.__name__, (kind,), {"forward": forward})
    try:
        graph = tracer.trace(root)
    finally:
        root.__class__ = kind
    return graph


def _adopt(root: nn.Module, tracer: Tracer, graph: fx.Graph) -> None:
    """Gives a module the classes and the constant tensors that its graph refers to, and takes hooks that it has.

    The graph gets the structure of its output.
    """
    for name, kind in tracer.classes.items():
        root.get_submodule(name).__class__ = kind
    for name, followed in tracer.hooks.items():
        layer = root.get_submodule(name)
        for key in followed:
            for hooks in (layer._forward_pre_hooks, layer._forward_hooks):
                hooks.pop(key, None)
    next(iter(graph.find_nodes(op="output"))).meta["structure"] = tracer.result
    for node in graph.find_nodes(op="get_attr"):
        if node.target.startswith("_tensor_constant"):
            value = getattr(tracer.root, node.target)
            if tracer.training:
                # The constants of the other trace have the same names.
                node.target = node.target.replace("_tensor_constant", "_tensor_constant_in_training_")
                setattr(tracer.root, node.target, value)
            setattr(root, node.target, value)


def _tidy(graph: fx.Graph) -> None:
    """Removes assertions, dead code and marks."""
    for node in graph.find_nodes(op="call_function", target=torch._assert):
        graph.erase_node(node)
    for node in graph.nodes:
        # Code made from a node with this mark would mark the function for all later traces of this process.
        node.meta.pop("is_wrapped", None)
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    graph.lint()
