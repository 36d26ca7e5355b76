"""The networks of a run: single-task, shared and gated, built, restored and loaded."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gate2static.data import describe_data, load_data
from gate2static.errors import CheckpointError
from gate2static.gates import gate_decisions, gate_parameters
from gate2static.models import MultiTaskNetwork
from gate2static.recipe import Recipe
from gate2static.tasks import TaskMetrics, build_tasks
from gate2static.train import RunResult, gated_baseline, load_gated, train
from gate2static.train.loop.checkpoints import load_checkpoint, save_checkpoint
from gate2static.train.networks import build_gated, build_shared, build_single

pytestmark = pytest.mark.slow

Run = tuple[Path, RunResult]


@pytest.fixture(scope="module")
def images(small: Recipe) -> Tensor:
    test = load_data(small.data).test
    return torch.stack([test[index][0] for index in range(8)])


def trained(network: MultiTaskNetwork, run_dir: Path, folder: str) -> MultiTaskNetwork:
    network.load_state_dict(load_checkpoint(run_dir / folder / "ckpt.pt")["model"])
    return network.eval()


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_separate_baseline_is_the_single_task_networks(small: Recipe, whole_run: Run, images: Tensor) -> None:
    run_dir, _ = whole_run
    gated = gated_baseline(run_dir, "separate")
    assert all(bool(decision.all()) for decision in gate_decisions(gated).values())
    outputs = gated(images)
    for task in ("left", "mask"):
        single = trained(build_single(small, task), run_dir, f"separate/{task}")
        assert close(outputs[task], single(images)[task])


def test_a_run_may_go_on_from_the_best_epochs(small: Recipe, whole_run: Run, tmp_path: Path) -> None:
    training = small.training.model_copy(update={"keep": "best"})
    best = small.model_copy(update={"training": training})
    shutil.copytree(whole_run[0] / "separate", tmp_path / "separate")
    shutil.copytree(whole_run[0] / "shared", tmp_path / "shared")
    for file in tmp_path.rglob("*.pt"):
        content = load_checkpoint(file)
        content["recipe"]["training"]["keep"] = "best"
        if file.name == "ckpt-best.pt":
            content["model"] = {key: value + 1 for key, value in content["model"].items()}
        save_checkpoint(file, content)
    kept = load_checkpoint(tmp_path / "shared" / "ckpt-best.pt")["model"]
    for gated in (gated_baseline(tmp_path, "shared"), build_gated(best, tmp_path)):
        assert torch.equal(gated.branches["shared"].get_parameter("stem.0.weight"), kept["backbone.stem.0.weight"])
    head = load_checkpoint(tmp_path / "separate" / "mask" / "ckpt-best.pt")["model"]
    for gated in (gated_baseline(tmp_path, "separate"), build_gated(best, tmp_path)):
        assert torch.equal(gated.heads["mask"].state_dict()["out.bias"], head["heads.mask.out.bias"])
    result = train(best, tmp_path, resume=True, progress=False)
    assert [path for row in result.rows for path in row.checkpoints if not path.endswith("/ckpt-best.pt")] == []


@torch.no_grad()
def test_the_shared_baseline_is_the_shared_network(small: Recipe, whole_run: Run, images: Tensor) -> None:
    run_dir, _ = whole_run
    shared = trained(build_shared(small), run_dir, "shared")(images)
    for gated in (gated_baseline(run_dir, "shared"), load_gated(run_dir / "shared" / "ckpt.pt")[0]):
        assert not any(bool(decision.any()) for decision in gate_decisions(gated).values())
        assert all(close(gated(images)[task], shared[task]) for task in shared)


@torch.no_grad()
def test_the_gated_network_starts_from_the_single_task_and_shared_networks(
    small: Recipe, whole_run: Run, images: Tensor
) -> None:
    run_dir, _ = whole_run
    recipe = small.model_copy(update={"gating": small.gating.model_copy(update={"gate_init_std": 0.0})})
    gated = build_gated(recipe, run_dir)
    separate = gated_baseline(run_dir, "separate")
    assert all(close(gated.eval()(images)[t], separate(images)[t]) for t in gated.tasks)
    branch = gated.branches["shared"].state_dict()
    weights = load_checkpoint(run_dir / "shared" / "ckpt.pt")["model"]
    assert all(torch.equal(value, weights[f"backbone.{key}"]) for key, value in branch.items())


def test_the_shared_branch_can_start_from_the_first_weights(small: Recipe, whole_run: Run) -> None:
    recipe = small.model_copy(update={"gating": small.gating.model_copy(update={"shared_init": "initial"})})
    branch = build_gated(recipe, whole_run[0]).branches["shared"].state_dict()
    fresh = build_shared(small).backbone.state_dict()
    assert all(torch.equal(value, fresh[key]) for key, value in branch.items())


@torch.no_grad()
def test_a_loaded_network_is_the_trained_one(small: Recipe, whole_run: Run, images: Tensor) -> None:
    run_dir, result = whole_run
    gated, recipe = load_gated(run_dir / "gated-60" / "ckpt.pt")
    assert recipe == small
    assert not gated.training
    spec = describe_data(small.data)
    tasks = build_tasks(small.tasks, spec)
    test = load_data(small.data).test
    outputs = gated(torch.stack([test[index][0] for index in range(20)]))
    for task in tasks:
        metrics = TaskMetrics(task)
        metrics.update(outputs[task.name], torch.stack([test[i][1][task.name] for i in range(20)]))
        found = metrics.compute()[task.kind.metric_name]
        assert found == pytest.approx(result.rows[-1].metrics[task.name], abs=0.051)


def structured(recipe: Recipe) -> Recipe:
    gating = recipe.gating.model_copy(update={"mixing": "hard", "tie_residual": True, "group_size": 3})
    return recipe.model_copy(update={"gating": gating})


@torch.no_grad()
def test_a_checkpoint_brings_back_its_recipes_kind_of_gates(
    small: Recipe, whole_run: Run, images: Tensor, tmp_path: Path
) -> None:
    assert (small.gating.mixing, small.gating.tie_residual) == ("softmax", False)
    gated = build_gated(structured(small), whole_run[0]).eval()
    content = load_checkpoint(whole_run[0] / "gated-60" / "ckpt.pt")
    content |= {"model": gated.state_dict(), "recipe": structured(small).model_dump(mode="json")}
    torch.save(content, tmp_path / "ckpt.pt")
    found, recipe = load_gated(tmp_path / "ckpt.pt")
    assert recipe == structured(small)
    assert all(gate.hard for gate in found.gates.values())
    assert len({id(gate.alpha) for gate in found.gates.values()}) < len(found.gates)
    assert len(gate_parameters(found)) == len(gate_parameters(gated))
    assert all(torch.equal(found(images)[task], gated(images)[task]) for task in gated.tasks)
    torch.save(content | {"recipe": small.model_dump(mode="json")}, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match="for another model: .*alpha is "):
        load_gated(tmp_path / "ckpt.pt")


def test_the_first_gates_depend_on_the_recipes_seed_alone(small: Recipe, whole_run: Run) -> None:
    def first(seed: int) -> Tensor:
        gated = build_gated(small.model_copy(update={"seed": seed}), whole_run[0])
        return torch.cat([gate.alpha.detach().flatten() for gate in gated.gates.values()])

    one = first(0)
    torch.manual_seed(7)
    assert torch.equal(one, first(0))
    assert not torch.equal(one, first(1))


def test_a_single_task_checkpoint_is_no_gated_network(whole_run: Run) -> None:
    with pytest.raises(CheckpointError, match="holds a single-task network; give the checkpoint of a gated or shared"):
        load_gated(whole_run[0] / "separate" / "left" / "ckpt.pt")


def test_a_run_without_single_task_networks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no single-task networks in .*separate"):
        gated_baseline(tmp_path, "separate")
    with pytest.raises(CheckpointError, match=r"shared/ckpt\.pt: no such checkpoint"):
        gated_baseline(tmp_path, "shared")


def test_a_checkpoint_that_does_not_fit_its_recipe_says_what_each_holds(whole_run: Run, tmp_path: Path) -> None:
    content = load_checkpoint(whole_run[0] / "gated-60" / "ckpt.pt")
    content["recipe"]["model"]["options"]["width"] = 0.25
    torch.save(content, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match=r"for another model: it holds [\d,]+ numbers, and its recipe"):
        load_gated(tmp_path / "ckpt.pt")
