"""Static networks that take images of any height and width."""

import operator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gate2static as g2s
from gate2static.errors import ArtefactError, PruneError
from gate2static.verify import verify

SIZES = ("height", "width")


class Convolutional(nn.Module):
    """Two scales and sizes that are read, cut, halved and multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.down = nn.Conv2d(6, 8, 3, 2, 1)
        self.lateral = nn.Conv2d(6, 8, 1)
        self.attention = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.stem(x)
        coarse = torch.relu(self.down(fine))
        merged = self.lateral(fine) + F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear")
        batch, channels, height, width = merged.shape
        tokens = self.attention(merged.flatten(2).transpose(1, 2))
        merged = merged + tokens.transpose(1, 2).reshape(batch, channels, height, width)
        left, right = merged[..., : width // 2], merged[..., width - width // 2 :]
        merged = merged + F.interpolate(left + right, size=(height, width))
        return F.interpolate(merged, size=x.shape[2:])


class UNet(nn.Module):
    """Runs where four divides the size only."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 8, 3, 2, 1)
        self.third = nn.Conv2d(8, 8, 3, 2, 1)
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.last = nn.Conv2d(16, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        second = torch.relu(self.second(torch.relu(self.first(x))))
        merged = self.last(torch.cat([second, self.up(torch.relu(self.third(second)))], 1))
        return F.interpolate(merged, scale_factor=2)


class HasHeads(nn.Module):
    """Has modules under the name that the gated model has the tasks' heads under."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.heads = nn.ModuleList([nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 1)])

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return torch.relu(self.heads[0](y)) + self.heads[1](y)


class Flattens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2, 1)
        self.linear = nn.Linear(4 * 8 * 8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.conv(x).flatten(1))[..., None, None]


class HasPositions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.positions = nn.Parameter(torch.randn(1, 8, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.positions


class DecidesOnSize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1)) if x.shape[3] % 2 else x)


class HeadThatDecides(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.avg_pool2d(x, 2) if x.shape[2] > 10 else x)


def gated_network(backbone: nn.Module, head: type[nn.Module] | None = None) -> g2s.GatedModel:
    torch.manual_seed(0)
    heads = {task: head() if head else nn.Conv2d(8, 2, 1) for task in ("a", "b")}
    x = torch.randn(2, 3, 16, 16)
    gated = g2s.gate(backbone.eval(), tasks=["a", "b"], example_inputs=(x,), heads=heads).eval()
    with torch.no_grad():
        for branch in gated.branches.values():
            for p in branch.parameters():
                p.add_(torch.randn_like(p) * 0.1)
    g2s.set_gates(gated, {name: torch.rand_like(gate.alpha) < 0.5 for name, gate in gated.gates.items()})
    return gated


@pytest.mark.parametrize("target", ["any", "ort-cpu"])
@pytest.mark.parametrize(
    ("backbone", "sizes"),
    [(Convolutional, [(16, 16), (17, 23), (9, 40), (64, 50)]), (UNet, [(16, 16), (20, 64), (48, 8)])],
)
def test_one_network_for_all_sizes(
    backbone: type[nn.Module], sizes: list[tuple[int, int]], target: str, tmp_path
) -> None:
    gated = gated_network(backbone())
    g2s.prune(gated, target=target, dynamic=SIZES).save(tmp_path / "static")
    static = g2s.load_static(tmp_path / "static")
    for height, width in sizes:
        x = torch.randn(2, 3, height, width)
        for network in (static, static.deployed()):
            torch.testing.assert_close(network(x)["a"], gated(x)["a"], atol=1e-5, rtol=1e-5)
    report = verify(gated, static)
    assert report.passed
    assert report.changed == ()
    assert len({shape[2:] for shape in report.inputs}) > 2


def test_the_onnx_file_takes_all_sizes_too(tmp_path) -> None:
    onnx = pytest.importorskip("onnxruntime")
    gated = gated_network(Convolutional())
    report = g2s.export_onnx(g2s.prune(gated, dynamic=SIZES), tmp_path / "network.onnx")
    assert max(report.errors.values()) < 1e-5
    session = onnx.InferenceSession(tmp_path / "network.onnx")
    assert session.get_inputs()[0].shape == ["batch", 3, "x_height", "x_width"]
    x = torch.randn(1, 3, 33, 20)
    (found,) = session.run(["a"], {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), gated(x)["a"].detach(), atol=1e-5, rtol=1e-5)


def test_one_free_size_leaves_the_other_fixed() -> None:
    static = g2s.prune(gated_network(Convolutional()), dynamic=("width",))
    assert static.manifest.inputs[0].dynamic == (2,)
    assert static.manifest.outputs[0].dynamic == (2,)
    assert static(torch.randn(1, 3, 16, 40))["a"].shape == (1, 2, 16, 40)
    message = r"takes inputs of shape \(batch, 3, 16, any\), and was given \(batch, 3, 20"
    with pytest.raises(ArtefactError, match=message):
        static(torch.randn(1, 3, 20, 40))


@pytest.mark.parametrize(
    ("backbone", "head", "message"),
    [
        (Flattens, None, "does not run at any other height and width .* at linear: "),
        (HasPositions, None, "does not run at any other height and width"),
        (DecidesOnSize, None, r"decides on the size of its inputs \(at .*test_free_sizes\.py:\d+\)"),
        (Convolutional, HeadThatDecides, r"decides on the size of its inputs \(at .*test_free_sizes\.py:\d+\)"),
    ],
)
def test_what_depends_on_the_size_is_refused_by_name(
    backbone: type[nn.Module], head: type[nn.Module] | None, message: str
) -> None:
    gated = gated_network(backbone(), head)
    assert verify(gated, g2s.prune(gated)).passed
    with pytest.raises(PruneError, match=message):
        g2s.prune(gated, dynamic=SIZES)


@pytest.mark.parametrize("dynamic", [("depth",), "height", ("height", "height")])
def test_unknown_sizes_are_refused(dynamic) -> None:
    with pytest.raises(PruneError, match="allowed are \\(\\) and any of"):
        g2s.prune(gated_network(Convolutional()), dynamic=dynamic)


def test_networks_without_images_have_no_free_sizes() -> None:
    torch.manual_seed(0)
    head = nn.Linear(8, 2)
    gated = g2s.gate(nn.Linear(4, 8), tasks=["a"], example_inputs=(torch.randn(2, 4),), heads={"a": head})
    with pytest.raises(PruneError, match="no input is an image"):
        g2s.prune(gated, dynamic=SIZES)


def test_a_size_that_is_planted_wrong_is_seen() -> None:
    """The graph reads the size of another tensor, which is equal at the example's size alone."""
    gated = gated_network(Convolutional())
    static = g2s.prune(gated, dynamic=SIZES)
    static.manifest = static.manifest.model_copy(update={"pruning": None})
    node = next(n for n in static.network.graph.nodes if "upsample" in str(n.target))
    node.args = (node.args[0], [8, 8], *node.args[2:])
    static.network.recompile()
    assert not verify(gated, static).passed


def test_free_sizes_need_not_torchs_exporter(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1))
    static = g2s.prune(gated_network(backbone), dynamic=SIZES)
    monkeypatch.setattr("torch.onnx.export", lambda *_, **__: pytest.fail("asked"))
    assert max(g2s.export_onnx(static, tmp_path / "network.onnx").errors.values()) < 1e-5


