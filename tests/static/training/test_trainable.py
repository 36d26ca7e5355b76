"""A static network trains as the gated one does with frozen gates, and goes back to a static network."""

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils import _pytree as pytree

from gate2static.budget import freeze_gates
from gate2static.errors import ArtefactError
from gate2static.export import export_onnx, onnx_errors
from gate2static.export.task_subset import for_tasks
from gate2static.gates import GatedModel, gate, gate_parameters
from gate2static.prune import prune
from gate2static.static import StaticModel, load_static
from gate2static.static.model import TrainableModel
from gate2static.verify import verify
from tests import zoo


def loss(outputs: Any) -> Tensor:
    return sum((x**3).mean() for x in pytree.tree_leaves(outputs))


def step(network: nn.Module, x: Tensor) -> list[Tensor]:
    outputs = network(x)
    loss(outputs).backward()
    return [output.detach() for output in pytree.tree_leaves(outputs)]


def gradients_pruned(gated: GatedModel) -> TrainableModel:
    """A static network of the same layout that has gradients where the real one has weights."""
    of_gates = {id(p) for p in gate_parameters(gated)}
    gradients = copy.deepcopy(gated)
    with torch.no_grad():
        for parameter, source in zip(gradients.parameters(), gated.parameters(), strict=True):
            if id(source) not in of_gates:
                parameter.copy_(torch.zeros_like(source) if source.grad is None else source.grad)
    return prune(gradients).trainable()


def tensors(values: Any) -> Tensor:
    return torch.cat([value.detach().flatten() for value in values])


def difference(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max() / a.abs().max())


class Dropping(nn.Module):
    """Norms, dropout of numbers, of channels and of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.drop = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout2d(0.25)
        self.second, self.drop_numbers = nn.Conv2d(8, 8, 3), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop_numbers(self.second(self.drop(torch.relu(self.norm(self.stem(x))))))


def make(backbone: nn.Module, *, heads: dict[str, nn.Module] | None = None, **options: Any) -> GatedModel:
    x = torch.randn(2, 3, 8, 8)
    heads = heads or {task: zoo.pooled_head(backbone, (x,)) for task in ("a", "b")}
    return zoo.randomise(gate(backbone, tasks=["a", "b"], example_inputs=(x,), heads=heads, **options))


@pytest.fixture(scope="module")
def dropping() -> StaticModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return prune(make(Dropping()))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("two_scales", {"group_size": 2, "mixing": "hard"}),
        ("many_rules", {}),
        pytest.param("token_rules", {}, marks=pytest.mark.slow),
        pytest.param("resnet12", {}, marks=pytest.mark.slow),
        pytest.param("densenet", {"group_size": 4, "mixing": "hard"}, marks=pytest.mark.slow),
    ],
)
def test_a_step_is_that_of_the_gated_network_with_frozen_gates(name: str, options: dict[str, Any]) -> None:
    gated, _ = zoo.make_gated(name, **options)
    x = torch.randn(4, 3, *[zoo.BACKBONES[name][1]] * 2, dtype=torch.float64)
    gated.double().train()
    freeze_gates(gated)
    static = prune(gated)
    trainable = static.trainable()
    for a, b in zip(step(gated, x), step(trainable, x), strict=True):
        assert difference(a, b) <= 1e-9
    trained = dict(trainable.named_parameters())
    pruned_after = gradients_pruned(gated)
    expected = dict(pruned_after.named_parameters())
    assert trained.keys() == expected.keys()
    names = [name for name in trained if trained[name].requires_grad]
    assert difference(tensors(expected[n] for n in names), tensors(trained[n].grad for n in names)) <= 1e-9
    after = dict(pruned_after.named_buffers())
    for key, buffer in trainable.named_buffers():
        assert torch.allclose(buffer.double(), after[key].double(), rtol=1e-9, atol=1e-12), key
    before = dict(static.trainable().named_buffers())
    assert any(key.endswith("running_mean") and not torch.equal(b, after[key]) for key, b in before.items()) or not any(
        "running" in key for key in before
    )


def test_in_evaluation_it_is_the_static_network(dropping: StaticModel) -> None:
    x = torch.randn(3, 3, 8, 8)
    trainable = dropping.trainable()
    assert trainable.training
    assert not torch.equal(trainable(x)["a"], dropping(x)["a"])
    restored = dropping.trainable().eval()
    assert torch.equal(restored(x)["a"], dropping(x)["a"])


def test_dropout_drops_numbers_and_channels_in_training_only(dropping: StaticModel) -> None:
    targets = [str(node.target) for node in dropping.network.graph.nodes]
    assert any("feature_dropout" in target for target in targets)
    assert any("aten.dropout" in target for target in targets)
    trainable = dropping.trainable()
    x = torch.randn(64, 3, 8, 8)
    drops = [m for m in trainable.modules() if type(m).__name__ in ("Dropout", "ChannelDropout")]
    shares: dict[str, float] = {}
    for layer in drops:
        layer.register_forward_hook(
            lambda module, args, out: shares.update({type(module).__name__: float((out == 0).float().mean())})
        )
    trainable(x)
    assert shares["Dropout"] == pytest.approx(0.5, abs=0.05)
    assert shares["ChannelDropout"] > 0.25, "ReLU makes zeros too"
    deployed = [str(node.target) for node in dropping.deployed().network.graph.nodes]
    assert not any("dropout" in target for target in deployed)


def test_the_network_of_some_tasks_has_no_dropout_of_others_and_trains() -> None:
    heads = {task: nn.Sequential(nn.Dropout(0.5), nn.Conv2d(4, 1, 1)) for task in "ab"}
    part = for_tasks(prune(make(nn.Conv2d(3, 4, 1), heads=heads)), ["a"])
    assert [str(node.target) for node in part.network.graph.nodes].count("aten.dropout.default") == 1
    trainable = part.trainable()
    names = [name for name, _ in trainable.named_parameters()]
    assert "network.heads.a.1.weight" in names
    assert not any("heads.b" in name for name in names)
    step(trainable, torch.randn(2, 3, 8, 8))


def test_whoever_reads_what_dropout_reads_reads_it_undropped() -> None:
    """Dropout returns its operand itself in evaluation, so that the trace could take one for the other."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.drop = nn.Conv2d(3, 4, 1), nn.Dropout(0.999999)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.drop(y) * 1000 + y

    heads = {task: nn.Flatten() for task in "ab"}
    static = prune(make(Residual(), heads=heads))
    x = torch.randn(2, 3, 8, 8)
    assert torch.allclose(1001 * static.trainable()(x)["a"], static(x)["a"], rtol=1e-3, atol=1e-3)


