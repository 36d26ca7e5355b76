"""Safe multi-task learning (Guo, Ye and Zhang): every task weighs a public encoder against its own.

    g_t = α_t f_S(x) + (1 - α_t) f_t(x)        (eq. 1)

The weights are α = σ(a) with a trained number per task, which keeps them in [0, 1] (eq. 2); a starts at 0, since the
learned weights that the paper prints lie around ½.
"""

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gate2static.architectures.architecture import Architecture, Values, run
from gate2static.architectures.stages import Stages
from gate2static.arguments import require_kind, require_number
from gate2static.errors import ArchitectureError
from gate2static.graphs import copied
from gate2static.program.structures import take_apart, tensors_of

PUBLIC = "public"
"""The name of the public encoder's stream, which no task may have."""


class SMTL(Architecture):
    """SMTL: T private encoders and a public one, joined in front of the heads (eq. 1).

    Attributes:
        held_out: As the argument.
        unrolled: As the argument.

    Args:
        stages: The backbone; it need not be cut.
        heads: Task -> head.
        held_out: The share of the training images that α is trained on, in turns with everything else on the others
            (eq. 6); 0 trains everything on all of them. Recipes follow it; a loop of your own has to.
        unrolled: Whether α's gradient looks one step of the weights ahead, as in DARTS, and is not of first order.
    """

    def __init__(
        self, stages: Stages, heads: Mapping[str, nn.Module], *, held_out: float = 0.0, unrolled: bool = False
    ) -> None:
        if PUBLIC in heads:
            raise ArchitectureError(f"no task may be called {PUBLIC!r}: the public encoder has that name.")
        super().__init__(stages, heads, streams=(*heads, PUBLIC))
        self.logits = nn.Parameter(torch.zeros(len(heads)))
        self.held_out = require_number(held_out, name="held_out", error=ArchitectureError, least=0, most=0.9)
        self.unrolled = require_kind(unrolled, bool, name="unrolled", allowed="a bool", error=ArchitectureError)
        if unrolled and not held_out:
            raise ArchitectureError(
                "unrolled looks ahead at held-out images, and held_out is 0; give held_out, such as 0.2."
            )

    def weights(self) -> Tensor:
        """Returns α, (T,): the weights of the public encoder."""
        return self.logits.sigmoid()

    def public_tasks(self) -> tuple[str, ...]:
        """Returns the tasks for which the public encoder weighs more than their own."""
        return tuple(task for task, logit in zip(self.tasks, self.logits.tolist(), strict=True) if logit > 0)

    def encode(self, tensors: Values) -> dict[str, Values]:
        """Runs all encoders, and joins each task's own with the public one."""
        public = run(self.streams[PUBLIC], tensors)
        weights = self.weights()
        joined: dict[str, Values] = {}
        for number, task in enumerate(self.tasks):
            own = run(self.streams[task], tensors)
            joined[task] = [weights[number] * p + (1 - weights[number]) * o for p, o in zip(public, own, strict=True)]
        return joined


class SMTLc(SMTL):
    """SMTL_c: there are public decoders too, and outputs are joined instead of features.

    Args:
        stages: The backbone; it need not be cut.
        heads: Task -> head; the public decoders start as copies.
        held_out: As for `SMTL`.
        unrolled: As for `SMTL`.
    """

    def __init__(
        self, stages: Stages, heads: Mapping[str, nn.Module], *, held_out: float = 0.0, unrolled: bool = False
    ) -> None:
        super().__init__(stages, heads, held_out=held_out, unrolled=unrolled)
        self.public_heads = copied(nn.ModuleDict(dict(heads.items())))

    def outputs(self, tensors: Values) -> dict[str, Any]:
        """Returns α_t h_(S,t)(f_S(x)) + (1 - α_t) h_t(f_t(x)) by task."""
        public = self.structure.build(run(self.streams[PUBLIC], tensors))
        weights = self.weights()
        joined = {}
        for number, task in enumerate(self.tasks):
            own = self.heads[task](self.structure.build(run(self.streams[task], tensors)))
            # A head may return several tensors.
            private, structure = take_apart(own)
            pairs = zip(tensors_of(self.public_heads[task](public)), private, strict=True)
            joined[task] = structure.build([weights[number] * p + (1 - weights[number]) * o for p, o in pairs])
        return joined


