"""Attention and torch's transformer layers are written out, so that their projections are gated units."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from gate2static.errors import TraceError
from gate2static.program.rewrites import attention
from gate2static.program.tracing.trace import trace
from tests.program.tracing import called, gated, scramble, traced

TOKENS = torch.randn(3, 7, 16)
CAUSAL = torch.triu(torch.ones(7, 7, dtype=torch.bool), 1)


class Attention(nn.Module):
    def __init__(self, mask: Tensor | None = None, **options: Any) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(16, 4, **options)
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        out, weights = self.attn(x, x, x, attn_mask=self.mask)
        return out + weights.sum(-1).max()


class Encoder(nn.Module):
    def __init__(self, *, mask: Tensor | None = None, **options: Any) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, **options)
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(16), enable_nested_tensor=False)
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x, mask=self.mask)


NETWORKS: dict[str, nn.Module] = {
    "attention": Attention(batch_first=True),
    "attention, sequence first": Attention(),
    "attention without bias": Attention(batch_first=True, bias=False),
    "attention with a mask": Attention(CAUSAL, batch_first=True),
    "attention with a mask that is added": Attention(torch.randn(7, 7), batch_first=True),
    "encoder": Encoder(batch_first=True),
    "encoder, sequence first": Encoder(activation="gelu"),
    "encoder, norm first": Encoder(batch_first=True, norm_first=True, mask=CAUSAL),
    "encoder as the network": nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, batch_first=True), 1),
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("training", [False, True])
def test_the_steps_compute_the_same_for_any_batch(network: nn.Module, training: bool) -> None:
    network = scramble(copy.deepcopy(network)).train(training)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    written = traced(network, TOKENS)
    assert "scaled_dot_product_attention" in called(written)
    for x in (TOKENS, torch.randn(7 if _sequence_first(network) else 5, 7, 16)):
        torch.testing.assert_close(written(x), network(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_every_projection_is_a_unit(network: nn.Module) -> None:
    linears = sum(isinstance(m, nn.Linear) for m in network.modules())
    joint = sum(isinstance(m, nn.MultiheadAttention) for m in network.modules())
    model = gated(network, TOKENS)
    layers = [u for u in model.program.units if "norm" not in u.name]
    assert len(layers) == linears + joint
    assert all(u.dim == 2 for u in layers)


def test_a_task_starts_from_the_networks_own_state() -> None:
    own = scramble(Encoder(batch_first=True)).eval()
    model = gated(Encoder(batch_first=True).eval(), TOKENS, task_states={"a": own.state_dict()})
    for gate in model.gates.values():
        gate.alpha.data.fill_(1.0)
    torch.testing.assert_close(model.encoder(TOKENS)[0], own(TOKENS), rtol=1e-4, atol=1e-4)


class Padded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attn(x, x, x, key_padding_mask=x[..., 0] > 5.0)[0]


class Cross(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(16, 4, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        keys = x.flip(1)[..., : self.attn.kdim]
        return self.attn(x, keys, keys, need_weights=False)[0]


@pytest.mark.parametrize("network", [Padded(), nn.Sequential(Padded())])
def test_attention_in_other_uses_is_one_unit(network: nn.Module) -> None:
    model = gated(network.eval(), TOKENS)
    assert [(u.channels, u.dim) for u in model.program.units] == [(16, 2)]


@pytest.mark.parametrize(
    "options", [{}, {"bias": False}, {"kdim": 8, "vdim": 8}, {"kdim": 8, "vdim": 8, "bias": False}]
)
def test_queries_and_keys_from_different_inputs_have_units_of_their_own(options: dict[str, Any]) -> None:
    network = scramble(Cross(**options)).eval()
    model = gated(network, TOKENS)
    assert [(u.channels, u.dim) for u in model.program.units] == [(16, 2)] * 4
    x = torch.randn(5, 7, 16)
    torch.testing.assert_close(model.encoder(x)[0], network(x), rtol=1e-4, atol=1e-4)


class Own(nn.Module):
    """Attention as timm and many others write it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.drop = nn.Linear(16, 48), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v, dropout_p=self.drop.p if self.training else 0.0)


@pytest.mark.parametrize("network", [Own(), Cross(bias=False, kdim=8, vdim=8, dropout=0.5)])
def test_attention_drops_in_training_and_only_there(network: nn.Module) -> None:
    written = traced(network.eval(), TOKENS)
    torch.testing.assert_close(written(TOKENS), network(TOKENS))
    written.train()
    assert not torch.equal(written(TOKENS), written(TOKENS))
    masses = torch.stack([written(TOKENS) for _ in range(400)]).mean(0)
    torch.testing.assert_close(masses.mean(), network(TOKENS).mean(), rtol=0.2, atol=0.1)


def test_the_graph_of_a_head_is_for_evaluation_alone() -> None:
    head = nn.Sequential(Cross(bias=False, kdim=8, vdim=8, dropout=0.5)).eval()
    _, graph = trace(head, (TOKENS,), "the head", trains=False)
    assert all(hasattr(head, n.target.split(".")[0]) for n in graph.nodes if n.op in ("call_module", "get_attr"))
    torch.testing.assert_close(fx.GraphModule(head, graph)(TOKENS), head(TOKENS))


def test_swapped_queries_and_keys_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    project, network = attention._project, Attention(batch_first=True).eval()
    nn.init.normal_(network.attn.in_proj_weight)

    def swapped(*args: Any) -> Any:
        q, k, v = project(*args)
        return k, q, v

    monkeypatch.setattr(attention, "_project", swapped)
    with pytest.raises(TraceError, match="does not compute what the backbone computes"):
        gated(network, TOKENS)


def _sequence_first(network: nn.Module) -> bool:
    return any(isinstance(m, nn.MultiheadAttention) and not m.batch_first for m in network.modules())
