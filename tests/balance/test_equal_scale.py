"""At equal scale, the losses' weights add up to T, also where gradients are combined besides."""

import pytest
import torch
from torch import nn

import gate2static as g2s


def test_the_weights_of_imtl_add_up_to_the_number_of_tasks() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2, bias=False)
    balance = g2s.balance("imtl", model, tasks=["a", "b"], shared=model, scale="sum", lr=0.5)
    x = torch.randn(4, 3)
    for _ in range(3):
        y = model(x)
        balance.backward({"a": 50 * y[:, 0].square().mean(), "b": 0.1 * y[:, 1].square().mean()})
    assert float(balance._loss_weights(torch.ones(2)).sum()) == pytest.approx(2)