class _Choosing(SMTL):
    """A network in which every task takes one of its two encoders, and mixes none.

    Args:
        stages: The backbone; it need not be cut.
        heads: Task -> head.
        temperature: τ of eq. 4 at the start, for which the paper says "a small value".
        last_temperature: τ at the end, towards which it falls by equal factors; None keeps it.
        held_out: As for `SMTL`.
        unrolled: As for `SMTL`.
    """

    name: ClassVar[str]

    def __init__(
        self,
        stages: Stages,
        heads: Mapping[str, nn.Module],
        *,
        temperature: float = 0.5,
        last_temperature: float | None = None,
        held_out: float = 0.0,
        unrolled: bool = False,
    ) -> None:
        super().__init__(stages, heads, held_out=held_out, unrolled=unrolled)
        self.first_temperature = self._temperature(temperature, "temperature")
        self.last_temperature = self.first_temperature
        if last_temperature is not None:
            self.last_temperature = self._temperature(last_temperature, "last_temperature")
        self.temperature = self.first_temperature

    def advance(self, progress: float) -> None:
        """Notes the share of the training that is done, which decides τ."""
        self.temperature = self.first_temperature * (self.last_temperature / self.first_temperature) ** progress

    def weights(self) -> Tensor:
        """Returns what is drawn in training, and what is chosen in evaluation, (T,) of 0 and 1."""
        return drawn(self.logits, self.temperature) if self.training else (self.logits > 0).to(self.logits)

    def _temperature(self, value: float, option: str) -> float:
        return require_number(value, name=f"{option} of {self.name}", error=ArchitectureError, least=1e-3)

    def deployed(self) -> Architecture:
        """Returns the chosen encoders alone, with the heads that go with them."""
        public = self.public_tasks()
        chosen = {task: PUBLIC if task in public else task for task in self.tasks}
        return Chosen(self, chosen, self._chosen_heads(public))

    def _chosen_heads(self, public: Collection[str]) -> Mapping[str, nn.Module] | nn.ModuleDict:
        """Returns task -> its head, where these tasks take the public encoder."""
        return self.heads


class LSMTL(_Choosing):
    """L-SMTL: every task takes one of the two encoders, chosen by a straight-through Gumbel softmax.

    In training α̂ is drawn anew in every step: forwards the larger of b_k + log p_k (eq. 3), with p = (α, 1 - α), and
    backwards the softmax of (b + log p) / τ. Eq. 4 prints log p_(t,0) in both terms of its denominator, which is no
    softmax; here it is log p_(t,k). In evaluation, and in what is deployed, the public encoder serves the tasks with
    α > ½, and encoders that nobody takes are gone.
    """

    name = "l_smtl"


class LSMTLc(_Choosing, SMTLc):
    """L-SMTL_c: every task takes the public encoder with its public decoder, or its own of both."""

    name = "l_smtl_c"

    def _chosen_heads(self, public: Collection[str]) -> Mapping[str, nn.Module]:
        return {task: (self.public_heads if task in public else self.heads)[task] for task in self.tasks}


class Chosen(Architecture):
    """One encoder per task, some of which serve several: what is left once every task has chosen.

    Args:
        network: The network with all encoders; what is taken is copied.
        chosen: Task -> the stream that it takes.
        heads: Task -> head.
    """

    def __init__(
        self, network: Architecture, chosen: Mapping[str, str], heads: Mapping[str, nn.Module] | nn.ModuleDict
    ) -> None:
        nn.Module.__init__(self)
        self.tasks = network.tasks
        self.chosen = dict(chosen)
        self.call = network.call
        self.structure = network.structure
        taken = dict.fromkeys(chosen.values())
        self.names = network.names
        self.streams = nn.ModuleDict({name: copied(network.streams[name]) for name in taken})
        # Copied together, so that what heads share stays shared.
        self.heads = copied(nn.ModuleDict({task: heads[task] for task in self.tasks}))
        self.eval()

    def encode(self, tensors: Values) -> dict[str, Values]:
        """Runs every encoder that is left once."""
        encoded = {name: run(chain, tensors) for name, chain in self.streams.items()}
        return {task: encoded[self.chosen[task]] for task in self.tasks}


def drawn(logits: Tensor, temperature: float) -> Tensor:
    """Returns 0 or 1 by a Gumbel softmax over (public, private), (T,), with the gradient of the soft value.

    Args:
        logits: a, with α = σ(a), (T,).
        temperature: τ of eq. 4.
    """
    two = torch.stack([F.logsigmoid(logits), F.logsigmoid(-logits)], dim=1)  # log p
    hard: Tensor = F.gumbel_softmax(two, tau=temperature, hard=True)[:, 0]
    return hard
