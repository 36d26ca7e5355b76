"""`run.json`: what it names lies inside the run's folder."""

import json
from pathlib import Path
from typing import Any

import pytest

from gate2static.errors import CheckpointError
from gate2static.train.results import load_result

ROW: dict[str, Any] = {
    "name": "gated-0.05", "kind": "gated", "seed": 0, "checkpoints": ["gated-0.05/ckpt.pt"], "metrics": {"a": 0.5},
    "delta_mtl": 0.1, "macs": 10, "parameters": 5,
}  # fmt: skip


def _write(folder: Path, **changes: Any) -> None:
    task = {"name": "a", "metric": "accuracy", "higher_is_better": True}
    content = {"recipe": {}, "tasks": [task], "rows": [ROW | changes]}
    (folder / "run.json").write_text(json.dumps(content))


@pytest.mark.parametrize("name", ["separate", "shared", "gated-0.05", "gated-1e-05-0.3-1", "gated-macs-left-0.3"])
def test_names_of_rows_that_we_give_are_read(name: str, tmp_path: Path) -> None:
    _write(tmp_path, name=name, checkpoints=[f"{name}/left/ckpt-best.pt"])
    assert load_result(tmp_path).rows[0].name == name


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "..", ".", "", "a/b", ".hidden", "a\0b", "a\nb", "x" * 300, 3])
def test_a_row_whose_folder_lies_elsewhere_is_refused(name: Any, tmp_path: Path) -> None:
    """A row named `../../x` used to make `demo` and `report` write outside the run's folder."""
    _write(tmp_path, name=name)
    with pytest.raises(CheckpointError, match=r"run\.json: not a run of this version of gate2static: rows\.0\.name: "):
        load_result(tmp_path)


@pytest.mark.parametrize("path", ["../ckpt.pt", "/etc/passwd", "a/../../b", "a//b", ""])
def test_a_checkpoint_that_lies_elsewhere_is_refused(path: str, tmp_path: Path) -> None:
    _write(tmp_path, checkpoints=[path])
    with pytest.raises(CheckpointError, match=r"rows\.0\.checkpoints\.0: .*no path inside the run's folder"):
        load_result(tmp_path)


@pytest.mark.parametrize("change", [{"macs": -1}, {"macs": 10**30}, {"metrics": []}, {"checkpoints": []}, {"x": 1}])
def test_a_row_that_does_not_fit_is_named(change: dict[str, Any], tmp_path: Path) -> None:
    _write(tmp_path, **change)
    with pytest.raises(CheckpointError, match=rf"rows\.0\.{next(iter(change))}") as error:
        load_result(tmp_path)
    assert len(str(error.value).replace(str(tmp_path), "")) < 400
