"""The comparison of an ONNX model with the static network that it was exported from."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from gate2static.errors import ExportError, VerificationError
from gate2static.messages import brief
from gate2static.runtimes.onnx_file import ENDS
from gate2static.runtimes.onnxruntime import open_session
from gate2static.static.draws import draw_inputs, other_sizes, uncertain_batches
from gate2static.verify.difference import difference
from gate2static.verify.running import run_static

if TYPE_CHECKING:
    from gate2static.static import StaticModel

Precision = Literal["fp32", "fp16"]

# Max error over the output's largest magnitude. Measured on ResNet-50, DenseNet-121, VGG-11-BN and five ResNet-50s with
# random weights: fp32 at most 1.6e-6 (two libraries sum a dot product in another order), fp16 at most 1.2e-3 (half a
# unit in the last place is 5e-4). Outputs that are small differences of large activations lose more in float32, which
# is measured for each network (`_ROUNDING_FACTOR`): a margin for all of them would hide small faults in the others.
_FLOORS: Mapping[Precision, float] = {"fp32": 1e-5, "fp16": 2e-2}
_ROUNDING_FACTOR, _CEILING = 16, 1e-2


def float32_inputs(static: "StaticModel", batch_size: int) -> tuple[torch.Tensor, ...]:
    """Returns example inputs as ONNX files take them, whatever the network was trained in."""
    return as_float32(static.example_inputs(batch_size))


def onnx_tolerances(
    static: "StaticModel", precision: Precision = "fp32", errors: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Returns what an ONNX model's error may be at most, relative to the output's scale, per task.

    In float32 also 16 times what torch itself loses against float64, where that is more: networks can magnify rounding,
    such as attention whose logits are large, and two libraries round differently. Never more than 0.01, where errors
    could no longer be told from rounding.

    Args:
        static: The reference, whose batch size is free.
        precision: What the ONNX model computes in.
        errors: The errors that were measured. Where all are within the least tolerance, that is all there is to know.
    """
    floor = _FLOORS["fp16" if _narrows(static) else precision]
    tolerances = dict.fromkeys(static.output_names, floor)
    are_small = errors is not None and all(error <= floor for error in errors.values())
    if precision == "fp32" and not are_small:
        for inputs in _compared_inputs(static, (1, 3)):
            truth, rounded = (run_static(static, inputs, dtype) for dtype in (torch.float64, torch.float32))
            for task, least in tolerances.items():
                own = _ROUNDING_FACTOR * difference(truth[task], rounded[task]).max_rel
                tolerances[task] = min(_CEILING, max(least, own if math.isfinite(own) else 0.0))
    return tolerances


def _narrows(static: "StaticModel") -> bool:
    """Returns whether a network converts values to half precision itself, where equal values may round apart."""
    arguments = (argument for node in static.network.graph.nodes for argument in (*node.args, *node.kwargs.values()))
    narrow = (torch.float16, torch.bfloat16)
    return any(isinstance(argument, torch.dtype) and argument in narrow for argument in arguments)


def _compared_inputs(static: "StaticModel", batch_sizes: Sequence[int]) -> list[tuple[torch.Tensor, ...]]:
    """Draws the inputs that an ONNX model is compared on.

    Args:
        static: The reference.
        batch_sizes: The batch sizes.

    Returns:
        Random inputs of each batch size, each from its own seed. Then, if the network takes them, the ends of their
        ranges, and other sizes where sizes are free.
    """
    specs = static.manifest.inputs
    drawn = [draw_inputs(specs, size, seed=number) for number, size in enumerate(batch_sizes)]
    uncertain = other_sizes(specs)
    # Ranges that nobody knows have no ends.
    if all(spec.values is not None for spec in specs):
        uncertain += uncertain_batches(specs, constant=False)
    drawn += [
        batch.inputs
        for batch in uncertain
        # With one batch size, the model takes no other.
        if (len(batch_sizes) > 1 or batch.inputs[0].shape[:1] == (batch_sizes[0],)) and runs(static, batch.inputs)
    ]
    return [as_float32(inputs) for inputs in drawn]


def runs(static: "StaticModel", inputs: tuple[torch.Tensor, ...]) -> bool:
    """Returns whether a network computes finite numbers on some inputs."""
    try:
        outputs = reference_outputs(static, as_float32(inputs))
    except ExportError:
        return False
    return all(bool(value.isfinite().all()) for value in outputs.values())


