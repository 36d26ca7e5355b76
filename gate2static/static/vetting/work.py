"""What an operator takes: multiplications and scratch memory, estimated from the shapes that it reads and returns."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_WORK_PER_ELEMENT = 16
"""Multiplications that take about as long as reading and writing one element."""


def element_count(value: Any) -> int:
    """Returns the elements of a tensor or of all tensors of a list; views count as copies.

    Elements of more than four bytes count as several, since what is bounded is memory.
    """
    if isinstance(value, Tensor):
        return value.numel() * max(1, value.element_size() // 4)
    return sum(map(element_count, value)) if isinstance(value, list | tuple) else 0


def named_arguments(operator: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an operator's arguments by name, with defaults."""
    arguments = operator._schema.arguments
    named = {argument.name: argument.default_value for argument in arguments if argument.has_default_value()}
    named.update(zip((argument.name for argument in arguments), args, strict=False))
    named.update(kwargs)
    return named


def estimate(
    operator: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], value: Any
) -> tuple[int, int]:
    """Estimates what an operator takes.

    Returns:
        Multiplications, and elements of scratch memory.
    """
    packet = operator.overloadpacket.__name__
    elements = element_count(value)
    moved = _WORK_PER_ELEMENT * (elements + sum(x.numel() for x in args if isinstance(x, Tensor)))
    of_packet = _ESTIMATES.get(packet)
    if of_packet is None:
        return moved, 0
    multiplications, scratch = of_packet(named_arguments(operator, args, kwargs), value)
    return moved + multiplications, scratch


def _convolution(named: Mapping[str, Any], value: Any) -> tuple[int, int]:
    """Each output reads a window of all inputs of its group; a transposed one's inputs are the outputs."""
    weight = named["weight"]
    is_transposed = named.get("transposed", "output_padding" in named)
    pixels = named["input"] if is_transposed else value
    positions = math.prod(pixels.shape[2:]) * (pixels.shape[0] if pixels.dim() == weight.dim() else 1)
    window = math.prod(weight.shape[2:])
    return weight.numel() * positions, named["input"].shape[1] * window * positions if pixels.dim() > 1 else 0


def _matrix_product(named: Mapping[str, Any], value: Any) -> tuple[int, int]:
    first = next(x for x in named.values() if isinstance(x, Tensor))
    operands = [x for x in named.values() if isinstance(x, Tensor) and x.dim()]
    inner = operands[-2].shape[-1] if len(operands) > 1 else first.numel()
    return element_count(value) * int(inner), 0


def _linear(named: Mapping[str, Any], value: Any) -> tuple[int, int]:
    return element_count(value) * int(named["input"].shape[-1]), 0


def _attention(named: Mapping[str, Any], value: Any) -> tuple[int, int]:
    query, key = named["query"], named["key"]
    scores = query.numel() // max(1, query.shape[-1]) * key.shape[-2]
    return scores * (query.shape[-1] + named["value"].shape[-1]), scores


def _einsum(named: Mapping[str, Any], value: Any) -> tuple[int, int]:
    letters: dict[str, int] = {}
    terms = named["equation"].split("->")[0].replace(" ", "").split(",")
    for term, tensor in zip(terms, named["tensors"], strict=True):
        rest = list(tensor.shape)
        for letter in reversed(term.replace(".", "")):
            letters[letter] = max(letters.get(letter, 1), rest.pop() if rest else 1)
        letters["."] = max(letters.get(".", 1), math.prod(rest))
    product = math.prod(letters.values())
    return product, product if len(named["tensors"]) > 2 else 0


def _factorisation(named: Mapping[str, Any], value: Any) -> tuple[int, int]:
    largest = max((x for x in named.values() if isinstance(x, Tensor)), key=Tensor.numel)
    return 32 * largest.numel() * max(largest.shape[-2:], default=1), 2 * largest.numel()


def _window(named: Mapping[str, Any], value: Any) -> tuple[int, int]:
    """Each output of a pooling reads a window, which no more than covers the input."""
    kernel = named["kernel_size"]
    size = named["self"].shape[-len(kernel) :]
    kernel = kernel * len(size) if len(kernel) == 1 else kernel
    return element_count(value) * math.prod(min(k, s) for k, s in zip(kernel, size, strict=True)), 0


def _pairs(named: Mapping[str, Any], value: Any) -> tuple[int, int]:
    return element_count(value) * int(named["x1"].shape[-1]), 0


def _recurrence(named: Mapping[str, Any], value: Any) -> tuple[int, int]:
    """Each matrix multiplies a vector at every step of every sequence."""
    sequences = named["input"]
    matrices = sum(x.numel() for x in named["params"] if x.dim() == 2)
    return sequences.numel() // max(1, sequences.shape[-1]) * matrices, 0


_ESTIMATES: Mapping[str, Callable[[Mapping[str, Any], Any], tuple[int, int]]] = {
    **dict.fromkeys(
        ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution"),
        _convolution,
    ),
    **dict.fromkeys(
        (
            "addbmm", "addmm", "addmv", "baddbmm", "bmm", "dot", "inner", "linalg_matmul", "matmul", "mm", "mv",
            "tensordot",
        ),
        _matrix_product,
    ),
    **dict.fromkeys(
        (
            "cholesky_solve", "corrcoef", "cov", "det", "inverse", "linalg_cholesky", "linalg_det", "linalg_eigh",
            "linalg_eigvalsh", "linalg_householder_product", "linalg_inv", "linalg_matrix_exp", "linalg_matrix_norm",
            "linalg_matrix_power", "linalg_norm", "linalg_pinv", "linalg_qr", "linalg_slogdet", "linalg_solve",
            "linalg_solve_triangular", "linalg_svd", "linalg_svdvals", "logdet", "matrix_exp", "matrix_power",
            "pinverse", "slogdet",
        ),
        _factorisation,
    ),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool1d", "max_pool2d", "max_pool3d"), _window),
    **dict.fromkeys(("gru", "lstm", "rnn_relu", "rnn_tanh"), _recurrence),
    "cdist": _pairs,
    "einsum": _einsum,
    "linear": _linear,
    "scaled_dot_product_attention": _attention,
}  # fmt: skip
