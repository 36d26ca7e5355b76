"""What must hold for every gated network and its pruned one, told by other means than the package's."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from gate2static.gates import GatedModel, gate
from gate2static.program.heads import take_stream
from gate2static.program.units import gated_unit
from gate2static.prune import expected_macs, prune
from gate2static.static import StaticModel, load_static
from tests.prune.random.networks import HEADS, INPUTS, Program, RandomNet


@dataclass(frozen=True, kw_only=True)
class Case:
    """One random network with random gates; printed, it is the code that makes it again.

    Attributes:
        kind: of the network's input.
        program: its steps.
        outputs: how many of its last values it returns.
        structure: how it returns them.
        heads: one a task.
        p: share of the gates that are open.
        group_size: channels a gate.
        align: channels that a static layer's width is a multiple of.
        seed: of weights, gates and inputs.
        mixing: of the shared stream.
        tie_residual: whether units along a residual stream decide alike.
    """

    kind: str
    program: Program
    outputs: int = 1
    structure: int = 1
    heads: Sequence[str] = ("pooled", "pooled")
    p: float = 0.5
    group_size: int = 1
    align: int = 1
    seed: int = 0
    mixing: Literal["softmax", "hard"] = "softmax"
    tie_residual: bool = False


def make(case: Case) -> tuple[RandomNet, GatedModel, Tensor]:
    """The backbone, the gated network with everything random, and inputs, in float64; not the batch size traced."""
    torch.manual_seed(case.seed)
    backbone = RandomNet(case.kind, case.program, case.outputs, case.structure).eval()
    x = torch.randn(2, *INPUTS[case.kind])
    with torch.no_grad():
        features = backbone(x.clone())
    tasks = [f"t{i}" for i in range(len(case.heads))]
    heads = {task: HEADS[head](features) for task, head in zip(tasks, case.heads, strict=True)}
    options: Any = {"group_size": case.group_size, "mixing": case.mixing, "tie_residual": case.tie_residual}
    gated = gate(backbone, tasks=tasks, example_inputs=(x,), heads=heads, **options)
    return backbone.double(), _randomise(gated, case.p).double().eval(), torch.randn(3, *INPUTS[case.kind]).double()


@torch.no_grad()
def _randomise(gated: GatedModel, p: float) -> GatedModel:
    for module in gated.modules():
        if getattr(module, "running_mean", None) is not None:
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 1.5)
    for parameter in [*gated.encoder.branches.parameters(), *gated.heads.parameters()]:
        parameter.add_(torch.randn_like(parameter) * 0.2)
    for unit in gated.gates.values():
        unit.alpha.copy_(torch.where(torch.rand_like(unit.alpha) < p, 1.0, -1.0))
        unit.beta.normal_()
    return gated


@torch.no_grad()
def check(case: Case, folder: Any = None) -> None:
    """Raise an AssertionError where anything does not hold.

    Args:
        case: the network.
        folder: where to save the static network and load it again; not at all when absent.
    """
    backbone, gated, x = make(case)
    static = prune(gated, align=case.align)
    expected, found = gated(x), static(x)
    for task, value in expected.items():
        assert found[task].shape == value.shape, f"{task}: {tuple(found[task].shape)}, not {tuple(value.shape)}"
        error = float((found[task] - value).abs().max() / value.abs().max().clamp(min=1e-3))
        assert error <= 1e-9, f"{task} is {error:.1e} from the gated network's"
    counted, macs = count_macs(static, x), static.manifest.macs
    assert macs.static == counted, f"the manifest says {macs.static} MACs, counted are {counted}"
    predicted = int(expected_macs(gated))
    assert predicted == counted if case.align == 1 else predicted <= counted, f"{predicted} predicted, not {counted}"
    _check_constant_gates(backbone, gated, static, x)
    if case.align == 1 and case.p in (0.0, 1.0):
        constant = macs.separate if case.p else macs.shared
        assert macs.static == constant, f"{macs.static} MACs with constant gates, announced were {constant}"
    if folder is not None:
        static.save(folder)
        again = load_static(folder)(x)
        assert all(torch.equal(found[task], again[task]) for task in found), "the saved network differs"


def count_macs(network: nn.Module, *inputs: Any) -> int:
    """MACs of one sample by torch's counter, attention as the products that it is made of."""
    one = pytree.tree_map_only(Tensor, lambda x: x[:1], inputs)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one operator, which the counter does not know
    try:
        with torch.no_grad(), warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
            warnings.simplefilter("ignore")
            with FlopCounterMode(display=False) as counter:
                network(*one)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops() // 2


