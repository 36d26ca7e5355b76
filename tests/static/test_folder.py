"""A static model's folder: loads anywhere, at any batch size, or says in one line why not."""

import copy
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gate2static.errors import ArtefactError, TraceError
from gate2static.gates import gate, set_gates
from gate2static.prune import prune
from gate2static.static import StaticModel, graph_json, load_static
from gate2static.static.folder import digest
from gate2static.static.vetting import graph_bounds
from tests import zoo

FILES = ("graph.json", "manifest.json", "weights.safetensors")


@pytest.fixture
def folder(pruned: StaticModel, tmp_path: Path) -> Path:
    pruned.save(tmp_path / "static")
    return tmp_path / "static"


def _refused(folder: Path, reason: str) -> None:
    with pytest.raises(ArtefactError, match=reason) as caught:
        load_static(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_a_saved_model_computes_the_same_bits_at_any_batch_size(folder: Path, pruned: StaticModel, batch: int) -> None:
    loaded = load_static(folder)
    expected, found = (model(*pruned.example_inputs(batch)) for model in (pruned, loaded))
    assert list(found) == list(pruned.tasks)
    assert all(torch.equal(expected[task], found[task]) for task in pruned.tasks)
    assert loaded.manifest == pruned.manifest


def test_saving_a_loaded_model_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    load_static(folder).save(tmp_path / "again")
    assert sorted(path.name for path in folder.iterdir()) == list(FILES)
    for name in FILES:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_fresh_process_loads_it_without_training_code_or_pickle(folder: Path, pruned: StaticModel) -> None:
    code = """
import sys, pickle
def refuse(*_, **__): raise SystemExit("unpickled")
pickle.load = pickle.loads = refuse
from gate2static.static import load_static
static = load_static(sys.argv[1])
outputs = static(*static.example_inputs(3))
print({task: value.double().sum().item() for task, value in outputs.items()})
print(sorted(m for m in sys.modules if m.startswith(("gate2static.train", "gate2static.data", "torchvision"))))
"""
    found = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    sums, imported = found.stdout.splitlines()
    expected = {task: value.double().sum().item() for task, value in pruned(*pruned.example_inputs(3)).items()}
    assert json.loads(sums.replace("'", '"')) == pytest.approx(expected, rel=1e-6)
    assert imported == "[]"


def test_a_loaded_model_converts_to_float64(folder: Path) -> None:
    loaded = load_static(folder)
    narrow, wide = loaded(*loaded.example_inputs(2)), copy.deepcopy(loaded).double()(*_doubled(loaded))
    assert {value.dtype for value in wide.values()} == {torch.float64}
    assert 0 < zoo.relative_error(wide.values(), [value.double() for value in narrow.values()]) < 1e-4


def _doubled(model: StaticModel) -> list[torch.Tensor]:
    return [x.double() for x in model.example_inputs(2)]


def test_a_static_model_is_trained_as_it_is_evaluated(folder: Path) -> None:
    """No parameter could be trained, so that fine-tuning ended in torch's own error."""
    loaded = load_static(folder)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    loaded.train()
    assert not any(module.training for module in loaded.modules())
    sum(value.square().mean() for value in loaded(*loaded.example_inputs(2)).values()).backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())
    assert not any(parameter.requires_grad for parameter in loaded.eval().parameters())


def test_example_inputs_are_the_same_at_every_call(pruned: StaticModel) -> None:
    torch.manual_seed(1)
    first = pruned.example_inputs(2)
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(first, pruned.example_inputs(2), strict=True))
    assert [tuple(x.shape) for x in first] == [(2, *spec.shape) for spec in pruned.manifest.inputs]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    _refused(folder, rf"is not a static model: {name} missing. `gate2static prune` makes one")


def test_a_missing_folder_is_no_static_model(tmp_path: Path) -> None:
    _refused(
        tmp_path / "nowhere", r"nowhere is not a static model: manifest.json, graph.json, weights.safetensors missing"
    )


