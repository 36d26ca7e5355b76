"""The kernels that a backend makes of a network's operators: fused, reordered, in blocks."""

import pytest
import torch
from torch import Tensor, nn

from gate2static.latency.kernel_kinds import kernel_of
from gate2static.latency.kernels import lower
from gate2static.latency.operators import record


class Between(nn.Module):
    """Two convolutions with something between them."""

    def __init__(self, between: nn.Module, channels: int = 32) -> None:
        super().__init__()
        self.first, self.between, self.last = (
            nn.Conv2d(3, channels, 3, padding=1),
            between,
            nn.Conv2d(channels, 16, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x)))


class ReadTwice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) * x


class Adds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 1), nn.Conv2d(3, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.a(x) + self.b(x))


def kinds(network: nn.Module, backend: str = "onnxruntime") -> list[list[str]]:
    steps = lower(record(network, (torch.ones(1, 3, 8, 8),)), backend)
    return [[kernel.kind for kernel in step.kernels] for step in steps]


def test_an_activation_that_alone_reads_a_convolution_costs_nothing() -> None:
    assert kinds(Between(nn.ReLU())) == [["convolution 3×3/1"], [], ["convolution 1×1/1"]]


def test_an_activation_costs_where_somebody_else_reads_the_convolution_too() -> None:
    assert kinds(Between(ReadTwice())) == [["convolution 3×3/1"], ["relu"], ["multiply"], ["convolution 1×1/1"]]


def test_an_addition_and_the_activation_after_it_cost_nothing() -> None:
    assert kinds(Adds()) == [["convolution 1×1/1"], ["convolution 1×1/1"], [], []]


def test_eager_torch_runs_everything() -> None:
    assert kinds(Adds(), "torch") == [["convolution 1×1/1"]] * 2 + [["add"], ["relu"]]


def test_what_leaves_and_enters_blocks_of_channels_is_reordered() -> None:
    class Picks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, 1:]

    network = Between(Picks())
    network.last = nn.Conv2d(31, 16, 1)
    assert kinds(network) == [["convolution 3×3/1"], ["slice", "reorder"], ["convolution 1×1/1", "reorder"]]
    assert all("reorder" not in step for step in kinds(network, "openvino"))


def test_a_tensor_is_reordered_once_however_many_read_it() -> None:
    class PicksTwice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x[:, 1:9], x[:, 3:11], x[:, :16]], 1)

    network = Between(PicksTwice())
    assert [kernel for step in kinds(network) for kernel in step].count("reorder") == 2


def test_a_concatenation_of_whole_blocks_stays_in_blocks() -> None:
    class Joins(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, channels, 1), nn.Conv2d(3, channels, 1)
            self.c = nn.Conv2d(2 * channels, 16, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(torch.cat([self.a(x), self.b(x)], 1))

    assert [kernel for step in kinds(Joins(16)) for kernel in step].count("reorder") == 0
    assert [kernel for step in kinds(Joins(8)) for kernel in step].count("reorder") == 3


def test_convolutions_are_looked_up_in_whole_blocks() -> None:
    [step] = lower(record(nn.Conv2d(17, 17, 3, padding=1), (torch.ones(1, 17, 8, 8),)), "onnxruntime")
    assert step.kernels[0].sizes == (64, 20, 32)
    assert kernel_of(step.operator).sizes == (64, 17, 17)


@pytest.mark.parametrize(("channels", "parts"), [(64, [64]), (80, [64, 16]), (170, [128, 48])])
def test_a_convolution_is_four_blocks_at_a_time_and_what_is_left(channels: int, parts: list[int]) -> None:
    [step] = lower(record(nn.Conv2d(16, channels, 1), (torch.ones(1, 16, 8, 8),)), "onnxruntime")
    found = [kernel.sizes for kernel in step.kernels if kernel.kind == "convolution 1×1/1"]
    assert found == [(64, 16, part) for part in parts]


@pytest.mark.parametrize("channels", [8, 1])
def test_depthwise_convolutions_have_a_kind_of_their_own(channels: int) -> None:
    layer = nn.Conv2d(channels, channels, 5, stride=2, padding=2, groups=channels)
    [operator] = record(layer, (torch.ones(1, channels, 8, 8),))
    assert kernel_of(operator).kind == "depth-wise convolution 5×5/2"
    assert kernel_of(operator).sizes == (16, channels)


def test_copies_are_counted_by_their_pieces() -> None:
    class Gathers(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.index_select(self.dim, torch.tensor([2, 0]))

    network = Gathers()
    sizes = []
    for network.dim in (1, 3):
        [operator] = record(network, (torch.ones(1, 3, 8, 8),))
        sizes.append(kernel_of(operator).sizes)
    assert sizes == [(2, 8 * 8 * 4), (3 * 8 * 2, 4)]


class Transposed(nn.Module):
    """A linear layer along the channels of an image."""

    def __init__(self, *, swap: tuple[int, int] = (1, 2), read_twice: bool = False) -> None:
        super().__init__()
        self.linear, self.swap, self.read_twice = nn.Linear(3, 5, bias=False), swap, read_twice

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        rows = x.flatten(2).transpose(*self.swap)
        product = self.linear(rows if self.swap == (1, 2) else rows.reshape(-1, 3))
        return (product, rows.relu()) if self.read_twice else (product,)


class Turned(nn.Module):
    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims or (2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(*self.dims)


def test_products_of_onnx_runtime_read_transposed_operands_for_nothing() -> None:
    assert kinds(Transposed()) == [[], ["linear"]]
    assert kinds(Transposed(), "openvino") == [["transpose"], ["linear"]]
    assert kinds(Transposed(read_twice=True)) == [["transpose"], ["linear"], ["relu"]]
    assert kinds(Transposed(swap=(0, 1)))[0] == ["transpose"]
    assert kinds(Turned()) == [["transpose"]]
    flat = nn.Sequential(nn.Flatten(2), Turned(1, 2), nn.Flatten(1), nn.Linear(192, 5, bias=False))
    assert kinds(flat)[0] == ["transpose"]