def test_parameters_are_named_for_their_layer_and_streams_and_train_but_for_the_mixes() -> None:
    gated, _ = zoo.make_gated("two_scales")
    trainable = prune(gated).trainable()
    names = dict(trainable.named_parameters())
    assert {"network.stem.a_b_shared.weight", "network.heads.a.linear.weight"} <= names.keys()
    mixes = {name for name in names if name.startswith("network.mixes.")}
    assert mixes
    assert {name for name, parameter in names.items() if not parameter.requires_grad} == mixes
    assert not any(name.startswith("network.parameter_") for name in names)
    other = prune(gated).trainable()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(trainable.state_dict())
    x = torch.randn(2, 3, 12, 12)
    assert torch.equal(other.eval()(x)["a"], trainable.eval()(x)["a"])


class FrozenNorms(nn.Module):
    """The usual way to keep norms in evaluation, which also leaves dropout there."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.norm(self.conv(x)))

    def train(self, mode: bool = True) -> "FrozenNorms":
        super().train(mode)
        self.norm.eval()
        self.drop.eval()
        return self


def test_what_training_leaves_in_evaluation_stays_there() -> None:
    heads = {task: nn.Sequential(FrozenNorms(), nn.Flatten()) for task in "ab"}
    heads["a"][0].conv = heads["b"][0].conv = nn.Identity()
    static = prune(make(FrozenNorms(), heads=heads))
    trainable = static.trainable()
    before = copy.deepcopy(trainable.state_dict())
    x = torch.randn(4, 3, 8, 8)
    assert torch.equal(trainable(x)["a"], static(x)["a"])
    assert all(torch.equal(value, before[name]) for name, value in trainable.state_dict().items())


class InCode(nn.Module):
    """Does something in training that is no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y * 2 if self.training else y


