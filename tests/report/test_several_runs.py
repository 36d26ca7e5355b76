"""One report over several runs: means and standard deviations over seeds."""

from dataclasses import replace

import pytest

from gate2static.errors import Gate2StaticError
from gate2static.report.content import TaskColumn
from gate2static.report.page import all_pictures, render_page
from gate2static.report.several_runs import over_seeds
from gate2static.report.table import cells, header


@pytest.fixture
def runs(content):
    """Two runs whose gated networks differ; the last network of the first run was not trained in the second."""
    gated = replace(content.rows[2], delta_mtl_percent=1.4, latency_ratios={"separate": 0.65}, macs=64_000_000)
    first = replace(content, facts={"seed": "0", "data": "digits"})
    second = replace(content, rows=(*content.rows[:2], gated), facts={"seed": "1", "data": "digits"}, missing=())
    return [first, second]


def test_cells_are_means_with_standard_deviations(runs):
    merged = over_seeds(runs, ["a", "b"])
    gated = dict(zip(header(merged), cells(merged, merged.rows[2]), strict=True))
    assert gated["network"] == "gated-0.05"
    assert gated["Δ_MTL (%) ↑"] == "+0.90 ± 0.71"
    assert gated["latency / separate"] == "0.70 ± 0.07×"
    assert gated["latency / shared"] == "–", "the second run lacks it"
    assert gated["MACs (M)"] == "63.00 ± 1.41"
    assert gated["seeds"] == "2"
    alone = dict(zip(header(merged), cells(merged, merged.rows[3]), strict=True))
    assert alone["seeds"] == "1"


def test_the_page_says_which_seeds_and_what_is_missing_where(runs):
    merged = over_seeds(runs, ["a", "b"])
    assert merged.facts == {"data": "digits", "seeds": "0, 1"}
    assert merged.missing == ("a: gated-0.1 is not trained yet: run `gate2static sweep`",)
    page = render_page(merged, all_pictures(merged))
    assert "±: the standard deviation over seeds" in page
    assert "+0.90 ± 0.71" in page


def test_what_several_runs_say_alike_is_said_once(runs):
    cautioned = [replace(run, cautions=("all are slow", f"{run.facts['seed']} is slow")) for run in runs]
    assert over_seeds(cautioned, ["a", "b"]).cautions == ("a, b: all are slow", "a: 0 is slow", "b: 1 is slow")


def test_runs_of_other_tasks_have_no_mean(runs):
    other = replace(runs[1], columns=(TaskColumn(task="depth", metric="rmse", higher_is_better=False),))
    with pytest.raises(Gate2StaticError, match="b has other tasks or metrics than a"):
        over_seeds([runs[0], other], ["a", "b"])


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"seed": "1", "data": "scenes"}, "b and a differ in more than their seeds: data is scenes and digits"),
        ({"seed": "0", "data": "digits"}, "the seeds of the runs are 0, 0; a seed counts once"),
    ],
)
def test_runs_that_are_no_seeds_of_one_recipe_have_no_mean(facts, says, runs):
    with pytest.raises(Gate2StaticError, match=says):
        over_seeds([runs[0], replace(runs[1], facts=facts)], ["a", "b"])
