"""AdaShare (Sun et al. 2020): every task chooses which blocks of one backbone it runs.

x ← u x' + (1 - u) x, where x' is what a block makes of x        (u = 0 skips the block)
"""

import copy
from collections.abc import Mapping
from itertools import combinations, pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gate2static.architectures.architecture import Architecture, Values
from gate2static.architectures.stages import Stages
from gate2static.arguments import require_number
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
        temperature: τ of the Gumbel softmax. The official code's falls from 5; here it is constant.
    """

    def __init__(
        self,
        stages: Stages,
        heads: Mapping[str, nn.Module],
        *,
        sparsity: float = 0.001,
        sharing: float = 0.05,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(stages, heads, streams=("trunk",))
        self.sparsity = require_number(sparsity, name="sparsity of adashare", error=ArchitectureError, least=0.0)
        self.sharing = require_number(sharing, name="sharing of adashare", error=ArchitectureError, least=0.0)
        name = "temperature of adashare"
        self.temperature = require_number(temperature, name=name, error=ArchitectureError, least=1e-3)
        # A block behind which a further value is passed on computes something that is returned.
        kinds = list(zip(stages.shapes, stages.passed, strict=True))
        self.skippable = tuple(number for number, (a, b) in enumerate(pairwise(kinds), start=1) if a == b)
        if not self.skippable:
            raise ArchitectureError("adashare skips blocks that keep the shape of their values, and here is none")
        logits = torch.tensor([_FIRST_LOGIT, 0.0]).repeat(len(heads), len(self.skippable), 1)
        self.logits: nn.Parameter | None = nn.Parameter(logits)
        self._fixed: list[list[bool]] = []

    def policies(self) -> list[list[bool]]:
        """Returns which of the skippable blocks every task runs, a list per task."""
        if self.logits is None:
            return self._fixed
        runs: list[list[bool]] = (self.logits[..., 0] > self.logits[..., 1]).tolist()
        return runs

    def deployed(self) -> "AdaShare":
        """Returns a copy whose policies are part of its structure, and no tensors any more."""
        fixed = copy.deepcopy(self).eval()
        fixed._fixed = self.policies()
        fixed.logits = None
        return fixed

    def encode(self, tensors: Values) -> dict[str, Values]:
        """Runs every task's blocks; in evaluation, what tasks have in common runs once."""
        return self._chosen(tensors) if self.logits is None or not self.training else self._trained(tensors)

    def penalty(self) -> Tensor:
        """Returns the sparsity and sharing terms, a scalar.

        The weight of a block in the sharing term falls with its depth l of L, as the paper's does, (L - l) / L with l
        from 0; in the official code it grows, (l + 1) / L.

        Raises:
            ArchitectureError: The network is deployed, and has no policies to train.
        """
        if self.logits is None:
            raise ArchitectureError("a deployed adashare has no policies to train; take the penalty of what trains.")
        runs = self.logits.softmax(-1)[..., 0]  # (T, blocks)
        count = runs.shape[1]
        # Lower blocks are to be shared first.
        depth = torch.arange(count, 0, -1, device=runs.device, dtype=runs.dtype) / count
        pairs = list(combinations(range(len(runs)), 2))
        differences = torch.stack([((runs[a] - runs[b]).abs() * depth).mean() for a, b in pairs])
        return self.sparsity * runs.mean() + self.sharing * differences.mean()

    def _trained(self, tensors: Values) -> dict[str, Values]:
        assert self.logits is not None
        drawn = F.gumbel_softmax(self.logits, tau=self.temperature, hard=True)[..., 0]
        encoded: dict[str, Values] = {}
        for row, task in enumerate(self.tasks):
            values = tensors
            for number, block in enumerate(self.streams["trunk"].children()):
                computed = block(*values)
                if number in self.skippable:
                    u = drawn[row, self.skippable.index(number)]
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
