"""Random inputs of a static network, drawn from the values that its example inputs had when the network was gated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gate2static.static.manifest import TensorSpec

_LARGEST_STEP = 128
"""The most that free sizes grow by at once."""
_BEYOND = (1, 7, 63, 255)
"""How far integers go beyond an example that was full of one number, which says little about what is allowed."""
_LARGEST = 2**63 - 2
"""The largest integer that torch draws."""

_Draw = Callable[[TensorSpec, tuple[int, ...], torch.Generator], Tensor]
"""Spec, shape with the batch and generator -> a tensor of the spec's dtype."""


@dataclass(frozen=True)
class DrawnBatch:
    """Inputs to compare two networks on.

    Attributes:
        inputs: The inputs, batch first.
        is_certain: Whether all values lie where the examples' values lay. Others may be no inputs of the network: it
            may raise there, or compute what is not finite.
    """

    inputs: tuple[Tensor, ...]
    is_certain: bool = True


def draw_inputs(specs: Sequence[TensorSpec], batch_size: int, *, seed: int = 0, growth: int = 0) -> tuple[Tensor, ...]:
    """Draws inputs from the ranges of a static network's inputs.

    Args:
        specs: The inputs.
        batch_size: The number of samples.
        seed: The seed of the random numbers.
        growth: How much larger free sizes are than those of the examples, see `_grown`.

    Returns:
        The inputs, batch first. Numbers lie between the least and the largest value of the examples; where that is
        unknown, they are standard-normal, and integers are zero.
    """
    return _drawn(specs, batch_size, _inside, torch.Generator().manual_seed(seed), growth)


def comparison_batches(specs: Sequence[TensorSpec]) -> list[DrawnBatch]:
    """Draws the batches that two networks are compared on.

    Args:
        specs: The inputs of the networks.

    Returns:
        A batch of one sample and one of two, from different seeds. Then three samples at the ends of the ranges: both
        ends mixed, the lower one only, and the upper one only. Where an example of integers says little about its
        range, batches beyond it follow. Where sizes are free, samples of other sizes come last.
    """
    certain = [DrawnBatch(draw_inputs(specs, 1, seed=0)), DrawnBatch(draw_inputs(specs, 2, seed=1))]
    return [*certain, *uncertain_batches(specs, constant=True), *other_sizes(specs)]


def other_sizes(specs: Sequence[TensorSpec]) -> list[DrawnBatch]:
    """Draws batches of other sizes, where sizes are free; a network may not run at every size."""
    if not any(spec.dynamic for spec in specs):
        return []
    return [
        DrawnBatch(draw_inputs(specs, 1, seed=10 + growth, growth=growth), is_certain=False) for growth in (-1, 1, 2)
    ]


def uncertain_batches(specs: Sequence[TensorSpec], *, constant: bool) -> list[DrawnBatch]:
    """Draws batches that may be no inputs of the networks.

    Args:
        specs: The inputs of the networks.
        constant: Whether samples that are full of one number are among them, which networks that divide by a deviation
            may magnify rounding on.

    Returns:
        Samples at the ends of the ranges, and for integers whose range is one number, batches beyond it.
    """
    generator = torch.Generator().manual_seed(3)
    draws = (_mixed_ends, _lowest, _highest) if constant else (_mixed_ends,)
    # In one batch: alone, an image of one colour may leave rounding errors only, behind a norm.
    ends = [_drawn(specs, 1, draw, generator, 0) for draw in draws]
    edges = tuple(torch.cat(samples) for samples in zip(*ends, strict=True))
    batches = [DrawnBatch(edges, is_certain=False)]
    if any(_is_one_integer(spec) for spec in specs):
        for beyond in _BEYOND:
            wider = [_widened(spec, beyond) for spec in specs]
            batches.append(DrawnBatch(_drawn(wider, 2, _inside, generator, 0), is_certain=False))
    return batches


def _drawn(
    specs: Sequence[TensorSpec], batch_size: int, draw: _Draw, generator: torch.Generator, growth: int
) -> tuple[Tensor, ...]:
    inputs = []
    for spec in specs:
        shape = list(spec.shape)
        for number, dim in enumerate(spec.dynamic, 1):
            shape[dim] = _grown(shape[dim], growth, number)
        inputs.append(draw(spec, (batch_size, *shape), generator))
    return tuple(inputs)


def _grown(size: int, growth: int, number: int) -> int:
    """Returns a larger size.

    Args:
        size: The size that the example had, which the strides of the network divide.
        growth: The number of steps, each of the largest power of two in `size`, so that the strides still divide it; -1
            for an odd step, since code may halve a size, and round.
        number: The number of the dimension, which has its own steps.
    """
    step = 1 if growth < 0 else min(_LARGEST_STEP, size & -size)
    return size + abs(growth) * step * number


def _inside(spec: TensorSpec, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draws every number of the range alike."""
    dtype = _dtype(spec)
    if dtype.is_floating_point or dtype.is_complex:
        if not _is_range(spec):
            return torch.randn(shape, generator=generator).to(dtype)
        low, high = _ends(spec)
        return (low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)).to(dtype)
    low, high = _integers(spec)
    return torch.randint(low, high + 1, shape, generator=generator).to(dtype)


def _mixed_ends(spec: TensorSpec, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draws the least or the largest number, one by one."""
    is_high = torch.randint(2, shape, generator=generator) > 0
    return torch.where(is_high, _highest(spec, shape, generator), _lowest(spec, shape, generator))


def _lowest(spec: TensorSpec, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.full(shape, _ends(spec)[0], dtype=_dtype(spec))


def _highest(spec: TensorSpec, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.full(shape, _ends(spec)[1], dtype=_dtype(spec))


def _ends(spec: TensorSpec) -> tuple[float, float]:
    dtype = _dtype(spec)
    if dtype.is_complex or not _is_range(spec):
        # Ten times the deviation of standard-normal numbers resembles an image that was not normalised.
        return (-1.0, 10.0) if dtype.is_floating_point or dtype.is_complex else _integers(spec)
    if dtype.is_floating_point:
        largest = torch.finfo(dtype).max
        low, high = (min(max(float(end), -largest), largest) for end in spec.values or ())
        return low, high
    return _integers(spec)


def _is_range(spec: TensorSpec) -> bool:
    """Returns whether the example had different values."""
    return spec.values is not None and spec.values[0] < spec.values[1]


def _integers(spec: TensorSpec) -> tuple[int, int]:
    """Returns the range of an input of integers, which may come from a stranger's file."""
    low, high = (int(value) for value in spec.values or (0, 0))
    if _dtype(spec) is torch.bool:
        return max(low, 0), min(high, 1)
    limits = torch.iinfo(_dtype(spec))
    low = min(max(low, limits.min), limits.max)
    return low, max(low, min(high, limits.max, _LARGEST))


def _is_one_integer(spec: TensorSpec) -> bool:
    dtype = _dtype(spec)
    if dtype.is_floating_point or dtype.is_complex:
        return False
    low, high = _integers(spec)
    return low == high


def _widened(spec: TensorSpec, beyond: int) -> TensorSpec:
    """Returns the spec with a larger range, where the known one is a single integer."""
    if not _is_one_integer(spec):
        return spec
    low, high = _integers(spec)
    return spec.model_copy(update={"values": (0, 1) if spec.dtype == "bool" else (low, high + beyond)})


def _dtype(spec: TensorSpec) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, spec.dtype)
    return dtype
