"""What a backend makes of a network's operators: which run, and which are done on the way by others.

Eager torch runs every operator, and slices and transposes are views. Compiled backends write the activation or the
addition after a convolution while they write its result, where nobody else reads what stood between; they slice and
transpose by copying, once, so that what torch copies afterwards is free. ONNX Runtime on the CPU keeps what
convolutions read and write in blocks of 16 channels: convolutions count whole blocks, and what others read is put in
order first (`_Blocked`). Its matrix products read what was transposed right before them as it lies.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from gate2static.latency.kernel_units import PRODUCTS, Unit, unit_of
from gate2static.latency.operators import Operator, Value

Backend = Literal[
    "torch", "torch-compiled", "torch-cuda", "torch-cuda-graph", "onnxruntime", "onnxruntime-cuda", "openvino"
]
"""What runs units and networks, and can so be profiled."""

REORDER = "reorder"
"""The kind of unit that puts a tensor into blocks of channels or out of them."""

UNALIGNED = ", odd channels"
"""What ends the kind of a depth-wise convolution whose channels do not fit ONNX Runtime's fast kernel."""

BLOCK, ALIGNMENT = 16, 4  # ONNX Runtime with AVX-512: channels a block; what input channels are padded to
_ACTIVATIONS = frozenset({"relu", "sigmoid", "hardsigmoid", "hardswish"})
_FUSED = _ACTIVATIONS | {"silu", "gelu", "add", "multiply"}


@dataclass(frozen=True, kw_only=True)
class Step:
    """One operator as a backend runs it.

    Attributes:
        units: what to look up; none where it costs nothing.
        note: why it costs nothing, or what else it costs.
    """

    operator: Operator
    units: tuple[Unit, ...]
    note: str = ""


def lower(operators: Sequence[Operator], backend: str) -> list[Step]:
    """The steps that `backend` takes, in order."""
    if backend == "onnxruntime":
        return _Blocked(operators).steps()
    if backend.startswith("torch") and backend != "torch-compiled":
        return [Step(operator=operator, units=(unit_of(operator),)) for operator in operators]
    return _Fusing(operators).steps()


def forms(unit: Unit, backend: str) -> tuple[Unit, ...]:
    """A unit, and what it is where gates leave another number of channels: a depth-wise convolution has two kernels."""
    if backend != "onnxruntime" or not unit.kind.startswith("depth-wise"):
        return (unit,)
    *first, channels = unit.sizes
    if unit.kind.endswith(UNALIGNED):
        kind, channels = unit.kind.removesuffix(UNALIGNED), channels + -channels % BLOCK
    else:
        kind, channels = unit.kind + UNALIGNED, channels + 1
    return unit, replace(unit, kind=kind, sizes=(*first, channels))


@dataclass
class _Fusing:
    """Convolutions take the element-wise operators after them along; copies of what was just written are free."""

    operators: Sequence[Operator]
    readers: Counter[int] = field(init=False)
    producers: dict[int, Operator] = field(init=False, default_factory=dict)
    carried: set[int] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self.readers = Counter(i for o in self.operators for i in {v.index for v in o.inputs if not v.is_constant})

    def steps(self) -> list[Step]:
        """One step an operator."""
        found = []
        for operator in self.operators:
            found.append(self._step(operator, unit_of(operator)))
            for value in operator.outputs:
                self.producers[value.index] = operator
        return found

    def _step(self, operator: Operator, unit: Unit) -> Step:
        if unit.kind == "copy":
            return Step(operator=operator, units=(), note="already copied")
        if "convolution" in unit.kind:
            self.carried.add(operator.outputs[0].index)
        elif unit.kind in _FUSED and (source := self._sole(operator, self.carried)) is not None:
            self.carried.remove(source.index)
            self.carried.add(operator.outputs[0].index)
            return Step(operator=operator, units=(), note="fused")
        elif self._scales_a_product(operator, unit):
            return Step(operator=operator, units=(), note="fused")
        return Step(operator=operator, units=(unit,))

    def _sole(self, operator: Operator, among: set[int]) -> Value | None:
        """The operand that only this operator reads, of those `among`, where it has the result's shape."""
        for value in operator.inputs:
            alone = value.index in among and self.readers[value.index] == 1
            if alone and value.shape == operator.outputs[0].shape:
                return value
        return None

    def _scales_a_product(self, operator: Operator, unit: Unit) -> bool:
        """Whether it multiplies by a number what only a matrix product reads, or wrote."""
        result = operator.outputs[0]
        if unit.kind != "multiply" or len(operator.inputs) != 1:
            return False
        before = self.producers.get(operator.inputs[0].index)
        return any(o is not None and o.name == "bmm" for o in (before, *self._read_by(result)))

    def _read_by(self, result: Value) -> list[Operator]:
        return [o for o in self.operators if any(v.index == result.index for v in o.inputs)]


