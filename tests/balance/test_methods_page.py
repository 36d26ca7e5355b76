"""docs/methods.md: its table has every method and option as they are, and its example runs."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gate2static as g2s
from gate2static.balance import METHODS

PAGE = Path("docs/methods.md").read_text()
COLUMNS = ("name", "what", "source", "level", "options", "remembers", "cost", "readings")


def table() -> dict[str, dict[str, str]]:
    """Returns the rows of the table of methods by name."""
    rows = re.findall(r"^\| `(\w+)` (\|.*\|)$", PAGE, re.MULTILINE)
    cells = {name: [name, *(cell.strip() for cell in row.strip("|").split("|"))] for name, row in rows}
    return {name: dict(zip(COLUMNS, row, strict=True)) for name, row in cells.items()}


def options_of(name: str) -> dict[str, Any]:
    parameters = inspect.signature(METHODS[name]).parameters
    return {key: value.default for key, value in parameters.items() if key not in ("count", "seed")}


def test_every_method_has_a_row() -> None:
    assert sorted(table()) == sorted(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_every_option_stands_with_its_default(name: str) -> None:
    written = table()[name]["options"]
    assert re.findall(r"`(\w+)`", written) == list(options_of(name))
    for option, default in options_of(name).items():
        shown = f'"{default}"' if isinstance(default, str) else repr(default)
        assert re.search(rf"`{option}` {re.escape(shown)}(?![\d.]*\d)", written), f"{option} is {default}"


@pytest.mark.parametrize("name", METHODS)
def test_levels_and_memory_are_those_of_the_method(name: str) -> None:
    row = table()[name]
    method = METHODS[name](3)
    levels = re.findall(r"\b(losses|parameters|features)\b", row["level"])
    assert tuple(levels) == (method.levels or ("losses",))
    state = {key: value for key, value in method.state_dict().items() if isinstance(value, Tensor)}
    assert (row["remembers"].removesuffix("draws").strip(", –") != "") == bool(state)


def test_readings_that_rows_and_code_name_are_there() -> None:
    readings = {int(number) for number in re.findall(r"^(\d+)\. \*\*", PAGE, re.MULTILINE)}
    named = {int(number) for row in table().values() for number in re.findall(r"\d+", row["readings"])}
    for path in Path("gate2static/balance").rglob("*.py"):
        named |= {int(number) for number in re.findall(r"reading (\d+) of docs/methods.md", path.read_text())}
    assert readings == set(range(1, 19))
    assert named <= readings
    assert "CosReg" in re.findall(r"^13\. (.*)", PAGE, re.MULTILINE)[0]


class MyNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
        self.heads = nn.ModuleDict({"depth": nn.Linear(8, 1), "normals": nn.Linear(8, 3)})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        z = self.backbone(x)
        return {task: head(z) for task, head in self.heads.items()}


def test_the_example_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(import torch\n.*?)```", PAGE, re.DOTALL)
    torch.manual_seed(0)
    x = torch.randn(64, 4)
    targets = {"depth": x[:, :1], "normals": -x[:, :3]}
    scope: dict[str, Any] = {"MyNetwork": MyNetwork, "epochs": 2, "loader": [(x, targets)] * 100}
    exec(code, scope)
    assert isinstance(scope["conflict"], g2s.Conflict)
    assert sum(scope["weights"].values()) == pytest.approx(1), "MGDA's"
    assert scope["losses"]["normals"] < 0.5
    assert {"model", "balance"} == set(torch.load("checkpoint.pt"))


def test_the_lines_for_a_gated_network_train() -> None:
    (code,) = re.findall(r"```python\n(balance = .*?)```", PAGE, re.DOTALL)
    tasks = ["depth", "normals"]
    heads = {task: nn.Linear(8, 2) for task in tasks}
    backbone = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
    gated = g2s.gate(backbone, tasks=tasks, example_inputs=(torch.randn(2, 4),), heads=heads)
    losses = {task: y.square().mean() for task, y in gated(torch.randn(6, 4)).items()}
    exec(code, {"g2s": g2s, "gated": gated, "losses": losses})
    assert all(p.grad is not None for p in g2s.gate_parameters(gated))
