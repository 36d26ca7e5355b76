"""What networks are compared on when nobody gives inputs: the kinds of values that the example inputs had."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import gate2static as g2s
from gate2static.errors import PruneError, VerificationError
from gate2static.export.equality import onnx_errors
from gate2static.prune import Layout
from gate2static.static import TensorSpec
from gate2static.static.draws import comparison_batches, draw_inputs
from gate2static.verify import verify


class FromBytes(nn.Module):
    """Images of bytes, divided in the network."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3)
        self.second = nn.Conv2d(6, 8, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(image.float() / 255)))


class FromTokens(nn.Module):
    """Rows of a table, picked by numbers; a mask says which count."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(40, 6)
        self.first = nn.Linear(6, 8)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return torch.relu(self.first(self.table(ids) * mask.unsqueeze(-1))).transpose(1, 2)


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 2)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features.flatten(2).mean(2))


def gated_network(backbone: nn.Module, *inputs: Tensor) -> g2s.GatedModel:
    torch.manual_seed(0)
    gated = g2s.gate(backbone, tasks=["a", "b"], example_inputs=inputs, heads={"a": Pooled(), "b": Pooled()})
    with torch.no_grad():
        for parameter in gated.branches.values():
            for p in parameter.parameters():
                p.add_(torch.randn_like(p) * 0.1)
    g2s.set_gates(gated, {name: torch.rand_like(gate.alpha) < 0.5 for name, gate in gated.gates.items()})
    return gated.eval()


def bytes_network() -> g2s.GatedModel:
    return gated_network(FromBytes(), torch.randint(0, 256, (2, 3, 12, 12), dtype=torch.uint8))


def tokens_network() -> g2s.GatedModel:
    return gated_network(FromTokens(), torch.randint(3, 40, (2, 5)), torch.rand(2, 5) > 0.3)


def outputs_alone(static: g2s.StaticModel) -> g2s.StaticModel:
    """The network without its options, which `verify` cannot prune again."""
    return g2s.StaticModel(static.network, static.manifest.model_copy(update={"pruning": None}))


def test_a_destroyed_first_layer_behind_bytes_is_seen_by_the_outputs() -> None:
    """Integers used to be zeros, which hide the weights of the first layer."""
    gated = bytes_network()
    static = outputs_alone(g2s.prune(gated))
    assert verify(gated, static).passed
    with torch.no_grad():
        next(p for p in static.parameters() if p.dim() == 4 and p.shape[1] == 3).view(-1)[0] += 1e-3
    assert not verify(gated, static).passed


@pytest.mark.parametrize("row", range(3, 40, 6))
def test_a_wrong_row_of_a_table_is_seen(row: int) -> None:
    """Token ids used to be zeros, so that the table's first row alone was compared."""
    gated = tokens_network()
    static = g2s.prune(gated)
    assert verify(gated, static).changed == ()
    table = next(p for p in static.parameters() if p.shape[0] == 40)
    with torch.no_grad():
        table[row, 0] += 1e-7
    report = verify(gated, static)
    assert report.changed is not None
    assert len(report.changed) == 1
    with pytest.raises(VerificationError, match=r"but parameter_\d+ differ from what pruning gives|relative error"):
        report.require()


def test_a_row_that_no_example_read_is_seen_too() -> None:
    gated = tokens_network()
    static = g2s.prune(gated)
    with torch.no_grad():
        next(p for p in static.parameters() if p.shape[0] == 40)[0, 0] += 1.0
    report = verify(gated, static)
    assert all(check.passed for check in report.checks)
    assert not report.passed
    with pytest.raises(VerificationError, match="on the inputs that were tried, but parameter_"):
        report.require()


