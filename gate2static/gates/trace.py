"""`nn.Module` -> `fx.Graph` whose nodes know their shapes and MACs.

The trace is taken in eval mode, since the graph is what will be deployed. What trains differently from how it is
deployed stays a module, so it still follows `train()` and `eval()`: norms and dropout layers, childless modules whose
`forward` reads `self.training` (stochastic depth), and functional dropout, which becomes a layer here.
"""

import copy
import inspect
import operator
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from gate2static.errors import TraceError
from gate2static.gates.functional import functionalise
from gate2static.gates.layers import layer_class

_TRAINS_DIFFERENTLY = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
_FROZEN = {F.batch_norm: "BatchNorm", F.instance_norm: "InstanceNorm"}
_OWN_CODE = Path(torch.__file__).parent


class _Tracer(fx.Tracer):
    """Keeps torch's layers and childless modules that behave differently in training whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if super().is_leaf_module(m, module_qualified_name) or isinstance(m, _TRAINS_DIFFERENTLY):
            return True
        childless = next(m.children(), None) is None
        return childless and (layer_class(m) is not None or "training" in _names_used(type(m).forward))


def _names_used(forward: Callable[..., Any]) -> tuple[str, ...]:
    code = getattr(forward, "__code__", None)
    return code.co_names if code is not None else ()


def is_leaf(module: nn.Module) -> bool:
    """Whether tracing would keep the module whole if it stood inside another."""
    return _Tracer().is_leaf_module(module, "")


def trace(module: nn.Module, inputs: tuple[Any, ...], what: str) -> tuple[nn.Module, fx.Graph]:
    """Trace `module` called on `inputs`.

    Args:
        module: what to trace; not changed.
        inputs: positional arguments; a tuple, list or dict of tensors counts as one argument and is traced leaf by
            leaf. Only their structure is used.
        what: how to name the module in an error, such as "the backbone".

    Returns:
        A copy of the module in which functional dropouts have become layers and nothing works in place, and its
        graph: a placeholder for each tensor leaf of `inputs`.

    Raises:
        TraceError: `torch.fx` cannot follow the code; the message names the line.
    """
    try:
        root = copy.deepcopy(module).eval()
    except RuntimeError as error:
        raise TraceError(
            f"{what} cannot be copied: {str(error).splitlines()[0]} Old-style weight_norm and spectral_norm do that; "
            "use torch.nn.utils.parametrizations instead."
        ) from error
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
    tracer = _Tracer()
    try:
        graph = tracer.trace(root, concrete_args={**defaults, **structured})
    except Exception as error:
        raise TraceError(_explain(error, what)) from error
    _restore_output_structure(graph)
    _drop_unused_inputs(graph, set(defaults))
    _refuse_frozen(graph, what)
    functionalise(root, graph)
    graph.lint()
    return root, graph


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
    theirs = [f for f in frames if not Path(f.filename).is_relative_to(_OWN_CODE) and f.filename != __file__]
    place = f"{theirs[-1].filename}:{theirs[-1].lineno}: `{theirs[-1].line}`" if theirs else "its forward"
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"torch.fx cannot trace {what}: {reason} (at {place}). Allowed is code whose control flow does not depend on "
        "tensor values. Rewrite that line, or move it into a function marked with torch.fx.wrap."
    )
