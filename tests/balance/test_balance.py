"""`balance` in anybody's loop: what gradients end up where, what a method remembers, and what is refused."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchjd import aggregation

import gate2static as g2s
from gate2static.balance.look_ahead import gradient_of_weights
from gate2static.balance.registry import METHODS
from gate2static.errors import BalanceError

TASKS = ["a", "b", "c"]
EVERY = [(name, at) for name, method in sorted(METHODS.items()) for at in (method.levels or (None,))]
SHARED_LEVEL = [(name, at) for name, at in EVERY if at is not None]


class Net(nn.Module):
    def __init__(self, tasks: list[str] = TASKS) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 3, 3))
        self.heads = nn.ModuleDict({t: nn.Sequential(nn.Flatten(), nn.Linear(12, 2)) for t in tasks})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        z = self.backbone(x)
        return {task: head(z) for task, head in self.heads.items()}


def net(tasks: list[str] = TASKS) -> Net:
    torch.manual_seed(0)
    return Net(tasks).double()


IMAGES = torch.randn(6, 1, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
TARGETS = torch.randn(3, 6, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def losses(model: nn.Module, part: slice = slice(None)) -> dict[str, Tensor]:
    outputs = model(IMAGES[part])
    return {t: (outputs[t] - TARGETS[i % 3, part]).square().mean() for i, t in enumerate(outputs)}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def plain(model: nn.Module) -> dict[str, Tensor]:
    model.zero_grad()
    torch.stack(list(losses(model).values())).sum().backward()
    return gradients(model)


def setup(name: str, model: Net, at: Any = None, **options: Any) -> g2s.Balance:
    return g2s.balance(name, model, tasks=list(model.heads), shared=model.backbone, at=at, **options)


def step(balance: g2s.Balance, model: Net) -> None:
    """One whole step of a loop that serves every method."""
    if balance.needs_look_ahead:
        balance.look_ahead(lambda: losses(model), lambda: losses(model, slice(0, 3)), lr=0.1)
    model.zero_grad()
    balance.backward(losses(model))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.1 * parameter.grad
        if balance.needs_losses_again:
            balance.step(losses(model))


@pytest.mark.parametrize("level", ["parameters", "features"])
def test_a_sum_of_gradients_is_plain_training(level: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The roads themselves change nothing: a method whose direction is the sum gives plain gradients."""
    monkeypatch.setattr(METHODS["rgw"], "gradient_weights", lambda self, gramian: torch.ones(3, dtype=torch.float64))
    model = net()
    expected = plain(model)
    model.zero_grad()
    setup("rgw", model, level).backward(losses(model))
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "level"), SHARED_LEVEL)
def test_heads_are_trained_by_their_own_losses(name: str, level: Any) -> None:
    model = net()
    expected = plain(model)
    model.zero_grad()
    balance = setup(name, model, level, **({"weight": 0.0} if name == "cosreg" else {}))
    balance.backward(losses(model))
    of_log = {task: 1 / loss.item() for task, loss in losses(model).items()} if name == "db_mtl" else {}
    for key, gradient in gradients(model).items():
        if key.startswith("heads"):
            weight = of_log.get(key.split(".")[1], 1.0)
            torch.testing.assert_close(gradient, weight * expected[key], rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("name", ["mgda", "pcgrad", "aligned", "imtl_g", "nash", "cagrad", "upgrad"])
def test_parameters_get_the_direction_of_their_own_rows(name: str) -> None:
    model = net()
    parameters = list(model.backbone.parameters())
    rows = []
    for loss in losses(model).values():
        found = torch.autograd.grad(loss, parameters, retain_graph=True)
        rows.append(torch.cat([part.flatten() for part in found]))
    method = g2s.balance(name, model, tasks=3, shared=model.backbone).method
    expected = method.aggregate(torch.stack(rows))  # type: ignore[operator]
    setup(name, model).backward(losses(model))
    found_row = torch.cat([p.grad.flatten() for p in parameters])  # type: ignore[union-attr]
    torch.testing.assert_close(found_row, expected, rtol=1e-9, atol=1e-12)


def test_an_aggregator_of_torchjd_is_a_method() -> None:
    found = []
    for method in (aggregation.ConFIG(), "config"):
        model = net()
        g2s.balance(method, model, tasks=3, shared=model.backbone).backward(losses(model))
        found.append(gradients(model))
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


@pytest.mark.parametrize(("name", "level"), EVERY)
def test_identical_losses_and_one_task_keep_the_direction_of_plain_training(name: str, level: Any) -> None:
    model = net(["a"])
    for count in (1, 3):
        options: dict[str, Any] = {"trimmed": 0} if name == "trimmed_mean" else {}
        if name == "krum" and count == 1:
            continue  # needs three tasks
        balance = g2s.balance(name, model, tasks=count, shared=model.backbone, at=level, **options)
        model.zero_grad()
        one = losses(model)["a"]
        balance.backward({f"{i}": one * 1 for i in range(count)})
        found = model.backbone[0].weight.grad.flatten()  # type: ignore[union-attr]
        balance.remove()
        expected = plain(model)["backbone.0.weight"].flatten()
        assert float(torch.cosine_similarity(found, expected, dim=0)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "name", ["sum", "pcgrad", "gradvac", "graddrop", "mgda", "aligned", "dwa", "gradnorm", "imtl_g"]
)
def test_one_task_is_plain_training_to_the_bit(name: str) -> None:
    model = net(["a"])
    expected = plain(model)
    model.zero_grad()
    setup(name, model).backward(losses(model))
    assert all(torch.equal(gradient, expected[key]) for key, gradient in gradients(model).items())


@pytest.mark.parametrize(("name", "level"), EVERY)
def test_a_restored_state_goes_on_to_the_bit(name: str, level: Any) -> None:
    """The second half of a training is the same, whether the method was made anew in between or not."""
    results = []
    for restarts in (False, True):
        model = net()
        balance = setup(name, model, level, seed=3)
        for number in range(6):
            if number == 3:
                balance.end_epoch()
                if restarts:
                    state = copy.deepcopy(balance.state_dict())
                    balance.remove()
                    balance = setup(name, model, level, seed=99)
                    balance.load_state_dict(state)
            step(balance, model)
        results.append({**model.state_dict(), **{f"w/{t}": torch.tensor(w) for t, w in balance.last_weights.items()}})
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


WHOLE = ("cosreg", "db_mtl", "famo", "geometric_mean", "moco", "stch")
PARTED = [(name, level) for name, level in EVERY if level != "features" and name not in WHOLE]


@pytest.mark.parametrize(("name", "level"), PARTED)
def test_a_batch_in_parts_is_the_whole_batch(name: str, level: Any) -> None:
    """Without batch norm, whose statistics are a part's own."""
    found = []
    for parts in ([slice(None)], [slice(0, 3), slice(3, 6)]):
        model = net()
        model.backbone[1] = nn.Identity()
        balance = setup(name, model, level)
        for number, part in enumerate(parts):
            weighted = {task: loss / len(parts) for task, loss in losses(model, part).items()}
            balance.backward(weighted, is_last=number + 1 == len(parts))
        found.append(gradients(model))
    for key in found[0]:
        torch.testing.assert_close(found[1][key], found[0][key], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("name", "level"), sorted(set(EVERY) - set(PARTED), key=str))
def test_methods_that_need_the_whole_batch_refuse_a_part(name: str, level: Any) -> None:
    model = net()
    with pytest.raises(BalanceError, match="needs the whole batch at once"):
        setup(name, model, level).backward(losses(model), is_last=False)


@pytest.mark.parametrize(("name", "level"), [("mgda", "parameters"), ("mgda", "features"), ("graddrop", "features")])
def test_equal_scale_has_the_length_of_plain_training(name: str, level: Any) -> None:
    model = net()
    balance = setup(name, model, level, scale="sum")
    balance.backward(losses(model))
    assert balance.last_scale == pytest.approx(1.0)
    if level == "parameters":
        length = torch.cat([p.grad.flatten() for p in model.backbone.parameters()]).norm()  # type: ignore[union-attr]
        expected = plain(model)
        whole = torch.cat([g.flatten() for key, g in expected.items() if key.startswith("backbone")]).norm()
        torch.testing.assert_close(length, whole)


def test_equal_scale_of_weights_is_a_sum_of_the_number_of_tasks() -> None:
    model = net()
    assert sum(setup("rlw", model, scale="sum").backward(losses(model)).values()) == pytest.approx(3)
    assert sum(setup("rlw", model).backward(losses(model)).values()) == pytest.approx(1)


def test_the_penalty_has_its_gradient_at_parameters() -> None:
    """Against the penalty written down directly, with torch's own second derivatives."""
    model = net()
    parameters = list(model.backbone.parameters())
    rows = []
    for loss in losses(model).values():
        found = torch.autograd.grad(loss, parameters, create_graph=True)
        rows.append(torch.cat([part.flatten() for part in found]))
    unit = torch.stack([row / row.norm() for row in rows])
    squares = (unit @ unit.T).square()
    penalty = 10 * (squares.sum() - squares.diagonal().sum()) / 6
    total = torch.stack(list(losses(model).values())).sum() + penalty
    expected = torch.autograd.grad(total, list(model.parameters()))
    model.zero_grad()
    setup("cosreg", model).backward(losses(model))
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-7, atol=1e-9)
    assert float((expected[0] - plain(model)["backbone.0.weight"]).abs().max()) > 1e-3  # it is no no-op