def test_an_onnx_file_of_bytes_with_another_weight_is_seen(tmp_path) -> None:
    """The file used to be run on zeros, as `verify` was."""
    gated = bytes_network()
    static = g2s.prune(gated)
    report = g2s.export_onnx(static, tmp_path / "network.onnx")
    assert max(report.errors.values()) < 1e-5
    with torch.no_grad():
        next(p for p in static.parameters() if p.dim() == 4 and p.shape[1] == 3).view(-1)[0] += 0.1
    assert max(onnx_errors(static, tmp_path / "network.onnx").values()) > 1e-3


def test_ranges_come_from_the_examples_and_stay_in_the_folder(tmp_path) -> None:
    static = g2s.prune(tokens_network())
    static.save(tmp_path / "static")
    ids, mask = g2s.load_static(tmp_path / "static").manifest.inputs
    assert ids.values is not None
    assert 3 <= ids.values[0] < ids.values[1] < 40
    assert mask.values == (0, 1)
    drawn, _ = static.example_inputs(200)
    assert (int(drawn.min()), int(drawn.max())) == ids.values


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("uint8", (0, 255)),
        ("int64", (-(2**63), 2**63 - 1)),
        ("int32", (-(10**12), 10**12)),
        ("bool", (0, 1)),
        ("float32", (0.0, 1.0)),
        ("float16", (-1e300, 1e300)),
        ("float32", None),
        ("int64", None),
        ("complex64", None),
    ],
)
def test_any_range_can_be_drawn_from(dtype: str, values: tuple[float, float] | None) -> None:
    spec = TensorSpec(name="x", shape=(4, 5), dtype=dtype, values=values)
    batches = comparison_batches([spec])
    assert {len(batch.inputs[0]) for batch in batches} >= {1, 2, 3}
    for batch in batches:
        assert batch.inputs[0].dtype is getattr(torch, dtype)
        assert not batch.inputs[0].is_floating_point() or bool(batch.inputs[0].isfinite().all())
    again = comparison_batches([spec])
    assert all(torch.equal(a.inputs[0], b.inputs[0]) for a, b in zip(batches, again, strict=True))


def test_both_ends_of_a_range_are_drawn() -> None:
    spec = TensorSpec(name="x", shape=(2, 2), dtype="int64", values=(5, 9))
    edges = next(batch for batch in comparison_batches([spec]) if not batch.is_certain).inputs[0]
    assert edges[1].unique().tolist() == [5]
    assert edges[2].unique().tolist() == [9]


@pytest.mark.parametrize("values", [(2, 1), (float("nan"), 1.0), (0.0, float("inf"))])
def test_what_is_no_range_is_refused(values: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="are no range"):
        TensorSpec(name="x", shape=(), dtype="float32", values=values)


def test_examples_of_zeros_leave_ids_beyond_them_to_try() -> None:
    """People often write `torch.zeros(1, 16, dtype=torch.long)` for token ids."""
    gated = gated_network(FromTokens(), torch.zeros(2, 5, dtype=torch.long), torch.ones(2, 5, dtype=torch.bool))
    static = outputs_alone(g2s.prune(gated))
    with torch.no_grad():
        next(p for p in static.parameters() if p.shape[0] == 40)[1:4] += 0.1
    assert not verify(gated, static).passed


def test_free_sizes_are_drawn_larger() -> None:
    spec = TensorSpec(name="x", shape=(3, 16, 24), dtype="float32", dynamic=(1, 2))
    shapes = {tuple(batch.inputs[0].shape[1:]) for batch in comparison_batches([spec])}
    assert len(shapes) > 2
    assert all(shape[0] == 3 for shape in shapes)
    assert draw_inputs([spec], 1)[0].shape == (1, 3, 16, 24)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([(torch.zeros(0, 3, 12, 12, dtype=torch.uint8),)], "batch 0 of the inputs is empty"),
        ([(torch.zeros(1, 3, 9, 12, dtype=torch.uint8),)], r"was given \(batch, 3, 9, 12\)"),
        ([(torch.zeros(1, 3, 12, 12),)], "as uint8, and was given float32"),
        ([()], "was given none"),
        ([(torch.zeros(1, 3, 12, 12, dtype=torch.uint8), 1)], "was given Tensor, int"),
        ([torch.zeros(1, 3, 12, 12, dtype=torch.uint8)], "inputs hold a Tensor"),
        ([], "no inputs to compare on"),
    ],
)
def test_inputs_on_which_nothing_can_be_compared_are_refused(inputs, message: str) -> None:
    """On a batch of 0 all networks used to be equal."""
    gated = bytes_network()
    with pytest.raises(VerificationError, match=message):
        verify(gated, g2s.prune(gated), inputs=inputs)


