"""State dicts paired by name, by order, and refused."""

import pytest
import torch
from torch import Tensor, nn

from gate2static.errors import RecipeError
from gate2static.models.weights import fit


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))


def state() -> dict[str, Tensor]:
    """The network's state, with another value in each tensor."""
    return {name: torch.full_like(value, 10 + at) for at, (name, value) in enumerate(network().state_dict().items())}


def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with another library's names."""
    layers = {"0": "module._stem", "1": "module._bn0", "2": "module._fc"}
    return {f"{layers[name[0]]}{name[1:]}": value for name, value in tensors.items()}


def assert_fits(tensors: dict[str, Tensor]) -> None:
    fitted = fit(tensors, [network().state_dict()], "here")
    network().load_state_dict(fitted)
    assert all(torch.equal(fitted[name], value) for name, value in state().items() if name in fitted)
    assert len(fitted) == len(tensors)


def test_equal_names_are_paired_by_name_in_any_order() -> None:
    assert_fits(dict(reversed(state().items())))


def test_other_names_are_paired_in_order() -> None:
    assert_fits(renamed(state()))


def test_old_files_without_counters_fit() -> None:
    without = {name: value for name, value in state().items() if "num_batches" not in name}
    assert_fits(without)
    assert_fits(renamed(without))


def test_the_reference_with_as_many_tensors_is_used() -> None:
    headless = {name: value for name, value in state().items() if not name.startswith("2.")}
    fitted = fit(renamed(headless), [network().state_dict(), network()[:2].state_dict()], "here")
    assert list(fitted) == list(headless)


def changed(name: str, value: Tensor | None, new_name: str | None = None) -> dict[str, Tensor]:
    """The renamed state with one tensor changed, renamed or left out."""
    tensors = {}
    for key, old in renamed(state()).items():
        if key != name:
            tensors[key] = old
        elif value is not None:
            tensors[new_name or key] = value
    return tensors


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        (
            changed("module._fc.bias", None),
            r"found 8 tensors, the network has 9; the file's module\._stem\.weight is",
        ),
        (
            changed("module._stem.weight", torch.zeros(4, 1, 3, 3)),
            r"tensor 1 of 9 is module\._stem\.weight \(4, 1, 3, 3\), the network's is 0\.weight \(4, 3, 3, 3\)",
        ),
        (
            changed("module._bn0.weight", torch.zeros(4), "module._bn0.scale"),
            r"tensor 3 of 9 is module\._bn0\.scale \(4\), the network's is 1\.weight \(4\)",
        ),
        ({**state(), "0.weight": torch.zeros(5)}, r"tensor 1 of 9 is 0\.weight \(5\), the network's is 0\.weight"),
        ({"0.weight": torch.zeros(4, 3, 3, 3)}, r"found 1 tensors, the network has 8; its 0\.bias is not in the file"),
    ],
)
def test_other_tensors_are_refused_with_the_first_difference(tensors: dict[str, Tensor], match: str) -> None:
    with pytest.raises(RecipeError, match=rf"^here: {match}"):
        fit(tensors, [network().state_dict()], "here")