class Twice(nn.Module):
    """One layer for two values, of which other channels are needed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.conv(x), self.conv(torch.relu(x))], 1)


def with_heads(**heads: nn.Module) -> Callable[[], GatedModel]:
    return lambda: make(nn.Conv2d(3, 4, 1), heads={"b": nn.Flatten(), **heads})


def shared_head() -> GatedModel:
    layer = nn.Conv2d(4, 2, 1)
    return make(nn.Conv2d(3, 4, 1), heads={"a": nn.Sequential(layer), "b": nn.Sequential(nn.ReLU(), layer)})


def parametrized() -> GatedModel:
    return make(nn.Sequential(weight_norm(nn.Conv2d(3, 4, 1))), heads={"a": nn.Flatten(), "b": nn.Flatten()})


LACKING = {
    "code": (lambda: make(InCode()), "in_training computes something in training alone"),
    "random activation": (with_heads(a=nn.Sequential(nn.RReLU())), r"heads\.a\.0 is a RReLU"),
    "alpha dropout": (with_heads(a=nn.Sequential(nn.AlphaDropout(0.1))), r"heads\.a\.0 is a AlphaDropout"),
    "momentum": (with_heads(a=nn.Sequential(nn.BatchNorm2d(4, momentum=None))), "momentum is None"),
    "statistics": (with_heads(a=nn.InstanceNorm2d(4, track_running_stats=True)), "follows running statistics"),
    "called twice": (lambda: make(Twice()), "conv is used more than once"),
    "shared by heads": (shared_head, "is used more than once"),
    "parametrized": (parametrized, "has parametrized weights"),
}


@pytest.mark.parametrize("what", list(LACKING))
def test_what_cannot_be_trained_alike_is_refused_by_its_name(what: str) -> None:
    factory, message = LACKING[what]
    static = prune(factory())
    with pytest.raises(ArtefactError, match=message):
        static.trainable()
    x = torch.randn(2, 3, 8, 8)
    loss(static.trainable(strict=False)(x)).backward()


def test_layers_that_are_switched_off_in_training_are_no_reason_to_refuse() -> None:
    heads = {"a": nn.Sequential(nn.AlphaDropout(0.0), nn.Flatten()), "b": nn.Sequential(nn.ReLU(), nn.Flatten())}
    backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.LayerNorm([4, 8, 8]))
    assert prune(make(backbone, heads=heads)).manifest.lacks_in_training == {}


def test_deployed_forms_and_networks_of_earlier_versions_are_refused(dropping: StaticModel) -> None:
    with pytest.raises(ArtefactError, match="norms are folded"):
        dropping.deployed().trainable()
    older = StaticModel(dropping.network, dropping.manifest.model_copy(update={"lacks_in_training": None}))
    with pytest.raises(ArtefactError, match="earlier version"):
        older.trainable()


@pytest.mark.parametrize("name", ['x"); print(1); ("', "class", "a b", "", "a..b", "__class__.x", "half.x"])
def test_names_of_a_strangers_file_never_become_code(dropping: StaticModel, name: str) -> None:
    layers = {**dropping.manifest.layers, "parameter_0": name}
    with pytest.raises(ArtefactError, match="static network"):
        StaticModel(dropping.network, dropping.manifest.model_copy(update={"layers": layers})).trainable()


def test_copies_files_averages_and_half_precision_work_with_torchs_own_tools(dropping: StaticModel) -> None:
    trainable = dropping.trainable()
    x = torch.randn(4, 3, 8, 8)
    average = AveragedModel(trainable, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    optimiser = torch.optim.SGD([p for p in trainable.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            loss(trainable(x)).backward()
        optimiser.step()
        optimiser.zero_grad()
        average.update_parameters(trainable)
    file = io.BytesIO()
    torch.save(trainable, file)
    file.seek(0)
    expected = trainable.eval()(x)["a"]
    for copied in (copy.deepcopy(trainable), torch.load(file, weights_only=False)):
        assert torch.equal(copied.eval()(x)["a"], expected)
        assert torch.equal(copied.static()(x)["a"], expected)
    averaged = average.module.static()
    assert not torch.equal(averaged(x)["a"], expected)
    assert torch.equal(averaged(x)["a"], average.module.eval()(x)["a"])


def test_norms_can_be_synchronised_by_torchs_own_conversion(dropping: StaticModel) -> None:
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(dropping.trainable()).eval()
    assert any(isinstance(module, nn.SyncBatchNorm) for module in converted.modules())
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(converted(x)["a"], dropping(x)["a"])
    assert torch.equal(converted.static()(x)["a"], dropping(x)["a"])


def fine_tuned(static: StaticModel) -> StaticModel:
    trainable = static.trainable()
    x = torch.randn(4, 3, 8, 8)
    optimiser = torch.optim.SGD([p for p in trainable.parameters() if p.requires_grad], lr=0.1)
    loss(trainable(x)).backward()
    optimiser.step()
    return trainable.static()


def test_what_was_trained_goes_back_is_saved_and_says_what_it_comes_from(
    dropping: StaticModel, tmp_path: Path
) -> None:
    tuned = fine_tuned(dropping)
    tuned.save(tmp_path / "tuned")
    loaded = load_static(tmp_path / "tuned")
    assert loaded.manifest.fine_tuned_from == dropping.manifest.digest != loaded.manifest.digest
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(loaded(x)["a"], tuned(x)["a"])
    assert not torch.equal(loaded(x)["a"], dropping(x)["a"])
    assert torch.allclose(loaded.deployed()(x)["a"], tuned(x)["a"], atol=1e-5)
    again = fine_tuned(loaded)
    assert again.manifest.fine_tuned_from == dropping.manifest.digest
    assert not any(p.requires_grad for p in again.parameters())


def test_the_source_is_not_changed_by_training(dropping: StaticModel) -> None:
    before = copy.deepcopy(dropping.state_dict())
    fine_tuned(dropping)
    assert all(torch.equal(value, before[name]) for name, value in dropping.state_dict().items())


def test_verify_says_that_a_network_was_fine_tuned_and_onnx_can_be_compared(tmp_path: Path) -> None:
    gated = make(Dropping())
    tuned = fine_tuned(prune(gated))
    with pytest.raises(ArtefactError, match=r"fine-tuned since pruning made it \(digest [0-9a-f]{12}\).*--onnx"):
        verify(gated, tuned)
    export_onnx(tuned, tmp_path / "model.onnx")
    assert max(onnx_errors(tuned, tmp_path / "model.onnx").values()) < 1e-5
    export_onnx(tuned, tmp_path / "plain.onnx", fold_norms=False)
