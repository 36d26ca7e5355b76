"""The parameters that tasks share, whose `.grad` a method writes."""

from collections.abc import Sequence

from torch import Tensor, nn


class SharedParameters:
    """The shared parameters of a network.

    Attributes:
        parameters: The parameters.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = list(parameters)

    @property
    def last(self) -> nn.Parameter:
        """The weight of the last shared layer, in the order of the parameters."""
        layers = [parameter for parameter in self.parameters if parameter.ndim > 1]
        return layers[-1] if layers else self.parameters[-1]

    def take(self) -> list[Tensor | None]:
        """Returns the parameters' gradients, and leaves none."""
        gradients = [parameter.grad for parameter in self.parameters]
        for parameter in self.parameters:
            parameter.grad = None
        return gradients

    def add(self, gradients: Sequence[Tensor | None]) -> None:
        """Adds gradients to the parameters' own."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def add_row(self, row: Tensor, *, reached: Sequence[bool]) -> None:
        """Adds a direction to the parameters' gradients.

        Args:
            row: The direction, (all shared parameters,).
            reached: Whether some task has a gradient, by parameter. The others get none, and not zeros, which an
                optimiser with weight decay would take as a reason to shrink them.
        """
        parts = row.split([parameter.numel() for parameter in self.parameters])
        whole = zip(self.parameters, parts, reached, strict=True)
        self.add([part.view_as(p).to(p) if is_reached else None for p, part, is_reached in whole])