def as_float32(inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Returns inputs as ONNX files take them."""
    return tuple(x.float() if x.is_floating_point() else x for x in inputs)


def onnx_errors(
    static: "StaticModel",
    model: Path | bytes,
    *,
    batch_sizes: Sequence[int] = (1, 3),
    inputs: Sequence[tuple[torch.Tensor, ...]] | None = None,
) -> dict[str, float]:
    """Returns the largest error of an ONNX model against torch on the CPU, per task.

    Args:
        static: The reference, which runs as it is, in evaluation mode.
        model: An ONNX file or its bytes.
        batch_sizes: The batch sizes; two different ones show that the batch dimension is free.
        inputs: Batches to compare on; None draws them.

    Returns:
        Task -> max |ONNX − torch| / max |torch|, the largest over the batches; infinite where a value is not finite.

    Raises:
        ExportError: The file cannot be read as ONNX, or has inputs and outputs that are not the static network's.
    """
    session = open_session(model)
    if ENDS in session.get_modelmeta().custom_metadata_map:
        raise ExportError(
            "the ONNX model has preprocessing or argmax inside, and was compared when it was exported; compare one "
            "without, or measure this one with `gate2static evaluate`"
        )
    names = [value.name for value in session.get_inputs()]
    tasks = [value.name for value in session.get_outputs()]
    expected = [spec.name for spec in static.manifest.inputs]
    if names != expected or tasks != list(static.output_names):
        raise ExportError(
            f"the ONNX model maps {names} to {tasks}, but the static network maps {expected} to "
            f"{list(static.output_names)}; they were not made from the same network. Export again from this static "
            "network."
        )
    errors = dict.fromkeys(tasks, 0.0)
    compared = _compared_inputs(static, batch_sizes) if inputs is None else [as_float32(batch) for batch in inputs]
    for batch in compared:
        reference = reference_outputs(static, batch)
        outputs = _run(session, names, batch)
        for task, value in zip(tasks, outputs, strict=True):
            errors[task] = max(errors[task], difference(reference[task], torch.from_numpy(value)).max_rel)
    return errors


def check_equal(errors: Mapping[str, float], tolerances: Mapping[str, float]) -> None:
    """Raises VerificationError, naming every task whose error is above its tolerance."""
    wrong = {task: error for task, error in errors.items() if not error <= tolerances[task]}
    if wrong:
        found = ", ".join(f"{task} {error:.2g} (allowed {tolerances[task]:.2g})" for task, error in wrong.items())
        chaotic = [task for task in wrong if tolerances[task] == _CEILING]
        plain = "In fp16 a value may have overflowed 65504: export in fp32. In fp32 this is a bug: please report it."
        advice = (
            plain
            if len(chaotic) < len(wrong)
            else f"The float32 result of {', '.join(chaotic)} is not reproducible: torch's own is more than "
            f"{_CEILING / _ROUNDING_FACTOR:.1g} away from float64, as the network magnifies rounding. Train it "
            "further, or check its norms' statistics; another precision or exporter does not help."
        )
        raise VerificationError(f"the ONNX model is not equal to the static network: relative error {found}. {advice}")


def reference_outputs(static: "StaticModel", inputs: tuple[torch.Tensor, ...]) -> Mapping[str, torch.Tensor]:
    """Returns what torch computes.

    Args:
        static: The network.
        inputs: Its inputs.

    Raises:
        ExportError: It does not run at this batch size.
    """
    try:
        with torch.inference_mode():
            outputs: Mapping[str, torch.Tensor] = static.outputs(*inputs)
    except (RuntimeError, IndexError) as failure:
        raise ExportError(
            f"the network does not run on inputs of shape {[tuple(x.shape) for x in inputs]}: "
            f"{brief(failure)}. Its batch size is fixed: reshape with x.shape[0], not a number."
        ) from failure
    return outputs


def _run(session: Any, names: Sequence[str], inputs: Sequence[torch.Tensor]) -> list[Any]:
    try:
        outputs: list[Any] = session.run(None, {n: x.numpy() for n, x in zip(names, inputs, strict=True)})
    except Exception as failure:  # ONNX Runtime's own exceptions have no public common root
        shapes = [tuple(x.shape) for x in inputs]
        raise ExportError(
            f"the ONNX model does not run on inputs of shape {shapes}: {brief(failure)}. "
            "Its batch dimension may have been fixed while exporting."
        ) from failure
    return outputs
