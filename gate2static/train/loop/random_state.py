"""The state of every random number generator that training may draw from, as plain values and tensors."""

import random
from typing import Any

import numpy as np
import torch
from torch import distributed as dist


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and torch on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 -- augmentations of other libraries draw from the global generator
    torch.manual_seed(seed)


def capture() -> dict[str, Any]:
    """Returns the generators' current states, in a form that loads with `weights_only=True`."""
    _, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    version, internal, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        # As int64, because torch supports uint32 in few operators.
        "numpy": {
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "gauss": float(gauss),
        },
        "python": {"version": version, "internal": list(internal), "gauss_next": gauss_next},
    }


def gather() -> dict[str, Any]:
    """Returns the states of all processes.

    Returns:
        `random` is the first process's state; `random_of_others` lists the other processes' states, if there are any.
    """
    mine = capture()
    if not (dist.is_available() and dist.is_initialized()):
        return {"random": mine}
    states: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(states, mine)
    return {"random": states[0], "random_of_others": states[1:]}


def scatter(content: dict[str, Any]) -> None:
    """Restores this process's generators from the result of `gather`; a process that is new keeps its own state."""
    states = [content["random"], *content.get("random_of_others", [])]
    rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
    if rank < len(states):
        restore(states[rank])


def restore(state: dict[str, Any]) -> None:
    """Restores the generators from a captured state; the states of devices that are gone are ignored."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    numpy = state["numpy"]
    keys = numpy["keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, numpy["position"], numpy["has_gauss"], numpy["gauss"]))  # noqa: NPY002
    python = state["python"]
    random.setstate((python["version"], tuple(python["internal"]), python["gauss_next"]))
