"""Two processes train the network that one trains: `distributed_script.py` does both."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gate2static.errors import RecipeError
from gate2static.recipe import Recipe
from gate2static.train import load_result, train
from gate2static.train.loop.checkpoints import load_checkpoint
from tests.train.processes.distributed_script import METHODS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    script = Path(__file__).with_name("distributed_script.py")
    done = subprocess.run([sys.executable, "-W", "error", script, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def largest_difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[key].double() - other[key].double()).abs().max()) for key in one)


def content(folder: Path) -> dict[str, Any]:
    return load_checkpoint(folder / "network" / "ckpt.pt")


@pytest.mark.parametrize("network", ["shared", "gated", "sharded"])
def test_two_processes_give_the_weights_of_one(trained: Path, network: str) -> None:
    one, two = (content(trained / processes / network) for processes in ("one", "two"))
    assert largest_difference(one["model"], two["model"]) < 1e-6
    for expected, found in zip(one["position"]["log"], two["position"]["log"], strict=True):
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", [*METHODS, "gated-nash"])
def test_two_processes_balance_as_one_does(trained: Path, name: str) -> None:
    one, two = (content(trained / processes / name) for processes in ("one", "two"))
    assert largest_difference(one["model"], two["model"]) < 1e-5
    for expected, found in zip(one["position"]["conflict"], two["position"]["conflict"], strict=True):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_a_part_of_a_batch_has_batch_norm_of_its_own(trained: Path) -> None:
    whole, parts = (content(trained / "two" / name) for name in ("gated", "parts"))
    assert largest_difference(whole["model"], parts["model"]) > 1e-3
    assert parts["position"]["epoch"] == 2


def test_processes_that_load_give_the_weights_that_loading_in_place_gives(trained: Path) -> None:
    loaded, in_place = (content(trained / "two" / name) for name in ("loaded", "shared"))
    assert loaded["position"]["log"][0]["loss/total"] == pytest.approx(in_place["position"]["log"][0]["loss/total"])


def test_two_processes_measure_every_image_of_a_run_once(trained: Path) -> None:
    one, two = (load_result(trained / processes / "run").rows for processes in ("one", "two"))
    for expected, found in zip(one, two, strict=True):
        assert found.metrics == pytest.approx(expected.metrics, rel=1e-3)
        assert (found.macs, found.parameters) == (expected.macs, expected.parameters)
        assert found.tests.keys() == expected.tests.keys()
        for task, of_task in found.tests.items():
            for metric, test in of_task.items():
                assert test.gain == pytest.approx(expected.tests[task][metric].gain, abs=5e-3)
        assert round(found.metrics["left"] * 33, 6).is_integer()


def test_two_processes_go_on_bit_for_bit(trained: Path, assert_same: Callable[[Any, Any], None]) -> None:
    whole, cut = content(trained / "two" / "whole"), content(trained / "two" / "cut")
    assert_same(cut, whole)
    (other,) = whole["random_of_others"]
    assert not other["torch"].equal(whole["random"]["torch"])


def test_a_divided_network_that_was_interrupted_gives_the_checkpoint_of_a_whole_one(trained: Path) -> None:
    whole, divided = (content(trained / "two" / name) for name in ("undivided", "divided"))
    assert largest_difference(whole["model"], divided["model"]) < 1e-6
    for name, states in whole["optimisers"]["weights"]["state"].items():
        found = divided["optimisers"]["weights"]["state"][name]
        assert largest_difference(states, found) < 1e-6
    for expected, found in zip(whole["position"]["log"], divided["position"]["log"], strict=True):
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_holds_its_part_of_a_divided_network(trained: Path, rank: int) -> None:
    held = json.loads((trained / "two" / f"held{rank}.json").read_text())
    assert held["fsdp"] < 0.65 * held["ddp"]


def test_one_process_goes_on_where_two_stopped(trained: Path) -> None:
    one, two = content(trained / "one" / "other"), content(trained / "two" / "gated")
    assert largest_difference(one["model"], two["model"]) < 1e-6


def test_a_loss_that_is_not_finite_in_one_process_stops_all_with_the_same_line(trained: Path) -> None:
    lines = [(trained / name).read_text() for name in ("error", "two/error0", "two/error1")]
    assert len(set(lines)) == 1
    assert lines[0].startswith("network: the loss of depth is nan in epoch 1, step 1; no epoch was complete")


def test_a_world_size_that_does_not_divide_the_batch_is_refused(small: Recipe, tmp_path: Path) -> None:
    training = small.training.model_copy(update={"devices": 3, "accumulate": 2, "device": "cpu"})
    expected = r"training\.single\.batch_size: found 16 for 3 processes .* multiples of 6, such as 12 or 18"
    with pytest.raises(RecipeError, match=expected):
        train(small.model_copy(update={"training": training}), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
