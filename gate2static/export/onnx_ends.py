"""Preprocessing and the choice of classes inside an ONNX file, for devices that shall do neither.

In front of the network: bytes (N, H, W, C) → float32 → (N, C, H, W) → (byte / 255 − mean) / std, in the order in which
training computes it, so that the network's numbers are the same to the bit. Behind it: logits (N, classes, …) → the
index of the largest one, int32 (N, …).
"""

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gate2static.errors import ExportError, VerificationError
from gate2static.export.equality import float32_inputs
from gate2static.runtimes.onnx_file import ENDS, precision_of
from gate2static.runtimes.onnxruntime import open_session
from gate2static.runtimes.optional import require
from gate2static.static.manifest import TensorSpec
from gate2static.static.meaning import Ends, Meaning, Picture

if TYPE_CHECKING:
    from gate2static.static import StaticModel

_SHAPES = "gate2static.shapes"
_SAY_IT = "prune it from a recipe's checkpoint, or say it with StaticModel.describe"
_TOLERANCES = {"fp32": 1e-5, "fp16": 2e-2, "int8": 2e-2}


def ends_of(static: "StaticModel", *, preprocess: bool, argmax: bool) -> Ends:
    """Returns what a file shall do besides the network.

    Args:
        static: The network, which says what its inputs and outputs mean.
        preprocess: Whether inputs that are pictures are taken as bytes.
        argmax: Whether outputs that are logits of classes become the index of a class.

    Raises:
        ExportError: No input is known to be a picture, or no output to be logits of classes.
    """
    meaning = static.manifest.meaning or Meaning()
    if preprocess and not meaning.inputs:
        raise ExportError(
            f"the network does not say how a picture becomes its input: {_SAY_IT}, or leave out preprocess"
        )
    classes = {
        spec.name: spec.shape[0]
        for spec in static.manifest.outputs
        if spec.name in meaning.outputs and meaning.outputs[spec.name].activation == "softmax"
    }
    if argmax and not classes:
        raise ExportError(
            f"no output of the network is known to be logits of classes (activation softmax): {_SAY_IT}, or leave out "
            "argmax"
        )
    return Ends(pictures=meaning.inputs if preprocess else {}, classes=classes if argmax else {})


def input_specs(specs: tuple[TensorSpec, ...], ends: Ends) -> tuple[TensorSpec, ...]:
    """Returns the inputs of a file, of which pictures are bytes (H, W, C)."""
    return tuple(_as_bytes(spec) if spec.name in ends.pictures else spec for spec in specs)


def output_specs(specs: tuple[TensorSpec, ...], ends: Ends) -> tuple[TensorSpec, ...]:
    """Returns the outputs of a file, of which classes are an index without the dimension of classes."""
    return tuple(_as_index(spec) if spec.name in ends.classes else spec for spec in specs)


def _as_bytes(spec: TensorSpec) -> TensorSpec:
    channels, height, width = spec.shape
    dynamic = tuple(sorted((dim - 1) % 3 for dim in spec.dynamic))
    byte = {"shape": (height, width, channels), "dtype": "uint8", "values": (0, 255), "dynamic": dynamic}
    return spec.model_copy(update=byte)


def _as_index(spec: TensorSpec) -> TensorSpec:
    dynamic = tuple(dim - 1 for dim in spec.dynamic)
    return spec.model_copy(update={"shape": spec.shape[1:], "dtype": "int32", "dynamic": dynamic})


def with_ends(data: bytes, static: "StaticModel", ends: Ends) -> bytes:
    """Returns an ONNX file that also does what stands before and behind its network.

    Args:
        data: A file of the network alone, of any precision.
        static: The network.
        ends: What the file shall do besides; the file stays as it is where that is nothing.

    Raises:
        VerificationError: On pictures of bytes, the file does not compute what it computes without.
    """
    if ends == Ends():
        return data
    onnx = require("onnx")
    proto = onnx.load_model_from_string(data)
    for value in proto.graph.input:
        if value.name in ends.pictures:
            _take_bytes(onnx, proto.graph, value, ends.pictures[value.name])
    for value in proto.graph.output:
        if value.name in ends.classes:
            _give_index(onnx, proto.graph, value)
    properties = {entry.key: entry.value for entry in proto.metadata_props} | {ENDS: ends.model_dump_json()}
    if _SHAPES in properties:
        shapes = {spec.name: spec.shape for spec in input_specs(static.manifest.inputs, ends)}
        properties[_SHAPES] = json.dumps(shapes)
    onnx.helper.set_model_props(proto, properties)
    onnx.checker.check_model(proto, full_check=True)
    wrapped: bytes = proto.SerializeToString(deterministic=True)
    _check_equal(data, wrapped, static, ends, precision_of(proto))
    return wrapped


