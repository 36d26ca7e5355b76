"""Gates that are decided before training, and the start of their branches: whole runs, as a recipe describes them."""

import shutil
from pathlib import Path

import pytest
import torch

from gate2static.data import describe_data, load_data
from gate2static.errors import CheckpointError, RecipeError
from gate2static.gates import gate_decisions
from gate2static.recipe import Recipe, load_recipe
from gate2static.report import write_report
from gate2static.tasks import build_tasks
from gate2static.train import RunResult, load_gated, load_result, sweep
from gate2static.train.deciding import decide_gates
from gate2static.train.networks import build_gated
from gate2static.train.runs import train_variants

TINY = Path("recipes/digits_tiny.yaml")
FROZEN = "training.gated={epochs: 1, batch_size: 24, freeze_at: 0}"
BUDGET = "budget={macs: 0.6}"
VARIANTS = {
    "gated-saliency": ("gating.decisions=saliency", "gating.group_size=2", BUDGET),
    "gated-prefix": ("gating.decisions=saliency", "gating.group_size=2", "gating.prefix=true", BUDGET),
    "gated-random": ("gating.decisions=random", BUDGET),
    "gated-layers": ("gating.decisions=random", "gating.group_size=layer", BUDGET),
    "gated-branch": ("gating.decisions=modules", "gating.private={left: [stage3], mask: [stage2, stage3]}"),
    "gated-shared": ("gating.decisions=modules",),
}
START = ("gating.branch_init=initial", "gating.mixing=hard")


def recipe(*overrides: str) -> Recipe:
    return load_recipe(TINY, ("training.single.epochs=1", "training.shared.epochs=2", *overrides))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunResult]:
    folder = tmp_path_factory.mktemp("decided")
    variants = {name: recipe(FROZEN, *START, *options) for name, options in VARIANTS.items()}
    base = recipe("gating.branch_init=shared", "gating.branch_epoch=1")
    return folder, train_variants(base, folder, variants, progress=False)


def test_what_is_decided_before_training_meets_the_budget(run: tuple[Path, RunResult]) -> None:
    rows = {row.name: row for row in run[1].rows}
    for name, options in VARIANTS.items():
        assert rows[name].sparsity_weight is None
        if BUDGET in options:
            assert 0.5 * rows["separate"].macs < rows[name].macs <= 0.6 * rows["separate"].macs
            assert rows[name].budget is not None
    assert rows["gated-shared"].macs == rows["shared"].macs


def test_what_a_task_has_for_itself_trains_on_its_own_loss_alone(tmp_path: Path) -> None:
    """Hard mixing lets one task's feature go on as the shared stream: not one that is private."""
    one = recipe(FROZEN, *START, "gating.decisions=modules", 'gating.private={mask: [""]}')
    gated = build_gated(one, tmp_path)
    tasks = build_tasks(one.tasks, describe_data(one.data))
    decide_gates(gated, one, tmp_path, tasks, load_data(one.data))
    outputs = gated.train()(torch.randn(4, 1, 32, 32))
    (outputs["left"].sum() + outputs["right"].sum()).backward()
    private = list(gated.branches["mask"].parameters())
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in private)
    assert any(
        parameter.grad is not None and parameter.grad.any() for parameter in gated.branches["shared"].parameters()
    )


# Of whole layers the projection may open one again that still fits, so that an order does not say all.
@pytest.mark.parametrize("name", ["gated-saliency", "gated-prefix", "gated-random"])
def test_the_shared_stream_is_a_feature_that_is_shared(run: tuple[Path, RunResult], name: str) -> None:
    gated, _ = load_gated(run[0] / name / "ckpt.pt")
    for gate in gated.gates.values():
        private = gate.decisions()  # (tasks, channels)
        of_winner = private.gather(0, gate.winners()[None])[0]
        assert bool((of_winner == private.all(0)).all())


def test_modules_are_private_to_the_tasks_that_name_them(run: tuple[Path, RunResult]) -> None:
    gated, _ = load_gated(run[0] / "gated-branch" / "ckpt.pt")
    for unit, decisions in gate_decisions(gated).items():
        expected = [unit.startswith("stage3"), False, unit.startswith(("stage2", "stage3"))]
        assert decisions.all(1).tolist() == expected
        assert decisions.any(1).tolist() == expected


def test_private_channels_of_a_prefix_lie_together(run: tuple[Path, RunResult]) -> None:
    gated, _ = load_gated(run[0] / "gated-prefix" / "ckpt.pt")
    pieces = torch.cat([d.long().diff(dim=1).abs().sum(1) for d in gate_decisions(gated).values()])
    # The last gates fill up what is left of the budget, and so may lie elsewhere.
    assert (pieces <= 1).double().mean() > 0.9