@pytest.mark.parametrize("name", ["graph.json", "weights.safetensors"])
@pytest.mark.parametrize("change", [lambda b: b[:-7], lambda b: b"", lambda b: b[:-1] + bytes([b[-1] ^ 1])])
def test_an_altered_or_truncated_file_is_noticed(folder: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    path = folder / name
    path.write_bytes(change(path.read_bytes()))
    _refused(folder, r"static was altered or is incomplete: its digest differs from the manifest's. Prune again")


def test_one_altered_weight_is_noticed(folder: Path) -> None:
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 0xFF
    path.write_bytes(content)
    _refused(folder, "was altered")


def _set(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda manifest: manifest | changes


def _input(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda manifest: manifest | {"inputs": [manifest["inputs"][0] | changes]}


MANIFESTS: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (_set(version=99), r"has format version 99; this gate2static reads up to 1. Upgrade gate2static"),
    (_set(version=0), "is not the manifest of a static model"),
    (_set(version="2"), "is not the manifest of a static model"),
    (_set(version=None), "is not the manifest of a static model"),
    (_set(format="somebody.else"), "is not the manifest of a static model"),
    (lambda manifest: [manifest], "is not the manifest of a static model"),
    (_set(surprise=1), "surprise: Extra inputs are not permitted"),
    (_set(macs={"static": "many"}), r"macs\.\w+: "),
    (_set(digest=None), "digest: Input should be a valid string"),
    (_set(tasks=["a"]), "are not one string of 0 and 1 per task"),
    (_set(gates={"layer": ["01", "0"]}), "contributions and gates are of"),
    (_set(gates={"a": ["01", "0"]}, contributions={"a": [1, 0]}), "are not one string of 0 and 1 per task"),
    (_set(tasks=["b", "a"]), "graph and manifest disagree: outputs are not named for the tasks"),
    (_set(tasks=["a", "a"]), "names a task twice: a, a"),
    (_set(tasks=["a", "../../b"]), r"names tasks or inputs \['../../b'\]; allowed are letters"),
    (_set(tasks=["a", "b\n"]), r"names tasks or inputs \['b\\n'\]; allowed are letters"),
    (_set(tasks=["a", "__import__('os').system('true')"]), "names tasks or inputs"),
    (_set(inputs=[]), "graph and manifest disagree: it does not run on the inputs"),
    (lambda manifest: manifest | {"inputs": manifest["inputs"] * 2}, "disagree: the graph takes 1 inputs, not 2"),
    (_input(name="x; import os"), "names tasks or inputs"),
    (_input(shape=[-3, 8, 8]), r"inputs\.0\.shape\.0: Input should be greater than or equal to 0"),
    (_input(shape=[4, 8, 8]), "graph and manifest disagree: it does not run on the inputs"),
    (_input(shape=[10**6, 10**6, 10**6]), "graph and manifest disagree"),
    (_input(dtype="load"), "names the dtype 'load', which torch does not have"),
    (_input(dtype="int64"), "graph and manifest disagree"),
]


@pytest.mark.parametrize(("change", "reason"), MANIFESTS)
def test_a_manifest_that_is_not_ours_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], Any], reason: str
) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    _refused(folder, reason)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00", b"{", b"[" * 10**5 + b"]" * 10**5, b'{"version":' + b"9" * 5000 + b"}"]
)
def test_a_manifest_that_is_no_json_is_refused(folder: Path, content: bytes) -> None:
    (folder / "manifest.json").write_bytes(content)
    _refused(folder, "manifest.json cannot be read")


def test_a_manifest_that_swaps_the_outputs_shapes_is_refused(folder: Path) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["outputs"][0]["shape"] = [99]
    path.write_text(json.dumps(manifest))
    _refused(
        folder, r"graph and manifest disagree: outputs are \[\(\(3,\), 'float32'\), .*, not \[\(\(99,\), 'float32'\)"
    )


def test_weights_of_another_network_are_refused(folder: Path, pruned: StaticModel) -> None:
    from safetensors.torch import save

    tensors = {name: value[:1].clone() for name, value in pruned.network.state_dict().items()}
    _write_weights(folder, save(tensors))
    _refused(folder, "graph and manifest disagree: the weights hold [0-9,]+ parameters, not ")
    _write_weights(folder, save(tensors | {"os.system": torch.ones(1)}))
    _refused(folder, r"holds a tensor named 'os.system'; allowed are parameter_N and buffer_N")
    tensors.pop("parameter_0")
    _write_weights(folder, save(tensors))
    _refused(folder, "no weight 'parameter_0'")
    _write_weights(folder, b"\xff" * 64)
    _refused(folder, "weights.safetensors is damaged: its header has [0-9,]+ bytes")


def _write_weights(folder: Path, weights: bytes) -> None:
    """With a digest that fits, as somebody who alters files on purpose would."""
    (folder / "weights.safetensors").write_bytes(weights)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["digest"] = digest((folder / "graph.json").read_bytes(), weights)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _recurrent(length: int) -> StaticModel:
    """A gated linear layer and a recurrent layer behind it, over sequences of a length."""

    class Backbone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(2, 2)
            self.recurrent = nn.LSTM(2, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            states: torch.Tensor = self.recurrent(self.first(x))[0]
            return states[:, -1]

    heads = {task: nn.Linear(2, 1) for task in "ab"}
    gated = gate(Backbone(), tasks=["a", "b"], example_inputs=(torch.randn(2, length, 2),), heads=heads)
    set_gates(gated, True)
    return prune(gated.eval())


def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of more recurrent steps than `load_static` takes was saved."""
    model = _recurrent(8)
    monkeypatch.setattr(graph_bounds, "MOST_STEPS", 15)
    with pytest.raises(ArtefactError, match="cannot be saved, since `load_static` would refuse it: .* more than 15 st"):
        model.save(tmp_path / "static")
    assert not (tmp_path / "static").exists()
    monkeypatch.setattr(graph_bounds, "MOST_STEPS", 16)
    model.save(tmp_path / "static")
    load_static(tmp_path / "static")


def test_a_graph_of_too_many_nodes_is_not_saved(
    pruned: StaticModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_json, "MOST_NODES", 3)
    with pytest.raises(ArtefactError, match="cannot be saved, since .* nodes, not a list of up to 3 nodes. Export it"):
        pruned.save(tmp_path / "static")


def test_more_recurrent_steps_than_can_be_loaded_are_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_bounds, "MOST_STEPS", 7)
    with pytest.raises(TraceError, match="but not saved: recurrent layers take more than 7 steps, and `load_static`"):
        _recurrent(8)


def test_long_sequences_take_no_longer_to_capture_and_load(tmp_path: Path) -> None:
    """Two thousand steps took minutes to prune and to load, since each was run on tensors without content."""
    model = _recurrent(300)
    start = time.process_time()
    model.save(tmp_path / "static")
    loaded = load_static(tmp_path / "static")
    assert time.process_time() - start < 1
    inputs = model.example_inputs(3)
    assert all(torch.equal(loaded(*inputs)[task], output) for task, output in model(*inputs).items())
