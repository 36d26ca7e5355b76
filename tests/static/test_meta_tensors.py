"""Operators on tensors without content: shapes as torch's own operators have them."""

import pytest
import torch
from torch import nn

from gate2static.static.capturing.meta_tensors import META, run_without_content

OPERATORS = {
    nn.LSTM: torch.ops.aten.lstm.input,
    nn.GRU: torch.ops.aten.gru.input,
    nn.RNN: torch.ops.aten.rnn_tanh.input,
}


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("length", [1, 5])
def test_recurrent_layers_have_the_shapes_of_all_their_steps(
    kind: type[nn.RNNBase], batch_first: bool, directions: int, length: int
) -> None:
    layer = kind(4, 6, num_layers=2, batch_first=batch_first, bidirectional=directions == 2)
    sequences = torch.randn(3, length, 4) if batch_first else torch.randn(length, 3, 4)
    state = torch.zeros(2 * directions, 3, 6)
    states = (state, state) if kind is nn.LSTM else state
    args = (sequences, states, list(layer.parameters()), True, 2, 0.0, False, directions == 2, batch_first)
    expected = OPERATORS[kind](*args)
    results = run_without_content(OPERATORS[kind], args, {})
    assert [(x.shape, x.stride(), x.dtype) for x in results] == [(x.shape, x.stride(), x.dtype) for x in expected]
    assert all(x.device == META for x in results)
