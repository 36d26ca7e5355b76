"""Checkpoints of own training loops: what comes back, what is refused, and that a file alone imports nothing."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gate2static as g2s
from gate2static.errors import CheckpointError, Gate2StaticError
from gate2static.train.loop import checkpoints

NETS = '''
import sys
import torch
from torch import nn
import gate2static as g2s

print("nets.py runs")

def build(width=8, tasks=("a", "b"), size=8, **gating):
    backbone = nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
    )
    heads = {task: nn.Conv2d(width, 2, 1) for task in tasks}
    return g2s.gate(backbone, tasks=tasks, example_inputs=(torch.randn(2, 3, size, size),), heads=heads, **gating)

def ungated():
    return nn.Conv2d(3, 8, 3)

def failing():
    raise KeyError("no such layer")

NUMBER = 3
'''

Saved = tuple[Path, g2s.GatedModel]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a module `nets`, as on the command line: it is not on the path."""
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    return tmp_path


def build(width: int = 8, tasks: tuple[str, ...] = ("a", "b"), size: int = 8, **gating: Any) -> g2s.GatedModel:
    """What `nets:build` is, to be trained without importing it."""
    backbone = nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
    )
    heads = {task: nn.Conv2d(width, 2, 1) for task in tasks}
    images = torch.rand(2, 3, size, size) * 255
    return g2s.gate(backbone, tasks=tasks, example_inputs=(images,), heads=heads, **gating)


def trained(**options: Any) -> g2s.GatedModel:
    """A gated network whose numbers are those of no fresh one."""
    gated = build(**options)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in gated.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return gated


@pytest.fixture
def saved(here: Path) -> Saved:
    gated = trained()
    g2s.save_checkpoint(gated, here / "own.pt", model="nets:build", options={"width": 8})
    return here / "own.pt", gated


def test_a_network_comes_back_with_every_number_and_the_ranges_of_its_inputs(saved: Saved) -> None:
    path, gated = saved
    before = torch.random.get_rng_state()
    loaded = g2s.load_checkpoint(path, model="nets:build")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not loaded.training
    state = gated.state_dict()
    assert state.keys() == loaded.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    assert loaded.program.ranges == gated.program.ranges
    assert (loaded.program.ranges[0] or (0, 0))[1] > 200, "nets:build itself has other inputs"
    assert g2s.prune(loaded).manifest == g2s.prune(gated.eval()).manifest


def test_options_are_those_of_the_training(here: Path) -> None:
    options = {"width": 16, "group_size": 4, "mixing": "hard", "tie_residual": True}
    gated = trained(**options)
    g2s.save_checkpoint(gated, here / "own.pt", model="nets:build", options=options)
    loaded = g2s.load_checkpoint(here / "own.pt", "nets:build")
    assert {gate.group_size for gate in loaded.gates.values()} == {4}
    assert g2s.verify(gated, g2s.prune(loaded)).passed


def test_a_function_builds_it_too(saved: Saved) -> None:
    assert g2s.load_checkpoint(saved[0], model=build).tasks == ("a", "b")


def test_a_checkpoint_holds_no_link_to_the_network_and_is_the_same_twice(saved: Saved) -> None:
    path, gated = saved
    first = path.read_bytes()
    wrapped: Any = nn.DataParallel(gated)
    g2s.save_checkpoint(wrapped, path, model="nets:build", options={"width": 8})
    assert path.read_bytes() == first
    assert torch.load(path, weights_only=True)["kind"] == "own"


def test_a_file_alone_imports_nothing_and_says_what_to_type(saved: Saved, capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = saved
    for load in (lambda: g2s.load_checkpoint(path), lambda: checkpoints.load_checkpoint(path)):
        with pytest.raises(CheckpointError, match="--model") as error:
            load()
    with pytest.raises(CheckpointError, match=r"--model nets:build, .*\{'width': 8\}") as error:
        g2s.load_checkpoint(path)
    assert "\n" not in str(error.value)
    assert "nets" not in sys.modules
    assert "nets.py runs" not in capsys.readouterr().out


def test_files_of_the_current_folder_do_not_take_the_place_of_libraries_later(saved: Saved) -> None:
    g2s.load_checkpoint(saved[0], model="nets:build")
    assert sys.path[0] != str(saved[0].parent)
    assert sys.path[-1] == str(saved[0].parent)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nets", "--model is 'nets'; allowed is a name such as package.module:build"),
        ("nets:", "allowed is a name such as package.module:build"),
        ("nowhere.deep:build", "there is no module nowhere, neither in the current folder"),
        ("nets:biuld", "has no biuld; did you mean nets:build"),
        ("nets:NUMBER", "nets:NUMBER is 3; allowed is a function"),
        ("nets:ungated", r"nets:ungated does not take the options \{'width': 8\}"),
        (nn.Conv2d(3, 8, 3).forward, "does not take the options"),
        (lambda width: nn.Conv2d(3, width, 3), "returned a Conv2d; it must return what gate2static.gate"),
        (lambda width: {}["no such layer"], "failed: KeyError: 'no such layer'; gate2static --debug"),
        (lambda width: build(tasks=("a", "c")), r"\['a', 'b'\] in the file, \['a', 'c'\] built.*saved for nets:build"),
        (lambda width: build(width=4), r"gates: _0: channels: 8 in the file, 4 built"),
        (lambda width: build(group_size=2), r"gates: _0: group_size: 1 in the file, 2 built"),
        (lambda width: build(mixing="hard"), r"gates: _0: mixing: softmax in the file, hard built"),
        (lambda width: build(size=16), r"inputs: shape: \[3, 8, 8\] in the file, \[3, 16, 16\] built"),
        (lambda width: g2s.gate(nn.ReLU(), tasks=["a"], example_inputs=(), heads={}), "no head for task a"),
    ],
    ids=[f"model {number}" for number in range(15)],
)
def test_what_builds_another_network_is_one_line(saved: Saved, model: Any, message: str) -> None:
    with pytest.raises(Gate2StaticError, match=message) as error:
        g2s.load_checkpoint(saved[0], model=model)
    assert "\n" not in str(error.value)


