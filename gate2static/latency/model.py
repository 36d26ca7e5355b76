"""Latency models, which predict what a network's operators cost."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from gate2static.latency.operators import Operator, record

Precision = Literal["fp32", "fp16", "int8"]
"""What a deployed network computes in."""


@dataclass(frozen=True, kw_only=True)
class OperatorCost:
    """The predicted cost of one operator.

    Attributes:
        operator: The name of the operator in torch or of its kernel, such as "convolution".
        shapes: The shapes of what it reads and writes, for people.
        ms: The time in ms; 0 where the backend runs it as a part of another operator.
        macs: The multiply-accumulates.
        note: Why it costs what it does, such as "fused".
    """

    operator: str
    shapes: str
    ms: float
    macs: int = 0
    note: str = ""


class LatencyModel(ABC):
    """Predicts latencies on one device and backend.

    Attributes:
        name: The name of the device and backend.
        estimated: True for a roofline from a data sheet, False for a table measured on the device.
    """

    name: str
    estimated: bool

    @abstractmethod
    def at(self, precision: Precision) -> "LatencyModel":
        """Returns the model for networks that compute in a precision, whatever they are stored in.

        Raises:
            BenchError: The model knows another precision only.
        """

    @abstractmethod
    def costs(self, operators: Sequence[Operator]) -> tuple[OperatorCost, ...]:
        """Returns the costs of the operators of one forward pass, and of the pass besides; they add up."""

    def breakdown(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[OperatorCost, ...]:
        """Returns the cost of each operator of `network(*inputs)` without computing anything.

        Args:
            network: Any module in evaluation mode.
            inputs: The network's inputs, batch first; real or fake tensors.

        Raises:
            BenchError: The network does not run on these inputs, or has a layer that the model knows nothing of.
        """
        return self.costs(record(network, inputs))

    def predict_ms(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> float:
        """Returns the latency in ms of one forward pass at the batch size of the inputs, without computing anything.

        Args:
            network: Any module in evaluation mode. What is deployed of a static network is `static.deployed()`.
            inputs: The network's inputs, batch first; real or fake tensors.

        Raises:
            BenchError: The network does not run on these inputs, or has a layer that the model knows nothing of.
        """
        return sum(cost.ms for cost in self.breakdown(network, inputs))


def described(operator: Operator) -> str:
    """Returns the shapes of what an operator reads (apart from weights) and writes, for people."""
    read = " ".join(_text(value.shape) for value in operator.inputs if not value.is_constant)
    written = " ".join(_text(value.shape) for value in operator.outputs)
    return f"{read} → {written}"


def _text(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))
