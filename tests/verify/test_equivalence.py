"""Gated against static: what passes, what must not, and what the report says."""

import copy

import pytest
import torch
from torch import nn

import gate2static as g2s
from gate2static.errors import VerificationError
from gate2static.verify import difference, verify


class _Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 12, 3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.second(torch.relu(self.norm(self.first(x)))))


class _Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.mean((2, 3)))


@pytest.fixture
def gated() -> g2s.GatedModel:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 12, 12)
    model = g2s.gate(_Backbone(), tasks=["a", "b"], example_inputs=(x,), heads={"a": _Head(), "b": _Head()}).train()
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model(x * 2 + 1)  # moves the running statistics
    return model.eval()


def test_a_pruned_model_passes_in_float64_and_as_deployed(gated: g2s.GatedModel) -> None:
    report = verify(gated, g2s.prune(gated))
    assert report.passed
    assert {check.what for check in report.checks} == {"float64", "float32"}
    assert set(report.per_task) == {"a", "b"}
    assert all(d.max_rel <= 1e-12 and d.cosine > 0.999999 for d in report.per_task.values())


def test_verifying_changes_neither_model(gated: g2s.GatedModel) -> None:
    static = g2s.prune(gated)
    before = [copy.deepcopy(m.state_dict()) for m in (gated, static)]
    gated.train()
    verify(gated, static)
    assert gated.training
    for model, state in zip((gated, static), before, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_one_wrong_weight_fails_and_the_error_names_the_tasks(gated: g2s.GatedModel) -> None:
    static = g2s.prune(gated)
    with torch.no_grad():
        max(static.parameters(), key=torch.numel).view(-1)[0] += 1e-4
    report = verify(gated, static)
    assert not report.passed
    with pytest.raises(VerificationError, match=r"relative error of .*float64.*allowed 1\.0e-09"):
        report.require()


def test_swapped_tasks_fail(gated: g2s.GatedModel) -> None:
    static = g2s.prune(gated)
    static.manifest = static.manifest.model_copy(update={"tasks": ("b", "a")})
    with pytest.raises(VerificationError, match=r"has tasks \('a', 'b'\), the static one \('b', 'a'\)"):
        verify(gated, static)
    gated.heads["a"], gated.heads["b"] = gated.heads["b"], gated.heads["a"]
    assert not verify(gated, g2s.StaticModel(static.network, g2s.prune(gated).manifest)).passed


def test_other_gates_fail(gated: g2s.GatedModel) -> None:
    static = g2s.prune(gated)
    g2s.set_gates(gated, False)
    assert not verify(gated, static).passed


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_narrower_static_model_equals_the_gated_one_with_its_weights_rounded_alike(
    gated: g2s.GatedModel, dtype: torch.dtype
) -> None:
    static = g2s.prune(gated, dtype=dtype)
    assert verify(gated, static).passed
    with torch.no_grad():
        max(static.parameters(), key=torch.numel).view(-1)[0] += 0.1
    assert not verify(gated, static).passed


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_are_never_equal(bad: float) -> None:
    value = torch.tensor([1.0, bad])
    assert difference(value, value.clone()).max_rel == float("inf")


def test_another_shape_is_never_equal() -> None:
    assert difference(torch.zeros(2, 1), torch.zeros(2)).max_abs == float("inf")


def test_two_zero_outputs_are_equal() -> None:
    found = difference(torch.zeros(3), torch.zeros(3))
    assert (found.max_rel, found.cosine) == (0.0, 1.0)


class _MakesFloats(nn.Module):
    """A grid of the default type, made from sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        rows, columns = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in x.shape[2:]), indexing="ij")
        grid = torch.stack([columns, rows], -1).repeat(x.shape[0], 1, 1, 1) * 0.9
        return self.second(nn.functional.grid_sample(y, grid, align_corners=False))


class _FiltersFrequencies(nn.Module):
    """Complex weights, kept as pairs of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3)
        self.filters = nn.Parameter(torch.randn(8, 12, 7, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        frequencies = torch.fft.rfft2(self.first(x), norm="ortho") * torch.view_as_complex(self.filters)
        return self.second(torch.fft.irfft2(frequencies, s=x.shape[2:], norm="ortho"))


@pytest.mark.parametrize("backbone", [_MakesFloats, _FiltersFrequencies])
def test_code_that_makes_its_own_numbers_is_verified_in_every_type(backbone: type[nn.Module]) -> None:
    torch.manual_seed(0)
    heads = {"a": _Head(), "b": _Head()}
    model = g2s.gate(backbone(), tasks=["a", "b"], example_inputs=(torch.randn(2, 3, 12, 12),), heads=heads).eval()
    before = torch.get_default_dtype()
    assert verify(model, g2s.prune(model)).passed
    assert torch.get_default_dtype() is before
