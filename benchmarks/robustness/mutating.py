"""Changes to files: what a bad disk does, and what somebody does who knows the formats.

Every function takes a random generator and returns the changed content with a few words on what was changed.
"""

import copy
import io
import json
import math
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

import torch
from torch import Tensor

from gate2static.static.vetting.allowed_operators import allowed_operator
from gate2static.static.vetting.operator_table import OPERATORS

Change = tuple[bytes, str]
INTEGERS = (0, 1, -1, 2, 3, 7, 255, 65_536, 1_000_003, 2**31 - 1, 2**31, -(2**31), 2**53, 2**63 - 1, -(2**63), 10**30)
ODD: tuple[Any, ...] = (
    *INTEGERS, 0.5, -1.5, 1e30, math.nan, math.inf, True, False, None, "", "x", "../../x", "/etc/passwd", "\x1b]0;t\a",
    "a\nb", "a\0b", "x" * 10_000, [], {}, [[]], [1, 2], {"a": 1}, {"node": 0}, {"float": "inf"}, [None] * 300, [0] * 9,
)  # fmt: skip
"""Values that stand where others were expected."""


def flipped(content: bytes, random: Random) -> Change:
    """Flips one to eight bits anywhere."""
    changed = bytearray(content)
    places = [random.randrange(len(changed)) for _ in range(random.randint(1, 8))]
    for place in places:
        changed[place] ^= 1 << random.randrange(8)
    return bytes(changed), f"bits flipped at {places}"


def cut(content: bytes, random: Random) -> Change:
    """Cuts the end off, or a piece out of the middle."""
    start = random.randrange(len(content))
    end = len(content) if random.random() < 0.7 else min(len(content), start + random.randint(1, 200))
    return content[:start] + content[end:], f"without bytes {start} to {end}"


def overwritten(content: bytes, random: Random) -> Change:
    """Overwrites, repeats or inserts a piece."""
    start = random.randrange(len(content))
    length = random.randint(1, 64)
    filler = random.choice([b"\0", b"\xff", random.randbytes(1)]) * length
    kind = random.choice(["zeroed", "inserted", "repeated"])
    if kind == "zeroed":
        return content[:start] + filler + content[start + length :], f"{length} bytes overwritten at {start}"
    piece = filler if kind == "inserted" else content[start : start + length]
    return content[:start] + piece + content[start:], f"{length} bytes {kind} at {start}"


BYTES: tuple[Callable[[bytes, Random], Change], ...] = (flipped, flipped, cut, overwritten)


def any_bytes(content: bytes, random: Random) -> Change:
    """Changes bytes in one of the ways above."""
    return random.choice(BYTES)(content, random)


def json_text(content: bytes, random: Random) -> Change:
    """Changes the text of JSON in ways that its values do not show."""
    text = content.decode()
    kind = random.choice(["NaN", "key twice", "depth", "digits", "encoding", "trailing", "type"])
    if kind == "NaN":
        return text.replace("0", random.choice(["NaN", "-Infinity", "1e999"]), 1).encode(), kind
    if kind == "key twice":
        return text.replace('{"', '{"version": 1, "version": 2, "', 1).encode(), kind
    if kind == "depth":
        depth = random.choice([40, 2000, 100_000])
        return ("[" * depth + text + "]" * depth).encode(), f"{depth} lists around it"
    if kind == "digits":
        return text.replace("1", "1" * random.choice([50, 5000, 10**6]), 1).encode(), kind
    if kind == "encoding":
        return text.encode(random.choice(["utf-16", "utf-32", "utf-8-sig"])), kind
    if kind == "trailing":
        return (text + random.choice(["x", "{}", "\0", "," * 1000])).encode(), kind
    return json.dumps(random.choice(ODD)).encode(), kind


def json_value(value: Any, random: Random) -> tuple[Any, str]:
    """Changes one value anywhere inside plain values."""
    changed = copy.deepcopy(value)
    places = list(_places(changed))
    holder, key = random.choice(places)
    kind = random.choice(["odd", "odd", "nudged", "removed", "doubled", "swapped", "renamed"])
    old = holder[key]
    if kind == "removed":
        del holder[key]
    elif kind == "doubled" and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(old))
    elif kind == "swapped":
        other_holder, other_key = random.choice(places)
        holder[key], other_holder[other_key] = copy.deepcopy(other_holder[other_key]), copy.deepcopy(old)
    elif kind == "renamed" and isinstance(holder, dict):
        holder[str(random.choice(ODD))] = holder.pop(key)
    elif kind == "nudged" and type(old) in (int, float):
        holder[key] = old * random.choice([-1, 2, 1000, 10**9]) + random.choice([0, 1])
    elif kind == "nudged" and isinstance(old, list) and old:
        holder[key] = old * random.choice([2, 50])
    else:
        holder[key] = random.choice(ODD)
    return changed, f"{kind} {str(key)[:30]}: {str(old)[:40]} -> {str(holder)[:60]}"


