"""Latency estimated from a data sheet."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from gate2static.errors import BenchError
from gate2static.latency import ALIASES, DEVICES, Roofline, latency_model, predict
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


def test_a_precision_is_that_of_the_deployed_network_and_not_of_its_weights() -> None:
    small = nn.Linear(10, 10, bias=False)
    inputs = (torch.ones(1, 10),)
    ms = {name: predict(small, inputs, DEVICE, precision=name).latency_ms for name in ("fp32", "fp16", "int8")}
    traffic = {name: 1e3 * (0.5 + 120 * size / 1e6) for name, size in (("fp32", 4), ("fp16", 2), ("int8", 1))}
    assert ms == pytest.approx(traffic)
    assert predict(small, inputs, DEVICE).latency_ms == pytest.approx(ms["fp32"])
    orin = latency_model("jetson-orin-agx")
    with FakeTensorMode():
        large, many = nn.Linear(10**4, 10**4, bias=False), (torch.empty(10**5, 10**4),)
        times = [predict(large, many, orin, precision=name).latency_ms for name in ("fp32", "fp16", "int8")]
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_a_short_name_is_the_same_device(alias: str, name: str) -> None:
    assert latency_model(alias) is DEVICES[name]


def test_the_help_names_every_device(run) -> None:
    said = " ".join(run("predict", "--help").stdout.replace("│", " ").split())
    assert all(name in said for name in (*DEVICES, "orin-nano"))


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