def _check_constant_gates(backbone: RandomNet, gated: GatedModel, static: StaticModel, x: Tensor) -> None:
    """All shared is one backbone and all specific one a task: exactly where no channel is dropped, else at most."""
    features = backbone(x.clone())
    heads = sum(count_macs(head, features) for head in gated.heads.values())
    one = count_macs(backbone, x)
    macs, tasks = static.manifest.macs, len(gated.tasks)
    reading = Reading(gated, x)
    assert macs.separate <= tasks * one + heads, f"all specific: {macs.separate}, more than {tasks} * {one} + {heads}"
    if reading.is_all_read_by_each and reading.all_is_private:
        assert macs.separate == tasks * one + heads, f"all specific: {macs.separate}, not {tasks} * {one} + {heads}"
    if reading.all_is_gated:
        assert macs.shared <= one + heads, f"all shared: {macs.shared}, more than {one} + {heads}"
        if reading.is_all_read:
            assert macs.shared == one + heads, f"all shared: {macs.shared}, not {one} + {heads}"


class Reading(fx.Interpreter):
    """Which channels of the backbone the heads read, told by gradients, and which values pass a gate.

    Attributes:
        is_all_read: every channel of every value that costs MACs has a gradient from some head.
        is_all_read_by_each: from each head.
        all_is_gated: no parameter reaches a head past every gate, so that all-shared gates leave one copy of each.
        all_is_private: nothing costs MACs before the first parameter, so that all-specific gates leave nothing shared.
    """

    def __init__(self, gated: GatedModel, x: Tensor) -> None:
        root = nn.Module()
        branch = gated.branches[gated.tasks[0]]
        for name, child in branch.named_children():
            root.add_module(name, child)
        for name, parameter in (*branch.named_parameters(recurse=False), *branch.named_buffers(recurse=False)):
            setattr(root, name, parameter)
        root.heads = gated.heads
        super().__init__(root, garbage_collect_values=False, graph=gated.program.graph)
        self.costly: list[Tensor] = []
        self.all_is_gated = self.all_is_private = True
        self._ungated: set[fx.Node] = set()
        self._private: set[fx.Node] = set()
        with torch.enable_grad():
            outputs = self.run(x.clone().requires_grad_())
            reads = [self._read_from(value) for value in outputs.values()]
        self.is_all_read_by_each = all(_full(read) for read in reads)
        self.is_all_read = _full([sum(values) for values in zip(*reads, strict=True)])

    def run_node(self, node: fx.Node) -> Any:
        if node.target in (gated_unit, take_stream):
            result = self.env[node.all_input_nodes[0]]
        else:
            result = super().run_node(node)
        if len(node.meta["info"].streams) > 1 and node.op != "output":
            self._follow(node)
            if node.meta["info"].macs and isinstance(result, Tensor):
                self.costly.append(result)
        elif node.target is take_stream and node.all_input_nodes[0] in self._ungated:
            self.all_is_gated = False
        return result

    def _follow(self, node: fx.Node) -> None:
        owns = node.op == "get_attr" or (node.op == "call_module" and any(True for _ in self._owned(node)))
        if node.target is gated_unit or owns or self._private.intersection(node.all_input_nodes):
            self._private.add(node)
        elif node.meta["info"].macs:
            self.all_is_private = False
        if node.target is not gated_unit and (owns or self._ungated.intersection(node.all_input_nodes)):
            self._ungated.add(node)

    def _owned(self, node: fx.Node) -> Any:
        return self.module.get_submodule(str(node.target)).parameters()

    def _read_from(self, output: Tensor) -> list[Tensor]:
        loss = (output * torch.randn_like(output)).sum()
        grads = torch.autograd.grad(loss, self.costly, retain_graph=True, allow_unused=True)
        return [torch.zeros_like(v) if g is None else g.abs() for v, g in zip(self.costly, grads, strict=True)]


def _full(values: Sequence[Any]) -> bool:
    """Whether no index along any dimension is zero throughout."""
    return all(
        bool((value.transpose(0, dim).flatten(1).amax(1) > 0).all()) for value in values for dim in range(value.dim())
    )
