"""A forward may decide on sizes that are the same for every batch."""

import contextlib
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gate2static.errors import TraceError
from gate2static.prune import prune
from gate2static.verify import verify
from tests.program.tracing import called, gated, traced

IMAGES = torch.randn(2, 3, 6, 8)


class Sizes(nn.Module):
    """Every way to read a size that Python knows."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        assert x.dim() == 4, f"images wanted, found {x.shape}"
        torch._assert(x.shape[1] == 3, "three channels wanted")
        if x.shape[2] % 4 or len(x.shape) != 4:
            x = F.pad(x, (0, 0, 0, 4 - int(x.size(2)) % 4))
        for i in range(x.shape[1]):
            x = self.layers[i](x)
        for part in x.split(4, 3):
            x = x + part.mean() * float(part.size(3))
        batch, channels, *_ = x.shape
        rest = torch.zeros(batch, channels, 1, 1, device=x.device)
        return torch.cat([*x.unbind(1), *(rest + x).unbind(1)], 0).reshape(batch, -1, len(x[0]))[:, : x.shape[2]]


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_sizes_decide_as_they_do_outside_the_trace(batch: int) -> None:
    module = Sizes().eval()
    network = traced(module, IMAGES)
    x = torch.randn(batch, 3, 6, 8)
    torch.testing.assert_close(network(x), module(x))
    assert not any("assert" in name for name in called(network))


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if len(x) > 2 else self.conv(x) * 2


class BranchesOnValues(Branches):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.sum() > 2 else self.conv(x) * 2


class LoopsOverTheBatch(Branches):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.conv(image[None])[0] for image in x])


class HalfTheBatch(Branches):
    def forward(self, x: Tensor) -> Tensor:
        half = int(x.shape[0] / 2)
        return self.conv(x[:half])


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Branches(), r"depends on the batch size \(False and True for batches of 2 and 3\).*if len\(x\) > 2 else"),
        (LoopsOverTheBatch(), r"depends on the batch size \(2 and 3 .*torch.stack"),
        (nn.Sequential(LoopsOverTheBatch()), r"depends on the batch size \(2 and 3 .*torch.stack"),
        (nn.Sequential(HalfTheBatch()), r"depends on the batch size \(1.0 and 1.5 .*half = int\("),
        (BranchesOnValues(), "cannot be used as inputs to control flow.*if x.sum"),
        (nn.Sequential(BranchesOnValues()), "cannot be used as inputs to control flow.*if x.sum"),
    ],
)
def test_what_depends_on_the_batch_or_on_values_is_refused_with_its_line(module: nn.Module, reason: str) -> None:
    with pytest.raises(TraceError, match=reason):
        gated(module, IMAGES)


class Windows(Branches):
    """Cuts into windows, and reads from them how many images they are of, as published transformers do."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = int(x.shape[2]), int(x.size(3))
        assert isinstance(height, int)
        assert type(width) in (int, float)
        windows = x.view(int(x.shape[0]), 3, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
        windows = self.conv(windows.reshape(-1, 3, 2, 2))
        count = int(windows.shape[0])
        assert len((height, width)) == 2
        batch = int(count / (height * width / 2 / 2))
        return windows.reshape(len(windows), -1).view(batch, -1, 4, 2, 2).mean(1)


@pytest.mark.parametrize("wrap", [lambda module: module, nn.Sequential])
def test_an_integer_that_counts_samples_follows_the_batch(wrap: Callable[[nn.Module], nn.Module]) -> None:
    module = wrap(Windows().eval())
    network = traced(module, IMAGES)
    for batch in (1, 5):
        x = torch.randn(batch, 3, 6, 8)
        torch.testing.assert_close(network(x), module(x))
    assert not {"int", "len"} & globals().keys()
    model = gated(module, IMAGES)
    assert [unit.name.endswith("conv") for unit in model.program.units] == [True]
    assert verify(model, prune(model)).passed


def test_tracing_leaves_torch_as_it_was() -> None:
    before = {name: getattr(torch, name) for name in ("zeros", "ones", "empty", "rand", "randn")}
    for module in (Sizes(), Branches()):
        with contextlib.suppress(TraceError):
            traced(module, IMAGES)
    assert all(getattr(torch, name) is function for name, function in before.items())


class OneIsSpecial(Branches):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.shape[0] > 1 else self.conv(x) * 2


def test_a_forward_that_treats_single_samples_differently_is_refused() -> None:
    with pytest.raises(TraceError, match="on a batch size that torch.fx fixes while tracing"):
        gated(OneIsSpecial(), IMAGES)


SIZES_AS_NUMBERS: dict[str, Callable[[Tensor], Tensor]] = {
    "torch.tensor": lambda y: y / torch.sqrt(torch.tensor(y.shape[1]).float()),
    "torch.tensor of several": lambda y: y * torch.tensor([y.shape[2], y.shape[3]], dtype=y.dtype, device=y.device)[1],
    "torch.as_tensor": lambda y: y / torch.as_tensor(y.shape[1:])[0],
    "np.sqrt": lambda y: y / np.sqrt(y.shape[1]),
    "np.prod": lambda y: y / np.prod(y.shape[1:]),
    "np.array": lambda y: y / torch.from_numpy(np.array([y.shape[1]], dtype=np.float32)),
    "np.linspace": lambda y: y + torch.tensor(np.linspace(0, 1, y.shape[3]), dtype=y.dtype),
    "math.prod": lambda y: y / math.prod(y.shape[1:]),
    "math.log": lambda y: y * math.log(y.shape[1], 2),
    "math.ceil": lambda y: y * math.ceil(y.shape[1] / 5),
    "round": lambda y: y * round(y.shape[3] / 3) * round(y.shape[3] / 3, 1),
    "divmod": lambda y: y * divmod(y.shape[3], 5)[1],
    "a name": lambda y: y * {"of8": 2.0, "of6": 3.0}[f"of{y.shape[3]}"],
    "a key": lambda y: y * {8: 2.0, 6: 3.0}[int(y.shape[3])],
}


class UsesSizes(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.use = SIZES_AS_NUMBERS[name]

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.use(self.first(x)))


@pytest.mark.parametrize("name", SIZES_AS_NUMBERS)
def test_sizes_may_become_numbers_of_torch_numpy_and_python(name: str) -> None:
    """Used to end in "`__cuda_array_interface__` must be a dict" and the like."""
    module = UsesSizes(name).eval()
    network = traced(module, IMAGES)
    for x in (IMAGES, torch.randn(5, 3, 6, 8)):
        torch.testing.assert_close(network(x), module(x))
    model = gated(module, IMAGES).eval()
    assert verify(model, prune(model)).passed


@pytest.mark.parametrize("use", [lambda y: y / torch.tensor(y.shape[0]), lambda y: y / np.sqrt(y.shape[0])])
def test_the_batch_size_is_no_number(use: Callable[[Tensor], Tensor]) -> None:
    module = UsesSizes("round")
    module.use = use
    with pytest.raises(TraceError, match=r"depends on the batch size .*test_known_values.py"):
        traced(module, IMAGES)


def test_a_size_as_a_key_is_explained() -> None:
    module = UsesSizes("round")
    module.use = lambda y: y * {8: 2.0}[y.shape[3]]
    with pytest.raises(TraceError, match=r"a size is a key; write `int\(size\)`"):
        traced(module, IMAGES)
