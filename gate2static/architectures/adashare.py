"""AdaShare (Sun et al. 2020): every task chooses which blocks of one backbone it runs.

    x ← u x' + (1 - u) x, where x' is what a block makes of x        (u = 0 skips the block)

The training has three phases, as in the official code: all blocks run, and policies wait (`warm_up`); then policies
are learned block by block, the last one first (`curriculum`), and at last all together, while the temperature falls.
`advance` says how far the training is. At last policies are drawn, and a network with fixed ones, `skips`, is trained.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gate2static.architectures.architecture import Architecture, OptimiserKind, Values
from gate2static.architectures.stages import Stages
from gate2static.arguments import require_kind, require_number
from gate2static.errors import ArchitectureError

_FIRST_LOGIT = 2.0
"""The first logit of running a block: nearly all blocks run at first."""


class AdaShare(Architecture):
    """One stream of blocks; each task has a policy that says which of the blocks it runs.

    A block can be skipped where it keeps the shape of its values. In training policies are drawn by a straight-through
    Gumbel softmax; in evaluation a task runs what it would run more likely than not. Tasks whose policies agree so far
    share the computation, and they share all parameters.

    Args:
        stages: The backbone in blocks.
        heads: Task -> head.
        sparsity: The weight of the mean probability of running a block.
        sharing: The weight of how much the tasks' probabilities differ; later blocks count less, as in the paper.
        temperature: The first τ of the Gumbel softmax.
        last_temperature: The last one. τ falls geometrically behind the warm-up, as in the official code, whose last
            one is nearly 0.
        warm_up: The share of the training in which all blocks run.
        curriculum: The share of the training behind it in which policies are learned block by block.
        rate: How many times the common learning rate the policies train with.
        skips: Task -> the numbers of the skippable blocks that it skips, from 0; other tasks run all blocks. Policies
            are fixed then. None learns them.
    """

    def __init__(
        self,
        stages: Stages,
        heads: Mapping[str, nn.Module],
        *,
        sparsity: float = 0.001,
        sharing: float = 0.05,
        temperature: float = 5.0,
        last_temperature: float = 0.1,
        warm_up: float = 0.2,
        curriculum: float = 0.15,
        rate: float = 10.0,
        skips: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        super().__init__(stages, heads, streams=("trunk",))
        self.sparsity = _number(sparsity, "sparsity", least=0.0)
        self.sharing = _number(sharing, "sharing", least=0.0)
        self.temperature = _number(temperature, "temperature", least=1e-3)
        self.last_temperature = _number(last_temperature, "last_temperature", least=1e-3)
        self.warm_up = _number(warm_up, "warm_up", least=0.0)
        self.curriculum = _number(curriculum, "curriculum", least=0.0)
        self.rate = _number(rate, "rate", least=1e-6)
        if self.warm_up + self.curriculum >= 1:
            raise ArchitectureError(
                f"adashare has warm_up {warm_up:g} and curriculum {curriculum:g} of the training, and learns all "
                "policies together in the rest; give less than 1 in all."
            )
        # A block behind which a further value is passed on computes something that is returned.
        kinds = list(zip(stages.shapes, stages.passed, strict=True))
        self.skippable = tuple(number for number, (a, b) in enumerate(pairwise(kinds), start=1) if a == b)
        if not self.skippable:
            raise ArchitectureError("adashare skips blocks that keep the shape of their values, and here is none")
        self.logits: nn.Parameter | None = None
        self._fixed: list[list[bool]] = []
        # A loop that never says how far it is has one phase, the last.
        self._progress: float | None = None
        if skips is None:
            logits = torch.tensor([_FIRST_LOGIT, 0.0]).repeat(len(heads), len(self.skippable), 1)
            self.logits = nn.Parameter(logits)
        else:
            self._fixed = _policies(skips, self.tasks, len(self.skippable))

    def advance(self, progress: float) -> None:
        """Notes the share of the training that is done, which decides the phase and the temperature."""
        self._progress = progress

    def parameter_groups(self, optimiser: OptimiserKind) -> list[dict[str, Any]]:
        """Returns the logits of the policies, which do not decay: before a block is learned, all tasks run it."""
        if self.logits is None:
            return []
        return [{"params": [self.logits], "rate_factor": self.rate, "weight_decay": 0.0}]

    def policies(self) -> list[list[bool]]:
        """Returns which of the skippable blocks every task runs, a list per task."""
        if self.logits is None:
            return self._fixed
        runs: list[list[bool]] = (self.logits[..., 0] > self.logits[..., 1]).tolist()
        return runs

    def drawn_skips(self, seed: int) -> dict[str, list[int]]:
        """Returns policies that are drawn from the learned probabilities, as the option `skips` of another network.

        Args:
            seed: The seed of the draw.
        """
        runs = torch.tensor(self.policies(), dtype=torch.float64)
        if self.logits is not None:
            runs = self.logits.detach().double().cpu().softmax(-1)[..., 0]  # (T, blocks)
        drawn = torch.rand(runs.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) < runs
        return {
            task: [number for number, is_run in enumerate(row) if not is_run]
            for task, row in zip(self.tasks, drawn.tolist(), strict=True)
        }

    def deployed(self) -> "AdaShare":
        """Returns a copy whose policies are part of its structure, and no tensors any more."""
        fixed = copy.deepcopy(self).eval()
        fixed._fixed = self.policies()
        fixed.logits = None
        return fixed

    def encode(self, tensors: Values) -> dict[str, Values]:
        """Runs every task's blocks; in evaluation, what tasks have in common runs once."""
        return self._chosen(tensors) if self.logits is None or not self.training else self._trained(tensors)

    def penalty(self) -> Tensor | None:
        """Returns the sparsity and sharing terms of the blocks that are learned, a scalar; None for fixed policies.

        The weight of a block in the sharing term falls with its depth l of L, as the paper's does, (L - l) / L with l
        from 0; in the official code it grows, (l + 1) / L.
        """
        if self.logits is None:
            return None
        first = self._first_learned()
        if first == len(self.skippable):
            # A gradient of 0, since processes that train together wait for one.
            return 0 * self.logits.sum()
        runs = self.logits.softmax(-1)[..., 0]  # (T, blocks)
        count = runs.shape[1]
        # Lower blocks are to be shared first.
        depth = torch.arange(count, 0, -1, device=runs.device, dtype=runs.dtype) / count
        pairs = list(combinations(range(len(runs)), 2))
        differences = torch.stack([((runs[a] - runs[b]).abs() * depth)[first:].mean() for a, b in pairs])
        return self.sparsity * runs[:, first:].mean() + self.sharing * differences.mean()

    def _first_learned(self) -> int:
        """Returns the number of skippable blocks that all tasks still run."""
        count = len(self.skippable)
        if self._progress is None or self._progress >= self.warm_up + self.curriculum:
            return 0
        if self._progress < self.warm_up:
            return count
        learned = 1 + math.floor(count * (self._progress - self.warm_up) / self.curriculum)
        return max(0, count - learned)

    def _temperature(self) -> float:
        """Returns τ of the present step."""
        if self._progress is None:
            return self.last_temperature
        learning = max(0.0, self._progress - self.warm_up) / (1 - self.warm_up)
        return float(self.temperature * (self.last_temperature / self.temperature) ** learning)

    def _trained(self, tensors: Values) -> dict[str, Values]:
        assert self.logits is not None
        first = self._first_learned()
        drawn = F.gumbel_softmax(self.logits, tau=self._temperature(), hard=True)[..., 0]
        encoded: dict[str, Values] = {}
        for row, task in enumerate(self.tasks):
            values = tensors
            for number, block in enumerate(self.streams["trunk"].children()):
                computed = block(*values)
                if number in self.skippable and (skippable := self.skippable.index(number)) >= first:
                    u = drawn[row, skippable]
                    computed = [u * x + (1 - u) * old for x, old in zip(computed, values, strict=True)]
                values = computed
            encoded[task] = values
        return encoded

    def _chosen(self, tensors: Values) -> dict[str, Values]:
        policies = self.policies()
        blocks = list(self.streams["trunk"].children())
        # What has been run so far -> its values: tasks with one history share them.
        computed: dict[tuple[int, ...], Values] = {(): tensors}
        encoded: dict[str, Values] = {}
        for task, policy in zip(self.tasks, policies, strict=True):
            history: tuple[int, ...] = ()
            for number, block in enumerate(blocks):
                if number in self.skippable and not policy[self.skippable.index(number)]:
                    continue
                following = (*history, number)
                if following not in computed:
                    computed[following] = block(*computed[history])
                history = following
            encoded[task] = computed[history]
        return encoded


def _number(value: Any, option: str, *, least: float) -> float:
    return require_number(value, name=f"{option} of adashare", error=ArchitectureError, least=least)


def _policies(skips: Any, tasks: Sequence[str], blocks: int) -> list[list[bool]]:
    """Returns which blocks every task runs.

    Raises:
        ArchitectureError: Skips name what is no task or no block.
    """
    allowed = "a dict from task to numbers of blocks"
    require_kind(skips, Mapping, name="skips of adashare", allowed=allowed, error=ArchitectureError)
    for task, numbers in skips.items():
        if task not in tasks:
            raise ArchitectureError(f"skips of adashare name {task!r}; the tasks are {', '.join(tasks)}.")
        is_list = isinstance(numbers, list | tuple)
        if not is_list or not all(type(number) is int and 0 <= number < blocks for number in numbers):
            raise ArchitectureError(
                f"skips of adashare for {task} are {numbers!r}; allowed is a list of numbers from 0 to {blocks - 1}."
            )
    return [[number not in skips.get(task, ()) for number in range(blocks)] for task in tasks]