def test_auto_lambda_follows_the_derivative_through_the_virtual_step() -> None:
    """Against autograd through the step itself."""
    model = net()
    model.backbone[1] = nn.Identity()
    weights = torch.tensor([0.1, 0.5, 0.3], dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in model.named_parameters()]
    step_of = torch.autograd.grad(
        (weights * torch.stack(list(losses(model).values()))).sum(), list(model.parameters()), create_graph=True
    )
    moved = {name: p - 0.1 * g for name, p, g in zip(names, model.parameters(), step_of, strict=True)}
    outputs = torch.func.functional_call(model, moved, IMAGES[:3])
    later = torch.stack([(outputs[t] - TARGETS[i, :3]).square().mean() for i, t in enumerate(TASKS)]).sum()
    (expected,) = torch.autograd.grad(later, weights)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = gradient_of_weights(
        model, weights.detach(), lambda: losses(model), lambda: losses(model, slice(0, 3)), lr=0.1
    )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_look_ahead_leaves_the_statistics_of_batch_norm() -> None:
    model = net()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    setup("auto_lambda", model).look_ahead(lambda: losses(model), lambda: losses(model), lr=0.1)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("level", ["parameters", "features"])
def test_scaled_losses_give_scaled_gradients(level: Any) -> None:
    """As a gradient scaler has them; the method sees them without the scale."""
    found = []
    for scale in (1.0, 1024.0):
        model = net()

        def backward(loss: Tensor, scale: float = scale, **keywords: Any) -> None:
            (loss * scale).backward(**keywords)

        setup("nash", model, level).backward(losses(model), backward=backward, loss_scale=scale)
        found.append({key: gradient / scale for key, gradient in gradients(model).items()})
    for key in found[0]:
        torch.testing.assert_close(found[1][key], found[0][key], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("level", ["parameters", "features"])
def test_an_overflow_reaches_the_gradients_for_the_scaler_to_skip(level: Any) -> None:
    model = net()
    balance = setup("mgda", model, level)
    balance.backward(
        losses(model), backward=lambda loss, **k: (loss * float("inf")).backward(**k), loss_scale=float("inf")
    )
    assert not model.backbone[0].weight.grad.isfinite().all()  # type: ignore[union-attr]


def test_gradients_that_are_there_stay() -> None:
    model = net()
    setup("pcgrad", model).backward(losses(model))
    once = gradients(model)
    model.zero_grad()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    setup("pcgrad", model).backward(losses(model))
    for key, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, once[key] + 1)


