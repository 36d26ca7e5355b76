"""The kernels that a backend runs for a network's operators; some operators run as parts of others.

1. Eager torch runs every operator, and slices and transposes are views.
2. Compiled backends write the activation or the addition after a convolution while they write its result, where
   nothing else reads what stands between (`_Fusing`). They slice and transpose by copying, once, so that what torch
   copies afterwards is free.
3. ONNX Runtime on the CPU also keeps what convolutions read and write in blocks of 16 channels (`_Blocked`).
   Convolutions count whole blocks, and what others read is put in order first. Its matrix products read what was
   transposed right before them as it lies.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from gate2static.latency.kernel_kinds import PRODUCTS, Kernel, kernel_of
from gate2static.latency.operators import Operator, Value

Backend = Literal[
    "torch", "torch-compiled", "torch-cuda", "torch-cuda-graph", "onnxruntime", "onnxruntime-cuda", "openvino",
    "tensorrt",
]
"""A backend that runs kernels and networks, so that it can be profiled."""

REORDER = "reorder"
"""The kind of the kernel that puts a tensor into blocks of channels or out of them."""

UNALIGNED = ", odd channels"
"""The end of the kind of a depth-wise convolution whose channels do not fit ONNX Runtime's fast kernel."""

BLOCK = 16
"""Channels of a block in ONNX Runtime with AVX-512."""

ALIGNMENT = 4
"""ONNX Runtime pads the input channels of a convolution to a multiple of this."""

_ACTIVATIONS = frozenset({"relu", "sigmoid", "hardsigmoid", "hardswish"})
"""Kinds of kernels that ONNX Runtime also has for blocks of channels."""

_FUSED = _ACTIVATIONS | {"silu", "gelu", "add", "multiply"}
"""Kinds of kernels that compiled backends run as parts of the convolution before them."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One operator as a backend runs it.

    Attributes:
        operator: The operator.
        kernels: The kernels to look up; none where the operator costs nothing.
        note: Why the operator costs nothing, or what else it costs.
    """

    operator: Operator
    kernels: tuple[Kernel, ...]
    note: str = ""


def lower(operators: Sequence[Operator], backend: str) -> list[Step]:
    """Returns the steps that a backend takes, in order.

    Args:
        operators: The operators of one forward pass, in order.
        backend: The name of the backend.
    """
    if backend == "onnxruntime":
        return _Blocked(operators).steps()
    if backend.startswith("torch") and backend != "torch-compiled":
        return [Step(operator=operator, kernels=(kernel_of(operator),)) for operator in operators]
    return _Fusing(operators).steps()


def forms(kernel: Kernel, backend: str) -> tuple[Kernel, ...]:
    """Returns a kernel, and its other form where gates leave another number of channels.

    A depth-wise convolution has two kernels in ONNX Runtime, of which the slow one takes any number of channels.

    Args:
        kernel: A kernel of an ungated network.
        backend: The name of the backend.
    """
    if backend != "onnxruntime" or not kernel.kind.startswith("depth-wise"):
        return (kernel,)
    *positions, channels = kernel.sizes
    if kernel.kind.endswith(UNALIGNED):
        kind = kernel.kind.removesuffix(UNALIGNED)
        other_channels = _rounded_up(channels, BLOCK)
    else:
        kind = kernel.kind + UNALIGNED
        other_channels = channels + 1
    return kernel, replace(kernel, kind=kind, sizes=(*positions, other_channels))


