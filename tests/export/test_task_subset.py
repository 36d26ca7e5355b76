"""A network for some of its tasks computes the same, and nothing that only the others need."""

from pathlib import Path

import onnx
import pytest
import torch

from gate2static.errors import ExportError, VerificationError
from gate2static.export import export_onnx, task_subset
from gate2static.export.task_subset import for_tasks
from gate2static.latency.operators import record
from gate2static.static import StaticModel, load_static


def test_one_task_is_what_the_whole_network_computes(static: StaticModel, tmp_path: Path) -> None:
    static.describe(outputs={"a": {"kind": "classification"}, "b": {"kind": "depth"}})
    part = for_tasks(static, ["b"])
    assert part.tasks == part.output_names == ("b",)
    x = torch.randn(3, 3, 16, 16)
    assert torch.equal(part(x)["b"], static(x)["b"])
    assert static.tasks == ("a", "b"), "the network itself is not changed"
    assert set(part.manifest.meaning.outputs) == {"b"}
    assert set(part.manifest.layers) <= set(part.network.state_dict())
    assert part.manifest.digest != static.manifest.digest
    part.save(tmp_path / "part")  # which looks at graph, tensors and manifest
    assert torch.equal(load_static(tmp_path / "part")(x)["b"], static(x)["b"])


def test_what_only_other_tasks_need_is_gone(static: StaticModel, tmp_path: Path) -> None:
    part = for_tasks(static, ["b"])
    assert part.manifest.macs.static < static.manifest.macs.static
    assert part.manifest.parameters.static < static.manifest.parameters.static
    weights = {tuple(parameter.shape) for parameter in part.parameters()}
    assert not any(shape[0] == 5 and len(shape) == 2 for shape in weights), "the head of a has 5 outputs"
    model = onnx.load(export_onnx(part, tmp_path / "model.onnx").path)
    assert [output.name for output in model.graph.output] == ["b"]


def test_the_macs_of_all_tasks_are_those_of_the_manifest(static: StaticModel) -> None:
    assert for_tasks(static, ["a", "b"]).manifest.macs.static == static.manifest.macs.static
    assert sum(x.macs for x in record(static.network, static.example_inputs())) == static.manifest.macs.static


@pytest.mark.parametrize(
    ("tasks", "says"),
    [(["c"], "the network has no task 'c'; a, b"), ([], "at least one task"), (["a", "a"], "each once")],
)
def test_wrong_tasks_are_refused(static: StaticModel, tasks: list[str], says: str) -> None:
    with pytest.raises(ExportError, match=says):
        for_tasks(static, tasks)


def test_a_part_that_computes_something_else_is_refused(static: StaticModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(network):
        with torch.no_grad():
            next(network.parameters()).add_(1)

    monkeypatch.setattr(task_subset, "_drop_unread", wrong)
    with pytest.raises(VerificationError, match="computes another b than the whole network"):
        for_tasks(static, ["b"])