def test_a_parameter_that_no_task_reaches_has_no_gradient() -> None:
    """Zeros would let weight decay shrink it, which plain training does not do."""
    model = net()
    model.backbone.register_parameter("unused", nn.Parameter(torch.ones(2)))
    setup("pcgrad", model).backward(losses(model))
    assert model.backbone.unused.grad is None


def test_other_terms_reach_everything_unchanged() -> None:
    for level in ("parameters", "features"):
        model = net()
        balance = setup("mgda", model, level)
        balance.backward(losses(model))
        without = gradients(model)
        model.zero_grad()
        decay = torch.stack([parameter.square().sum() for parameter in model.parameters()]).sum()
        balance.backward(losses(model), also=decay)
        for key, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad, without[key] + 2 * parameter.detach())


@pytest.mark.parametrize(("name", "level"), [("mgda", "parameters"), ("mgda", "features"), ("cosreg", "features")])
def test_other_terms_of_the_outputs_reach_what_is_shared(name: str, level: Any) -> None:
    """As distillation is one: its gradient goes through the heads, and on through the cut behind the shared module."""
    model = net()
    options: dict[str, Any] = {"weight": 0.0} if name == "cosreg" else {}
    balance = setup(name, model, level, **options)
    balance.backward(losses(model))
    without = gradients(model)
    model.zero_grad()
    outputs = model(IMAGES)
    values = {t: (outputs[t] - TARGETS[i]).square().mean() for i, t in enumerate(outputs)}
    balance.backward(values, also=outputs["a"].sum())
    found = gradients(model)
    balance.remove()
    model.zero_grad()
    model(IMAGES)["a"].sum().backward()
    for key, gradient in gradients(model).items():
        torch.testing.assert_close(found[key], without.get(key, 0) + gradient, rtol=1e-7, atol=1e-9)


