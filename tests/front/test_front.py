"""The front of searches: who is on it, what is picked from it, and how it looks."""

import json
import random
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from gate2static.cli.commands import app
from gate2static.errors import SearchError
from gate2static.front.pareto import as_json, pick_network, read_front
from gate2static.front.records import TrialRecord
from gate2static.front.table import front_table
from tests.front.conftest import network, write


def test_the_front_is_what_no_other_point_beats(searched: Path) -> None:
    front = read_front([searched])
    assert {point.row: point.on_front for point in front.points} == {
        "gated-good": True,
        "gated-beaten": False,
        "gated-small": True,
    }
    best = front.points[0]
    assert best.row == "gated-good"
    assert best.estimates["delta_mtl"].mean == pytest.approx(0.03)
    assert best.estimates["delta_mtl"].std == pytest.approx(0.02 / 2**0.5)
    assert best.estimates["macs"].mean == pytest.approx(0.81)
    assert front.baseline["delta_mtl"].mean == pytest.approx(-0.1)


def test_the_front_is_that_of_comparing_every_pair(tmp_path: Path) -> None:
    draw = random.Random(3)
    trials = {
        f"gated-{n}": [network(f"gated-{n}", 0, draw.randrange(8) / 99, draw.randrange(100, 108), draw.randrange(1, 8))]
        for n in range(150)
    }
    front = read_front([write(tmp_path, trials, ("delta_mtl", "macs", "latency_ms"))])
    values = {}
    for point in front.points:
        gain, *costs = (point.estimates[name].mean for name in ("delta_mtl", "macs", "latency_ms"))
        values[point.row] = (-gain, *costs)

    def is_beaten(row: str) -> bool:
        here = values[row]
        return any(there != here and all(t <= h for t, h in zip(there, here, strict=True)) for there in values.values())

    assert {point.row for point in front.best} == {row for row in values if not is_beaten(row)}


def test_equal_points_are_all_on_the_front(tmp_path: Path) -> None:
    front = read_front([write(tmp_path, {f"gated-{n}": [network(f"gated-{n}", 0, 0.1, 500)] for n in range(3)})])
    assert len(front.best) == 3


def test_seeds_of_several_searches_are_one_point_and_the_same_network_counts_once(tmp_path: Path) -> None:
    first = write(tmp_path / "a", {"gated-x": [network("gated-x", 0, 0.1, 500)]})
    second = write(tmp_path / "b", {"gated-x": [network("gated-x", 0, 0.1, 500), network("gated-x", 1, 0.3, 500)]})
    (point,) = read_front([first, second]).points
    assert [(found.record.seed, found.folder) for found in point.networks] == [
        (0, first / "seed-0/gated-x"),
        (1, second / "seed-1/gated-x"),
    ]
    assert point.estimates["delta_mtl"].mean == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("conditions", "folder"),
    [
        (["macs<=0.9"], "seed-0/gated-good"),
        (["macs<=0.7"], "seed-1/gated-small"),
        (["macs<=700"], "seed-1/gated-small"),
        (["delta_mtl>=-0.02"], "seed-0/gated-small"),
        (["delta_mtl>0", "worst_task>=0.01"], "seed-0/gated-good"),
    ],
)
def test_the_best_network_within_bounds_is_picked(conditions: list[str], folder: str, searched: Path) -> None:
    assert pick_network(read_front([searched]), conditions).folder == searched / folder


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("macs<=0.1", r"no network has macs<=0\.1; macs of the 3 points is 0\.6 to 0\.9"),
        ("latency_ms<=8", r"expected a bound such as .*; there are delta_mtl, worst_task, macs"),
        ("macs=0.5", "expected a bound"),
        ("macs<=1.2.3", "expected a bound"),
    ],
)
def test_a_bound_that_cannot_be_met_or_read_is_one_line(condition: str, message: str, searched: Path) -> None:
    with pytest.raises(SearchError, match=message):
        pick_network(read_front([searched]), [condition])


def test_no_search_no_result_and_other_objectives_are_one_line(searched: Path, tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="give a folder that `gate2static search` wrote"):
        read_front([tmp_path])
    empty = write(tmp_path / "empty", {})
    TrialRecord(slot=0, point={}, row="gated-x", error="the loss is inf").save(empty)
    with pytest.raises(SearchError, match="no trial has ended with a result yet; 1 failed"):
        read_front([empty])
    other = write(tmp_path / "other", {}, ("delta_mtl",))
    with pytest.raises(SearchError, match="has the objectives delta_mtl, and .* has delta_mtl, macs"):
        read_front([searched, other])
    (searched / "trials" / "00001.json").write_text('{"format": "gate2static-trial", "slot": "?"}')
    with pytest.raises(SearchError, match="is not a trial: .*remove it"):
        read_front([searched])


def test_a_trials_file_cannot_lead_out_of_the_search(searched: Path) -> None:
    path = searched / "trials" / "00000.json"
    path.write_text(path.read_text().replace('"run":"seed-0"', '"run":"../seed-0"'))
    with pytest.raises(SearchError, match="no path inside"):
        read_front([searched])


def test_trials_that_were_stopped_are_in_the_table_and_never_on_the_front(searched: Path) -> None:
    TrialRecord(slot=7, point={"sparsity_weight": 9}, row="gated-x", stopped_after=2).save(searched)
    # Its recipe came again, and passed.
    TrialRecord(slot=8, point={"sparsity_weight": 1}, row="gated-good", stopped_after=1).save(searched)
    front = read_front([searched])
    assert len(front.points) == 3
    assert as_json(front)["stopped"] == {"sparsity_weight=9": 2}
    terminal = Console(width=200, file=StringIO())
    terminal.print(front_table(front))
    shown = terminal.file.getvalue()
    assert "2 of 3 points are on the front; 1 stopped early" in shown
    assert re.search(r"sparsity_weight=9 +. +stopped after 2 epochs", shown)


def test_the_command_prints_a_table_writes_a_page_and_json(searched: Path) -> None:
    runner = CliRunner()
    shown = runner.invoke(app, ["front", str(searched)])
    assert shown.exit_code == 0
    assert "2 of 3 points are on the front" in " ".join(shown.output.split())
    assert (searched / "front.html").exists()
    plain = json.loads(runner.invoke(app, ["front", str(searched), "--json", "-"]).output)
    assert plain == json.loads(json.dumps(as_json(read_front([searched]))))
    assert [point["on_front"] for point in plain["points"]] == [True, False, True]
    picked = runner.invoke(app, ["front", str(searched), "--pick", "macs<=0.7"])
    assert picked.output == f"{searched}/seed-1/gated-small\n"


def test_a_thousand_trials_take_seconds_and_no_torch(tmp_path: Path) -> None:
    draw = random.Random(0)
    trials = {}
    for row in (f"gated-{n}" for n in range(1000)):
        trials[row] = [network(row, seed, draw.random(), draw.randrange(999), draw.random()) for seed in (0, 1)]
    write(tmp_path, trials, ("delta_mtl", "worst_task", "macs", "latency_ms"))
    code = """
import resource, sys
from gate2static.cli import main
sys.argv = ["gate2static", "front", sys.argv[1]]
try:
    main()
finally:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print("used", usage.ru_utime + usage.ru_stime, "torch" in sys.modules)
"""
    finished = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    seconds, has_torch = re.findall(r"used (\S+) (\S+)", finished.stdout)[0]
    assert float(seconds) < 5
    assert has_torch == "False"
