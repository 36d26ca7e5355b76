"""A recipe that trains in seconds, and one whole run of it that the tests share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gate2static.recipe import Recipe, load_recipe
from gate2static.train import RunResult, train

SMALL = (
    "data.options={train_images: 48, val_images: 10, test_images: 20}",
    "tasks=[{name: left, kind: classification, target: 0.2}, {name: mask, kind: mask}]",
    "training.single={epochs: 1, batch_size: 16}",
    "training.shared={epochs: 1, batch_size: 16}",
    "training.gated={epochs: 2, batch_size: 16}",
    "training.checkpoint_steps=1",
    "sparsity_weight=60",
)
TINY = Path("recipes/digits_tiny.yaml")


@pytest.fixture(scope="session")
def small() -> Recipe:
    return load_recipe(TINY, SMALL)


@pytest.fixture(scope="session")
def whole_run(small: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunResult]:
    """An uninterrupted run; read it, never write to it."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(small, folder, progress=False)


@pytest.fixture(scope="session")
def assert_same() -> Callable[[Any, Any], None]:
    """Asserts that two checkpoints, or any nests of tensors and plain values, are equal to the bit."""

    def check(a: Any, b: Any, where: str = "") -> None:
        if isinstance(a, Tensor):
            assert torch.equal(a, b), where
        elif isinstance(a, dict):
            assert a.keys() == b.keys(), where
            for key in a:
                check(a[key], b[key], f"{where}.{key}")
        elif isinstance(a, list | tuple):
            assert len(a) == len(b), where
            for index, (x, y) in enumerate(zip(a, b, strict=True)):
                check(x, y, f"{where}.{index}")
        else:
            assert a == b, where

    return check
