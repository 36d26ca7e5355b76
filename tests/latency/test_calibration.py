"""A latency table calibrated by whole networks."""

import pytest
import torch
from torch import nn

from gate2static.errors import BenchError
from gate2static.latency import LatencyTable, calibrated

INPUT = (torch.ones(1, 16, 16, 16),)


def moving(times: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), *[nn.Hardtanh() for _ in range(times)], nn.Conv2d(32, 32, 1))


NETWORKS = [moving(times) for times in (2, 5, 9)] + [nn.Conv2d(16, 64, 3, padding=1)]


def test_what_kernels_cost_in_whole_networks_is_found(table: LatencyTable) -> None:
    update = {"layer_factor": 0.8, "movement_factor": 2.8, "ms_per_weight_byte": 3e-8, "launch_ms": 2e-3}
    true = table.model_copy(update=update)
    found = calibrated(table, [(network, INPUT, true.predict_ms(network, INPUT)) for network in NETWORKS])
    for network in [*NETWORKS, moving(7)]:
        right, wrong = true.predict_ms(network, INPUT), table.predict_ms(network, INPUT)
        assert abs(found.predict_ms(network, INPUT) - right) < 0.25 * abs(wrong - right)


def test_networks_that_cost_what_their_kernels_cost_change_nothing(table: LatencyTable) -> None:
    measured = [(network, INPUT, table.predict_ms(network, INPUT)) for network in NETWORKS]
    assert calibrated(table, measured).predict_ms(moving(7), INPUT) == pytest.approx(table.predict_ms(moving(7), INPUT))


def test_nothing_becomes_negative_where_networks_take_no_time(table: LatencyTable) -> None:
    found = calibrated(table, [(network, INPUT, 0.01 * table.predict_ms(network, INPUT)) for network in NETWORKS])
    assert (found.ms_per_weight_byte, found.launch_ms) == pytest.approx((0.0, 0.0), abs=1e-12)
    assert min(found.layer_factor, found.movement_factor) >= 0.75


def test_a_machine_that_became_faster_after_its_kernels_were_measured_makes_layers_faster(table: LatencyTable) -> None:
    beyond = table.overhead_ms
    measured = [(n, INPUT, beyond + 0.8 * (table.predict_ms(n, INPUT) - beyond)) for n in NETWORKS]
    assert calibrated(table, measured).layer_factor == pytest.approx(0.8, abs=0.02)


def test_a_network_is_needed(table: LatencyTable) -> None:
    with pytest.raises(BenchError, match="at least one network"):
        calibrated(table, [])
