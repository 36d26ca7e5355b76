"""The export folder of the described network of `tests/export`."""

from pathlib import Path

import pytest

from gate2static.export.package.folder import export_package
from gate2static.static import StaticModel


@pytest.fixture(scope="session")
def package(described: StaticModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "net"
    export_package(described, folder, progress=False)
    return folder
