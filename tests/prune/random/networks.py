"""Random networks: a program of steps run from an image, a sequence of tokens or a vector; and heads for them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from tests.prune.random import steps_any, steps_attention, steps_maps, steps_tokens
from tests.prune.random.steps import Chosen, DoesNotFitError, Step

MAPS = [*steps_maps.STEPS, *steps_attention.MAP_STEPS]
TOKENS = [*steps_tokens.STEPS, *steps_attention.TOKEN_STEPS]
STEPS: dict[str, Callable[[Chosen], Step]] = {
    f"{step.__module__.rpartition('_')[2]}.{step.__name__}": step for step in (*MAPS, *TOKENS, *steps_any.STEPS)
}
"""Name -> step."""

INPUTS = {"maps": (3, 8, 8), "tokens": (9, 6), "vectors": (6,)}
"""Shapes of the networks' inputs, without the batch."""

Program = Sequence[tuple[str, int]]
"""Names of steps, each with the number that its choices follow from."""

_STEMS = {"maps": "maps.convolution", "tokens": "tokens.linear", "vectors": "any.vector_linear"}


def _names(steps: Sequence[Callable[[Chosen], Step]]) -> list[str]:
    by_step = {step: name for name, step in STEPS.items()}
    return [by_step[step] for step in steps]


NAMES = {
    "maps": _names([*MAPS, *MAPS, *TOKENS, *steps_any.STEPS, *steps_any.STEPS]),
    "tokens": _names([*MAPS, *TOKENS, *TOKENS, *TOKENS, *steps_any.STEPS, *steps_any.STEPS]),
    "vectors": _names([*MAPS, *TOKENS, *steps_any.STEPS, *steps_any.STEPS, *steps_any.STEPS]),
}
"""Kind of input -> the steps to draw from, the likelier the oftener."""


class RandomNet(nn.Module):
    """Runs a program: every step reads earlier values and adds one. Steps that nothing reads are left out."""

    def __init__(self, kind: str, program: Program, outputs: int, structure: int) -> None:
        super().__init__()
        self.structure = structure
        values, steps, reads = [torch.randn(2, *INPUTS[kind])], [], []
        for name, seed in [(_STEMS[kind], 0), *program]:
            try:
                step, sources = STEPS[name](Chosen(seed, values, steps))
                with torch.no_grad():
                    step.eval()(*(values[i][:1].clone() for i in sources))  # torch's group norm may need two samples
                    # What writes into a value writes into it here too: later steps may then read another shape of it.
                    value = step(*(values[i] for i in sources))
            except (DoesNotFitError, RuntimeError, ValueError, IndexError):
                continue  # nothing to read, or a shape that the step does not take
            if _is_usable(value):
                values.append(value)
                steps.append(step)
                reads.append(sources)
        self.outputs = list(range(max(1, len(values) - outputs), len(values)))
        if 1 not in self._needed(reads):
            self.outputs.insert(0, 1)  # so that there is a layer to gate
        self.plan = [(number, reads[number - 1]) for number in sorted(self._needed(reads))]
        self.steps = nn.ModuleDict({str(number): steps[number - 1] for number, _ in self.plan})

    def _needed(self, reads: list[list[int]]) -> set[int]:
        needed = set(self.outputs)
        for number in range(len(reads), 0, -1):
            if number in needed:
                needed.update(reads[number - 1])
        return needed - {0}

    def forward(self, x: Tensor) -> Any:
        values = {0: x}
        for number, reads in self.plan:
            values[number] = self.steps[str(number)](*(values[i] for i in reads))
        results = [values[i] for i in self.outputs]
        forms = [
            tuple(results),
            results,
            {"first": results[0], "rest": results[1:]},
            {f"r{i}": r for i, r in enumerate(results)},
            {"nested": [(r,) for r in results]},
        ]
        return results[0] if len(results) == 1 and self.structure else forms[self.structure % len(forms)]


def _is_usable(value: Any) -> bool:
    """Small, with the batch first, and of moderate size, so that rounding stays rounding."""
    if not isinstance(value, Tensor) or not 2 <= value.dim() <= 5 or len(value) != 2 or not value.is_floating_point():
        return False
    return 0 < value[0].numel() <= 1500 and max(value.shape) <= 70 and bool(value.abs().max() < 100)


class PooledAll(nn.Module):
    """Every feature averaged over all but its channels, concatenated, one linear layer."""

    def __init__(self, features: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(sum(f.shape[1] for f in pytree.tree_leaves(features)), 3)

    def forward(self, features: Any) -> Tensor:
        pooled = [f.flatten(2).mean(2) if f.dim() > 2 else f for f in pytree.tree_leaves(features)]
        return self.linear(torch.cat(pooled, 1))


class OnLastDimension(nn.Module):
    """A linear layer on the last feature's last dimension, as on tokens or on a grid."""

    def __init__(self, features: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(pytree.tree_leaves(features)[-1].shape[-1], 2)

    def forward(self, features: Any) -> Tensor:
        return self.linear(pytree.tree_leaves(features)[-1])


class LastAsItIs(nn.Module):
    def forward(self, features: Any) -> Tensor:
        return pytree.tree_leaves(features)[-1]


class Loop(nn.Module):
    """torch.fx cannot follow a loop over a size; torch.export can."""

    def forward(self, features: Any) -> Tensor:
        total: Any = 0
        for feature in pytree.tree_leaves(features):
            for index in range(feature.shape[1]):
                total = total + (index + 1) * feature[:, index].reshape(feature.shape[0], -1).mean(1, keepdim=True)
        return total


HEADS: dict[str, Callable[[Any], nn.Module]] = {
    "pooled": PooledAll,
    "last": lambda features: LastAsItIs(),
    "loop": lambda features: Loop(),
    "tokens": OnLastDimension,
}