class _Fusing:
    """A backend in which convolutions take along what follows, and copies of what was just written are free.

    Args:
        operators: The operators of one forward pass, in order.
    """

    def __init__(self, operators: Sequence[Operator]) -> None:
        self.operators = operators
        self.readers: Counter[int] = Counter()
        for operator in operators:
            self.readers.update(_read_by(operator))
        self.producers: dict[int, Operator] = {}
        # Values that a convolution writes, itself or with what it took along.
        self.carried: set[int] = set()

    def steps(self) -> list[Step]:
        """Returns one step per operator."""
        steps = []
        for operator in self.operators:
            steps.append(self._step(operator, kernel_of(operator)))
            for value in operator.outputs:
                self.producers[value.index] = operator
        return steps

    def _step(self, operator: Operator, kernel: Kernel) -> Step:
        if kernel.kind == "copy":
            return Step(operator=operator, kernels=(), note="already copied")
        result = operator.outputs[0]
        if "convolution" in kernel.kind:
            self.carried.add(result.index)
            return Step(operator=operator, kernels=(kernel,))
        source = self._only_reads(operator, self.carried) if kernel.kind in _FUSED else None
        if source is not None:
            self.carried.remove(source.index)
            self.carried.add(result.index)
            return Step(operator=operator, kernels=(), note="fused")
        if self._scales_a_product(operator, kernel):
            return Step(operator=operator, kernels=(), note="fused")
        return Step(operator=operator, kernels=(kernel,))

    def _only_reads(self, operator: Operator, among: set[int]) -> Value | None:
        """Returns the operand of the result's shape that nothing else reads.

        Args:
            operator: The operator.
            among: The indices of the values to choose from.
        """
        for value in operator.inputs:
            is_alone = value.index in among and self.readers[value.index] == 1
            if is_alone and value.shape == operator.outputs[0].shape:
                return value
        return None

    def _scales_a_product(self, operator: Operator, kernel: Kernel) -> bool:
        """Returns whether an operator multiplies by a number what a matrix product reads or wrote."""
        if kernel.kind != "multiply" or len(operator.inputs) != 1:
            return False
        producer = self.producers.get(operator.inputs[0].index)
        if producer is not None and producer.name == "bmm":
            return True
        return any(reader.name == "bmm" for reader in self._readers_of(operator.outputs[0]))

    def _readers_of(self, result: Value) -> list[Operator]:
        return [operator for operator in self.operators if result.index in _read_by(operator)]


