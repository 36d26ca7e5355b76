"""Files of weights: their types, and files that are missing, broken or hold something else."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gate2static.errors import RecipeError
from gate2static.models.weights import read_weights

STATE = {"b.weight": torch.arange(3.0), "a.bias": torch.tensor([1, 2])}


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_a_state_dict_is_read_in_the_order_of_the_file(tmp_path: Path, wrapper: str | None) -> None:
    torch.save(STATE if wrapper is None else {"epoch": 3, wrapper: STATE}, tmp_path / "net.pth")
    state = read_weights(str(tmp_path / "net.pth"))
    assert list(state) == list(STATE)
    assert all(torch.equal(state[name], STATE[name]) for name in STATE)


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "net.safetensors")
    state = read_weights(str(tmp_path / "net.safetensors"))
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[name], STATE[name]) for name in STATE)


def test_the_home_folder_may_be_written_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(STATE, tmp_path / "net.pt")
    assert list(read_weights("~/net.pt")) == list(STATE)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"cannot read the weights file .*gone\.pth: No such file or directory; check"
    ):
        read_weights(str(tmp_path / "gone.pth"))


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_a_broken_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no weights")
    with pytest.raises(RecipeError, match=rf"model\.options\.weights: .*{name} cannot be read as a file of weights"):
        read_weights(str(tmp_path / name))


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "run",)  # type: ignore[return-value]

    (tmp_path / "net.pth").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(RecipeError, match="cannot be read as a file of weights"):
        read_weights(str(tmp_path / "net.pth"))
    torch.save({"w": Payload()}, tmp_path / "net.pth")
    with pytest.raises(RecipeError, match="cannot be read as a file of weights"):
        read_weights(str(tmp_path / "net.pth"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({}, "nothing"),
        (torch.zeros(2), "Tensor"),
        ({"w": torch.zeros(2), "lr": 0.1}, "lr: float"),
        ({"model": 3}, "int"),
    ],
)
def test_anything_but_named_tensors_is_refused(tmp_path: Path, content: object, found: str) -> None:
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(RecipeError, match=rf"net\.pth holds .*{found}; allowed: tensors by name"):
        read_weights(str(tmp_path / "net.pth"))
