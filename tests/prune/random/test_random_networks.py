"""Random networks with random gates: the pruned one computes the same, at the cost that was predicted.

Sixty networks, the same at every run; `python -m benchmarks.tools.search_random_networks` tries thousands of new ones.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.prune.random.checking import Case, check
from tests.prune.random.networks import HEADS, INPUTS, NAMES, STEPS, RandomNet

pytestmark = pytest.mark.slow


def programs(kind: str) -> st.SearchStrategy[Any]:
    steps = st.tuples(st.sampled_from(NAMES[kind]), st.integers(0, 9999))
    return st.tuples(st.just(kind), st.lists(steps, min_size=1, max_size=8))


@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kind_and_program=st.sampled_from(sorted(NAMES)).flatmap(programs),
    outputs=st.integers(1, 3),
    structure=st.integers(0, 4),
    heads=st.lists(st.sampled_from(sorted(HEADS)), min_size=1, max_size=3),
    p=st.sampled_from([0.5, 0.0, 0.2, 0.8, 1.0]),
    group_size=st.sampled_from([1, 1, 2, 3]),
    align=st.sampled_from([1, 1, 1, 4]),
    seed=st.integers(0, 999),
    mixing=st.sampled_from(["softmax", "hard"]),
    tie_residual=st.booleans(),
)
def test_a_pruned_random_network_computes_what_the_gated_one_does(
    kind_and_program: Any, seed: int, **settings: Any
) -> None:
    kind, program = kind_and_program
    case = Case(kind=kind, program=program, seed=seed, **settings)
    with TemporaryDirectory() as folder:
        check(case, Path(folder) / "static" if seed % 4 == 0 else None)


@pytest.mark.parametrize("name", STEPS)
def test_every_step_finds_something_to_read_after_the_first_layer(name: str) -> None:
    torch.manual_seed(0)
    kinds = [kind for kind in INPUTS if name in NAMES[kind]]
    taken = [len(RandomNet(kind, [(name, seed)], 1, 1).steps) > 0 for kind in kinds for seed in range(10)]
    assert any(taken)
