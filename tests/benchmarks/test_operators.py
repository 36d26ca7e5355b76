"""The table of operators says of each what became of it."""

import pytest
import torch

from benchmarks.robustness.operator_cases import OPERATORS
from benchmarks.robustness.operators import run
from gate2static.export import onnx_forms


def test_an_operator_works_is_refused_or_lacks_onnx() -> None:
    assert run(OPERATORS["torch.cumprod"])[0] == "works"
    assert run(OPERATORS["torch.nextafter"])[0] == "refused"
    assert run(OPERATORS["torch.digamma"])[0] == "torch"


def test_a_wrong_form_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {torch.ops.aten.cumprod.default: lambda x, dim: x}
    monkeypatch.setattr(onnx_forms, "FORMS", {**onnx_forms.FORMS, **wrong})
    outcome, detail = run(OPERATORS["torch.cumprod"])
    assert outcome == "fails"
    assert "not equal" in detail
