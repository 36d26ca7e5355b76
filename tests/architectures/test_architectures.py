"""Architectures: what they compute, what they train, and the one static network that each becomes."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gate2static as g2s
from gate2static.architectures import ARCHITECTURES, Architecture, architecture, as_gated
from gate2static.architectures.adashare import AdaShare
from gate2static.architectures.cross_stitch import CrossStitch
from gate2static.architectures.smtl import LSMTL, SMTL, LSMTLc, drawn
from gate2static.errors import ArchitectureError, RecipeError
from gate2static.recipe import load_recipe
from gate2static.train import load_gated, sweep
from tests import zoo

TASKS = ("a", "b", "c")
X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self, taken: int, given: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(taken, given, 3, stride, 1, bias=False), nn.BatchNorm2d(given), nn.ReLU())
        self.skip = nn.Identity() if stride == 1 and taken == given else nn.Conv2d(taken, given, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.skip(x))


def backbone() -> nn.Module:
    torch.manual_seed(0)
    blocks = [Block(3, 8, 1), Block(8, 8, 1), Block(8, 16, 2), Block(16, 16, 1), Block(16, 16, 1)]
    return nn.Sequential(*blocks)


def heads(tasks: tuple[str, ...] = TASKS) -> dict[str, nn.Module]:
    torch.manual_seed(1)
    return {task: nn.Conv2d(16, number + 1, 1) for number, task in enumerate(tasks)}


def build(name: str, **options: Any) -> Architecture:
    return architecture(name, backbone(), heads=heads(), example_inputs=(X,), **options)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_trains_and_becomes_one_verified_static_network(name: str, tmp_path: Path) -> None:
    network = build(name)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05)
    for _ in range(2):
        loss = torch.stack([output.square().mean() for output in network.train()(X).values()]).sum()
        added = network.penalty()
        optimiser.zero_grad()
        (loss if added is None else loss + added).backward()
        assert all(p.grad is not None for p in network.parameters())
        optimiser.step()
    if (logits := getattr(network, "logits", None)) is not None:
        with torch.no_grad():
            logits.copy_(torch.randn(logits.shape, generator=torch.Generator().manual_seed(3)))
    gated = as_gated(network, (X,))
    static = g2s.prune(gated)
    assert g2s.verify(gated, static).passed
    outputs = network.eval()(X)
    for task, output in static(X).items():
        torch.testing.assert_close(output, outputs[task], rtol=1e-4, atol=1e-5)
    kept = {id(p): p.numel() for p in network.deployed().parameters()}
    assert static.manifest.parameters["static"] == sum(kept.values())
    assert int(g2s.expected_macs(gated)) == static.manifest.macs["static"] == zoo.counted_macs(static, (X,))
    static.save(tmp_path / "static")
    # The export compares the file with the static network in ONNX Runtime.
    g2s.export_onnx(g2s.load_static(tmp_path / "static"), tmp_path / "model.onnx")
    with torch.no_grad():
        precise, exact = network.double()(X.double()), static.double()(X.double())
    for task, output in precise.items():
        torch.testing.assert_close(exact[task], output, rtol=0, atol=1e-9 * float(output.abs().max()))


def test_streams_that_mix_nothing_are_separate_networks() -> None:
    network = build("cross_stitch", own=1.0).eval()
    plain, own_heads = backbone().eval(), heads()
    with torch.no_grad():
        for task, output in network(X).items():
            torch.testing.assert_close(output, own_heads[task](plain(X)))


def test_a_stitch_is_the_linear_combination_of_all_streams() -> None:
    network = build("cross_stitch", own=0.8)
    assert isinstance(network, CrossStitch)
    mixer = network.mixers[0].mixers[0]  # type: ignore[union-attr, index]
    values = [torch.full((1, 8, 2, 2), float(number)) for number in range(3)]
    mixed = mixer(*values)
    # 0.8 of the own, and 0.1 of each other
    assert [round(float(value.detach().mean()), 6) for value in mixed] == [0.3, 1.0, 1.7]


def test_a_reduction_starts_as_the_official_weighting() -> None:
    network = build("nddr")
    reduction = network.mixers[0].mixers[0].reductions[1]  # type: ignore[union-attr, index]
    values = torch.cat([torch.full((1, 8, 2, 2), float(number)) for number in range(3)], dim=1)
    assert float(reduction[0](values).detach().mean()) == pytest.approx(0.1 * 0 + 0.9 * 1 + 0.1 * 2)


def test_all_choices_of_encoders_are_exactly_the_chosen_ones() -> None:
    """All 2^T: bits, parameters and MACs."""
    for chosen in product([False, True], repeat=3):
        for name in ("l_smtl", "l_smtl_c"):
            network = build(name)
            assert isinstance(network, LSMTL | LSMTLc)
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
                network.logits.copy_(torch.tensor([1.0 if public else -1.0 for public in chosen]))
            deployed, whole = network.deployed(), network.eval()
            assert all(torch.equal(deployed(X)[task], whole(X)[task]) for task in TASKS)
            encoders = len({"public" if public else task for task, public in zip(TASKS, chosen, strict=True)})
            sizes = [sum(p.numel() for p in part.parameters()) for part in (backbone(), nn.ModuleDict(heads()))]
            assert sum(p.numel() for p in deployed.parameters()) == encoders * sizes[0] + sizes[1]


@pytest.mark.slow
@pytest.mark.parametrize("chosen", list(product([False, True], repeat=3)))
def test_static_networks_cost_what_the_chosen_encoders_cost(chosen: tuple[bool, ...]) -> None:
    network = build("l_smtl")
    with torch.no_grad():
        network.logits.copy_(torch.tensor([1.0 if public else -1.0 for public in chosen]))  # type: ignore[operator]
    encoders = len({"public" if public else task for task, public in zip(TASKS, chosen, strict=True)})
    one = g2s.gate(backbone(), tasks=TASKS, example_inputs=(X,), heads=heads())
    g2s.set_gates(one, False)
    shared = g2s.prune(one.eval()).manifest
    g2s.set_gates(one, True)
    separate = g2s.prune(one.eval()).manifest
    of_encoder = (separate.macs["static"] - shared.macs["static"]) // 2
    found = g2s.prune(as_gated(network, (X,))).manifest
    assert found.macs["static"] == shared.macs["static"] + (encoders - 1) * of_encoder


def test_soft_weights_join_the_two_encoders() -> None:
    network = build("smtl").eval()
    assert isinstance(network, SMTL)
    with torch.no_grad():
        network.logits.copy_(torch.tensor([50.0, -50.0, 0.0]))
        network.streams["public"][0].get_submodule("0.body.0").weight.mul_(2)  # type: ignore[union-attr, operator, index]
        public = network.streams["public"][0](X)[0]  # type: ignore[index, operator]
        own = network.streams["a"][0](X)[0]  # type: ignore[index, operator]
        encoded = network.encode([X])
    torch.testing.assert_close(encoded["a"][0], public)
    torch.testing.assert_close(encoded["b"][0], own)
    torch.testing.assert_close(encoded["c"][0], (public + own) / 2)


def test_what_is_drawn_is_hard_forwards_and_soft_backwards() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([2.0, -2.0, 0.0], requires_grad=True)
    draws = torch.stack([drawn(logits, 0.5) for _ in range(4000)])
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    # P(public) is α = σ(a).
    torch.testing.assert_close(draws.mean(0), logits.sigmoid().detach(), rtol=0, atol=0.03)
    draws.sum().backward()
    assert logits.grad is not None
    assert bool((logits.grad > 0).all())


def test_the_temperature_falls_by_equal_factors() -> None:
    network = build("l_smtl", temperature=2.0, last_temperature=0.5)
    assert isinstance(network, LSMTL)
    found = []
    for progress in (0.0, 0.5, 0.75):
        network.advance(progress)
        found.append(network.temperature)
    assert found == pytest.approx([2.0, 1.0, 2.0 * 0.25**0.75])
    constant = build("l_smtl_c", temperature=0.3)
    assert isinstance(constant, LSMTLc)
    constant.advance(0.9)
    assert constant.temperature == 0.3


def test_public_encoders_train_on_what_was_drawn_alone() -> None:
    network = build("l_smtl").train()
    with torch.no_grad():
        network.logits.fill_(-30.0)  # type: ignore[operator]
    torch.stack([output.sum() for output in network(X).values()]).sum().backward()
    gradients = [p.grad for p in network.streams["public"].parameters()]
    assert all(gradient is None or not gradient.any() for gradient in gradients)


def test_tasks_with_one_policy_run_once() -> None:
    network = build("adashare")
    assert isinstance(network, AdaShare)
    assert network.logits is not None
    one = g2s.prune(as_gated(network, (X,))).manifest
    with torch.no_grad():
        network.logits[1, -1] = torch.tensor([-1.0, 1.0])  # task b skips the last block
    other = g2s.prune(as_gated(network, (X,))).manifest
    assert other.macs["static"] == one.macs["static"]  # a prefix of what the others run
    with torch.no_grad():
        network.logits[1, 0] = torch.tensor([-1.0, 1.0])  # and the first that can be skipped, so it parts early
    assert g2s.prune(as_gated(network, (X,))).manifest.macs["static"] > one.macs["static"]
    assert other.parameters["static"] == one.parameters["static"]


def test_adashares_penalty_falls_with_skipping_and_agreement() -> None:
    network = build("adashare", sparsity=1.0, sharing=0.0)
    assert isinstance(network, AdaShare)
    assert network.logits is not None
    before = float(network.penalty().detach())
    with torch.no_grad():
        network.logits[..., 0] = -5
    assert float(network.penalty().detach()) < 0.1 * before
    agreeing = build("adashare", sparsity=0.0, sharing=1.0)
    assert isinstance(agreeing, AdaShare)
    assert agreeing.logits is not None
    assert float(agreeing.penalty().detach()) == 0.0
    with torch.no_grad():
        agreeing.logits[0, 0, 0] = -5
    assert float(agreeing.penalty().detach()) > 0.1


def adashare(**options: Any) -> AdaShare:
    network = build("adashare", **options)
    assert isinstance(network, AdaShare)
    return network


def test_adashares_policies_wait_and_are_then_learned_from_the_last_block() -> None:
    network = adashare(warm_up=0.2, curriculum=0.3, temperature=4.0, last_temperature=1.0)
    blocks = len(network.skippable)
    assert blocks == 3
    learned = {}
    for progress in (0.0, 0.19, 0.2, 0.31, 0.41, 0.51, 0.99):
        network.train().advance(progress)
        network.zero_grad()
        torch.manual_seed(0)
        losses = [output.square().sum() for output in network(X).values()]
        added = network.penalty()
        assert added is not None
        (torch.stack(losses).sum() + added).backward()
        assert network.logits is not None
        assert network.logits.grad is not None
        learned[progress] = network.logits.grad.abs().sum((0, 2)).gt(0).tolist()
    waiting, last = [False] * 3, [False, False, True]
    expected = [waiting, waiting, last, [False, True, True], [True] * 3, [True] * 3, [True] * 3]
    assert list(learned.values()) == expected
    network.advance(0.6)
    assert network._temperature() == pytest.approx(2.0)  # halfway from 4 to 1


def test_adashares_logits_do_not_decay() -> None:
    (group,) = adashare().parameter_groups("adam")
    assert (group["rate_factor"], group["weight_decay"]) == (10.0, 0.0)


def test_drawn_policies_are_retrained_as_they_are() -> None:
    network = adashare()
    assert network.logits is not None
    with torch.no_grad():
        network.logits[..., 0] = torch.tensor([[40.0, -40, 40], [40, 40, 40], [0, 0, 0]])
    draws = [network.drawn_skips(seed) for seed in range(40)]
    assert all(draw["a"] == [1] and draw["b"] == [] for draw in draws)
    # Block by block half of the draws of task c run.
    assert sum(len(draw["c"]) for draw in draws) == pytest.approx(60, abs=20)
    again = adashare(skips={"a": [1], "c": [0, 2]})
    assert again.policies() == [[True, False, True], [True] * 3, [False, True, False]]
    assert again.penalty() is None
    assert again.parameter_groups("sgd") == []
    trained, evaluated = again.train()(X), again.eval()(X)
    assert not torch.equal(trained["a"], evaluated["a"])  # batch norms have the batch's statistics in training
    assert g2s.prune(as_gated(again, (X,))).manifest.macs["static"] > 0


def test_aggregation_weighs_channels_and_then_pixels() -> None:
    network = build("afa")
    mixer: Any = network.mixers[0].mixers[0]  # type: ignore[union-attr, index]
    values = [torch.rand(2, 8, 5, 7) + number for number in range(3)]
    with torch.no_grad():
        for layer in (*mixer.of_channels, *mixer.of_pixels):
            layer.weight.zero_()
        for layer in mixer.of_pixels:
            layer.bias.zero_()
        mean = torch.stack(values).mean(0)
        for value in mixer(*values):
            torch.testing.assert_close(value, mean)  # equal weights
        mixer.reduction.weight.fill_(1.0)
        mixer.of_channels[1].weight[2 * 8 + 4] = 100.0  # task b takes channel 4 of stream c
        mixed = mixer(*values)
        torch.testing.assert_close(mixed[1][:, 4], (mean[:, 4] * 2 + values[2][:, 4]) / 3)
        mixer.of_pixels[0].bias[1] = 100.0  # task a takes what task b has aggregated
        torch.testing.assert_close(mixer(*values)[0][:, 4], values[2][:, 4])
        torch.testing.assert_close(mixer(*values)[0][:, 3], mean[:, 3])


def test_attention_masks_the_trunk() -> None:
    network = build("mtan").eval()
    with torch.no_grad():
        for norm in (network.attention[-1][task][4] for task in TASKS):  # type: ignore[union-attr, index]
            norm.weight.zero_()
            norm.bias.fill_(100.0)  # σ → 1: the last mask lets everything pass
        trunk = backbone().eval()(X)
        for task, output in network(X).items():
            torch.testing.assert_close(output, heads()[task](trunk))


def test_streams_start_from_trained_backbones() -> None:
    other = backbone()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.fill_(0.5)
    network = build("smtl").load_streams({"a": other.state_dict()})
    assert all(bool((p == 0.5).all()) for p in network.streams["a"].parameters())
    assert not all(bool((p == 0.5).all()) for p in network.streams["b"].parameters())


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"name": "mtn"}, "no architecture 'mtn'; did you mean mtan?"),
    ({"name": "mtan", "own": 1}, "mtan has no option 'own'"),
    ({"name": "cross_stitch", "own": "much"}, "own of cross_stitch is 'much'"),
    ({"name": "l_smtl", "temperature": 0}, "temperature of l_smtl is 0"),
    ({"name": "l_smtl_c", "last_temperature": 0}, "last_temperature of l_smtl_c is 0"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_what_does_not_fit_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArchitectureError, match=message.replace("?", r"\?")):
        build(**arguments)


def test_one_task_and_a_task_called_public_are_refused() -> None:
    with pytest.raises(ArchitectureError, match="joins tasks, and there is 1; give two"):
        architecture("cross_stitch", backbone(), heads=heads(("a",)), example_inputs=(X,))
    with pytest.raises(ArchitectureError, match="no task may be called 'public'"):
        architecture("smtl", backbone(), heads=heads(("a", "public")), example_inputs=(X,))


def test_tokens_are_refused_where_maps_are_needed() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 7), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x)

    tokens = torch.zeros(2, 4, 5)
    both = {"a": nn.Linear(7, 1), "b": nn.Linear(7, 1)}
    with pytest.raises(ArchitectureError, match="nddr needs feature maps between stages"):
        architecture("nddr", Tokens(), heads=both, example_inputs=(tokens,), places="blocks")
    assert architecture("cross_stitch", Tokens(), heads=both, example_inputs=(tokens,), places="blocks")(tokens)


@pytest.mark.slow
def test_a_sweep_trains_architectures_and_their_checkpoints_prune(tmp_path: Path) -> None:
    changes = ["sweep=[]", "architectures=[cross_stitch, {name: l_smtl, options: {temperature: 0.1}}, adashare]"]
    sets = [
        "data.options={train_images: 48, val_images: 10, test_images: 20}",
        "tasks=[{name: left, kind: classification}, {name: mask, kind: mask}]",
        *(f"training.{kind}={{epochs: 1, batch_size: 16}}" for kind in ("single", "shared", "gated")),
    ]
    recipe = load_recipe(Path("recipes/digits_tiny.yaml"), [*sets, *changes])
    result = sweep(recipe, tmp_path, progress=False)
    rows = {row.name: row for row in result.rows}
    assert list(rows) == ["separate", "shared", "cross_stitch", "l_smtl-temperature0.1", "adashare"]
    assert sweep(recipe, tmp_path, resume=True, progress=False) == result
    for name, row in rows.items():
        if row.kind == "architecture":
            gated, _ = load_gated(tmp_path / name / "ckpt.pt")
            assert g2s.prune(gated).manifest.macs["static"] == row.macs


def test_unknown_architectures_are_refused_before_training(tmp_path: Path) -> None:
    recipe = load_recipe(Path("recipes/digits_tiny.yaml"), ["sweep=[]", "architectures=[mtn]"])
    with pytest.raises(RecipeError, match=r"architectures: there is no architecture 'mtn'; did you mean mtan\?"):
        sweep(recipe, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