def test_the_two_models_in_the_wrong_order_are_refused() -> None:
    gated = bytes_network()
    static = g2s.prune(gated)
    with pytest.raises(VerificationError, match="the model is a StaticModel; allowed is a GatedModel"):
        verify(static, gated)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_pruned(value: float) -> None:
    """They used to be pruned in silence."""
    gated = bytes_network()
    with torch.no_grad():
        gated.branches["a"].first.weight[0] = value
    with pytest.raises(PruneError, match=r"encoder\.branches\.a\.first\.weight of the gated network hold numbers"):
        g2s.prune(gated)


def test_a_float64_buffer_stays_one() -> None:
    """It used to be rounded to float32, and `verify` called the static network different."""

    class WithBuffer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 8, 3)
            self.register_buffer("scale", torch.linspace(0, 1, 8, dtype=torch.float64).view(1, 8, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return (self.first(x) * self.scale).float()

    gated = gated_network(WithBuffer(), torch.randn(2, 3, 9, 9))
    static = g2s.prune(gated)
    assert verify(gated, static).passed
    assert torch.float64 in {buffer.dtype for buffer in static.buffers()}
    converted = g2s.prune(gated, dtype=torch.float32)
    assert torch.float64 not in {buffer.dtype for buffer in converted.buffers()}


def break_an_index(static: g2s.StaticModel) -> None:
    """Makes one gather of channels read the first channel twice."""
    index = next(b for b in static.buffers() if not b.is_floating_point() and b.numel() > 1)
    index[1] = index[0]


def break_an_argument(static: g2s.StaticModel) -> None:
    """Makes the first convolution's padding another."""
    node = next(n for n in static.network.graph.nodes if "conv2d" in str(n.target))
    node.args = (*node.args[:4], [1, 1], *node.args[5:])
    static.network.recompile()


@pytest.mark.parametrize("plant", [break_an_index, break_an_argument])
def test_a_wrong_index_is_a_failed_report_and_no_traceback(plant: Callable[[g2s.StaticModel], None]) -> None:
    gated = bytes_network()
    static = g2s.prune(gated, target=Layout(block_channels=0))
    try:
        plant(static)
    except StopIteration:
        pytest.skip("this network has no such part")
    assert not verify(gated, static).passed


def test_a_range_outside_of_the_dtype_is_drawn_within_it() -> None:
    """A manifest from elsewhere ended `verify` with an error of torch's."""
    spec = TensorSpec(name="x", shape=(2, 2), dtype="uint8", values=(1000, 2000))
    (x,) = draw_inputs((spec,), 3)
    assert x.dtype is torch.uint8
    assert int(x.min()) == 255


def test_a_replaced_head_with_a_parametrized_layer_is_verified() -> None:
    """Its signature was taken for that of the head that was traced, so that the second pruning differed."""
    heads = {task: nn.Conv2d(8, 2, 1) for task in ("seg", "seg2")}
    gated = g2s.gate(nn.Conv2d(3, 8, 3), tasks=list(heads), example_inputs=(torch.randn(2, 3, 8, 8),), heads=heads)
    gated.heads["seg"] = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 2, 1)), nn.Sigmoid())
    gated.eval()
    report = verify(gated, g2s.prune(gated))
    assert report.passed, report
