"""A `graph.json` from somebody who means harm: refused in one line, and nothing that it says is done."""

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gate2static.errors import ArtefactError
from gate2static.gates import gate, set_gates
from gate2static.prune import prune
from gate2static.static import StaticModel, load_static
from gate2static.static.folder import digest
from gate2static.static.vetting.allowed_operators import allowed_operator
from gate2static.static.vetting.operator_table import OPERATORS as TABLE

Nodes = list[dict[str, Any]]


@pytest.fixture(scope="module")
def plain() -> StaticModel:
    """One convolution and an activation: nodes are weight, bias, input, convolution, activation, output."""
    backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    gated = gate(backbone, tasks=["a"], example_inputs=(torch.randn(2, 3, 4, 4),), heads={"a": nn.Identity()})
    set_gates(gated, True)
    return prune(gated.eval())


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A file that nobody may create."""
    return tmp_path / "marker"


@pytest.fixture
def load(plain: StaticModel, tmp_path: Path) -> Callable[[Any], StaticModel]:
    """Loads the plain network with another graph, which is what was signed."""

    def load_with(graph: Any) -> StaticModel:
        folder = tmp_path / "static"
        plain.save(folder)
        text = graph if isinstance(graph, bytes) else json.dumps(graph).encode()
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["digest"] = digest(text, (folder / "weights.safetensors").read_bytes())
        (folder / "graph.json").write_bytes(text)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return load_static(folder)

    return load_with


@pytest.fixture
def nodes(plain: StaticModel, tmp_path: Path) -> Nodes:
    plain.save(tmp_path / "original")
    found: Nodes = json.loads((tmp_path / "original" / "graph.json").read_text())
    assert [n["op"] for n in found] == ["get_attr"] * 2 + ["placeholder"] + ["call_function"] * 2 + ["output"]
    return found


INPUT, CONVOLUTION, ACTIVATION = 2, 3, 4


def test_the_graph_as_it_was_loads(load: Callable[[Any], StaticModel], nodes: Nodes, plain: StaticModel) -> None:
    inputs = plain.example_inputs(2)
    assert torch.equal(load(nodes)(*inputs)["a"], plain(*inputs)["a"])


def _code(marker: Path) -> str:
    return f"__import__('pathlib').Path({str(marker)!r}).touch()"


def _refuse(load: Callable[[Any], StaticModel], graph: Any, marker: Path, reason: str) -> None:
    with pytest.raises(ArtefactError, match=reason) as caught:
        load(graph)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert not marker.exists()


OPERATORS = [
    "aten.from_file.default", "aten.save.default", "aten.warn.default", "aten._print.default",
    "aten.manual_seed.default", "aten.set_grad_enabled.default", "aten.set_.source_Tensor", "aten.relu_.default",
    "aten.resize_.default", "aten.as_strided.default", "aten.empty_strided.default", "aten.relu.out",
    "prims.relu.default", "quantized.relu.default", "profiler._record_function_enter.default",
    "os.system", "builtins.eval", "torch.load", "torch.ops.aten.relu.default", "operator.attrgetter",
    "operator.methodcaller", "operator.call", "aten.relu", "aten.relu.default.x", "aten.relu.default\n",
    "aten.__class__.mro", "aten._dir.append", "aten.relu.__call__", "aten.relu._op", "aten.__getattr__.default",
    "aten..default", "aten.nosuch.default", "aten.relu.nosuch", "", ".", None, 3, ["aten.relu.default"], {"a": 1},
]  # fmt: skip


@pytest.mark.parametrize("target", OPERATORS, ids=repr)
def test_only_operators_that_compute_are_called(
    target: Any, load: Callable[[Any], StaticModel], nodes: Nodes, marker: Path
) -> None:
    nodes[ACTIVATION] |= {"target": target, "args": [{"node": CONVOLUTION}]}
    _refuse(load, nodes, marker, "node 4 cannot be read")


def test_no_file_is_written_or_mapped(load: Callable[[Any], StaticModel], nodes: Nodes, marker: Path) -> None:
    for target, args in (
        ("aten.from_file.default", [str(marker), True, 16]),
        ("aten.save.default", [{"node": CONVOLUTION}, str(marker)]),
    ):
        nodes[ACTIVATION] |= {"target": target, "args": args}
        _refuse(load, nodes, marker, f"operator '{target}' is not allowed")


@pytest.mark.parametrize("kind", ["call_method", "call_module", "root", "get_attr", "placeholder", "", None, 3, []])
def test_only_known_kinds_of_nodes_are_made(
    kind: Any, load: Callable[[Any], StaticModel], nodes: Nodes, marker: Path
) -> None:
    nodes[ACTIVATION] |= {"op": kind, "target": _code(marker)}
    _refuse(load, nodes, marker, "node 4 cannot be read")


def test_a_nodes_own_name_is_ignored(load: Callable[[Any], StaticModel], nodes: Nodes, marker: Path) -> None:
    nodes[ACTIVATION]["name"] = _code(marker)
    load(nodes)(torch.zeros(1, 3, 4, 4))
    assert not marker.exists()


@pytest.mark.parametrize(
    "name", ["code", "lambda", "None", "self", "torch", "operator", "inf", "x\n", "a b", "", None, 3]
)
def test_an_inputs_name_is_a_name_and_nothing_else(
    name: Any, load: Callable[[Any], StaticModel], nodes: Nodes, marker: Path
) -> None:
    nodes[INPUT]["target"] = _code(marker) if name == "code" else name
    _refuse(load, nodes, marker, "node 2 cannot be read .*input name")


def test_no_two_inputs_share_a_name(load: Callable[[Any], StaticModel], nodes: Nodes, marker: Path) -> None:
    nodes.insert(INPUT, copy.deepcopy(nodes[INPUT]))
    _refuse(load, nodes, marker, "node 3 cannot be read .*input name")


@pytest.mark.parametrize("key", ["code", "lambda", "unknown", "", "self\n"])
def test_keyword_arguments_are_those_of_the_operator(
    key: str, load: Callable[[Any], StaticModel], nodes: Nodes, marker: Path
) -> None:
    nodes[ACTIVATION]["kwargs"] = {_code(marker) if key == "code" else key: 1}
    _refuse(load, nodes, marker, "node 4 cannot be read .*argument names")


DEEP: Any = 1
for _ in range(50):
    DEEP = [DEEP]
ARGUMENTS = [
    [{"node": ACTIVATION}], [{"node": ACTIVATION + 1}], [{"node": -1}], [{"node": 1.0}], [{"node": "3"}],
    [{"node": True}], [{"node": None}], [{"node": [3]}], [{"eval": "1"}], [{"node": 3, "float": "1"}], [{}],
    [{"float": "1+1"}], [{"float": None}], [{"dtype": "load"}], [{"dtype": "os.system"}], [{"dtype": 3}],
    [{"layout": "float32"}], [DEEP], {"node": 3}, None, 3,
]  # fmt: skip


@pytest.mark.parametrize("args", ARGUMENTS, ids=lambda args: str(args)[:40])
def test_arguments_are_plain_values_or_earlier_nodes(
    args: Any, load: Callable[[Any], StaticModel], nodes: Nodes, marker: Path
) -> None:
    nodes[ACTIVATION]["args"] = args
    _refuse(load, nodes, marker, "node 4 cannot be read|nested deeper than 32")


@pytest.mark.parametrize("args", [[], ["code"], "ab", [{"node": 3}, 2], [{"node": 0}], [[{"node": 3}]], [1.5]], ids=str)
def test_arguments_that_do_not_fit_are_found_before_anything_runs(
    args: Any, load: Callable[[Any], StaticModel], nodes: Nodes, marker: Path
) -> None:
    nodes[ACTIVATION]["args"] = [_code(marker)] if args == ["code"] else args
    _refuse(load, nodes, marker, "graph and manifest disagree|node 4 cannot be read")


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_floats_that_are_not_finite_are_values_like_others(
    value: str, load: Callable[[Any], StaticModel], nodes: Nodes
) -> None:
    nodes[ACTIVATION] |= {"target": "aten.mul.Tensor", "args": [{"node": CONVOLUTION}, {"float": value}]}
    assert not load(nodes)(torch.ones(1, 3, 4, 4))["a"].isfinite().any()


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_words_that_json_does_not_have_are_refused(
    value: str, load: Callable[[Any], StaticModel], nodes: Nodes, marker: Path
) -> None:
    nodes[ACTIVATION] |= {"target": "aten.mul.Tensor", "args": [{"node": CONVOLUTION}, float(value)]}
    _refuse(load, nodes, marker, "graph.json cannot be read as JSON: -?(NaN|Infinity) is no number of JSON")


def _without_output(nodes: Nodes) -> Nodes:
    return nodes[:-1]


def _two_outputs(nodes: Nodes) -> Nodes:
    return [*nodes, nodes[-1]]


def _early_output(nodes: Nodes) -> Nodes:
    return [*nodes[:ACTIVATION], {**nodes[-1], "args": [[{"node": CONVOLUTION}]]}, *nodes[ACTIVATION:]]


def _empty(nodes: Nodes) -> Nodes:
    return []


@pytest.mark.parametrize("change", [_without_output, _two_outputs, _early_output, _empty])
def test_a_graph_ends_with_its_one_output(
    change: Callable[[Nodes], Nodes], load: Callable[[Any], StaticModel], nodes: Nodes, marker: Path
) -> None:
    _refuse(load, change(nodes), marker, "it does not end with its one output")


@pytest.mark.parametrize("args", [[[1]], [], [[{"node": 4}, "a"]], None, [None]])
def test_an_output_is_a_list_of_nodes(
    args: Any, load: Callable[[Any], StaticModel], nodes: Nodes, marker: Path
) -> None:
    nodes[-1]["args"] = args
    _refuse(load, nodes, marker, "node 5 cannot be read")


TEXTS = [
    b"", b"{", b"null", b"3", b'"abc"', b"{}", b'["abc"]', b"[[]]", b"[{}]", b"\xff\xfe\x00",
    b"[" + b"9" * 5000 + b"]", b"[" * 10**5 + b"]" * 10**5,
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text[:12]))
def test_what_is_no_graph_is_refused(text: bytes, load: Callable[[Any], StaticModel], marker: Path) -> None:
    _refuse(load, text, marker, "cannot be read|not a list of up to 50,000 nodes|end with its one output")


NOT_OURS = [
    "aten.combinations.default", "aten.special_hermite_polynomial_h.default", "aten.embedding_dense_backward.default",
    "aten.mkldnn_rnn_layer.default", "aten.max_pool2d_with_indices_backward.default", "aten.rand_like.default",
    "aten.bernoulli.p", "aten.normal_functional.default", "aten._foreach_add.Scalar", "aten.add_.Tensor",
    "aten.set.source_Tensor", "aten.data.default", "aten.item.default", "aten.nonzero.default",
    "aten.empty_like.default", "aten.cudnn_convolution.default", "aten.histc.default",
    "operator.pow", "operator.lshift", "operator.truediv",
]  # fmt: skip
"""Operators that hang, end the process, draw random numbers, write, or expose memory; 1,117 were allowed once."""


@pytest.mark.parametrize("target", NOT_OURS)
def test_only_operators_of_the_table_are_called(
    target: str, load: Callable[[Any], StaticModel], nodes: Nodes, marker: Path
) -> None:
    nodes[ACTIVATION] |= {"target": target, "args": [{"node": CONVOLUTION}]}
    _refuse(load, nodes, marker, f"node 4 cannot be read .*operator '{target}' is not allowed")


def test_the_table_is_sorted_and_torch_has_every_operator_of_it() -> None:
    assert list(TABLE) == sorted(TABLE)
    for packet, overloads in TABLE.items():
        for overload in overloads.split():
            operator = allowed_operator(f"aten.{packet}.{overload}")
            assert not operator._schema.is_mutable  # type: ignore[attr-defined]
            assert torch.Tag.nondeterministic_seeded not in operator.tags or packet in (  # type: ignore[attr-defined]
                "_native_multi_head_attention", "dropout", "feature_dropout", "gru", "lstm", "rnn_relu", "rnn_tanh",
                "rrelu", "scaled_dot_product_attention",
            ), packet  # fmt: skip


N = {"node": CONVOLUTION}
WRONG_ARGUMENTS: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("aten.to.dtype", [N, 6, False, False, -1], {}),
    ("aten.to.dtype", [N, {"dtype": "float32"}], {"memory_format": -1}),
    ("aten.to.dtype", [N, {"dtype": "float32"}], {"memory_format": {"layout": "strided"}}),
    ("aten.to.dtype", [N, {"dtype": "quint8"}], {}),
    ("aten.contiguous.default", [N], {"memory_format": 77}),
    ("aten.zeros_like.default", [N], {"layout": {"layout": "sparse_coo"}}),
    ("aten.zeros_like.default", [N], {"layout": 7}),
    ("aten.dropout.default", [N, 0.5, True], {}),
    ("aten.scaled_dot_product_attention.default", [N, N, N, None, 0.5], {}),
    ("aten.gelu.default", [N], {"approximate": "x" * 10**5}),
    ("aten.einsum.default", ["a" * 10**5, [N]], {}),
    ("aten.relu.default", ["text"], {}),
    ("aten.add.Tensor", [N, N], {"alpha": "2"}),
    ("aten.add.Tensor", [N, 10**30], {}),
    ("aten.cat.default", [[N] * 20_000], {}),
    ("aten.cat.default", [[N, 1.0]], {}),
    ("aten.reshape.default", [N, [10**12, -1]], {}),
    ("aten.reshape.default", [N, [True, -1]], {}),
    ("aten.sum.dim_IntList", [N, [1.5]], {}),
    ("aten.sum.default", [], {}),
    ("aten.sum.default", [N, N], {}),
    ("aten.relu.default", [N], {"self": N}),
    ("operator.add", [[1], [2]], {}),
    ("operator.mul", ["a", 10**9], {}),
    ("operator.mul", [N, 10**18], {}),
]
"""Arguments that end the process, hang or grow, or that torch takes for something else than they say."""


@pytest.mark.parametrize(("target", "args", "kwargs"), WRONG_ARGUMENTS, ids=lambda value: str(value)[:40])
def test_arguments_are_of_the_operators_own_types(
    target: str,
    args: list[Any],
    kwargs: dict[str, Any],
    load: Callable[[Any], StaticModel],
    nodes: Nodes,
    marker: Path,
) -> None:
    nodes[ACTIVATION] |= {"target": target, "args": args, "kwargs": kwargs}
    _refuse(load, nodes, marker, "node 4 cannot be read")


SIZE = {"op": "call_function", "target": "aten.sym_size.int", "args": [{"node": INPUT}, 0], "kwargs": {}}
"""The batch, as node 4 of a longer graph."""


def _longer(nodes: Nodes, *added: tuple[str, list[Any]]) -> Nodes:
    """The graph with the batch as node 4 and further operators from node 5 on; the last one is the output."""
    entries = [{"op": "call_function", "target": target, "args": args, "kwargs": {}} for target, args in added]
    output = {"op": "output", "target": "output", "args": [[{"node": ACTIVATION + len(added)}]], "kwargs": {}}
    return [*nodes[:ACTIVATION], SIZE, *entries, output]


BATCH, FIRST = {"node": ACTIVATION}, {"node": ACTIVATION + 1}
TOO_MUCH: dict[str, list[tuple[str, list[Any]]]] = {
    "a value that is too large": [("aten.repeat.default", [N, [1, 10**6, 10, 1]])],
    "a value that is large for one sample only": [
        ("operator.floordiv", [2**31, BATCH]),
        ("aten.zeros.default", [[FIRST, 4, 4, 4]]),
    ],
    "a value that is large without a batch": [("aten.zeros.default", [[1_000_003, 4, 4, 10_000]])],
    "many values at once": [("aten.repeat.default", [N, [1, 2**18, 4, 1]])] * 8
    + [("aten.cat.default", [[{"node": ACTIVATION + 1 + i} for i in range(8)], 1])],
    "many parts": [("aten.tensor_split.sections", [N, 10**6, 1])],
    "a part per sample": [("aten.unbind.int", [N, 0])],
    "long work": [("aten.repeat.default", [N, [1, 2**10, 2**8, 1]])]
    + [("aten.exp.default", [{"node": ACTIVATION + 1 + i}]) for i in range(300)],
    "a size that grows": [("operator.mul", [BATCH, 10**9]), ("operator.mul", [FIRST, FIRST])],
    "a division by zero": [("operator.mod", [BATCH, 0])],
}


@pytest.mark.parametrize("kind", TOO_MUCH)
def test_what_a_graph_takes_is_bounded_before_it_runs(
    kind: str, load: Callable[[Any], StaticModel], nodes: Nodes, marker: Path
) -> None:
    """Graphs of 5 kB used to load for minutes, take gigabytes, or do so when they ran."""
    start = time.process_time()
    _refuse(load, _longer(nodes, *TOO_MUCH[kind]), marker, "graph and manifest disagree: it takes more than a network")
    assert time.process_time() - start < 2


@pytest.mark.parametrize("count", [300, 60_000])
@pytest.mark.parametrize("kind", ["placeholder", "call_function"])
def test_graphs_of_too_many_nodes_are_refused_at_once(
    kind: str, count: int, load: Callable[[Any], StaticModel], nodes: Nodes, marker: Path
) -> None:
    if kind == "placeholder":
        added = [{"op": kind, "target": f"x{i}", "args": [], "kwargs": {}} for i in range(count)]
    else:
        added = [{"op": kind, "target": "aten.exp.default", "args": [N], "kwargs": {}}] * max(count, 50_000)
    start = time.process_time()
    graph = [*nodes[:ACTIVATION], *added, *nodes[ACTIVATION:]]
    _refuse(load, graph, marker, "placeholders, and 256|not a list of up to")
    assert time.process_time() - start < 3


def test_keys_that_occur_twice_are_refused(load: Callable[[Any], StaticModel], nodes: Nodes, marker: Path) -> None:
    text = json.dumps(nodes).replace('"op":', '"op": "output", "op":', 1)
    _refuse(load, text.encode(), marker, "graph.json cannot be read as JSON: the key 'op' occurs twice")