def _take_bytes(onnx: Any, graph: Any, value: Any, picture: Picture) -> None:
    """Puts the normalisation in front of an input, which becomes bytes; what reads it reads its numbers."""
    name = value.name
    chain = {"Cast": {"to": onnx.TensorProto.FLOAT}, "Transpose": {"perm": (0, 3, 1, 2)}}
    constants = {"Div": ("255", [255.0]), "Sub": ("mean", picture.mean), "Scale": ("std", picture.std)}
    for constant, values in constants.values():
        array = np.asarray(values, np.float32).reshape(-1, 1, 1)
        graph.initializer.append(onnx.numpy_helper.from_array(array, f"{name}/{constant}"))
    nodes = []
    last = name
    for step in (*chain, *constants):
        operands = [last, f"{name}/{constants[step][0]}"] if step in constants else [last]
        last = f"{name}/{step}"
        kind = "Div" if step == "Scale" else step
        label = f"preprocess/{last}"
        nodes.append(onnx.helper.make_node(kind, operands, [last], name=label, **chain.get(step, {})))
    for node in graph.node:
        node.input[:] = [last if read == name else read for read in node.input]
    for position, node in enumerate(nodes):  # a node stands behind those that it reads
        graph.node.insert(position, node)
    batch, channels, *image = _sizes(value)
    value.CopyFrom(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, [batch, *image, channels])
    )


def _give_index(onnx: Any, graph: Any, value: Any) -> None:
    """Puts the choice of the largest logit behind an output, which becomes its index."""
    name = value.name
    logits = f"{name}/logits"
    for node in graph.node:
        node.output[:] = [logits if written == name else written for written in node.output]
        node.input[:] = [logits if read == name else read for read in node.input]
    index = f"{name}/index"
    int32 = onnx.TensorProto.INT32  # TensorRT 8 has no int64
    graph.node.append(onnx.helper.make_node("ArgMax", [logits], [index], name=f"argmax/{name}", axis=1, keepdims=0))
    graph.node.append(onnx.helper.make_node("Cast", [index], [name], name=f"argmax/{name}/Cast", to=int32))
    batch, _, *image = _sizes(value)
    value.CopyFrom(onnx.helper.make_tensor_value_info(name, int32, [batch, *image]))


def _sizes(value: Any) -> list[str | int]:
    """Returns the sizes of an input or output; those that are free have names."""
    return [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]


def _check_equal(plain: bytes, wrapped: bytes, static: "StaticModel", ends: Ends, precision: str) -> None:
    """Compares a file with the file of the network alone, on pictures of random bytes."""
    # As written: fusing differently would round differently.
    before, after = (open_session(data, as_written=True) for data in (plain, wrapped))
    first_size = before.get_inputs()[0].shape[0]
    for size in (first_size,) if isinstance(first_size, int) else (1, 3):
        numbers = _feed(static, size)
        raw = dict(numbers)
        random = np.random.default_rng(size)
        for name, picture in ends.pictures.items():
            channels_last = np.moveaxis(numbers[name], 1, -1)
            raw[name] = random.integers(0, 256, channels_last.shape, dtype=np.uint8)
            mean, std = (np.asarray(values, np.float32) for values in (picture.mean, picture.std))
            normal = (raw[name].astype(np.float32) / np.float32(255) - mean) / std
            numbers[name] = np.ascontiguousarray(np.moveaxis(normal, -1, 1))
        names = [value.name for value in before.get_outputs()]
        for name, right, found in zip(names, before.run(None, numbers), after.run(None, raw), strict=True):
            if name in ends.classes:
                # By how much the chosen logit is below the largest one: nothing, but for ties.
                chosen = np.take_along_axis(right, np.expand_dims(found, 1).astype(np.int64), 1)
                error = right.max(1, keepdims=True) - chosen
            else:
                error = np.abs(found - right)
            if not error.max(initial=0) <= _TOLERANCES[precision] * np.abs(right).max(initial=0):
                raise VerificationError(
                    f"with preprocessing or argmax inside, the ONNX model computes another {name}: this is a bug, "
                    "please report it, and export without them"
                )


def _feed(static: "StaticModel", batch_size: int) -> dict[str, NDArray[Any]]:
    names = [spec.name for spec in static.manifest.inputs]
    return {name: x.numpy() for name, x in zip(names, float32_inputs(static, batch_size), strict=True)}
