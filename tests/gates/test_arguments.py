"""Bad arguments of `gate` and its setters: one clear line that says what, found, allowed, and what to do."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gate2static.errors import Gate2StaticError, GateError, TraceError
from gate2static.gates import gate, set_gates

X = torch.zeros(2, 3, 8, 8)


class Conv(nn.Module):
    """A convolution, and whatever is done with its output."""

    def __init__(self, then: Callable[[Tensor], Any] = torch.relu) -> None:
        super().__init__()
        self.conv, self.then = nn.Conv2d(3, 4, 1), then

    def forward(self, x: Tensor) -> Any:
        return self.then(self.conv(x))


def make(backbone: nn.Module | None = None, **options: Any) -> Any:
    given = {"tasks": ["a"], "example_inputs": (X,), "heads": {"a": nn.Identity()}} | options
    return gate(Conv() if backbone is None else backbone, **given)


def refused(kind: type[Gate2StaticError], reason: str, backbone: nn.Module | None = None, **options: Any) -> str:
    with pytest.raises(kind, match=reason) as caught:
        make(backbone, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Decides(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if x.mean() > 0:  # the line that defeats the trace
            x = -x
        return x


def test_a_backbone_that_branches_on_values_names_the_line() -> None:
    line = Decides.forward.__code__.co_firstlineno + 2
    message = refused(TraceError, "torch.fx cannot trace the backbone: .*control flow", Decides())
    assert f"{__file__}:{line}: `if x.mean() > 0:" in message
    assert "Rewrite that line, or move it into a submodule of its own" in message


class InsideAnother(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 3, 1), Decides()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.stem(x))


def test_the_line_is_the_innermost_of_the_users() -> None:
    line = Decides.forward.__code__.co_firstlineno + 2
    assert f"{__file__}:{line}: " in refused(TraceError, "cannot trace the backbone", InsideAnother())


class AddsInPlace(Decides):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        y = x
        y += 1  # torch.fx records y + 1, and x as it was
        return x * y


def test_a_trace_that_computes_something_else_is_refused() -> None:
    refused(TraceError, "the traced backbone does not compute what the backbone computes", AddsInPlace())


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        (
            (torch.zeros(2, 5, 8, 8),),
            r"inputs of shape \(2, 5, 8, 8\): at conv: .*but got 5 channels",
        ),
        ((torch.zeros(2, 3, 8, 8, dtype=torch.float64),), r"inputs of shape \(2, 3, 8, 8\): at conv: .*type"),
        ((torch.zeros(8, 8),), r"inputs of shape \(2, 8\): at conv: "),
        ((X, X), r"cannot be called with 2 positional inputs: .*; its forward takes \(x: "),
        ((), r"cannot be called with 0 positional inputs: missing a required argument: 'x'"),
    ],
)
def test_example_inputs_that_do_not_fit_are_named(inputs: Any, reason: str, capfd: pytest.CaptureFixture[str]) -> None:
    refused(TraceError, f"the backbone .*{reason}", example_inputs=inputs)
    assert capfd.readouterr() == ("", "")


def test_example_inputs_are_a_tuple() -> None:
    refused(GateError, r"example_inputs is a Tensor; allowed is a tuple .*such as \(images,\)", example_inputs=X)


def test_example_inputs_are_tensors() -> None:
    for inputs, key, found in [((X, True), 1, "True"), (({"image": X, "by": 2},), 0, "2"), ({"x": [X, 1]}, "x", "1")]:
        reason = f"example input {key} holds {found}; allowed are tensors.*Make it a default of the forward"
        refused(GateError, reason, example_inputs=inputs)


def _compiled() -> nn.Module:
    made: Any = torch.compile(Conv(), backend="eager")
    return made


@pytest.mark.parametrize(
    ("make_backbone", "reason"),
    [
        (lambda: "resnet", "the backbone is a str; allowed is a torch.nn.Module"),
        (lambda: torch.jit.script(nn.Conv2d(3, 4, 1)), "the backbone is TorchScript; use the module it"),
        (lambda: nn.Sequential(torch.jit.script(nn.ReLU()), Conv()), "'0' in the backbone is TorchScript"),
        (lambda: nn.DataParallel(Conv()), r"the backbone is wrapped in DataParallel; use its `\.module`"),
        (_compiled, r"the backbone is compiled; use its `\._orig_mod`"),
        (lambda: nn.Sequential(_compiled()), r"'0' in the backbone is compiled"),
        (lambda: nn.Sequential(nn.LazyConv2d(4, 1)), "not initialised: 0.weight, 0.bias; run it once"),
        (lambda: Conv().to("meta"), "no weights yet: conv.weight is on the meta device; move and load it first"),
    ],
)
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_backbone_is_a_plain_module_with_weights(make_backbone: Callable[[], Any], reason: str) -> None:
    refused(GateError, reason, make_backbone())


def test_a_backbone_for_one_batch_size_is_refused() -> None:
    refused(
        TraceError, r"inputs of shape \(3, 3, 8, 8\): at add: .*any batch size must work", Conv(_adds_a_batch_of_two)
    )


def _adds_a_batch_of_two(x: Tensor) -> Tensor:
    return x + torch.zeros(2, 1, 1, 1)


@pytest.mark.parametrize(
    ("then", "found"),
    [
        (lambda x: 3, "3"),
        (lambda x: None, "None"),
        (lambda x: (x, 3), r"\(conv, 3\)"),
        (lambda x: {"a": x, "b": "text"}, r"\{'a': conv, 'b': 'text'\}"),
        (lambda x: x.shape, "getattr_1"),
        (lambda x: x.mean(), "mean"),
        (lambda x: x.mean(0), "mean"),
        (lambda x: x.view(2, -1), "view"),
    ],
)
def test_a_backbone_that_returns_no_batch_of_tensors_is_refused(then: Callable[[Tensor], Any], found: str) -> None:
    refused(TraceError, f"the backbone returns {found}; allowed is a tensor, or a tuple, list or dict", Conv(then))


def test_a_backbone_without_weight_layers_is_refused() -> None:
    refused(
        GateError,
        "the backbone has no convolution or linear layer, so there is nothing to gate",
        nn.Sequential(nn.ReLU()),
    )


@pytest.mark.parametrize("tasks", [[], ["a", "a"], "ab"])
def test_tasks_are_a_list_of_different_names(tasks: Any) -> None:
    refused(GateError, r"tasks are .*; allowed is a list of at least one name, all different", tasks=tasks)


BAD_NAMES = [
    "shared",
    "a.b",
    "1x",
    "",
    "a b",
    "a\n",
    "ä",
    "class",
    "None",
    "training",
    "_modules",
    "forward",
    "keys",
    1,
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_a_task_name_is_an_identifier_that_means_nothing_else(name: Any) -> None:
    reason = re.escape(f"task names {[name]} are not allowed: use letters, digits and underscores")
    refused(GateError, reason, tasks=[name], heads={name: nn.Identity()})


def test_every_task_has_a_head_and_every_head_a_task() -> None:
    heads = {"a": nn.Identity(), "b": nn.Identity()}
    refused(GateError, r"no head for task b; heads are given for \['a'\]. Add one to each", tasks=["a", "b"])
    refused(GateError, r"given for \['b'\], which are not among the tasks \['a'\]", heads=heads)
    refused(GateError, r"given for \['z'\], which are not among the tasks \['a'\]", task_states={"z": {}})


def test_a_head_is_a_module() -> None:
    refused(GateError, r"the heads of \['a'\] are no torch.nn.Module; wrap functions in one", heads={"a": torch.relu})


class Head(nn.Module):
    def __init__(self, then: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.then = then

    def forward(self, features: Tensor) -> Any:
        return self.then(features)


def _loops(then: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    """What torch.fx cannot follow, so that the head stays one call."""
    return lambda x: then(sum(x[:, i] for i in range(x.shape[1])))


@pytest.mark.parametrize("wrap", [lambda then: then, _loops])
@pytest.mark.parametrize("then", [lambda x: (x, 3), lambda x: None, lambda x: {"y": "z"}, lambda x: x.shape])
def test_a_head_returns_tensors(then: Callable[[Tensor], Any], wrap: Callable[..., Any]) -> None:
    reason = "the head of task 'a' does not return tensors; allowed is a tensor with the batch first, or a tuple"
    refused(GateError, reason, heads={"a": Head(wrap(then))})


def test_outputs_of_a_head_are_named_by_words() -> None:
    reason = r"head of task 'a' returns outputs named 'a.class map'; allowed are different keys of letters"
    refused(GateError, reason, heads={"a": Head(lambda x: {"class map": x, "box": x})})
    refused(GateError, r"returns outputs named 'a.0', 'a.0'", heads={"a": Head(lambda x: {0: x, "0": x})})


def test_a_head_that_averages_over_the_batch_is_refused() -> None:
    refused(GateError, "the head of task 'a' does not return tensors", heads={"a": Head(lambda x: x.mean())})


@pytest.mark.parametrize("head", [nn.Linear(99, 2), nn.Sequential(nn.Linear(99, 2)), nn.Conv2d(5, 2, 1)])
def test_a_head_that_does_not_fit_the_features_is_named(head: nn.Module, capfd: pytest.CaptureFixture[str]) -> None:
    refused(Gate2StaticError, "the head of task 'a' does not run on .*: ", heads={"a": head})
    assert capfd.readouterr() == ("", "")


def test_a_head_that_decides_by_values_is_refused() -> None:
    head = Head(lambda x: x if x.sum() > 0 else -x)
    reason = r"the head of task 'a' reads a tensor's values to decide .*such as torch\.where"
    refused(GateError, reason, heads={"a": head})


def test_states_fit_the_backbone() -> None:
    wrong = {"conv.weight": torch.zeros(4, 5, 1, 1)}
    refused(GateError, "the state for stream 'shared' does not fit the backbone: .*Missing key", shared_state=wrong)
    refused(GateError, "the state for stream 'a' does not fit the backbone: ", task_states={"a": wrong})


def test_a_group_has_channels() -> None:
    refused(GateError, "group_size, a number of channels, is 0; allowed is a whole number from 1", group_size=0)


def test_the_shared_stream_mixes_in_one_of_two_ways() -> None:
    refused(GateError, "mixing is 'max'; allowed are 'softmax' and 'hard'", mixing="max")


@pytest.mark.parametrize(
    ("decisions", "reason"),
    [
        ({"nosuch": torch.ones(1, 4) > 0}, "there is no unit 'nosuch'; the units are conv"),
        ({"conv": torch.ones(1, 5) > 0}, r"torch.bool of shape \(1, 5\); allowed are torch.bool of shape .* \(1, 4\)"),
        ({"conv": torch.ones(1, 4)}, r"torch.float32 of shape \(1, 4\); allowed are torch.bool"),
    ],
)
def test_forced_gates_fit_the_unit(decisions: dict[str, Tensor], reason: str) -> None:
    gated = make()
    with pytest.raises(GateError, match=reason):
        set_gates(gated, decisions)