class _Blocked(_Fusing):
    """ONNX Runtime on the CPU: `blocked` values are in blocks of channels, `plain` ones in order; some are both."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.blocked: set[int] = set()
        self.plain = {v.index for o in self.operators for v in o.inputs if not v.is_constant}
        self.plain -= {v.index for o in self.operators for v in o.outputs}

    def _step(self, operator: Operator, unit: Unit) -> Step:
        result = operator.outputs[0]
        if self._is_read_transposed(operator):
            return self._in_order(operator, Step(operator=operator, units=(), note="read transposed"))
        if len(result.shape) != 4:
            return self._in_order(operator, super()._step(operator, unit))
        if "convolution" in unit.kind and self._has_kernel(operator, unit):
            self.carried.add(result.index)
            self.blocked.add(result.index)
            few = operator.arguments["groups"] == 1 and operator.inputs[0].shape[1] < BLOCK
            before = self._units_for(operator.inputs[:1], blocked=not few)
            return Step(operator=operator, units=(*_kernels(unit), *before), note=_reorders(before))
        read = [v for v in operator.inputs if not v.is_constant]
        if all(v.index in self.blocked for v in read) and self._keeps_blocks(operator, unit):
            step = super()._step(operator, unit)
            self.blocked.add(result.index)
            return step
        return self._in_order(operator, super()._step(operator, unit) if unit.kind == "copy" else None)

    def _is_read_transposed(self, operator: Operator) -> bool:
        """Whether it swaps the last two dimensions of what only products read; whether it is returned is not known."""
        width = operator.outputs[0].shape[-1:]
        reads = list(self._reads(operator.outputs[0]))
        return (
            _swaps_last_two(operator)
            and bool(reads)
            and all(reader.name in PRODUCTS and value.shape[-1:] == width for reader, value in reads)
        )

    def _reads(self, result: Value) -> Iterator[tuple[Operator, Value]]:
        """What reads a value, and as which shape, behind copies that are free."""
        for reader in self._read_by(result):
            if unit_of(reader).kind == "copy":
                yield from self._reads(reader.outputs[0])
            else:
                yield from ((reader, value) for value in reader.inputs if value.index == result.index)

    def _in_order(self, operator: Operator, step: Step | None) -> Step:
        """A step that reads and writes plain tensors."""
        unit = unit_of(operator)
        if unit.kind.startswith("depth-wise"):
            unit = replace(unit, kind=unit.kind + UNALIGNED)
        step = step or Step(operator=operator, units=(unit,))
        before = self._units_for(operator.inputs, blocked=False)
        self.plain |= {v.index for v in operator.outputs}
        return replace(step, units=(*step.units, *before), note=step.note or _reorders(before))

    def _units_for(self, values: Sequence[Value], *, blocked: bool) -> tuple[Unit, ...]:
        """What it takes to have the values in a layout; each is reordered once, however many read it."""
        there = self.blocked if blocked else self.plain
        missing = {v.index: v for v in values if not v.is_constant and v.index not in there}
        there |= set(missing)
        return tuple(Unit(kind=REORDER, sizes=(2 * v.size_bytes,)) for v in missing.values())

    def _has_kernel(self, operator: Operator, unit: Unit) -> bool:
        groups, channels = operator.arguments["groups"], operator.outputs[0].shape[1]
        if operator.arguments["transposed"]:
            return False
        if groups == 1:
            return True
        return unit.kind.startswith("depth-wise") and channels % ALIGNMENT == 0

    def _keeps_blocks(self, operator: Operator, unit: Unit) -> bool:
        read = [v for v in operator.inputs if not v.is_constant]
        if unit.kind in ("add", "multiply"):
            return len(read) == 2 and len({v.shape for v in operator.inputs}) == 1
        if unit.kind == "concat":
            return operator.arguments.get("dim", 0) == 1 and all(v.shape[1] % BLOCK == 0 for v in read)
        return unit.kind in _ACTIVATIONS or unit.kind == "pool"


def _swaps_last_two(operator: Operator) -> bool:
    rank = len(operator.outputs[0].shape)
    match operator.name:
        case "permute":
            return [d % rank for d in operator.arguments["dims"]] == [*range(rank - 2), rank - 1, rank - 2]
        case "transpose":
            return {operator.arguments[d] % rank for d in ("dim0", "dim1")} == {rank - 2, rank - 1}
    return operator.name == "t"


def _reorders(units: Sequence[Unit]) -> str:
    return f"with {len(units)} reorder{'s' * (len(units) > 1)}" if units else ""


def _kernels(unit: Unit) -> tuple[Unit, ...]:
    """A convolution computes whole blocks, four of them at a time, and what is left then by a slower loop."""
    *first, channels = unit.sizes
    channels += -channels % BLOCK
    if len(first) == 1:
        return (replace(unit, sizes=(*first, channels)),)
    positions, read = first
    read += -read % ALIGNMENT
    left = channels % (4 * BLOCK)
    return tuple(replace(unit, sizes=(positions, read, part)) for part in (channels - left, left) if part)