def test_missing_and_extra_tensors_are_named(saved: Saved) -> None:
    def wider_head(width: int) -> g2s.GatedModel:
        last = nn.Conv2d(8, 8, 3, padding=1)
        plain = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), last)
        heads = {"a": nn.Conv2d(8, 2, 1), "b": nn.Conv2d(8, 2, 1, bias=False)}
        return g2s.gate(plain, tasks=["a", "b"], example_inputs=(torch.randn(2, 3, 8, 8),), heads=heads)

    with pytest.raises(CheckpointError, match=r"heads\.b\.bias is not in the model; build it in .*wider_head"):
        g2s.load_checkpoint(saved[0], model=wider_head)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["builder"].update(model="os.system"), "damaged: it does not say what builds"),
        (lambda c: c["builder"].update(model="x:y\x1b[2J"), "damaged: it does not say what builds"),
        (lambda c: c["builder"].update(options={"a b": 1}), "options are named"),
        (lambda c: c["builder"].update(options={"a": torch.zeros(1)}), "the option 'a' is a Tensor"),
        (lambda c: c.update(network={"tasks": torch.zeros(2)}), "damaged: it does not say"),
        (lambda c: c["network"].update(gates=[["x"]] * 9), "gates: .* in the file, .* built"),
        (lambda c: c["network"].pop("inputs"), "inputs: none in the file"),
        (lambda c: c.pop("network"), "damaged: lacks network"),
        (lambda c: c.update(builder="nets:build"), "damaged: its builder is a str"),
    ],
    ids=[f"altered {number}" for number in range(9)],
)
def test_an_altered_file_is_one_line(saved: Saved, change: Callable[[Any], Any], message: str) -> None:
    content = checkpoints.read_checkpoint(saved[0])
    change(content)
    checkpoints.save_checkpoint(saved[0], content)
    with pytest.raises(CheckpointError, match=message) as error:
        g2s.load_checkpoint(saved[0], model="nets:build")
    assert "\n" not in str(error.value)
    assert error.value.args[0].isprintable()


def test_ranges_that_are_none_are_left_out(saved: Saved) -> None:
    content = checkpoints.read_checkpoint(saved[0])
    for values in ([0.0, float("nan")], [2.0, 1.0], ["0", "1"], [1, 2], 3, [0.0], [0.0, 1e39]):
        content["network"]["inputs"][0]["values"] = values
        checkpoints.save_checkpoint(saved[0], content)
        assert g2s.load_checkpoint(saved[0], model=build).program.ranges == (None,)


class Odd(nn.Module):
    """A head with a state that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 2, 1)

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": 3}

    def set_extra_state(self, state: Any) -> None: ...

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)  # type: ignore[no-any-return]


def test_what_cannot_be_stored_leaves_the_older_file(saved: Saved) -> None:
    path, gated = saved
    before = path.read_bytes()
    heads = {"a": Odd(), "b": nn.Conv2d(8, 2, 1)}
    odd = g2s.gate(nn.Conv2d(3, 8, 1), tasks=["a", "b"], example_inputs=(torch.randn(2, 3, 8, 8),), heads=heads)
    calls: list[tuple[Any, str, Any, str]] = [
        (odd, "nets:build", {}, r"heads\.a\._extra_state is a dict; allowed are tensors"),
        (gated, "nets", {}, "model is 'nets'; allowed is a name such as"),
        (gated, "nets:build", {"a": torch.zeros(1)}, "the option 'a' is a Tensor"),
        (gated, "nets:build", {"a-b": 1}, "options are named"),
        (gated, "nets:build", [1], "options is a list"),
        (nn.Conv2d(3, 8, 1), "nets:build", {}, "the model is a Conv2d; allowed is a GatedModel"),
    ]
    for network, model, options, message in calls:
        with pytest.raises(CheckpointError, match=message):
            g2s.save_checkpoint(network, path, model=model, options=options)
    with pytest.raises(CheckpointError, match="cannot write"):
        g2s.save_checkpoint(gated, path / "below", model="nets:build")
    assert path.read_bytes() == before


def test_the_checkpoint_of_a_run_needs_no_name() -> None:
    older = Path(__file__).parents[1] / "fixtures" / "written_by_0_1" / "ckpt.pt"
    assert not g2s.load_checkpoint(older).training
    with pytest.raises(CheckpointError, match="a run wrote it, .* leave out the model"):
        g2s.load_checkpoint(older, model="nets:build")


def test_the_command_line_prunes_verifies_and_projects_it(run: Any, saved: Saved) -> None:
    path, _ = saved
    refused = run("prune", path, "-o", "static", code=2)
    assert "--model nets:build" in refused.stderr
    assert not Path("static").exists()
    run("prune", path, "-o", "static", "--model", "nets:build")
    run("verify", path, "static", "--model", "nets:build")
    run("prune", path, "-o", "half", "--model", "nets:build", "--budget", "macs=0.8")
    run("verify", "half.ckpt.pt", "half", "--model", "nets:build")
    run("verify", path, "half", "--model", "nets:build", code=1)
    assert "leave out the model" in run("prune", Path(__file__).parents[1] / "fixtures/written_by_0_1/ckpt.pt",
        "-o", "x", "--model", "nets:build", code=2).stderr  # fmt: skip
