"""The base of all architectures: streams of stages, and one head per task."""

import copy
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, Literal, Self

from torch import Tensor, nn

from gate2static.architectures.stages import Stages
from gate2static.arguments import require_kind
from gate2static.errors import ArchitectureError
from gate2static.graphs import copied

OptimiserKind = Literal["adam", "sgd"]
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
        # Copied together, so that what heads share stays shared.
        self.heads = copied(nn.ModuleDict(dict(heads.items())))
        self.names = dict(stages.names)
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

    def advance(self, progress: float) -> None:
        """Notes how far the training is, in front of a step; an architecture that trains in phases follows it.

        Args:
            progress: The share of the training that is done, in [0, 1).
        """

    def parameter_groups(self, optimiser: OptimiserKind) -> list[dict[str, Any]]:
        """Returns the parameters that train otherwise than all others, as groups of an optimiser.

        Args:
            optimiser: The optimiser's kind.

        Returns:
            Groups of `params`, with `rate_factor`, which is no option of torch: how many times the common learning rate
            they train with. Other keys are options of the optimiser, such as `weight_decay`.
        """
        return []

    def deployed(self) -> "Architecture":
        """Returns what is deployed: a copy without the parts that evaluation does not need."""
        return copy.deepcopy(self).eval()

    def load_streams(self, states: Mapping[str, Mapping[str, Tensor]]) -> Self:
        """Lets streams start from trained backbones.

        Args:
            states: Stream -> the backbone's `state_dict`, with every parameter and buffer of its stages.

        Raises:
            ArchitectureError: There is no such stream, or a state lacks something, or has it in another shape; nothing
                is loaded then.
        """
        allowed = "a dict from stream to a state dict"
        require_kind(states, Mapping, name="states", allowed=allowed, error=ArchitectureError)
        if unknown := [stream for stream in states if stream not in self.streams]:
            raise ArchitectureError(f"there is no stream {unknown[0]!r}; the streams are {', '.join(self.streams)}.")
        for stream, state in states.items():
            require_kind(
                state, Mapping, name=f"the state of stream {stream!r}", allowed="a state dict", error=ArchitectureError
            )
        # All are checked before any is loaded.
        fitting = {stream: self._fitting(stream, state) for stream, state in states.items()}
        for stream, of_stages in fitting.items():
            for stage, values in zip(self.streams[stream].children(), of_stages, strict=True):
                stage.load_state_dict(values, strict=False)
        return self

    def _fitting(self, stream: str, state: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Returns what each stage of a stream takes from a backbone's `state_dict`, by the stage's names."""
        of_stages = []
        for stage in self.streams[stream].children():
            wanted = {key: value for key, value in stage.state_dict().items() if key in self.names}
            for key, value in wanted.items():
                name = self.names[key]
                given = state.get(name)
                if not isinstance(given, Tensor) or given.shape != value.shape:
                    found = f"of shape {tuple(given.shape)}" if isinstance(given, Tensor) else "missing"
                    raise ArchitectureError(
                        f"the state of stream {stream!r} does not fit the backbone: {name} of shape "
                        f"{tuple(value.shape)} is {found}; give the `state_dict()` of the "
                        "backbone itself, whose names have no prefix."
                    )
            of_stages.append({key: state[self.names[key]] for key in wanted})
        return of_stages


def run(stages: nn.Module, values: Values) -> Values:
    """Returns what a chain of stages makes of some values."""
    for stage in stages.children():
        values = stage(*values)
    return values


def require_places(stages: Stages, name: str, verb: str) -> None:
    """Raises an ArchitectureError where the backbone is cut nowhere.

    Args:
        stages: The backbone in stages.
        name: The architecture's name.
        verb: What the architecture does behind a place.
    """
    if not stages.shapes:
        raise ArchitectureError(
            f"{name} {verb} behind places, and places is empty; leave it out, or name modules, such as "
            "places=['layer2']."
        )


def require_maps(stages: Stages, name: str) -> None:
    """Raises an ArchitectureError where a value between stages is no feature map, (C, H, W)."""
    kinds = zip(chain.from_iterable(stages.shapes), chain.from_iterable(stages.channel_dims), strict=True)
    for shape, dim in kinds:
        if len(shape) != 3 or dim != 0:
            last = ", whose channels are last" if len(shape) == 3 and dim == 2 else ""
            raise ArchitectureError(
                f"{name} needs feature maps between stages, (C, H, W), and this backbone has values of shape {shape} "
                f"per image{last}; use cross_stitch or smtl"
            )


class SideBySide(Architecture):
    """One stream per task, and a mixer behind every stage but the last, in which streams exchange their values.

    Attributes:
        mixers: One per place; each maps the values of one kind, one per task, to as many mixed ones. There is one such
            module for every value of a cut.

    Args:
        stages: The backbone in stages.
        heads: Task -> head.
        mixer: Makes a mixer for values of a shape, without the batch, given the dimension of its channels.
    """

    def __init__(
        self, stages: Stages, heads: Mapping[str, nn.Module], *, mixer: Callable[[tuple[int, ...], int], nn.Module]
    ) -> None:
        super().__init__(stages, heads, streams=tuple(heads))
        places = zip(stages.shapes, stages.channel_dims, strict=True)
        self.mixers = nn.ModuleList(_Place(list(map(mixer, shapes, dims))) for shapes, dims in places)

    def encode(self, tensors: Values) -> dict[str, Values]:
        """Runs the stages side by side, and mixes the streams behind each."""
        values: list[Values] = [tensors] * len(self.tasks)
        chains = [list(stages.children()) for stages in self.streams.values()]
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
