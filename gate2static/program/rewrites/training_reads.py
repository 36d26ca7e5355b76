"""Notices while a network is traced what makes it behave differently in training, and records what it draws there.

A graph has no `if self.training`. So where code reads that flag, the network is traced in both modes (`in_training`).
"""

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from gate2static.program.rewrites.size_functions import Record

_RANDOM = ("rand", "randn", "randint", "randperm", "bernoulli", "normal", "empty")
"""Functions of torch that draw random numbers, and the one that makes room for them."""


@contextmanager
def noticed_reads(notice: Callable[[nn.Module, str], None]) -> Iterator[None]:
    """Notices every read of `training` of a module, for as long as the context lasts.

    Args:
        notice: Called with the module, and with the file and line that read its flag.
    """

    def read(module: nn.Module) -> bool:
        try:
            is_training: bool = module.__dict__["training"]
        except KeyError:
            raise AttributeError("training") from None
        frame = sys._getframe(1)
        notice(module, f"{frame.f_code.co_filename}:{frame.f_lineno}")
        return is_training

    def write(module: nn.Module, is_training: bool) -> None:
        module.__dict__["training"] = is_training

    # A property stands before what an instance has under the same name.
    nn.Module.training = property(read, write)  # type: ignore[assignment]
    try:
        yield
    finally:
        del nn.Module.training


@contextmanager
def recorded_random_functions(record: Record) -> Iterator[None]:
    """Records torch's random functions for as long as the context lasts, since a trace would draw once and for all.

    Args:
        record: Makes a node of a call, such as `fx.Tracer.create_proxy`.
    """

    def recorded(function: Any) -> Callable[..., Any]:
        return lambda *args, **kwargs: record("call_function", function, args, kwargs)

    plain = {name: getattr(torch, name) for name in _RANDOM}
    for name, function in plain.items():
        setattr(torch, name, recorded(function))
    try:
        yield
    finally:
        for name, function in plain.items():
            setattr(torch, name, function)


def random_state() -> tuple[Any, ...]:
    """Returns the states of the random generators of torch, NumPy and Python; equal ones where nothing was drawn."""
    numpy_state = np.random.get_state()  # noqa: NPY002  # user code draws from this one
    # Asking a GPU that nobody uses would start it.
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    of_torch = [state.numpy().tobytes() for state in (torch.get_rng_state(), *gpus)]
    return of_torch, repr(numpy_state), random.getstate()
