"""The table of a gated network, and the one line that it prints."""

import json

import pytest
import torch

from gate2static.errors import GateError
from gate2static.gates import gate_shares, set_gates
from gate2static.prune import prune, summary
from gate2static.report import plot_gates
from tests import zoo


@pytest.mark.parametrize("name", ["two_scales", "many_rules", "token_rules"])
def test_rows_add_up_to_what_pruning_counts(name: str) -> None:
    gated, _ = zoo.make_gated(name)
    table = summary(gated)
    macs = prune(gated).manifest.macs
    total = table.total
    counted = (macs.gated, macs.static, macs.shared, macs.separate)
    assert (total.gated_macs, total.static_macs, total.shared_macs, total.separate_macs) == counted
    assert [unit.name for unit in table.units if unit.channels] == list(gated.gates)


def test_a_unit_says_how_many_channels_each_task_takes_from_its_own_branch() -> None:
    gated, _ = zoo.make_gated("two_scales")
    set_gates(gated, False)
    decision = torch.zeros(2, 6, dtype=torch.bool)
    decision[0, :4] = True
    first = next(iter(gated.gates))
    set_gates(gated, {first: decision})
    (unit,) = (unit for unit in summary(gated).units if unit.name == first)
    assert unit.own_channels == {"a": 4, "b": 0}
    assert gate_shares(gated, per_unit=True)[first] == {"a": pytest.approx(4 / 6), "b": 0.0}
    channels = sum(gate.channels for gate in gated.gates.values())
    assert gate_shares(gated) == {"a": pytest.approx(4 / channels), "b": 0.0}


def test_a_table_is_printed_in_columns_and_is_plain_data() -> None:
    gated, _ = zoo.make_gated("two_scales")
    table = summary(gated)
    lines = str(table).splitlines()
    assert lines[0].split() == ["unit", "channels", "own:", "a", "own:", "b", "gated", "static", "shared", "separate"]
    assert len(lines) == len(table.units) + 5
    assert lines[-2].startswith("total")
    assert json.loads(json.dumps(table.to_dict()))["total"]["static_macs"] == table.total.static_macs
    assert any(line.startswith("heads.a") for line in lines)


def test_networks_print_as_one_line() -> None:
    gated, _ = zoo.make_gated("two_scales")
    static = prune(gated)
    printed = [repr(gated), repr(static), repr(static.trainable()), repr(static.trainable().eval())]
    assert all(len(line) < 300 and "\n" not in line for line in printed)
    share = gate_shares(gated)["a"]
    assert f"a {share:.0%}" in printed[0]
    assert "x (batch, 3, 12, 12) float32 -> a (batch, 3)" in printed[1]
    assert printed[2].endswith("training)")
    assert printed[3].endswith("evaluation)")


def test_gates_are_drawn_with_a_cell_per_unit_and_task() -> None:
    gated, _ = zoo.make_gated("two_scales")
    figure = plot_gates(gated, title="epoch 3")
    top, bottom = figure.axes[:2]
    (cells,) = top.images
    shares = [list(share.values()) for share in gate_shares(gated, per_unit=True).values()]
    assert cells.get_array().T.tolist() == shares
    assert [label.get_text() for label in bottom.get_xticklabels()] == list(gated.gates)
    assert figure.get_suptitle() == "epoch 3"


@pytest.mark.parametrize("function", [summary, gate_shares, plot_gates])
def test_wrappers_are_looked_into_and_others_refused(function) -> None:
    gated, _ = zoo.make_gated("two_scales")
    function(torch.nn.DataParallel(gated))
    with pytest.raises(GateError, match="allowed is a GatedModel"):
        function(torch.nn.Linear(1, 1))
