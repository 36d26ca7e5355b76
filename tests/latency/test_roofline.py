"""Latency estimated from a data sheet."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from gate2static.errors import BenchError
from gate2static.latency import DEVICES, Roofline, latency_model, predict
from gate2static.terminal import console

DEVICE = Roofline(name="toy", peak_macs_per_s={32: 1e9, 16: 4e9}, bytes_per_s=1e6, launch_s=0.5)


def test_arithmetic_or_memory_whichever_takes_longer_and_a_launch() -> None:
    small = nn.Linear(10, 10, bias=False)
    ms = 1e3 * (0.5 + (10 + 100 + 10) * 4 / 1e6)
    assert DEVICE.predict_ms(small, (torch.ones(1, 10),)) == pytest.approx(ms)
    with FakeTensorMode():
        large, inputs = nn.Linear(10**4, 10**4, bias=False), (torch.empty(10**7, 10**4),)
    assert DEVICE.predict_ms(large, inputs) == pytest.approx(1e3 * (0.5 + 10**15 / 1e9))


def test_half_the_width_runs_at_its_own_peak() -> None:
    with FakeTensorMode():
        kind = {"dtype": torch.float16}
        large, inputs = nn.Linear(10**5, 10**5, bias=False, **kind), (torch.empty(10**5, 10**5, **kind),)
    assert DEVICE.predict_ms(large, inputs) == pytest.approx(1e3 * (0.5 + 10**15 / 4e9))


@pytest.mark.parametrize("name", DEVICES)
def test_every_data_sheet_predicts_and_says_that_it_is_an_estimate(name: str) -> None:
    model = latency_model(name)
    found = predict(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), (torch.ones(1, 3, 8, 8),), model)
    assert 0 < found.latency_ms < 10
    assert found.as_json()["estimated"] is True
    printer = console(width=200)
    with printer.capture() as capture:
        printer.print(found.table())
    assert "estimated from a data sheet" in capture.get()
    assert "estimated ms" in capture.get()


def test_an_unknown_device_is_answered_with_the_known_ones() -> None:
    with pytest.raises(BenchError, match="tpu is neither a latency table .* nor a known device; known: .*a100"):
        latency_model("tpu")
