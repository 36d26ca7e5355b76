"""The pruned network of `tests/export`, described, and its export folder."""

from copy import deepcopy
from pathlib import Path

import pytest

from gate2static.export.package.folder import export_package
from gate2static.static import StaticModel


@pytest.fixture(scope="session")
def described(pruned: StaticModel) -> StaticModel:
    static = deepcopy(pruned)
    static.describe(
        inputs={"image": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.5]}},
        outputs={
            "a": {"kind": "classification", "activation": "softmax", "classes": ["cat", "dog", "cow", "owl", "fly"]},
            "b": {"kind": "depth", "unit": "m"},
        },
    )
    return static


@pytest.fixture(scope="session")
def package(described: StaticModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "net"
    export_package(described, folder, progress=False)
    return folder
