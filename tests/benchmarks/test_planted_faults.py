"""A small version of the benchmark that plants faults, and the faults it plants."""

import random

import pytest
import torch

from benchmarks.robustness import planted_faults
from gate2static.prune import prune


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.int64])
def test_every_planted_fault_is_noticed(dtype: torch.dtype) -> None:
    counts = planted_faults.count(dtype, 2, onnx=False)
    assert counts.networks == counts.noticed == 2
    assert not counts.refused_without_fault
    assert not counts.missed


def test_a_fault_changes_exactly_one_number() -> None:
    gated = planted_faults.make(1, torch.float32)
    right = prune(gated)
    for seed in range(8):
        wrong = prune(gated)
        planted_faults.plant(wrong, random.Random(seed))
        weights = zip(right.network.state_dict().values(), wrong.network.state_dict().values(), strict=True)
        numbers = sum(int((a != b).sum()) for a, b in weights)
        calls = zip(right.network.graph.nodes, wrong.network.graph.nodes, strict=True)
        arguments = sum(str(a.args) != str(b.args) for a, b in calls)
        assert numbers + arguments == 1