def test_a_backbone_may_have_heads_of_its_own() -> None:
    """The tasks' heads took their place, which ended in torch's own error."""
    gated = gated_network(HasHeads())
    static = g2s.prune(gated, dynamic=SIZES)
    x = torch.randn(2, 3, 9, 20)
    torch.testing.assert_close(static(x)["a"], gated(x)["a"], atol=1e-5, rtol=1e-5)


def test_sizes_for_which_a_network_takes_too_much_are_refused() -> None:
    """A folder is looked at for the size of its example only, where this network is small."""
    torch.manual_seed(0)
    gated = g2s.gate(
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)),
        tasks=["a"],
        example_inputs=(torch.randn(2, 3, 16, 16),),
        heads={"a": nn.Identity()},
    )
    static = g2s.prune(gated.eval(), dynamic=SIZES)
    graph = static.network.graph
    (x,) = graph.find_nodes(op="placeholder")
    (output,) = graph.find_nodes(op="output")
    with graph.inserting_before(output):
        # Nothing at the size of the example, 2**30 numbers per sample at twice that.
        height = graph.call_function(torch.ops.aten.sym_size.int, (x, 2))
        batch = graph.call_function(torch.ops.aten.sym_size.int, (x, 0))
        steps = graph.call_function(operator.floordiv, (height, 32))
        length = graph.call_function(operator.mul, (steps, 2**30))
        zeros = graph.call_function(torch.ops.aten.zeros.default, ([batch, length],))
        total = graph.call_function(torch.ops.aten.sum.default, (zeros,))
        output.args = ((graph.call_function(torch.ops.aten.add.Tensor, (output.args[0][0], total)),),)
    static.network.recompile()
    assert static(torch.randn(1, 3, 16, 24))["a"].shape == (1, 4, 16, 24)
    with pytest.raises(ArtefactError, match="inputs of these sizes: .*zeros.* elements per sample, more than"):
        static(torch.randn(1, 3, 32, 32))
