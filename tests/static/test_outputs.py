"""The names of outputs say in which structure a static network returns them."""

import pytest

from gate2static.static.outputs import are_output_names, structured


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a", "b"], {"a": 0, "b": 1}),
        (["a.0", "a.1", "b"], {"a": (0, 1), "b": 2}),
        (["a.box", "a.0"], {"a": {"box": 0, "0": 1}}),
        (["a.p.1", "a.p.0", "a.q"], {"a": {"p": (1, 0), "q": 2}}),
        (["a.2"], {"a": (None, None, 0)}),
        (["a.99999"], {"a": {"99999": 0}}),
    ],
)
def test_names_with_dots_are_tuples_and_dicts(names: list[str], expected: object) -> None:
    assert structured({name: number for number, name in enumerate(names)}) == expected


@pytest.mark.parametrize(
    "names", [["a", "a"], ["a", "a.b"], ["a.b", "a.b.c"], ["a."], [".a"], ["0.a"], ["a b"], ["a" + ".a" * 99]]
)
def test_names_that_contradict_each_other_are_no_names(names: list[str]) -> None:
    assert not are_output_names(names)
    assert are_output_names(["a.b", "a.c", "ab", "b.0"])
