"""`nn.Module` -> `fx.Graph` of layers and operators.

The trace is taken in eval mode, since the graph is what will be deployed. What trains differently from how it is
deployed stays a module, so it still follows `train()` and `eval()`: norms and dropout layers, childless modules whose
`forward` reads `self.training` (stochastic depth), and functional dropout, which becomes a layer here.
"""

import copy
import functools
import inspect
import operator
import re
import traceback
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from gate2static.errors import TraceError
from gate2static.graphs import copy_structure
from gate2static.program.annotate import NodeError
from gate2static.program.known_values import FollowsBatchError
from gate2static.program.rewrites.attention import written_out
from gate2static.program.rewrites.functional_layers import make_weight_layers
from gate2static.program.rewrites.gradients import detach, is_custom, settle_marks
from gate2static.program.rewrites.out_of_place import functionalise
from gate2static.program.tracer import Tracer

_FROZEN = {F.batch_norm: "BatchNorm", F.instance_norm: "InstanceNorm"}
_NOT_THEIRS = (Path(torch.__file__).parent, Path(__file__).parent)


def trace(
    module: nn.Module, inputs: tuple[Any, ...], what: str, *, own: bool = True, whole: frozenset[Any] = frozenset()
) -> tuple[nn.Module, fx.Graph]:
    """Trace `module` called on `inputs`.

    Args:
        module: what to trace; not changed.
        inputs: positional arguments; a tuple, list or dict of tensors counts as one argument and is traced leaf by
            leaf. Only their structure and shapes are used.
        what: how to name the module in an error, such as "the backbone".
        own: whether the returned copy will run instead of the module. If not, the graph keeps to what the module has:
            functions do not become layers, and norms with activation stay whole.
        whole: names of submodules, and functions marked with `torch.fx.wrap`, that are not followed.

    Returns:
        A copy of the module in which nothing works in place, and its graph, with a placeholder for each tensor leaf of
        `inputs`. In the copy, functions that own parameters or train differently have become layers, tied to the
        parameters they use. Submodules whose forward torch.fx cannot follow are whole.

    Raises:
        TraceError: `torch.fx` cannot follow the module's own code; the message names the line.
    """
    try:
        root = copy.deepcopy(module).eval()
    except RuntimeError as error:
        raise TraceError(
            f"{what} cannot be copied: {str(error).splitlines()[0]} Old-style weight_norm and spectral_norm do that; "
            "use torch.nn.utils.parametrizations instead. So does what a forward computed and keeps in its module; "
            "call train() to clear it, or gate before anything ran."
        ) from error
    _refuse_shared_forwards(root, what)
    signature = inspect.signature(root.forward)
    try:
        signature.bind(*inputs)
    except TypeError as error:
        raise TraceError(
            f"{what} cannot be called with {len(inputs)} positional inputs: {error}; its forward takes {signature}."
        ) from error
    names = [p.name for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    defaults = {
        name: parameter.default
        for name, parameter in signature.parameters.items()
        if name in names[len(inputs) :] and parameter.default is not parameter.empty
    }
    structured = {
        name: pytree.tree_map(lambda leaf: fx._symbolic_trace.PH if isinstance(leaf, Tensor) else leaf, value)
        for name, value in zip(names, inputs, strict=False)
        if not isinstance(value, Tensor)
    }
    leaves = tuple(pytree.tree_leaves(inputs)), tuple(pytree.tree_leaves(list(defaults.values())))
    tracer, graph = _follow(root, {**defaults, **structured}, leaves, what, own, whole)
    for name, kind in tracer.classes.items():
        root.get_submodule(name).__class__ = kind
    for node in graph.find_nodes(op="get_attr"):
        if node.target.startswith("_tensor_constant"):
            setattr(root, node.target, getattr(tracer.root, node.target))
    if own:
        settle_marks(graph, tracer.shape)
        make_weight_layers(root, graph, tracer.shape)
    _restore_output_structure(graph)
    _drop_unused_inputs(graph, set(defaults))
    try:
        _refuse_frozen(graph, what)
        functionalise(root, graph, layers=own, shape_of=tracer.shape)
    except TraceError:
        if tracer.followed <= whole:
            raise
        return trace(module, inputs, what, own=own, whole=whole | tracer.followed)
    if own:
        detach(graph)
    _tidy(graph)
    return root, graph


def _tidy(graph: fx.Graph) -> None:
    """Remove assertions, dead code and marks."""
    for node in graph.find_nodes(op="call_function", target=torch._assert):
        graph.erase_node(node)
    for node in graph.nodes:
        # Code made from a node with this mark would mark the function for all later traces of this process.
        node.meta.pop("is_wrapped", None)
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    graph.lint()


def _follow(
    root: nn.Module,
    concrete: dict[str, Any],
    leaves: tuple[tuple[Any, ...], tuple[Any, ...]],
    what: str,
    own: bool,
    whole: frozenset[Any],
) -> tuple[Tracer, fx.Graph]:
    """Trace, and trace again with what could not be followed kept whole."""
    causes: list[Exception] = []
    graph, integers = None, False
    while graph is None:
        tracer = Tracer(*leaves, whole=whole, own=own, integers=integers)
        try:
            graph = _run_tracer(tracer, copy_structure(root), concrete)
        except Exception as error:
            fixes_batch = isinstance(error, FollowsBatchError)
            if fixes_batch and not integers:
                integers = True
            elif tracer.failed is None or (fixes_batch and isinstance(tracer.failed, str)):
                raise TraceError(_explain(error, what)) from error
            else:
                causes.append(error)
                whole |= _alike(root, tracer.failed, whole)
    _refuse_impure(tracer, graph, whole, causes, what)
    if own and (dropouts := _attention_dropouts(root, concrete, leaves, whole, tracer, integers)):
        tracer = Tracer(*leaves, whole=whole, dropouts=dropouts, integers=integers)
        graph = _run_tracer(tracer, copy_structure(root), concrete)
    return tracer, graph


def _alike(root: nn.Module, failed: Any, whole: frozenset[Any]) -> set[Any]:
    """What to keep whole: what failed and, where a class failed twice, wherever it is used."""
    if not isinstance(failed, str):
        return {failed}
    kind = type(root.get_submodule(failed))
    alike = {name for name, m in root.named_modules() if name and type(m) is kind}
    return alike if len(alike & (whole | {failed})) > 1 else {failed}


def _refuse_impure(tracer: Tracer, graph: fx.Graph, whole: frozenset[Any], causes: list[Exception], what: str) -> None:
    """What runs whole must leave its inputs as they are, and run without values."""
    for node in graph.nodes:
        if node.op == "call_module" and node.target in whole and not tracer.is_pure(node):
            if not causes:
                raise NodeError(f"{node.target!r} in {what} writes into its inputs or does not run here.", node)
            raise TraceError(_explain(causes[0], what)) from causes[0]
        if is_custom(node.target) and not tracer.is_pure(node):
            raise TraceError(
                f"{what} calls the autograd function {node.target.__name__}, which writes into its inputs or does not "
                "run on tensors without values; write its forward out of place, with torch's operators."
            )


def _attention_dropouts(
    root: nn.Module,
    concrete: dict[str, Any],
    leaves: tuple[tuple[Any, ...], tuple[Any, ...]],
    whole: frozenset[Any],
    traced: Tracer,
    integers: bool,
) -> tuple[float, ...]:
    """Dropout of each attention in training, where code such as `p if self.training else 0.0` froze it to zero.

    Another trace, in training mode, tells. Empty where there is none, or where the two traces cannot be compared.
    """
    if not traced.attentions:
        return ()
    training = Tracer(*leaves, whole=whole, integers=integers)
    try:
        _run_tracer(training, copy_structure(root).train(), concrete)
    except Exception:  # noqa: BLE001  # the trace that counts was taken already
        return ()
    comparable = len(training.attentions) == len(traced.attentions)
    known = tuple(p if isinstance(p, int | float) else 0.0 for p in training.attentions)
    return known if comparable and known != tuple(traced.attentions) else ()


def _run_tracer(tracer: Tracer, root: nn.Module, concrete: dict[str, Any]) -> fx.Graph:
    """The graph of a module; one that is written out itself runs under a class with that forward."""
    kind, form = type(root), written_out(root)
    if form is None:
        return tracer.trace(root, concrete_args=concrete)

    @functools.wraps(kind.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return form(tracer, self, *args, **kwargs)

    root.__class__ = type(kind.__name__, (kind,), {"forward": forward})
    try:
        graph = tracer.trace(root, concrete_args=concrete)
    finally:
        root.__class__ = kind
    return graph


def _refuse_shared_forwards(root: nn.Module, what: str) -> None:
    """A function that replaced a forward is not copied with its module, nor is what it holds."""
    for name, module in root.named_modules():
        forward = vars(module).get("forward")
        if not isinstance(forward, types.FunctionType):
            continue
        held = [*(cell.cell_contents for cell in forward.__closure__ or ()), *(forward.__defaults__ or ())]
        if any(isinstance(getattr(value, "__self__", value), nn.Module | nn.Parameter) for value in held):
            raise TraceError(
                f"the forward of {f'{name!r} in ' if name else ''}{what} was replaced by a function that holds a "
                "module, which all copies would share; allowed is a method of the module itself: make it one with "
                "types.MethodType, or override forward in a class."
            )


def _refuse_frozen(graph: fx.Graph, what: str) -> None:
    """Functions that train differently cannot follow `train()` once they are traced."""
    for node in graph.nodes:
        if node.target in _FROZEN:
            raise TraceError(
                f"{what} calls {node.target.__name__} as a function ({node.name}), whose training flag would be "
                f"frozen; use a torch.nn.{_FROZEN[node.target]} layer."
            )
        if isinstance(node.kwargs.get("out"), fx.Node):
            raise TraceError(f"{what} passes out= to {node.name}, which writes in place; assign its result instead.")


def _restore_output_structure(graph: fx.Graph) -> None:
    """Structured inputs make fx flatten the output too; put it back together."""
    codegen = graph._codegen
    if isinstance(codegen, fx.graph._PyTreeCodeGen) and codegen.pytree_info.out_spec is not None:
        output = next(iter(graph.find_nodes(op="output")))
        leaves = list(output.args[0])
        output.args = (pytree.tree_unflatten(leaves, codegen.pytree_info.out_spec),)
    graph.set_codegen(fx.graph.CodeGen())


def _drop_unused_inputs(graph: fx.Graph, defaults: set[str]) -> None:
    """Remove placeholders (and fx's checks on them) of arguments that keep their default value."""
    for node in reversed(list(graph.find_nodes(op="placeholder"))):
        if re.sub(r"_\d+$", "", node.target) in defaults and all(map(_is_check, node.users)):
            for user in list(node.users):
                for check in list(user.users):
                    graph.erase_node(check)
                graph.erase_node(user)
            graph.erase_node(node)


def _is_check(node: fx.Node) -> bool:
    if node.target is operator.eq:
        return all(map(_is_check, node.users))
    return node.target in (torch._assert, fx._symbolic_trace._assert_is_none)


def _explain(error: Exception, what: str) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if not any(map(Path(f.filename).is_relative_to, _NOT_THEIRS))]
    place = f"{theirs[-1].filename}:{theirs[-1].lineno}: `{theirs[-1].line}`" if theirs else "its forward"
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    allowed = "Allowed is code whose control flow does not depend on tensor values. Rewrite that line, or move it into"
    fix = f"{allowed} a function marked with torch.fx.wrap."
    if isinstance(error, FollowsBatchError):
        fix = "Allowed is code that decides alike for all batch sizes. Rewrite that line with tensor operators."
    return f"torch.fx cannot trace {what}: {reason} (at {place}). {fix}"
