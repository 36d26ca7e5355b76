"""Gives tasks their own encoders, and takes the network of the other tasks out to train on.

A task with its own encoder has the branch and the head of its single-task network, all gates open, and no part in the
shared stream. So it computes what that network computes, and the other tasks compute what a gated network without it
computes: that one is trained, which leaves the task's weights and running statistics as they are.
"""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from gate2static.gates import GatedModel
from gate2static.models import MultiTaskNetwork

_OUT = -1e4
"""β of a task that is out of the mix: its softmax is 0 in every dtype, and it never wins."""
_OPEN = 1.0
"""α of a gate that is open for good."""


def open_encoders(gated: GatedModel, networks: Mapping[str, MultiTaskNetwork]) -> None:
    """Gives tasks the encoders and heads of their single-task networks.

    Where such a task won a hard mix, the sharer with the largest β wins instead, if there is one.

    Args:
        gated: The network, changed in place.
        networks: Task -> its single-task network.
    """
    for task, network in networks.items():
        branch = gated.branches[task]
        state = network.backbone.state_dict()
        # Layers that the trace made are other names for what is loaded anyway.
        branch.load_state_dict({key: state.get(key, value) for key, value in branch.state_dict().items()})
        gated.heads[task].load_state_dict(network.heads[task].state_dict())
    rows = [gated.tasks.index(task) for task in networks]
    with torch.no_grad():
        for gate in gated.gates.values():
            won = torch.isin(gate.beta.argmax(0), torch.tensor(rows))
            gate.alpha[rows] = _OPEN
            gate.beta[rows] = _OUT
            if gate.hard and won.any():
                _let_a_sharer_win(gate.alpha, gate.beta, won)


def _let_a_sharer_win(alpha: Tensor, beta: Tensor, won: Tensor) -> None:
    """Lets the sharer with the largest β win, in groups (groups,) whose winner is gone.

    Tasks that share come before those that have a feature for themselves: that would otherwise train on the losses of
    all tasks.
    """
    is_out = beta == _OUT
    shares = (alpha <= 0) & ~is_out
    candidates = torch.where(shares.any(0), shares, ~is_out)
    best = torch.where(candidates, beta, -torch.inf).argmax(0)  # (groups,)
    highest = beta.max(0).values
    lifted = beta.scatter(0, best[None], (highest + 1)[None])
    beta.copy_(torch.where(won & ~is_out.all(0), lifted, beta))


def part_of(state: Mapping[str, Tensor], keys: Collection[str], rows: Sequence[int]) -> dict[str, Tensor]:
    """Returns the state of the network of some tasks, out of the state of the network of all.

    Args:
        state: The state of the whole network.
        keys: The keys of the smaller network's state.
        rows: The numbers of its tasks in the whole network.
    """
    return {key: state[key][list(rows)] if _by_task(key) else state[key] for key in keys}


def put_back(gated: GatedModel, part: Mapping[str, Tensor], rows: Sequence[int]) -> None:
    """Loads the trained network of some tasks into the network of all.

    Args:
        gated: The whole network, changed in place.
        part: The state of the smaller network.
        rows: The numbers of its tasks in the whole network.
    """
    state = gated.state_dict()
    for key, value in part.items():
        if _by_task(key):
            state[key] = state[key].clone()
            state[key][list(rows)] = value.to(state[key])
        else:
            state[key] = value
    gated.load_state_dict(state)


def _by_task(key: str) -> bool:
    """Returns whether a tensor has a row per task: α and β of gates."""
    return key.startswith("encoder.gates.")
