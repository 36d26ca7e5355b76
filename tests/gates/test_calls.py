"""How a backbone is called when it is gated is how the gated model is called: by position, by name, or both."""

import copy
import functools
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gate2static.errors import GateError, TraceError
from gate2static.gates import GatedModel, gate, set_gates
from gate2static.prune import prune
from gate2static.verify import verify

X = torch.randn(2, 3, 8, 8)
Y = torch.randn(2, 1, 8, 8)


class Body(nn.Module):
    """The layers; subclasses say how they are called."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 1)

    def body(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())


class UnusedKeywords(Body):
    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.body(x)


class ReadsKeywords(Body):
    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.body(x) * kwargs.get("scale", 1.0)


class NamedKeywords(Body):
    def forward(self, **kwargs: Any) -> Tensor:
        return self.body(kwargs["left"] * kwargs["right"])


class Variadic(Body):
    def forward(self, *images: Tensor) -> Tensor:
        return self.body(torch.cat(images, 1)[:, :3])


class KeywordOnly(Body):
    def forward(self, *, image: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.body(image if mask is None else image * mask)


class Optional(Body):
    def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
        return self.body(x if mask is None else x * mask) * scale


def _with_defaults(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Fills in arguments by name and looks at the code of what it wraps, as decorators of Hugging Face do."""

    @functools.wraps(forward)
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        kwargs["scale"] = 2.0
        if "mask" in inspect.signature(forward).parameters and len(args) < 2:
            kwargs.setdefault("mask", None)
        return forward(self, *args, **kwargs)

    return call


class Decorated(Body):
    @_with_defaults
    def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
        return self.body(x) * scale


CALLS: dict[str, tuple[type[Body], Any]] = {
    "unused keywords": (UnusedKeywords, (X,)),
    "keywords with a default": (ReadsKeywords, (X,)),
    "keywords by name": (ReadsKeywords, {"x": X, "scale": Y}),
    "keywords alone": (NamedKeywords, {"right": Y, "left": X}),
    "any number of inputs": (Variadic, (X, Y)),
    "by name only": (KeywordOnly, {"image": X}),
    "by name only, optional": (KeywordOnly, {"mask": Y, "image": X}),
    "by name only, given by position": (KeywordOnly, (X,)),
    "optional, left out": (Optional, (X,)),
    "optional, None": (Optional, (X, None)),
    "optional, by name": (Optional, {"x": X, "mask": Y}),
    "a plain value by name": (Optional, {"x": X, "scale": 3.0}),
    "decorated": (Decorated, (X,)),
    "decorated, by name": (Decorated, {"x": X, "mask": Y}),
}


def make(kind: type[Body], inputs: Any) -> tuple[Body, GatedModel]:
    torch.manual_seed(0)
    backbone = kind().eval()
    heads = {task: nn.Conv2d(6, 2, 1) for task in "ab"}
    return backbone, gate(backbone, tasks=["a", "b"], example_inputs=inputs, heads=heads)


def call(module: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return module(**inputs)
    # A caller of a forward that takes names alone gives the name.
    return module(image=inputs[0]) if isinstance(module, KeywordOnly) else module(*inputs)


@pytest.mark.parametrize("name", CALLS)
def test_a_backbone_is_gated_trained_and_pruned_as_it_is_called(name: str) -> None:
    """Used to end in a bare AssertionError after training, or in torch.fx's own words."""
    kind, inputs = CALLS[name]
    backbone, gated = make(kind, inputs)
    set_gates(gated, False)
    expected = gated.heads["a"](call(backbone, inputs))
    torch.testing.assert_close(call(gated, inputs)["a"], expected)
    call(gated.train(), inputs)["b"].mean().backward()
    assert gated.branches["b"].first.weight.grad is not None
    set_gates(gated, {unit: torch.rand_like(g.alpha) < 0.5 for unit, g in gated.gates.items()})
    assert verify(gated.eval(), prune(gated)).passed


def test_named_inputs_may_come_in_any_order_and_by_position() -> None:
    _, gated = make(Optional, {"mask": Y, "x": X})
    expected = gated(X, Y)["a"]
    torch.testing.assert_close(gated(mask=Y, x=X)["a"], expected)
    torch.testing.assert_close(gated(X, mask=Y, scale=1.0)["a"], expected)
    assert [spec.name for spec in prune(gated.eval()).manifest.inputs] == ["x", "mask"]


def test_dicts_of_inputs_may_have_another_order() -> None:
    class Views(Body):
        def forward(self, views: dict[str, Tensor]) -> Tensor:
            return self.body(views["image"] * views["mask"].exp())

    _, gated = make(Views, ({"image": X, "mask": Y},))
    torch.testing.assert_close(gated({"mask": Y, "image": X}), gated({"image": X, "mask": Y}))


@pytest.mark.parametrize(
    ("args", "named", "found"),
    [
        ((), {}, "missing a required argument: 'x'"),
        ((X, Y), {}, r"takes \(x\), as in example_inputs of `gate`, and was given \(x, mask\)"),
        ((X,), {"scale": 2.0}, r"was given \(x, scale=2.0\)"),
        ((X,), {"nosuch": X}, "unexpected keyword argument 'nosuch'"),
        (([X],), {}, r"was given \(x\[0\]\)"),
    ],
)
def test_another_call_than_that_of_the_example_inputs_is_refused(
    args: tuple[Any, ...], named: dict[str, Any], found: str
) -> None:
    _, gated = make(Optional, (X,))
    with pytest.raises(GateError, match=found):
        gated(*args, **named)


def test_inputs_by_name_that_the_forward_does_not_take_are_named() -> None:
    with pytest.raises(TraceError, match=r"cannot be called with the inputs image by name: missing .*'x'"):
        make(UnusedKeywords, {"image": X})
    with pytest.raises(TraceError, match=r"cannot be called with the inputs image by name: .*one dict is given"):
        make(Variadic, {"image": X})


def test_gated_models_with_calls_of_their_own_are_copied_and_pickled() -> None:
    _, gated = make(Variadic, (X, Y))
    program = pickle.loads(pickle.dumps(gated.program.call))
    assert program == gated.program.call
    torch.testing.assert_close(copy.deepcopy(gated)(X, Y), gated(X, Y))


def test_a_compiled_model_can_be_asked_whether_it_is_there() -> None:
    """`if model:` of a compiled one used to end in "GatedModel does not support len()"."""
    _, gated = make(Optional, (X,))
    compiled: Any = torch.compile(gated, backend="eager")
    assert compiled
    assert len(gated) == 2


@pytest.mark.slow
def test_a_compiled_model_trains_without_breaks() -> None:
    _, gated = make(KeywordOnly, {"image": X})
    torch._dynamo.reset()
    compiled: Any = torch.compile(gated.train(), backend="eager", fullgraph=True)
    compiled(image=X)["a"].mean().backward()
    assert gated.branches["a"].first.weight.grad is not None
    torch.testing.assert_close(compiled(image=X), gated(image=X))