def gated(decisions: bool | None) -> tuple[g2s.GatedModel, Callable[[], dict[str, Tensor]]]:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Conv2d(4, 3, 3))
    heads = {task: nn.Sequential(nn.Flatten(), nn.Linear(12, 2)) for task in TASKS}
    model = g2s.gate(backbone, tasks=TASKS, example_inputs=(torch.zeros(2, 1, 6, 6),), heads=heads)
    if decisions is not None:
        g2s.set_gates(model, decisions)
    images, targets = IMAGES.float(), TARGETS.float()

    def of_model() -> dict[str, Tensor]:
        outputs = model(images)
        return {t: (outputs[t] - targets[i]).square().mean() for i, t in enumerate(TASKS)}

    return model, of_model


@pytest.mark.parametrize("name", ["mgda", "pcgrad", "nash", "imtl_g", "aligned", "graddrop", "cosreg"])
def test_all_shared_gates_train_as_the_shared_network(name: str) -> None:
    model, of_model = gated(False)
    shared = model.branches["shared"]
    plain_net = Net()
    plain_net.backbone = nn.Sequential(*shared.children())  # type: ignore[assignment]
    plain_net.heads = model.heads
    twin = torch.nn.utils.parameters_to_vector(shared.parameters()).clone()
    g2s.balance(name, model).backward(of_model())
    found = torch.cat([p.grad.flatten() for p in shared.parameters()])  # type: ignore[union-attr]
    model.zero_grad()
    outputs = plain_net(IMAGES.float())
    values = {t: (outputs[t] - TARGETS[i].float()).square().mean() for i, t in enumerate(TASKS)}
    g2s.balance(name, plain_net, tasks=TASKS, shared=plain_net.backbone).backward(values)
    expected = torch.cat([p.grad.flatten() for p in shared.parameters()])  # type: ignore[union-attr]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(torch.nn.utils.parameters_to_vector(shared.parameters()), twin)


@pytest.mark.parametrize("name", ["mgda", "pcgrad", "nash", "imtl_g", "aligned", "graddrop", "cosreg"])
def test_all_specific_gates_train_as_separate_networks(name: str) -> None:
    model, of_model = gated(True)
    torch.stack(list(of_model().values())).sum().backward()
    expected = gradients(model)
    model.zero_grad()
    g2s.balance(name, model).backward(of_model())
    for key, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected.get(key, torch.zeros_like(gradient)), rtol=1e-5, atol=1e-7)


def test_weights_of_losses_keep_their_sum_beside_the_hinge() -> None:
    model, of_model = gated(None)
    balance = g2s.balance("rlw", model)
    assert sum(balance.backward(of_model()).values()) == pytest.approx(3)


def at_features_of(model: Net, shared: Any) -> Any:
    return g2s.balance("mgda", model, tasks=3, shared=shared, at="features")


def losses_of_heads(model: Net) -> dict[str, Tensor]:
    return {task: model.heads[task][1].weight.sum() for task in TASKS}


