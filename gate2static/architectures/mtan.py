"""MTAN: the multi-task attention network (Liu et al. 2019), for any backbone with feature maps."""

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gate2static.architectures.architecture import Architecture, Values, require_maps
from gate2static.architectures.stages import Stages
from gate2static.errors import ArchitectureError
from gate2static.messages import brief

_REDUCTION = 4
"""The attention's middle layer has this many times fewer channels than the stage."""


class MTAN(Architecture):
    """One shared trunk; each task attends to its features behind every stage.

    With p the trunk before a stage's last block and u behind it, task t has

        mask_t = σ(BN(1×1(ReLU(BN(1×1([p; a_(t, previous)]))))))  and  a_t = mask_t ∘ u.

    A block that all tasks share brings a_t to the next stage's channels, and a maximum pool to its size. Heads read the
    last a_t; what the backbone returns of earlier stages is the trunk's.

    Args:
        stages: The backbone, cut before the last block of every stage and behind it (`split_for_attention`).
        heads: Task -> head.
    """

    def __init__(self, stages: Stages, heads: Mapping[str, nn.Module]) -> None:
        require_maps(stages, "mtan")
        if any(len(shapes) != 1 for shapes in stages.shapes):
            raise ArchitectureError("mtan needs one feature map behind every stage; use cross_stitch or nddr")
        super().__init__(stages, heads, streams=("trunk",))
        shapes = [shape for (shape,) in stages.shapes]
        if not shapes or len(shapes) % 2 or shapes[0::2] != shapes[1::2]:
            raise ArchitectureError(
                "mtan needs places in pairs of one shape, before a stage's last block and behind it, and found values "
                f"of the shapes {brief(repr(shapes), 200)}; leave places out, or give such pairs."
            )
        ends = shapes[1::2]
        self.attention = nn.ModuleList(
            nn.ModuleDict({task: _attention(shape[0], has_previous=k > 0) for task in heads})
            for k, shape in enumerate(ends)
        )
        self.refinement = nn.ModuleList(_refinement(a, b) for a, b in pairwise(ends))

    def encode(self, tensors: Values) -> dict[str, Values]:
        """Runs the trunk once, and every task's attention along it."""
        *chain, rest = self.streams["trunk"].children()
        attended: dict[str, Tensor] = {}
        returned: list[Tensor] = []
        values = tensors
        for k, attention in enumerate(self.attention):
            before, *_ = values = chain[2 * k](*values)
            behind, *returned = values = chain[2 * k + 1](*values)
            assert isinstance(attention, nn.ModuleDict)
            for task in self.tasks:
                seen = torch.cat([before, self.refinement[k - 1](attended[task])], dim=1) if k else before
                attended[task] = attention[task](seen) * behind
        return {task: rest(value, *returned) for task, value in attended.items()}


def _attention(width: int, *, has_previous: bool) -> nn.Module:
    middle = max(1, width // _REDUCTION)
    return nn.Sequential(
        nn.Conv2d(2 * width if has_previous else width, middle, 1),
        nn.BatchNorm2d(middle),
        nn.ReLU(),
        nn.Conv2d(middle, width, 1),
        nn.BatchNorm2d(width),
        nn.Sigmoid(),
    )


def _refinement(this: tuple[int, ...], following: tuple[int, ...]) -> nn.Module:
    """Returns the block, and the pool, from one stage's shape to that of the next."""
    block = _Bottleneck(this[0], following[0])
    stride = tuple(max(1, round(a / b)) for a, b in zip(this[1:], following[1:], strict=True))
    if stride == (1, 1):
        return block
    return nn.Sequential(block, nn.MaxPool2d(stride, stride, ceil_mode=any(a % b for a, b in _sizes(this, following))))


def _sizes(this: tuple[int, ...], following: tuple[int, ...]) -> list[tuple[int, int]]:
    return list(zip(this[1:], following[1:], strict=True))


class _Bottleneck(nn.Module):
    """A ResNet's bottleneck block with a projection, as in the ResNet form of the official code."""

    def __init__(self, taken: int, given: int) -> None:
        super().__init__()
        middle = max(1, given // _REDUCTION)
        self.body = nn.Sequential(
            nn.Conv2d(taken, middle, 1, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(),
            nn.Conv2d(middle, middle, 3, padding=1, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(),
            nn.Conv2d(middle, given, 1, bias=False),
            nn.BatchNorm2d(given),
        )
        self.projection = nn.Sequential(nn.Conv2d(taken, given, 1, bias=False), nn.BatchNorm2d(given))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.projection(x))
