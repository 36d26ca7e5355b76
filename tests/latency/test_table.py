"""The latency table: predictions, its file, and files that are foreign or damaged."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from gate2static.errors import BenchError
from gate2static.latency import LatencyTable, latency_model, load_latency_table, predict
from gate2static.static import StaticModel

INPUT = (torch.ones(1, 16, 8, 8),)


def convolution() -> nn.Module:
    return nn.Conv2d(16, 32, 3, padding=1)


def test_a_networks_latency_is_the_sum_of_its_kernels_and_the_overhead(table: LatencyTable) -> None:
    reorder_ms = 1e-6 * 2 * 16 * 64 * 4
    assert table.predict_ms(convolution(), INPUT) == pytest.approx(1 + 1e-6 * 64 * 16 * 32 * 9 + reorder_ms)


def test_a_batch_costs_as_much_as_more_positions(table: LatencyTable) -> None:
    one, two = (table.predict_ms(convolution(), (torch.ones(n, 16, 8, 8),)) for n in (1, 2))
    assert two - 1 == pytest.approx(2 * (one - 1))


def test_a_fused_activation_is_free(table: LatencyTable) -> None:
    plain = table.predict_ms(convolution(), INPUT)
    assert table.predict_ms(nn.Sequential(convolution(), nn.ReLU()), INPUT) == plain
    assert table.predict_ms(nn.Sequential(nn.ReLU(), convolution()), INPUT) > plain


def test_a_wrong_table_predicts_wrongly(table: LatencyTable) -> None:
    grids = [g.model_copy(update={"ms": tuple(2 * ms for ms in g.ms)}) for g in table.grids]
    wrong = table.model_copy(update={"grids": tuple(grids)})
    right_ms = table.predict_ms(convolution(), INPUT) - 1
    assert wrong.predict_ms(convolution(), INPUT) - 1 == pytest.approx(2 * right_ms)


def test_a_layer_that_was_not_measured_is_named_with_the_fix(table: LatencyTable) -> None:
    with pytest.raises(BenchError, match=r"no times of 'convolution 5×5/1'; it has .*gate2static profile"):
        table.predict_ms(nn.Conv2d(16, 16, 5), INPUT)


def test_a_table_survives_its_file(table: LatencyTable, tmp_path: Path) -> None:
    path = tmp_path / "new" / "profile.json"
    table.save(path)
    assert load_latency_table(path) == table
    assert latency_model(path) == table
    assert [p.name for p in path.parent.iterdir()] == ["profile.json"]
    assert not latency_model(str(path)).estimated


def test_a_file_has_the_keys_that_it_had_from_the_first_version_on(table: LatencyTable, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    table.model_copy(update={"layer_factor": 0.9, "movement_factor": 1.5}).save(path)
    content = json.loads(path.read_text())
    assert (content["layers"], content["movement"]) == (0.9, 1.5)
    loaded = load_latency_table(path)
    assert (loaded.layer_factor, loaded.movement_factor) == (0.9, 1.5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read|is not a latency table"),
        (b'{"format": "gate2static latency table", "na', "cannot be read|is not a latency table"),
        (b'{"macs": 3}', "cannot be read|is not a latency table"),
        (b"[1]", "cannot be read|is not a latency table"),
        (b"\xff\xfe\x00", "cannot be read|is not a latency table"),
    ],
)
def test_a_foreign_or_damaged_file_is_one_clear_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(content)
    with pytest.raises(BenchError, match=message) as caught:
        latency_model(path)
    assert "\n" not in str(caught.value)
    assert "`gate2static profile` makes one" in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [{"version": 2}, {"overhead_ms": -1}, {"threads": 0}, {"grids": []}, {"surprise": 1}, {"backend": "onnxruntim"}],
)
def test_a_changed_file_is_refused(change: dict[str, object], table: LatencyTable, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    table.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BenchError, match=rf"profile\.json is not a latency table.*{next(iter(change))}"):
        load_latency_table(path)


def test_a_grid_with_too_few_axes_is_named(table: LatencyTable) -> None:
    grids = [g.model_copy(update={"axes": g.axes[:1], "ms": g.ms[: len(g.axes[0])]}) for g in table.grids]
    damaged = table.model_copy(update={"grids": tuple(grids)})
    with pytest.raises(BenchError, match="is damaged: its times of 'convolution 3×3/1' have 1 axes, expected 3"):
        damaged.predict_ms(convolution(), INPUT)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="cannot read the latency table .*`gate2static profile` makes one"):
        latency_model(tmp_path / "profile.json")


def test_a_file_that_cannot_be_written_leaves_the_old_one(table: LatencyTable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(BenchError, match="cannot write"):
        table.save(tmp_path / "file" / "profile.json")
    assert (tmp_path / "file").read_text() == "old"


def test_a_static_network_is_predicted(table: LatencyTable, static: StaticModel) -> None:
    found = predict(static.deployed(), static.example_inputs(2), table)
    assert found.latency_ms == pytest.approx(table.predict_ms(static.deployed(), static.example_inputs(2)))
    assert (found.estimated, found.batch_size) == (False, 2)