def test_a_common_start_is_the_shared_network_of_that_epoch(run: tuple[Path, RunResult]) -> None:
    early, late = (recipe("gating.branch_init=shared", *more) for more in (("gating.branch_epoch=1",), ()))
    at_first, at_last = build_gated(early, run[0]), build_gated(late, run[0])
    for gated in (at_first, at_last):
        states = [branch.state_dict() for branch in gated.branches.values()]
        assert all(torch.equal(states[0][key], other[key]) for other in states[1:] for key in other)
    key = "stem.0.weight"
    assert not torch.equal(at_first.branches["left"].state_dict()[key], at_last.branches["left"].state_dict()[key])


def test_an_epoch_that_was_not_kept_is_named(run: tuple[Path, RunResult]) -> None:
    other = recipe("gating.branch_init=shared", "gating.branch_epoch=2")
    with pytest.raises(CheckpointError, match=r"shared/ckpt-epoch-2\.pt: no such checkpoint"):
        build_gated(other, run[0])


def test_a_module_without_gates_is_named(run: tuple[Path, RunResult]) -> None:
    wrong = recipe(FROZEN, *START, "gating.decisions=modules", "gating.private={left: [layer4]}")
    tasks = build_tasks(wrong.tasks, describe_data(wrong.data))
    splits = load_data(wrong.data, [task.name for task in tasks])
    with pytest.raises(RecipeError, match=r"no gates in layer4; the modules with gates are stem\.0, stage1\.0"):
        decide_gates(build_gated(wrong, run[0]), wrong, run[0], tasks, splits)


def test_cautions_name_gated_networks_that_are_no_better(run: tuple[Path, RunResult]) -> None:
    worse = [row.name for row in run[1].rows if row.kind == "gated" and (row.delta_mtl or 0.0) < 0]
    cautions = load_result(run[0]).cautions()
    assert [sentence.partition(":")[0] for sentence in cautions if "not better" in sentence] == worse
    assert any("are trained for 3 epochs and separate networks for 1" in sentence for sentence in cautions)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["gating.decisions=random", BUDGET], "gating.decisions: random decides before training; add"),
        (["gating.decisions=random", FROZEN], "gating.decisions: random needs a budget"),
        ([FROZEN], "training.gated.freeze_at is 0, so no gate would learn"),
        (["gating.decisions=modules", FROZEN, BUDGET], "modules says what is private, and a budget would change it"),
        (["gating.private={left: [stage3]}"], "private says what decisions: modules makes private"),
        (["gating.decisions=modules", FROZEN, "gating.private={depth: [stage3]}"], "gating.private names depth, which"),
        (["gating.branch_epoch=1"], "branch_epoch is for branch_init: shared and decisions: saliency"),
        (["gating.branch_init=shared", "gating.branch_epoch=9"], "gating.branch_epoch is 9; training.shared has 2"),
        (["training.gated={freeze_at: 0.5}", "training.keep=best"], "an epoch before may be the best or the last"),
        (["training.gated={freeze_at: 0.5, patience: 2}"], "an epoch before may be the best or the last"),
        (
            ["gating.gate_init_std=0", "training.gated={freeze_at: 0.5, gates: {kind: scaled}}", BUDGET],
            "all gates would close at once",
        ),
        (
            ["gating.branch_init=shared", "gating.branch_epoch=1", "training.shared.patience=1"],
            "training.shared.patience may end before gating.branch_epoch",
        ),
        (["gating.prefix=true"], "prefix orders what decisions: saliency ranks"),
        (["training.gated={freeze_at: 0.5, settle_steps: 3}"], "freeze_at freezes all gates at once; remove settle"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(*overrides)


def test_there_is_nothing_to_sweep_where_gates_are_not_learned(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="gating.decisions is modules, so λ_s decides nothing"):
        sweep(recipe(FROZEN, *START, "gating.decisions=modules"), tmp_path, progress=False)


def test_a_run_of_decided_gates_has_a_report(run: tuple[Path, RunResult], tmp_path: Path) -> None:
    """Gates that are not learned have no λ, and the report ended where it wrote one."""
    shutil.copytree(run[0], tmp_path / "run")
    content = write_report(tmp_path / "run").content
    (row,) = (row for row in content.rows if row.name == "gated-saliency")
    assert row.budget.endswith("M MACs")


def test_other_names_do_not_match_by_their_beginning(run: tuple[Path, RunResult]) -> None:
    wrong = recipe(FROZEN, *START, "gating.decisions=modules", "gating.private={left: [stage3_0]}")
    with pytest.raises(RecipeError, match="there are no gates in stage3_0"):
        decide_gates(build_gated(wrong, run[0]), wrong, run[0], (), load_data(wrong.data, ["left"]))
