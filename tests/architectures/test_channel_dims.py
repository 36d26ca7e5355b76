"""Where the channels of values lie, and that mixers weigh channels and not rows of an image."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import gate2static as g2s
from gate2static.architectures import architecture, as_gated, split
from gate2static.errors import ArchitectureError

X = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(0))


class ChannelsLast(nn.Module):
    """Blocks of linear layers on (N, H, W, C), as in Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.norm = nn.LayerNorm(8)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.joined = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x).permute(0, 2, 3, 1))
        n, h, w, c = x.shape
        windows = x.view(n, h // 2, 2, w, c).transpose(1, 2).contiguous()
        x = self.joined(self.first(windows).transpose(1, 2).reshape(n, h, w, c) + x)
        return (x + torch.relu(self.second(x))).movedim(-1, 1)


def both(width: int) -> dict[str, nn.Module]:
    return {"a": nn.Conv2d(width, 1, 1), "b": nn.Conv2d(width, 2, 1)}


def test_channels_last_are_found_and_mixed_as_channels() -> None:
    stages = split(ChannelsLast(), (X,), ["stem", "norm", "joined"])
    assert stages.shapes == (((8, 6, 5),), ((6, 5, 8),), ((6, 5, 8),))
    assert stages.channel_dims == ((0,), (2,), (2,))
    network = architecture("cross_stitch", ChannelsLast(), heads=both(8), example_inputs=(X,), places=["stem", "norm"])
    first, last = (place.mixers[0] for place in network.mixers)  # type: ignore[union-attr, operator]
    value = torch.randn(2, 6, 5, 8)
    with torch.no_grad():
        last.weight.copy_(torch.rand(2, 2, 8))
        expected = last.weight[0, 0] * value + last.weight[0, 1] * (2 * value)
        torch.testing.assert_close(last(value, 2 * value)[0], expected)
    assert first.weight.shape == last.weight.shape == (2, 2, 8)
    gated = as_gated(network, (X,))
    assert g2s.verify(gated, g2s.prune(gated)).passed


@pytest.mark.parametrize("name", ["nddr", "mtan"])
def test_channels_last_are_refused_where_maps_are_needed(name: str) -> None:
    with pytest.raises(
        ArchitectureError, match=rf"{name} needs feature maps .* \(6, 5, 8\) .* whose channels are last"
    ):
        architecture(name, ChannelsLast(), heads=both(8), example_inputs=(X,), places=["norm", "joined"])


class Moved(nn.Module):
    """A convolution, and what a function makes of it in front of the cut."""

    def __init__(self, move: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 7, 1)
        self.move = move
        self.end = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.move(self.conv(x))) + 1


MOVES: list[tuple[Callable[[Tensor], Tensor], tuple[int, ...], int]] = [
    (lambda x: x.relu(), (7, 6, 5), 0),
    (lambda x: x.permute(0, 2, 3, 1), (6, 5, 7), 2),
    (lambda x: torch.permute(x, dims=(0, 3, 1, 2)), (5, 7, 6), 1),
    (lambda x: x.transpose(1, -1), (5, 6, 7), 2),
    (lambda x: x.flatten(2), (7, 30), 0),
    (lambda x: x.flatten(2).transpose(1, 2), (30, 7), 1),
    (lambda x: x.mean((2, 3)), (7,), 0),
]


@pytest.mark.parametrize(("move", "shape", "dim"), MOVES)
def test_channels_go_along_with_what_moves_them(
    move: Callable[[Tensor], Tensor], shape: tuple[int, ...], dim: int
) -> None:
    stages = split(Moved(move), (X,), ["end"])
    assert stages.shapes == ((shape,),)
    assert stages.channel_dims == ((dim,),)