def backward(model: Net, **changes: Tensor) -> Any:
    return setup("mgda", model).backward({**losses(model), **changes})


REFUSED: list[tuple[str, Callable[[Net], Any], str]] = [
    ("name", lambda n: g2s.balance("pcgrat", n, tasks=3), r"no method 'pcgrat'; did you mean pcgrad\?"),
    ("option", lambda n: setup("mgda", n, c=0.4), "mgda has no option 'c'; allowed: normalise"),
    ("value", lambda n: setup("cagrad", n, c=-1), "c of cagrad is -1"),
    ("level", lambda n: setup("rlw", n, "features"), "rlw weighs losses and needs no gradients"),
    ("no level", lambda n: setup("mgda", n, "layers"), "at is 'layers'; allowed: parameters, features"),
    ("shared", lambda n: g2s.balance("mgda", n, tasks=3), "shared=model.backbone"),
    ("shared number", lambda n: g2s.balance("mgda", n, tasks=3, shared=5), "shared is 5; allowed is a module"),  # type: ignore[arg-type]
    ("seed", lambda n: setup("rlw", n, seed="x"), "seed is 'x'"),
    ("also", lambda n: setup("mgda", n).backward(losses(n), also=0.5), "also is 0.5"),  # type: ignore[arg-type]
    ("no graph", lambda n: setup("mgda", n).backward({t: torch.ones(()) for t in TASKS}), "no loss depends"),
    (
        "module",
        lambda n: at_features_of(n, list(n.parameters())),
        "needs the module",
    ),
    (
        "frozen",
        lambda n: at_features_of(n, n.requires_grad_(False)),
        "no parameter that is trained",
    ),
    ("tasks", lambda n: g2s.balance("mgda", n, shared=n.backbone), "tasks is None; give a list of names"),
    ("scale", lambda n: setup("mgda", n, scale="mean"), "scale is 'mean'; allowed: method, sum"),
    ("model", lambda n: g2s.balance("mgda", "net"), "model is 'net'; allowed is the network"),  # type: ignore[arg-type]
    ("not run", lambda n: setup("mgda", n, "features").backward(losses_of_heads(n)), "has not run"),
    (
        "count",
        lambda n: setup("mgda", n).backward({"a": torch.ones(())}),
        "of a; this balance is for a, b, c",
    ),
    (
        "nan",
        lambda n: backward(n, b=torch.tensor(torch.nan)),
        "the loss of b is nan",
    ),
    ("vector", lambda n: backward(n, b=torch.ones(2)), "the loss of b is a Tensor"),
    (
        "no path",
        lambda n: backward(n, b=n.heads["b"][1].weight.sum()),
        "the loss of b does not depend on the shared part",
    ),
    ("krum", lambda n: g2s.balance("krum", n, tasks=2, shared=n.backbone), "krum needs 3 tasks"),
]


