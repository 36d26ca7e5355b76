"""Random networks with random gates: the pruned one computes the same, at the cost that was predicted."""

from typing import Any

import torch
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gate2static.gates import gate
from gate2static.prune import expected_macs, prune


class RandomNet(nn.Module):
    """Runs a program: every step reads earlier values and adds one."""

    def __init__(self, program: list[tuple[int, int]], outputs: int, structure: int, make_step: Any) -> None:
        super().__init__()
        self.structure = structure
        self.steps = nn.ModuleList()
        self.reads: list[list[int]] = []
        values, layers = [torch.randn(2, 3, 8, 8)], []
        for kind, seed in [(-1, 0), *program]:
            step, reads = make_step(kind, seed, values, layers)
            if not reads:
                continue
            try:
                with torch.no_grad():
                    value = step.eval()(*(values[i] for i in reads))
            except RuntimeError:  # a view of what is not contiguous, a layer on maps that became too small
                continue
            if value.dim() >= 2 and len(value) == 2 and value[0].numel() <= 2000 and max(value.shape) <= 80:
                values.append(value)
                layers.append(step)
                self.steps.append(step)
                self.reads.append(reads)
        self.outputs = list(range(max(1, len(values) - outputs), len(values)))

    def forward(self, x: Tensor) -> Any:
        values = [x]
        for step, reads in zip(self.steps, self.reads, strict=True):
            values.append(step(*(values[i] for i in reads)))
        results = [values[i] for i in self.outputs]
        forms = [
            tuple(results),
            results,
            {"first": results[0], "rest": results[1:]},
            {f"r{i}": r for i, r in enumerate(results)},
        ]
        return results[0] if len(results) == 1 else forms[self.structure % len(forms)]


class PooledAll(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, 3)

    def forward(self, features: Any) -> Tensor:
        pooled = [f.flatten(2).mean(2) if f.dim() > 2 else f for f in pytree.tree_leaves(features)]
        return self.linear(torch.cat(pooled, 1))


class LastAsItIs(nn.Module):
    def forward(self, features: Any) -> Tensor:
        return pytree.tree_leaves(features)[-1]


class Untraceable(nn.Module):
    """torch.fx cannot follow a loop over a size; torch.export can."""

    def forward(self, features: Any) -> Tensor:
        total = 0
        for feature in pytree.tree_leaves(features):
            for index in range(feature.shape[1]):
                total = total + (index + 1) * feature[:, index].reshape(feature.shape[0], -1).mean(1, keepdim=True)
        return total


def make_head(kind: int, features: Any) -> nn.Module:
    channels = sum(f.shape[1] for f in pytree.tree_leaves(features))
    return [lambda: PooledAll(channels), lambda: PooledAll(channels), LastAsItIs, Untraceable][kind % 4]()


programs = st.lists(st.tuples(st.integers(0, 99), st.integers(0, 9999)), min_size=1, max_size=12)


@settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    program=programs,
    outputs=st.integers(1, 3),
    structure=st.integers(0, 3),
    heads=st.lists(st.integers(0, 3), min_size=1, max_size=3),
    p=st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0]),
    group_size=st.integers(1, 2),
    align=st.sampled_from([1, 1, 4]),
    seed=st.integers(0, 999),
)
def test_a_pruned_random_network_computes_what_the_gated_one_does(
    program: list[tuple[int, int]],
    outputs: int,
    structure: int,
    heads: list[int],
    p: float,
    group_size: int,
    align: int,
    seed: int,
    zoo: Any,
    make_step: Any,
) -> None:
    torch.manual_seed(seed)
    backbone = RandomNet(program, outputs, structure, make_step).eval()
    x = torch.randn(2, 3, 8, 8)
    note(f"{backbone}\n{backbone.reads}")
    features = backbone(x.clone())
    tasks = [f"t{i}" for i in range(len(heads))]
    gated = gate(
        backbone,
        tasks=tasks,
        example_inputs=(x,),
        heads={t: make_head(kind, features) for t, kind in zip(tasks, heads, strict=True)},
        group_size=group_size,
    )
    gated = zoo.randomise(gated, p).double()
    static = prune(gated, align=align)
    x = torch.randn(3, 3, 8, 8).double()
    with torch.no_grad():
        expected, found = gated(x), static(x)
    assert zoo.relative_error(expected.values(), found.values()) <= 1e-9
    assert static.manifest.macs.static == zoo.counted_macs(static, (x,))
    if align == 1:
        assert static.manifest.macs.static == int(expected_macs(gated))
