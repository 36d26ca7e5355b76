"""Devices and processes: what is refused before training, and an interruption of one process."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from gate2static.errors import MissingDependencyError, RecipeError, TrainingError
from gate2static.recipe import Recipe
from gate2static.train.processes.devices import (
    check_batch_sizes,
    freeze_unused,
    original_error,
    pick_device,
    start_fabric,
)


def with_training(recipe: Recipe, **changes: object) -> Recipe:
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=changes)})


def test_asking_for_a_missing_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(MissingDependencyError, match=r"training\.device is cuda, but torch finds no CUDA device"):
        pick_device("cuda")


def test_more_gpus_than_there_are_are_refused(small: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(MissingDependencyError, match=r"training\.devices is 2, but torch finds 1 CUDA devices"):
        start_fabric(with_training(small, device="cuda", devices=2))


def test_float16_needs_a_gpu(small: Recipe) -> None:
    with pytest.raises(RecipeError, match="found 16-mixed, which needs a GPU; use bf16-mixed or 32-true"):
        start_fabric(with_training(small, precision="16-mixed"))


def test_only_a_single_process_compiles(small: Recipe) -> None:
    with pytest.raises(RecipeError, match=r"training\.compile works in a single process; set it to false"):
        start_fabric(with_training(small, compile=True, devices=2))


def test_a_cpu_has_one_device_unless_more_processes_are_asked_for(small: Recipe) -> None:
    assert start_fabric(with_training(small, devices="auto")).world_size == 1


def test_torchrun_decides_how_many_processes_there_are(small: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_torchelastic_launched", lambda: True)
    for name, value in {"LOCAL_WORLD_SIZE": "3", "WORLD_SIZE": "6"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RecipeError, match=r"found 16 for 6 processes that accumulate 1 parts; .* such as 12 or 18$"):
        start_fabric(small)


def test_batches_divide_evenly_over_processes_and_parts(small: Recipe) -> None:
    check_batch_sizes(with_training(small, accumulate=2), 8)
    with pytest.raises(RecipeError, match="found 16 for 32 processes .* multiples of 32, such as 32$"):
        check_batch_sizes(small, 32)


# Two processes that only wait; each leaves a file that says that it is there, as does one that is no part of training
# once that has ended.
WAITING = """
import multiprocessing, signal, sys, time
from pathlib import Path

def wait(fabric, folder):
    (folder / f"{fabric.global_rank}").touch()
    time.sleep(600)

if __name__ == "__main__":  # what imports torch stands here: the process that is no part of training needs none
    from gate2static.recipe import load_recipe
    from gate2static.train.processes.devices import launch, start_fabric

    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let what runs in the background ignore it
    recipe, folder = sys.argv[1:]
    other = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,), daemon=True)
    other.start()
    try:
        launch(start_fabric(load_recipe(recipe, ["training.device=cpu", "training.devices=2"])), wait, Path(folder))
    finally:
        other.join(1)
        if other.is_alive():
            (Path(folder) / "other").touch()
"""


@pytest.mark.slow
def test_an_interruption_of_the_first_process_alone_ends_only_what_trains(small: Recipe, tmp_path: Path) -> None:
    recipe, script = tmp_path / "recipe.yaml", tmp_path / "waiting.py"
    recipe.write_text(yaml.safe_dump(small.model_dump(mode="json")))
    script.write_text(WAITING)
    with subprocess.Popen([sys.executable, script, recipe, tmp_path], stderr=subprocess.DEVNULL) as process:
        try:
            while not all((tmp_path / rank).exists() for rank in "01"):
                assert process.poll() is None
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) != 0
            assert (tmp_path / "other").exists()
        finally:
            process.kill()


def test_our_own_error_is_found_in_another_processs_traceback() -> None:
    text = 'Traceback:\n  File "x.py", line 1\ngate2static.errors.TrainingError: a: b; c\n'
    found = original_error(RuntimeError(text))
    assert isinstance(found, TrainingError)
    assert str(found) == "a: b; c"
    assert original_error(RuntimeError("Traceback:\nValueError: oops")) is None


def test_parameters_that_no_output_depends_on_are_not_waited_for() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)
            self.norm = nn.BatchNorm1d(2)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"a": self.norm(self.used(x))}

    model = Model()
    freeze_unused(model, torch.ones(1, 2))
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["unused.weight", "unused.bias"]
    assert model.training
    assert torch.equal(model.norm.running_mean, torch.zeros(2))
