"""Whether the lifted network computes what the backbone computes."""

import contextlib
import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gate2static.errors import TraceError
from gate2static.graphs import copy_structure


class _SaysNothingError(Exception):
    """The backbone raises, or does not compute numbers."""


def check_lift(backbone: nn.Module, encoder: nn.Module, branches: Sequence[nn.Module], inputs: tuple[Any, ...]) -> None:
    """All branches are still equal, so each stream must give what the backbone gives: as called, and for one sample.

    Args:
        backbone: not changed.
        encoder: the lifted network; not changed.
        branches: its copies of the backbone, with the backbone's names. A parameter that is one constant, such as a
            scale that starts at zero, would hide what it multiplies. It holds random numbers while this runs, the same
            ones everywhere, unless the backbone computes no numbers with them.
        inputs: the backbone's.

    Raises:
        TraceError: it computes something else.
    """
    # Forwards remember things in their modules, such as what they derive from parameters.
    plain, lifted = (module.train().eval() for module in (copy.deepcopy(backbone), copy_structure(encoder)))
    try:
        with _random_constants([plain, *branches]):
            same = _agree(plain, lifted, inputs)
    except _SaysNothingError:
        same = _agree(plain.train().eval(), lifted.train().eval(), inputs, finite=False)
    if not same:
        raise TraceError(
            "the traced backbone does not compute what the backbone computes; its forward probably depends on values "
            "or on a batch size that torch.fx fixes while tracing, writes into a view of a tensor that is read again, "
            "or is not deterministic in eval mode."
        )


@contextlib.contextmanager
def _random_constants(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Parameters that are one constant hold random numbers, the same ones in all networks; afterwards the constant."""
    generator = torch.Generator().manual_seed(0)
    held: list[tuple[nn.Parameter, Tensor]] = []
    named = [dict(network.named_parameters(remove_duplicate=False)) for network in networks]
    try:
        with torch.no_grad():
            for name, parameter in networks[0].named_parameters():
                if not parameter.is_floating_point() or not parameter.numel():
                    continue
                constant = parameter[(0,) * parameter.dim()].clone()
                if bool((parameter == constant).all()):
                    drawn = _drawn(parameter.shape, generator)
                    for p in {id(n[name]): n[name] for n in named if name in n}.values():
                        held.append((p, constant))
                        p.copy_(drawn)
        yield
    finally:
        with torch.no_grad():
            for p, constant in held:
                p.copy_(constant)


def _drawn(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Weights that keep the scale of what they are multiplied with, and positive numbers around 1 for all others."""
    if len(shape) > 1 and shape[0] > 1:
        return torch.randn(shape, generator=generator) * math.sqrt(shape[0] / shape.numel())
    return torch.rand(shape, generator=generator) + 0.5


def _agree(plain: nn.Module, lifted: nn.Module, inputs: tuple[Any, ...], *, finite: bool = True) -> bool:
    """Whether both compute the same. What differs is looked at in float64, where norms magnify no rounding errors."""
    if not _differ(plain, lifted, inputs, finite):
        return True
    wide = pytree.tree_map_only(Tensor, lambda x: x.double() if x.is_floating_point() else x, inputs)
    with contextlib.suppress(RuntimeError):  # code that insists on one type
        return not _differ(copy.deepcopy(plain).double(), copy.deepcopy(lifted).double(), wide, finite)
    return False


def _differ(plain: nn.Module, lifted: nn.Module, inputs: tuple[Any, ...], finite: bool) -> bool:
    for given in (inputs, pytree.tree_map_only(Tensor, lambda x: x[:1], inputs)):
        with torch.no_grad():
            try:
                # A backbone may write into its inputs.
                expected = pytree.tree_leaves(plain(*pytree.tree_map_only(Tensor, torch.clone, given)))
            except (RuntimeError, ValueError, IndexError, AssertionError) as error:
                if given is inputs and finite:
                    raise _SaysNothingError from error
                if given is inputs:
                    raise
                return False  # it does not take single samples
            if finite and not all(bool(torch.isfinite(x).all()) for x in expected):
                raise _SaysNothingError
            found = pytree.tree_leaves(lifted(*pytree.tree_leaves(given))[0])
        for a, b in zip(expected, found, strict=True):
            scale = float(a.abs().nan_to_num(0.0, 0.0).max())
            if a.shape != b.shape or not torch.allclose(a, b, rtol=1e-3, atol=1e-4 * scale, equal_nan=True):
                return True
    return False