@pytest.mark.parametrize(("call", "message"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_does_not_fit_is_named_in_a_line(call: Callable[[Net], Any], message: str) -> None:
    with pytest.raises(BalanceError, match=message) as error:
        call(net())
    assert "\n" not in str(error.value)


def test_features_of_a_gated_network_are_refused_with_the_reason() -> None:
    model, _ = gated(None)
    with pytest.raises(BalanceError, match="every task reads features of its own"):
        g2s.balance("mgda", model, at="features", shared=model)


def test_losses_of_other_tasks_than_before_are_refused() -> None:
    model = net()
    balance = setup("pcgrad", model)
    balance.backward(losses(model))
    with pytest.raises(BalanceError, match="this balance is for a, b, c"):
        balance.backward({task.upper(): loss for task, loss in losses(model).items()})


def test_a_state_of_another_method_is_refused() -> None:
    with pytest.raises(BalanceError, match="the state does not fit gradvac of 3 tasks"):
        setup("gradvac", net()).load_state_dict(setup("dwa", net()).state_dict())


def test_a_removed_hook_leaves_the_network_as_it_was() -> None:
    model = net()
    balance = setup("mgda", model, "features")
    balance.remove()
    assert not model.backbone._forward_hooks
    losses(model)["a"].backward()
    assert model.backbone[0].weight.grad is not None


def test_evaluation_runs_past_the_cut() -> None:
    model = net()
    balance = setup("mgda", model, "features")
    with torch.no_grad():
        losses(model)
    assert balance.tap is not None
    assert not balance.tap.features


def test_heads_may_start_in_place() -> None:
    model = net(["a"])
    model.heads["a"].insert(0, nn.ReLU(inplace=True))
    balance = setup("mgda", model, "features")
    balance.backward(losses(model))
    balance.remove()


def test_without_its_method_a_network_is_whole_again() -> None:
    model = net()
    balance = setup("mgda", model, "features")
    twin = copy.deepcopy(model)
    losses(twin)["a"].backward()  # a copy is another network
    assert twin.backbone[0].weight.grad is not None
    del balance
    losses(model)["a"].backward()
    assert model.backbone[0].weight.grad is not None


def test_two_methods_at_one_cut_are_refused() -> None:
    model = net()
    first = setup("mgda", model, "features")
    with pytest.raises(BalanceError, match="another method works at the features of this module"):
        setup("pcgrad", model, "features")
    first.remove()
    setup("pcgrad", model, "features").backward(losses(model))


def test_a_forward_pass_that_was_only_looked_at_does_not_count() -> None:
    model = net()
    balance = setup("mgda", model, "features")
    balance.backward(losses(model))
    expected = gradients(model)
    model.zero_grad()
    model(IMAGES[:2])
    balance.backward(losses(model))
    for key, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[key])


@pytest.mark.parametrize("level", ["parameters", "features"])
def test_an_error_leaves_nothing_behind(level: Any) -> None:
    model = net()
    balance = setup("mgda", model, level)
    balance.backward(losses(model))
    expected = gradients(model)
    for broken in ({"b": torch.tensor(torch.nan)}, {"b": model.heads["b"][1].weight.sum()}):
        with pytest.raises(BalanceError):
            balance.backward({**losses(model, slice(0, 4)), **broken})
    model.zero_grad()
    balance.backward(losses(model))
    for key, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[key])


@pytest.mark.parametrize(("name", "level"), SHARED_LEVEL)
def test_a_loss_without_a_valid_target_has_no_gradient(name: str, level: Any) -> None:
    model = net()
    balance = setup(name, model, level)
    values = losses(model)
    balance.backward({**values, "b": values["b"].detach() * 0})
    assert bool(model.backbone[0].weight.grad.isfinite().all())  # type: ignore[union-attr]
    assert model.heads["b"][1].weight.grad is None


def test_names_of_tasks_are_those_of_the_losses() -> None:
    model = net()
    with pytest.raises(BalanceError, match="losses are of a, b, c; this balance is for x, y, z"):
        g2s.balance("mgda", model, tasks=["x", "y", "z"], shared=model.backbone).backward(losses(model))


def test_methods_whose_states_look_alike_are_told_apart() -> None:
    with pytest.raises(BalanceError, match="the state does not fit imtl_l"):
        setup("imtl_l", net()).load_state_dict(setup("uncertainty", net()).state_dict())


NO_WEIGHTS = [("famo", {}, -1.0), ("geometric_mean", {}, 0.0), ("geometric_mean", {}, -1.0)]


@pytest.mark.parametrize(("name", "options", "value"), NO_WEIGHTS)
def test_losses_that_a_method_cannot_weigh_are_named(name: str, options: dict[str, Any], value: float) -> None:
    model = net()
    balance = setup(name, model, **options)
    values = losses(model)
    changed = {**values, "b": values["b"] * 0 + value}
    if name == "famo":
        balance.backward(values)
        with pytest.raises(BalanceError, match="must be positive"):
            balance.step(changed)
    else:
        with pytest.raises(BalanceError, match=r"weigh the losses|must be positive"):
            balance.backward(changed)


def test_a_direction_near_nothing_is_not_drawn_out() -> None:
    """Two gradients that cancel out: their shortest sum is rounding, whatever length is wanted."""
    model = net()
    balance = g2s.balance("mgda", model, tasks=2, shared=model.backbone, scale="sum")
    loss = losses(model)["a"]
    balance.backward({"a": loss * 3, "b": loss * -1})
    assert float(model.backbone[0].weight.grad.abs().max()) < 1e-6  # type: ignore[union-attr]
