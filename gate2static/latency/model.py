"""What predicts a network's latency."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from gate2static.latency.operators import Operator, record


@dataclass(frozen=True, kw_only=True)
class OperatorCost:
    """What one operator is predicted to cost.

    Attributes:
        operator: torch's name, such as "convolution".
        shapes: of what it reads and writes, in words.
        ms: 0 where the backend runs it as a part of another operator.
        note: why it costs what it does, such as "fused".
    """

    operator: str
    shapes: str
    ms: float
    macs: int = 0
    note: str = ""


class LatencyModel(ABC):
    """Predicts latencies of one device and backend.

    Attributes:
        name: of the device and backend.
        estimated: True for a roofline from a data sheet, False for a table measured on the device.
    """

    name: str
    estimated: bool

    @abstractmethod
    def costs(self, operators: Sequence[Operator]) -> tuple[OperatorCost, ...]:
        """What each operator of one forward pass costs, and what the pass costs besides; they add up."""

    def breakdown(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[OperatorCost, ...]:
        """What each operator of `network(*inputs)` costs; nothing is computed.

        Raises:
            BenchError: the network does not run on these inputs, or has a layer that the model knows nothing of.
        """
        return self.costs(record(network, inputs))

    def predict_ms(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> float:
        """Latency in ms of one forward pass at the batch size of these inputs; nothing is computed.

        Args:
            network: any module in evaluation mode; what is deployed is `static.deployed()`.
            inputs: batch first, real or fake tensors.

        Raises:
            BenchError: the network does not run on these inputs, or has a layer that the model knows nothing of.
        """
        return sum(cost.ms for cost in self.breakdown(network, inputs))


def described(operator: Operator) -> str:
    """Shapes of what an operator reads (weights apart) and writes."""
    read = " ".join("×".join(map(str, v.shape)) for v in operator.inputs if not v.is_constant)
    return f"{read} → {' '.join('×'.join(map(str, v.shape)) for v in operator.outputs)}"
