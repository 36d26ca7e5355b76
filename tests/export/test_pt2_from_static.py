"""Static networks as .pt2 files."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gate2static.errors import ExportError
from gate2static.export import export_pt2
from gate2static.static import StaticModel


def test_a_pt2_computes_the_same_at_any_batch_size(static: StaticModel, tmp_path: Path) -> None:
    report = export_pt2(static, tmp_path / "model.pt2")
    assert report.size_bytes == report.path.stat().st_size
    loaded = torch.export.load(report.path).module()
    for batch_size in (1, 3):
        inputs = static.example_inputs(batch_size)
        found, expected = loaded(*inputs), static(*inputs)
        assert list(found) == ["a", "b"]
        for task, value in expected.items():
            torch.testing.assert_close(found[task], value)


def test_no_path_of_this_machine_is_in_a_pt2(static: StaticModel, tmp_path: Path) -> None:
    export_pt2(static, tmp_path / "model.pt2")
    with zipfile.ZipFile(tmp_path / "model.pt2") as archive:
        contents = b"".join(archive.read(name) for name in archive.namelist())
    assert str(Path(__file__).parent).encode() not in contents
    assert str(Path(torch.__file__).parent).encode() not in contents


def test_a_network_that_cannot_be_exported_leaves_no_file(
    static: StaticModel, tmp_path: Path, folder_contents: Callable[[], list[str]]
) -> None:
    static.forward = lambda *images: {"a": images[0] if images[0].mean() > 0 else -images[0], "b": images[0]}
    with pytest.raises(ExportError, match=r"torch\.export cannot export this network: .*data-dependent"):
        export_pt2(static, tmp_path / "model.pt2", fold_norms=False)
    assert folder_contents() == []
