"""Writer: channels are cut, gathered and put side by side with as few copies as it takes."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from gate2static.errors import PruneError
from gate2static.prune.emission.parts import Part, Parts
from gate2static.prune.emission.writer import Writer
from tests.prune.rules.toys import calls, make_value


class Channels:
    """Parts in which every channel holds nothing but its own number, so that a view says which channels it reads."""

    def __init__(self, *held: Sequence[int], dim: int = 1) -> None:
        self.writer = Writer()
        nodes = [self.writer.graph.placeholder(f"part{i}") for i in range(len(held))]
        self.parts = Parts(tuple(Part(node, np.array(ids)) for node, ids in zip(nodes, held, strict=True)), dim)
        sizes = [1] * 4
        sizes[dim] = -1
        self.tensors = [torch.tensor(ids).view(sizes) for ids in held]

    def view(self, *ids: int) -> fx.Node:
        return self.writer.view(self.parts, np.array(ids))

    def run(self, *results: fx.Node) -> tuple[list[list[int]], list[str]]:
        """Returns the channels that each result holds, and what was called for that."""
        self.writer.graph.output(results)
        network = fx.GraphModule(self.writer.root, self.writer.graph)
        tensors: tuple[Tensor, ...] = network(*self.tensors)
        return [tensor.flatten().tolist() for tensor in tensors], calls(network)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ((4, 0, 7), []),  # a part as it is
        ((0, 7), ["narrow"]),
        ((7, 4), ["index_select"]),
        ((4, 0, 7, 9, 3), ["cat"]),  # two parts, one behind the other
        ((3, 0, 7), ["narrow", "narrow", "cat"]),  # each part is read once
        ((4, 9, 0), ["cat", "index_select"]),  # parts alternate: side by side, then one gather
    ],
)
def test_channels_are_read_with_as_few_copies_as_it_takes(wanted: tuple[int, ...], expected: list[str]) -> None:
    channels = Channels([4, 0, 7], [9, 3])
    assert channels.run(channels.view(*wanted)) == ([list(wanted)], expected)


def test_the_same_cut_is_written_once() -> None:
    channels = Channels([4, 0, 7], [9, 3])
    views = [channels.view(*ids) for ids in ((0, 7), (7, 4), (0, 7), (7, 4))]
    assert channels.run(*views)[1] == ["narrow", "index_select"]


def test_a_channel_that_was_not_emitted_is_a_fault() -> None:
    with pytest.raises(PruneError, match="channel 5 is read and was not computed"):
        Channels([4, 0, 7]).view(4, 5)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ((4, 5, 6, 7, 0, 1, 2, 3), ["unflatten", "index_select", "flatten"]),  # groups of four as rows
        ((1, 3, 5), ["index_select"]),  # single numbers
        ((*range(9), *range(10, 19)), ["narrow", "narrow", "cat"]),  # long runs
    ],
)
def test_along_the_last_dimension_groups_and_long_runs_are_copied_in_one_piece(
    wanted: tuple[int, ...], expected: list[str]
) -> None:
    channels = Channels(range(20), dim=3)
    assert channels.run(channels.view(*wanted)) == ([list(wanted)], expected)


def test_groups_are_as_wide_as_the_tensor_and_all_runs_allow() -> None:
    channels = Channels(range(10), dim=3)
    rows = channels.view(4, 5, 6, 7, 0, 1, 2, 3)  # runs of four, but ten channels are no multiple of that
    assert channels.run(rows) == ([[4, 5, 6, 7, 0, 1, 2, 3]], ["unflatten", "index_select", "flatten"])


def test_one_tensor_put_side_by_side_is_that_tensor() -> None:
    channels = Channels([4, 0])
    node = channels.parts.parts[0].node
    assert channels.writer.concatenate([node], 1) is node


def test_constants_are_stored_by_number_and_trained_tensors_by_name() -> None:
    writer = Writer()
    nodes = [writer.constant(torch.zeros(2)), writer.parameter(torch.ones(3), "mixes.stem")]
    assert [node.target for node in nodes] == ["constant_0", "mixes.stem"]
    assert [name for name, _ in writer.root.named_parameters()] == ["mixes.stem"]
    assert [name for name, _ in writer.root.named_buffers()] == ["constant_0"]


def test_layers_that_are_called_alike_or_like_methods_of_torchs_get_free_names() -> None:
    writer = Writer()
    names = ["stem.a", "stem.a", "half.a", "stem.train", "half.b"]
    kept = [writer.keep_as(name, nn.Linear(1, 1)) for name in names]
    assert kept == ["stem.a", "stem.a_2", "half_.a", "stem.train_2", "half_.b"]


def test_a_whole_value_has_the_shape_that_the_users_code_gave_it() -> None:
    channels = Channels([2, 3, 0, 1], dim=2)
    heads = make_value((1, 2, 1, 2), (1, 3))  # (N, heads, L, C / heads), emitted as (N, L, C)
    channels.tensors = [torch.tensor([2, 3, 0, 1]).view(1, 1, 4)]
    whole = channels.writer.whole_value(heads, channels.parts, np.arange(4))
    channels.writer.graph.output(whole)
    result = fx.GraphModule(channels.writer.root, channels.writer.graph)(*channels.tensors)
    assert result.tolist() == [[[[0, 1]], [[2, 3]]]]
    opaque = Parts((Part("value", np.array([0])),), None)
    assert channels.writer.whole_value(make_value((1, 2), None), opaque, np.array([0])) == "value"
