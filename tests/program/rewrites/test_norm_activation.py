"""timm's norms with activation: the norm ends the unit, the activation comes after the gate."""

import copy
from collections.abc import Callable

import pytest
import torch
from timm.layers import norm_act
from torch import Tensor, nn

from gate2static.errors import TraceError
from gate2static.program.tracing.tracer import Tracer
from tests.program.tracing import called, gated, scramble, traced

NORMS = {
    "BatchNormAct2d": lambda: norm_act.BatchNormAct2d(8, act_layer=nn.SiLU, drop_layer=nn.Dropout),
    "FrozenBatchNormAct2d": lambda: norm_act.FrozenBatchNormAct2d(8, act_layer=nn.SiLU),
    "GroupNormAct": lambda: norm_act.GroupNormAct(8, 2, act_layer=nn.GELU),
    "GroupNorm1Act": lambda: norm_act.GroupNorm1Act(8),
    "LayerNormAct": lambda: norm_act.LayerNormAct(6),
    "LayerNormActFp32": lambda: norm_act.LayerNormActFp32(6),
    "LayerNormAct2d": lambda: norm_act.LayerNormAct2d(8),
    "LayerNormAct2dFp32": lambda: norm_act.LayerNormAct2dFp32(8),
    "RmsNormAct": lambda: norm_act.RmsNormAct(6),
    "RmsNormActFp32": lambda: norm_act.RmsNormActFp32(6),
    "RmsNormAct2d": lambda: norm_act.RmsNormAct2d(8),
    "RmsNormAct2dFp32": lambda: norm_act.RmsNormAct2dFp32(8),
}
IMAGES = torch.randn(4, 3, 6, 6)


class Fused(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.conv, self.bn, self.last = nn.Conv2d(3, 8, 1), norm, nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.bn(self.conv(x)))


@pytest.fixture(params=NORMS)
def backbone(request: pytest.FixtureRequest) -> nn.Module:
    make: Callable[[], nn.Module] = NORMS[request.param]
    return scramble(Fused(make())).eval()


def test_norm_and_activation_become_two_pieces_that_compute_the_same(backbone: nn.Module) -> None:
    network = traced(backbone, IMAGES)
    assert called(network) == ["conv", "bn", *(["bn.drop"] if _drops(backbone) else []), "bn.act", "last"]
    torch.testing.assert_close(network(IMAGES), backbone(IMAGES), rtol=0, atol=0)


def test_the_parameters_keep_the_backbones_names(backbone: nn.Module) -> None:
    model = gated(backbone, IMAGES)
    for branch in model.branches.values():
        assert branch.state_dict().keys() == backbone.state_dict().keys()
        branch.load_state_dict(backbone.state_dict())


def test_the_gate_stands_between_norm_and_activation(backbone: nn.Module) -> None:
    nodes = list(gated(backbone, IMAGES).program.backbone())
    norm, act = (next(n for n in nodes if n.target == name) for name in ("bn", "bn.act"))
    (gate,) = norm.users
    assert gate.args == (norm, "conv")
    assert gate in nodes[: nodes.index(act)]


def test_batch_statistics_move_as_the_fused_norm_moves_them() -> None:
    backbone = scramble(Fused(norm_act.BatchNormAct2d(8, momentum=0.3))).train()
    network = copy.deepcopy(traced(backbone, IMAGES))
    torch.testing.assert_close(network(IMAGES), backbone(IMAGES), rtol=0, atol=0)
    expected = backbone.state_dict()
    assert expected["bn.num_batches_tracked"] == 1
    assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())


def test_a_lost_activation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Tracer, "_norm_then_activation", lambda self, module, name, *args: self.create_proxy("call_module", name, *args)
    )
    with pytest.raises(TraceError, match="does not compute what the backbone computes"):
        gated(Fused(norm_act.BatchNormAct2d(8)).eval(), IMAGES)


def _drops(backbone: nn.Module) -> bool:
    return not isinstance(backbone.bn.drop, nn.Identity)