class _Blocked(_Fusing):
    """ONNX Runtime on the CPU, which keeps images of convolutions in blocks of channels.

    A value is `blocked`, `plain` (in order), or both once it was reordered.

    Args:
        operators: The operators of one forward pass, in order.
    """

    def __init__(self, operators: Sequence[Operator]) -> None:
        super().__init__(operators)
        self.blocked: set[int] = set()
        # The network's inputs: values that are read and not written.
        read = set(self.readers)
        written = {value.index for operator in operators for value in operator.outputs}
        self.plain = read - written

    def _step(self, operator: Operator, kernel: Kernel) -> Step:
        result = operator.outputs[0]
        if self._is_read_transposed(operator):
            return self._in_order(operator, Step(operator=operator, kernels=(), note="read transposed"))
        # Only images, (N, C, H, W), have blocks.
        if len(result.shape) != 4:
            return self._in_order(operator, super()._step(operator, kernel))
        if "convolution" in kernel.kind and self._has_kernel(operator, kernel):
            self.carried.add(result.index)
            self.blocked.add(result.index)
            # The first layer reads its few channels in order.
            has_few_channels = operator.arguments["groups"] == 1 and operator.inputs[0].shape[1] < BLOCK
            before = self._reorders(operator.inputs[:1], blocked=not has_few_channels)
            return Step(operator=operator, kernels=(*_in_blocks(kernel), *before), note=_note(before))
        read = [value for value in operator.inputs if not value.is_constant]
        if all(value.index in self.blocked for value in read) and self._keeps_blocks(operator, kernel):
            step = super()._step(operator, kernel)
            self.blocked.add(result.index)
            return step
        return self._in_order(operator, super()._step(operator, kernel) if kernel.kind == "copy" else None)

    def _is_read_transposed(self, operator: Operator) -> bool:
        """Returns whether an operator swaps the last two dimensions of a value that only products read.

        Whether the network also returns the value is not known.
        """
        if not _swaps_last_two(operator):
            return False
        width = operator.outputs[0].shape[-1:]
        reads = list(self._reads(operator.outputs[0]))
        return bool(reads) and all(
            reader.name in PRODUCTS
            # Flattening behind it may have joined the swapped dimensions with others.
            and value.shape[-1:] == width
            for reader, value in reads
        )

    def _reads(self, result: Value) -> Iterator[tuple[Operator, Value]]:
        """Yields what reads a value, and as which shape, behind copies that are free."""
        for reader in self._readers_of(result):
            if kernel_of(reader).kind == "copy":
                yield from self._reads(reader.outputs[0])
            else:
                yield from ((reader, value) for value in reader.inputs if value.index == result.index)

    def _in_order(self, operator: Operator, step: Step | None) -> Step:
        """Returns a step that reads and writes plain tensors.

        Args:
            operator: The operator.
            step: The step without the reorders before it; None for the operator's own kernel.
        """
        if step is None:
            kernel = kernel_of(operator)
            if kernel.kind.startswith("depth-wise"):
                kernel = replace(kernel, kind=kernel.kind + UNALIGNED)
            step = Step(operator=operator, kernels=(kernel,))
        before = self._reorders(operator.inputs, blocked=False)
        self.plain |= {value.index for value in operator.outputs}
        return replace(step, kernels=(*step.kernels, *before), note=step.note or _note(before))

    def _reorders(self, values: Sequence[Value], *, blocked: bool) -> tuple[Kernel, ...]:
        """Returns the kernels that reorder values into a layout; each value is reordered once, however many read it.

        Args:
            values: The values that are read.
            blocked: Whether they are read in blocks of channels. If not, they are read in order.
        """
        in_layout = self.blocked if blocked else self.plain
        missing = {v.index: v for v in values if not v.is_constant and v.index not in in_layout}
        in_layout |= set(missing)
        return tuple(Kernel(kind=REORDER, sizes=(2 * value.size_bytes,)) for value in missing.values())

    def _has_kernel(self, operator: Operator, kernel: Kernel) -> bool:
        """Returns whether a convolution can work on blocks of channels."""
        if operator.arguments["transposed"]:
            return False
        if operator.arguments["groups"] == 1:
            return True
        channels = operator.outputs[0].shape[1]
        return kernel.kind.startswith("depth-wise") and channels % ALIGNMENT == 0

    def _keeps_blocks(self, operator: Operator, kernel: Kernel) -> bool:
        """Returns whether an operator other than a convolution can work on blocks of channels."""
        read = [value for value in operator.inputs if not value.is_constant]
        if kernel.kind in ("add", "multiply"):
            return len(read) == 2 and len({value.shape for value in operator.inputs}) == 1
        if kernel.kind == "concat":
            return operator.arguments.get("dim", 0) == 1 and all(value.shape[1] % BLOCK == 0 for value in read)
        return kernel.kind in _ACTIVATIONS or kernel.kind == "pool"


def _read_by(operator: Operator) -> set[int]:
    """Returns the indices of the values that an operator reads, without constants."""
    return {value.index for value in operator.inputs if not value.is_constant}


def _swaps_last_two(operator: Operator) -> bool:
    """Returns whether an operator swaps the last two dimensions and no others."""
    ndim = len(operator.outputs[0].shape)
    match operator.name:
        case "permute":
            return [d % ndim for d in operator.arguments["dims"]] == [*range(ndim - 2), ndim - 1, ndim - 2]
        case "transpose":
            return {operator.arguments[d] % ndim for d in ("dim0", "dim1")} == {ndim - 2, ndim - 1}
    return operator.name == "t"


def _note(reorders: Sequence[Kernel]) -> str:
    return f"with {len(reorders)} reorder{'s' * (len(reorders) > 1)}" if reorders else ""


def _in_blocks(kernel: Kernel) -> tuple[Kernel, ...]:
    """Returns the kernels of a convolution on blocks.

    It computes whole blocks of output channels, four of them at a time, and the blocks that are left by a slower loop.
    """
    *first, channels = kernel.sizes
    channels = _rounded_up(channels, BLOCK)
    if len(first) == 1:
        # Depth-wise: positions, channels.
        return (replace(kernel, sizes=(*first, channels)),)
    positions, read = first
    read = _rounded_up(read, ALIGNMENT)
    left = channels % (4 * BLOCK)
    return tuple(replace(kernel, sizes=(positions, read, part)) for part in (channels - left, left) if part)


def _rounded_up(size: int, multiple: int) -> int:
    return size + -size % multiple