def _places(value: Any) -> Any:
    """Every list and mapping inside plain values, with each of its keys."""
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    for key, item in items:
        yield value, key
        if isinstance(item, dict | list):
            yield from _places(item)


def graph(nodes: list[dict[str, Any]], random: Random) -> tuple[list[dict[str, Any]], str]:
    """Changes a graph as somebody does who knows its form."""
    changed = copy.deepcopy(nodes)
    calls = [i for i, node in enumerate(changed) if node["op"] == "call_function"]
    at = random.choice(calls)
    node = changed[at]
    kinds = ["operator", "any operator", "argument", "argument", "argument", "value", "node", "growth"]
    kind = random.choice(kinds)
    if kind == "operator":
        packet = random.choice(list(OPERATORS))
        node["target"] = f"aten.{packet}.{random.choice(OPERATORS[packet].split())}"
        node |= _arguments_of(node["target"], at, random)
    elif kind == "any operator":
        names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("aten::")]
        packet, _, overload = random.choice(names).removeprefix("aten::").partition(".")
        node["target"] = f"aten.{packet}.{overload or 'default'}"
    elif kind == "argument" and node["args"]:
        node["args"], what = json_value(node["args"], random)
        return changed, f"{node['target']}: {what}"
    elif kind == "node":
        where = random.randrange(len(changed))
        move = random.choice(["removed", "doubled", "moved"])
        piece = changed.pop(where) if move != "doubled" else copy.deepcopy(changed[where])
        if move != "removed":
            changed.insert(random.randrange(len(changed)), piece)
        return changed, f"node {where} {move}"
    elif kind == "growth":
        factor = random.choice([10, 10**4, 10**6, 10**9])
        target, args = random.choice([
            ("aten.repeat.default", [{"node": at}, [1, factor, 1, 1]]),
            ("aten.repeat.default", [{"node": at}, [1, factor]]),
            ("aten.pad.default", [{"node": at}, [factor, factor]]),
            ("aten.zeros.default", [[factor, factor]]),
            ("aten.arange.default", [factor]),
            ("aten.tensor_split.sections", [{"node": at}, factor, 1]),
            ("aten.upsample_nearest2d.vec", [{"node": at}, None, [float(factor), 1.0]]),
        ])  # fmt: skip
        changed[at + 1] |= {"op": "call_function", "target": target, "args": args, "kwargs": {}}
    else:
        changed, what = json_value(changed, random)
        return changed, what
    return changed, f"{kind} at {at}: {json.dumps(node)[:120]}"


def _arguments_of(name: str, at: int, random: Random) -> dict[str, Any]:
    """Arguments for an operator that are of the right types, and otherwise random."""
    operator = allowed_operator(name)
    assert isinstance(operator, torch._ops.OpOverload)

    def value(kind: str) -> Any:
        if "List" in kind:
            return [value(kind.split("[", 1)[1].rstrip("]")) for _ in range(random.randint(1, 4))]
        if "Tensor" in kind:
            return {"node": random.randrange(at)}
        if "ScalarType" in kind:
            return {"dtype": random.choice(["float32", "int64", "bool", "float64", "uint8", "complex64"])}
        if "bool" in kind:
            return random.random() < 0.5
        if "float" in kind or "number" in kind:
            return random.choice([0.0, 0.5, 1.0, -1.0, 2, 100.0])
        return random.choice([0, 1, -1, 2, 3, 4, 8, 100]) if "int" in kind else random.choice(["sum", "none", "mean"])

    arguments = operator._schema.arguments
    needed = [argument for argument in arguments if not argument.has_default_value() or random.random() < 0.3]
    positional = [argument for argument in needed if not argument.kwarg_only and not argument.has_default_value()]
    return {
        "args": [value(str(argument.real_type)) for argument in positional],
        "kwargs": {
            argument.name: value(str(argument.real_type)) for argument in needed if argument not in positional
        },
    }


