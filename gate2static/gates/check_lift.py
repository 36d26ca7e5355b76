"""Checks that the lifted network computes what the backbone computes.

So a trace that fixed something that it should not have fixed is an error at once, and not a wrong result later.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gate2static.errors import TraceError
from gate2static.graphs import copied, copy_structure
from gate2static.program.calls import Example, call_of
from gate2static.program.refusals import refuse_written
from gate2static.program.structures import tensors_of


class InconclusiveError(Exception):
    """The comparison is impossible because the backbone raises or returns non-finite values."""


def check_lift(
    backbone: nn.Module, encoder: nn.Module, branches: Sequence[nn.Module], inputs: Sequence[Any] | Mapping[str, Any]
) -> None:
    """Checks that each stream gives what the backbone gives, as called and for one sample.

    All branches must still be equal to the backbone.

    Args:
        backbone: The backbone; it is not changed.
        encoder: The lifted network; it is not changed.
        branches: The copies of the backbone in the lifted network, with the backbone's names. A parameter that is one
            constant, such as a scale that starts at zero, would hide what it multiplies until training moves it. So it
            holds random numbers meanwhile, the same ones everywhere, unless the backbone computes no numbers with them.
        inputs: The backbone's arguments by position, or by name where they are a dict; batch first.

    Raises:
        TraceError: The lifted network computes something else.
    """
    # Forwards remember things in their modules, such as what they derive from parameters.
    plain = copied(backbone).train().eval()
    buffers = {name: buffer.clone() for name, buffer in plain.named_buffers()}
    lifted = copy_structure(encoder).train().eval()
    example = call_of(plain, inputs, "the backbone")
    try:
        with random_constants([plain, *branches]):
            is_same = _agree(plain, lifted, example)
    except InconclusiveError:
        is_same = _agree(plain.train().eval(), lifted.train().eval(), example, finite=False)
    refuse_written(plain, buffers)
    if not is_same:
        raise TraceError(
            "the traced backbone does not compute what the backbone computes; its forward probably depends on values "
            "or on a batch size that torch.fx fixes while tracing, writes into a view of a tensor that is read again, "
            "or is not deterministic in eval mode."
        )


@contextlib.contextmanager
def random_constants(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Lets parameters that are one constant hold random numbers, for as long as the context lasts.

    Args:
        networks: Networks whose parameters have the names of the first network's; all get the same numbers.
    """
    generator = torch.Generator().manual_seed(0)
    replaced: list[tuple[nn.Parameter, Tensor]] = []
    named = [dict(network.named_parameters(remove_duplicate=False)) for network in networks]
    try:
        with torch.no_grad():
            for name, parameter in networks[0].named_parameters():
                if not parameter.is_floating_point() or not parameter.numel():
                    continue
                constant = parameter[(0,) * parameter.dim()].clone()
                if not bool((parameter == constant).all()):
                    continue
                numbers = _random_like(parameter, generator)
                namesakes = [parameters[name] for parameters in named if name in parameters]
                for namesake in {id(p): p for p in namesakes}.values():
                    replaced.append((namesake, constant))
                    namesake.copy_(numbers)
        yield
    finally:
        with torch.no_grad():
            for parameter, constant in replaced:
                parameter.copy_(constant)


def _random_like(parameter: Tensor, generator: torch.Generator) -> Tensor:
    """Returns random numbers that a network computes well with.

    Args:
        parameter: A parameter; one of several dimensions is a weight, with the outputs along the first.
        generator: The generator to draw from.

    Returns:
        Weights that keep the scale of what they are multiplied with, or positive numbers around 1.
    """
    shape = parameter.shape
    if len(shape) > 1 and shape[0] > 1:
        return torch.randn(shape, generator=generator) * math.sqrt(shape[0] / shape.numel())
    return torch.rand(shape, generator=generator) + 0.5


def _agree(plain: nn.Module, lifted: nn.Module, example: Example, *, finite: bool = True) -> bool:
    """Returns whether two networks compute the same.

    Args:
        plain: The backbone.
        lifted: The lifted network.
        example: The call of the backbone.
        finite: Whether only finite results of the backbone are compared.

    Raises:
        InconclusiveError: `finite` is set, and the backbone raises or returns non-finite values.
    """
    if not _differ(plain, lifted, example, finite):
        return True
    # A norm that divides by almost nothing leaves only rounding errors in float32.
    call, inputs = example
    wide = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    with contextlib.suppress(RuntimeError):  # code that insists on one type
        return not _differ(copied(plain).double(), copied(lifted).double(), (call, wide), finite)
    return False


def _differ(plain: nn.Module, lifted: nn.Module, example: Example, finite: bool) -> bool:
    """Returns whether two networks differ on the inputs or on their first sample; see `_agree` for the arguments."""
    call, inputs = example
    one_sample = tuple(x[:1] for x in inputs)
    for arguments in (inputs, one_sample):
        with torch.no_grad():
            try:
                # A backbone may write into its inputs.
                args, named = call.arguments([x.clone() for x in arguments])
                expected = tensors_of(plain(*args, **named))
            except (RuntimeError, ValueError, IndexError, AssertionError) as error:
                if arguments is not inputs:
                    return False  # the backbone does not take single samples
                if finite:
                    raise InconclusiveError from error
                raise
            if finite and not all(bool(torch.isfinite(x).all()) for x in expected):
                raise InconclusiveError
            # All streams are equal, so the first task's stands for them.
            actual = tensors_of(lifted(*arguments)[0])
            if arguments is not inputs:
                # `squeeze()` removes the batch of a single sample, which the trace keeps.
                pairs = zip(expected, actual, strict=True)
                expected = [a.reshape(b.shape) if a.shape == b.squeeze().shape else a for a, b in pairs]
        if not all(_is_close(a, b) for a, b in zip(actual, expected, strict=True)):
            return True
    return False


def _is_close(actual: Tensor, expected: Tensor) -> bool:
    """Returns whether two results are equal but for rounding, relative to the largest number of the expected one."""
    if actual.shape != expected.shape:
        return False
    scale = float(expected.abs().nan_to_num(0.0, 0.0).max())
    return torch.allclose(expected, actual, rtol=1e-3, atol=1e-4 * scale, equal_nan=True)
