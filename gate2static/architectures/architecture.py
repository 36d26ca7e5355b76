"""The base of all architectures: streams of stages, and one head per task."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from torch import Tensor, nn

from gate2static.architectures.stages import Stages
from gate2static.errors import ArchitectureError

Values = Sequence[Tensor]
"""The values of one stream at a cut."""


class Architecture(nn.Module):
    """A multi-task network made of copies of a backbone, called like the backbone.

    Attributes:
        tasks: The tasks, T at least 2.
        streams: Stream -> its stages.
        heads: Task -> head.

    Args:
        stages: The backbone in stages.
        heads: Task -> module that is called on what the backbone returns.
        streams: The names of the streams; each has its own copy of the stages.

    Raises:
        ArchitectureError: There are fewer than two tasks.
    """

    def __init__(self, stages: Stages, heads: Mapping[str, nn.Module], *, streams: Sequence[str]) -> None:
        super().__init__()
        if len(heads) < 2:
            raise ArchitectureError(f"an architecture joins tasks, and there is {len(heads)}; give two at least.")
        self.tasks = tuple(heads)
        self.streams = nn.ModuleDict({name: stages.copy() for name in streams})
        self.heads = nn.ModuleDict({task: copy.deepcopy(head) for task, head in heads.items()})
        self.call = stages.call
        self.structure = stages.structure

    def forward(self, *inputs: Any, **named: Any) -> dict[str, Any]:
        """Computes the output of every task's head.

        Args:
            inputs: The backbone's arguments by position, batch first.
            named: The backbone's arguments by name.

        Returns:
            Task -> what its head returns.
        """
        return self.outputs(self.call.tensors(inputs, named))

    def outputs(self, tensors: Values) -> dict[str, Any]:
        """Returns the output of every head.

        Args:
            tensors: The tensors of the backbone's inputs, in order.
        """
        features = self.encode(tensors)
        return {task: self.heads[task](self.structure.build(features[task])) for task in self.tasks}

    def encode(self, tensors: Values) -> dict[str, Values]:
        """Returns the tensors that every task's head reads, by task.

        Args:
            tensors: The tensors of the backbone's inputs, in order.
        """
        raise NotImplementedError

    def penalty(self) -> Tensor | None:
        """Returns a term that the architecture adds to the loss, a scalar; None without."""
        return None

    def deployed(self) -> "Architecture":
        """Returns what is deployed: a copy without the parts that evaluation does not need."""
        return copy.deepcopy(self).eval()

    def load_streams(self, states: Mapping[str, Mapping[str, Tensor]]) -> Self:
        """Lets streams start from trained backbones.

        Args:
            states: Stream -> the backbone's `state_dict`; keys are the backbone's own, whichever stage has them.
        """
        for stream, state in states.items():
            for stage in self.streams[stream].children():
                own = stage.state_dict()
                stage.load_state_dict({key: state[key] for key in own if key in state}, strict=False)
        return self


def run(stages: nn.Module, values: Values) -> Values:
    """Returns what a chain of stages makes of some values."""
    for stage in stages.children():
        values = stage(*values)
    return values


def channel_view(weight: Tensor, ndim: int) -> Tensor:
    """Returns numbers of channels, (C,), lined up with a value of `ndim` dimensions, the batch included.

    Images have their channels behind the batch; tokens have them last.
    """
    return weight.view(-1, *[1] * (ndim - 2)) if ndim > 3 else weight


def channels(shape: Sequence[int]) -> int:
    """Returns the number of channels of a value, given its shape without the batch."""
    return shape[0] if len(shape) > 2 else shape[-1]


def require_maps(stages: Stages, name: str) -> None:
    """Raises an ArchitectureError where a value between stages is no feature map, (C, H, W)."""
    for shape in (shape for shapes in stages.shapes for shape in shapes):
        if len(shape) != 3:
            raise ArchitectureError(
                f"{name} needs feature maps between stages, and this backbone has values of shape {shape} per image; "
                "use cross_stitch or smtl"
            )


class SideBySide(Architecture):
    """One stream per task, and a mixer behind every stage but the last, in which streams exchange their values.

    Attributes:
        mixers: One per place; each maps the values of one kind, one per task, to as many mixed ones. There is one such
            module for every value of a cut.

    Args:
        stages: The backbone in stages.
        heads: Task -> head.
        mixer: Makes a mixer for values of a shape, without the batch.
    """

    def __init__(
        self, stages: Stages, heads: Mapping[str, nn.Module], *, mixer: Callable[[tuple[int, ...]], nn.Module]
    ) -> None:
        super().__init__(stages, heads, streams=tuple(heads))
        self.mixers = nn.ModuleList(_Place([mixer(shape) for shape in shapes]) for shapes in stages.shapes)

    def encode(self, tensors: Values) -> dict[str, Values]:
        """Runs the stages side by side, and mixes the streams behind each."""
        values: list[Values] = [tensors] * len(self.tasks)
        chains = [list(chain.children()) for chain in self.streams.values()]
        for number, stage_of_streams in enumerate(zip(*chains, strict=True)):
            values = [stage(*value) for stage, value in zip(stage_of_streams, values, strict=True)]
            if number < len(self.mixers):
                values = self.mixers[number](values)
        return dict(zip(self.tasks, values, strict=True))


class _Place(nn.Module):
    """The mixers of one place, one for every value that crosses it."""

    def __init__(self, mixers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.mixers = nn.ModuleList(mixers)

    def forward(self, streams: Sequence[Values]) -> list[Values]:
        by_value = zip(*streams, strict=True)
        # Values behind those with a mixer are passed on.
        mixed = [mixer(*values) for mixer, values in zip(self.mixers, by_value, strict=False)]
        passed = [list(values)[len(self.mixers) :] for values in streams]
        return [[*values, *rest] for values, rest in zip(zip(*mixed, strict=True), passed, strict=True)]
