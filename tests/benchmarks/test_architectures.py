"""The benchmark of architectures trains what its results lack, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.architectures import __main__ as command
from gate2static.recipe import load_recipe

RECIPE = Path("benchmarks/architectures/scenes.yaml")


def entry(seed: int, name: str, gain: float = 0.0) -> dict[str, Any]:
    measures = ("delta_mtl", "delta_i", "eta", "macs", "parameters", "latency")
    return {"seed": seed, "name": name, **dict.fromkeys(measures, gain)}


def test_seeds_that_lack_a_row_are_measured_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = command.row_names(load_recipe(RECIPE))
    assert {"separate", "gated-macs-0.6", "afa", "adashare-retrained", "branching-macs0.6"} <= names
    whole = [entry(1, name) for name in names]
    stale = [entry(0, name, gain=9) for name in names - {"afa"}]
    path = tmp_path / "results.json"
    path.write_text(json.dumps([*whole, *stale]))
    trained = []
    monkeypatch.setattr(command, "sweep", lambda recipe, *_, **__: trained.append(recipe.seed))
    monkeypatch.setattr(command, "measure", lambda _, __, seed: [entry(seed, name, gain=seed) for name in names])
    page = tmp_path / "page.md"
    arguments = [str(RECIPE), "--seeds", "0", "1", "2", "--results", str(path), "--page", str(page)]
    monkeypatch.setattr("sys.argv", ["architectures", *arguments])
    command.main()
    assert trained == [0, 2]
    entries = json.loads(path.read_text())
    assert [e["seed"] for e in entries] == [seed for seed in range(3) for _ in names]
    assert {(e["seed"], e["delta_mtl"]) for e in entries} == {(0, 0), (1, 0), (2, 2)}
    assert "Seeds 0, 1, 2;" in page.read_text()
    command.main()
    assert trained == [0, 2]