def tensors(held: dict[str, Tensor], random: Random) -> tuple[dict[str, Tensor], str]:
    """Changes one tensor, or which name it has."""
    changed = {name: tensor.clone() for name, tensor in held.items()}
    name = random.choice([name for name, tensor in changed.items() if tensor.numel()])
    tensor = changed[name]
    kind = random.choice(["swapped", "dtype", "shape", "values", "removed", "added", "renamed"])
    if kind == "swapped":
        other = random.choice([other for other in changed if changed[other].shape == tensor.shape])
        changed[name], changed[other] = changed[other], tensor
        return changed, f"{name} and {other} swapped"
    if kind == "dtype":
        dtype = random.choice([torch.float64, torch.int8, torch.float16, torch.bool, torch.int64, torch.complex64])
        changed[name] = tensor.to(dtype)
    elif kind == "shape":
        shape = random.choice([(-1,), (1, *tensor.shape), (*tensor.shape, 1)])
        changed[name] = tensor.reshape(shape) if random.random() < 0.5 else tensor.flatten()[: tensor.numel() // 2]
    elif kind == "values":
        number = random.choice([10**6, -1, -(10**9), 0, 127])
        changed[name] = torch.full_like(tensor, number if tensor.dtype.is_floating_point else min(number, 127))
    elif kind == "removed":
        del changed[name]
    else:
        new = random.choice(["parameter_99", "buffer_99", "x", "__metadata__", "parameter_", "a" * 1000])
        changed[new] = changed.pop(name) if kind == "renamed" else torch.zeros(random.choice([1, 10, 10**5]))
    return changed, f"{kind}: {name}"


def archive(content: bytes, random: Random) -> Change:
    """Writes a zip archive anew, with one member changed, or otherwise than torch writes it."""
    kind = random.choice(["changed", "swapped", "removed", "compressed", "doubled", "renamed", "bomb"])
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old:
        members = {member.filename: old.read(member) for member in old.infolist()}
    names = list(members)
    name = random.choice(names)
    what = kind
    if kind == "changed" and members[name]:
        members[name], what = flipped(members[name], random)
    elif kind == "swapped":
        other = random.choice(names)
        members[name], members[other] = members[other], members[name]
    elif kind == "removed":
        del members[name]
    elif kind == "renamed":
        members[random.choice(["../../x", "/tmp/x", "archive/data.pkl2"])] = members.pop(name)
    elif kind == "bomb":
        members["archive/data/99999"] = bytes(10**8)
    stored = zipfile.ZIP_DEFLATED if kind in ("compressed", "bomb") else zipfile.ZIP_STORED
    with zipfile.ZipFile(written, "w", stored) as new:
        for member, data in members.items():
            new.writestr(member, data)
        if kind == "doubled":
            new.writestr(f"{name}-", members[name])
    return written.getvalue(), f"archive {what}: {name}"


def onnx_model(content: bytes, random: Random) -> Change:
    """Changes an ONNX model as somebody does who knows its form."""
    import onnx

    proto = onnx.load_model_from_string(content)
    graph_proto = proto.graph
    kinds = ["operator", "dims", "input shape", "edge", "attribute", "data", "constant", "removed", "bomb"]
    kind = random.choice(kinds)
    node = random.choice(graph_proto.node)
    weight = random.choice(graph_proto.initializer)
    if kind == "operator":
        node.op_type = random.choice(["Conv", "Loop", "If", "Scan", "Gather", "Tile", "Expand", "RandomNormal", "Nope"])
    elif kind == "dims":
        weight.dims[:] = [random.choice(INTEGERS[:13]) for _ in range(random.randint(0, 5))]
    elif kind == "input shape":
        dims = random.choice(graph_proto.input).type.tensor_type.shape.dim
        random.choice(dims).dim_value = random.choice(INTEGERS[:13])
    elif kind == "edge" and node.input:
        node.input[0] = random.choice([other.output[0] for other in graph_proto.node if other.output] + ["", "nowhere"])
    elif kind == "attribute" and node.attribute:
        attribute = random.choice(node.attribute)
        attribute.i = random.choice(INTEGERS[:13])
        attribute.ints[:] = [random.choice(INTEGERS[:13]) for _ in attribute.ints]
    elif kind == "data":
        weight.raw_data = random.choice([b"", weight.raw_data * 2, weight.raw_data[:-1], bytes(len(weight.raw_data))])
    elif kind == "constant":
        weight.data_location = 1
        weight.external_data.add(key="location", value=random.choice(["/etc/passwd", "../../x", "x"]))
    elif kind == "removed":
        graph_proto.node.remove(node)
    else:
        size = random.choice([10**5, 10**9, 10**12])
        shape = onnx.helper.make_tensor("bomb_shape", onnx.TensorProto.INT64, [2], [size, size])
        graph_proto.initializer.append(shape)
        graph_proto.node.insert(0, onnx.helper.make_node("ConstantOfShape", ["bomb_shape"], ["bomb"]))
        graph_proto.node.insert(1, onnx.helper.make_node("ReduceSum", ["bomb"], ["bomb_sum"], keepdims=0))
        graph_proto.output.append(onnx.helper.make_tensor_value_info("bomb_sum", onnx.TensorProto.FLOAT, []))
    return proto.SerializeToString(), f"{kind} in {node.op_type}"
