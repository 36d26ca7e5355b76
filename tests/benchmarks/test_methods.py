"""The benchmark of methods: what counts as different from plain training, and what a page says of it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.methods import __main__ as command
from benchmarks.methods.cost import Cost, measure_costs
from benchmarks.methods.networks import CONTROL, MEASURES, SAME_AT_ANY_SCALE, SEPARATE, Result, candidates
from benchmarks.methods.page import write_page
from benchmarks.methods.summaries import DELTA, differs, rank, summarise
from gate2static.balance import METHODS
from gate2static.data import describe_data
from gate2static.recipe import load_recipe
from gate2static.tasks import build_tasks

RECIPE = load_recipe(Path("benchmarks/methods/scenes.yaml"))
TASKS = build_tasks(RECIPE.tasks, describe_data(RECIPE.data))


def result(name: str, seed: int, gain: float, gds: float = 0.1) -> Result:
    """A network that is better than separate ones by a share in every task."""
    metrics = {
        "semantic": {"mIoU": 0.5 * (1 + gain), "pixel_accuracy": 0.75},
        "depth": {"rmse": 1 - gain},
        "normals": {"mErr": 20 * (1 - gain)},
    }
    curves = {measure: [9.0, 9.0, gds, gds] for measure in MEASURES} if name != SEPARATE else {}
    return Result(name=name, seed=seed, metrics=metrics, steps=[0, 10, 20, 30], curves=curves, scale=1.0)


def results() -> list[Result]:
    gains = {SEPARATE: 0.0, "sum": 0.02, "mean": -0.1, CONTROL: 0.06, "graddrop": 0.03, "graddrop-sum-scale": 0.021}
    noise = (-0.001, 0.0, 0.001)
    return [
        result(name, seed, gain + (noise[seed] if name != SEPARATE else 0), gds=gain)
        for name, gain in gains.items()
        for seed in range(3)
    ]


def test_every_method_has_a_network_in_every_setting() -> None:
    names = [candidate.name for candidate in candidates(3)]
    assert len(names) == len(set(names))
    for method, kind in METHODS.items():
        scales = [""] if method in SAME_AT_ANY_SCALE else ["", "-sum-scale"]
        levels = ["", "-features"] if "features" in kind.levels else [""]
        assert {f"{method}{level}{scale}" for level in levels for scale in scales} <= set(names)


def test_the_control_is_plain_training_at_t_times_the_rate() -> None:
    (control,) = [candidate for candidate in candidates(3) if candidate.name == CONTROL]
    recipe = control.recipe(RECIPE, seed=5)
    assert recipe.seed == 5
    assert recipe.training.shared.balancing.is_plain
    assert recipe.training.shared.weights.lr == pytest.approx(3 * RECIPE.training.shared.weights.lr)
    assert recipe.training.single.weights.lr == RECIPE.training.shared.weights.lr


def test_a_difference_counts_beyond_two_standard_errors() -> None:
    summaries = summarise(results(), TASKS)
    plain = summaries["sum"]
    assert plain.mean(DELTA) == pytest.approx(2.0)
    assert plain.spread(DELTA) == pytest.approx(0.1)
    assert plain.mean("gds") == pytest.approx(0.02), "the mean of the second half"
    assert differs(summaries["graddrop"], plain, DELTA)  # 1.0 against 2 · 0.1 · √(2/3) = 0.16
    assert not differs(summaries["graddrop-sum-scale"], plain, DELTA)  # 0.1
    # Seeds that agree by chance do not make a small difference count.
    exact = [replace(one, metrics=result("x", 0, 0.0211).metrics) for one in results() if one.name.endswith("-scale")]
    others = [one for one in results() if not one.name.endswith("-scale")]
    assert not differs(summarise([*others, *exact], TASKS)["graddrop-sum-scale"], plain, DELTA)


def test_ranks_know_which_direction_is_better() -> None:
    summaries = summarise(results(), TASKS)
    among = [summaries[name] for name in ("sum", "mean", "graddrop")]
    for score in (DELTA, "depth rmse", "normals mErr", "semantic mIoU"):
        assert [rank(name, among, score) for name in ("sum", "mean", "graddrop")] == [2, 3, 1]


@pytest.mark.slow
def test_the_page_says_what_the_results_say(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    unfinished = result("pcgrad", 0, 0.5)
    diverged = [
        Result(name="famo", seed=s, metrics={}, steps=[], curves={}, scale=None, failed="famo: a loss")
        for s in range(3)
    ]
    cost = Cost(method="pcgrad", setting="parameters", ratio=2.1, low=2.0, high=2.2)
    write_page(page, RECIPE, [*results(), unfinished, *diverged], [cost])
    text = page.read_text()
    assert "| graddrop, own scale | 1 of 4 |" in text
    assert "- `graddrop` against `sum`: Δ_MTL (%) +1 (better)" in text
    assert "- `graddrop-sum-scale` against `sum`: Δ_MTL (%) +0.1 (not significant)" in text
    assert "| graddrop | 3 | 3 ± 0.1* |" in text
    assert "| famo | 0 (3 diverged) | – |" in text
    assert "left out: `cosreg`, `pcgrad`" in text
    assert "| pcgrad |  |  | 2.10 (2.00 to 2.20) |  |  |" in text
    assert (tmp_path / "page_scenes-sgd.png").stat().st_size > 10_000
    write_page(page, RECIPE, results(), [cost])
    assert page.read_text().count("## scenes-sgd") == 1


@pytest.mark.slow
def test_a_network_that_was_measured_in_part_is_in_the_page_and_trained_again(tmp_path: Path) -> None:
    in_part = [replace(one, curves={"gds": one.curves["gds"]}) if one.name == "graddrop" else one for one in results()]
    assert {one.name for one in in_part if not one.is_whole} == {"graddrop"}
    write_page(tmp_path / "page.md", RECIPE, in_part, [])
    text = (tmp_path / "page.md").read_text()
    assert "| graddrop | 3 | 3 ± 0.1* |" in text
    assert "| graddrop | 3 | 0.03 ± 0* | – | – |" in text


def test_results_of_another_recipe_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "scenes-sgd.json"
    command.write_results(path, RECIPE, results())
    assert command.read_results(path, RECIPE) == results()
    stored = json.loads(path.read_text())
    del stored["recipe"]["training"]["tensorboard"]  # as if it had come later
    path.write_text(json.dumps(stored))
    assert command.read_results(path, RECIPE) == results()
    stored["recipe"]["training"]["shared"]["epochs"] = 99
    path.write_text(json.dumps(stored))
    with pytest.raises(SystemExit, match="has results of another recipe; give this one another name"):
        command.read_results(path, RECIPE)


@pytest.mark.slow
def test_costs_are_of_every_setting_of_a_method() -> None:
    costs = measure_costs(("dwa", "mgda"), rounds=2)
    settings = {(cost.method, cost.setting) for cost in costs}
    assert settings == {
        ("dwa", "losses"),
        ("dwa", "gated, losses"),
        ("mgda", "features"),
        ("mgda", "parameters"),
        ("mgda", "gated, parameters"),
    }
    assert all(0 < cost.low <= cost.ratio <= cost.high for cost in costs)
