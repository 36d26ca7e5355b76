"""Multiply-accumulates counted by libraries that know nothing of gate2static."""

import math
import re
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from fvcore.nn import FlopCountAnalysis
    from fvcore.nn.jit_handles import get_shape

_COUNTED = ("conv", "linear", "addmm", "mm", "matmul", "bmm", "baddbmm", "einsum", "scaled_dot_product_attention")


def fvcore_macs(network: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """By fvcore, which counts one a multiply-accumulate, with the operators that it lacks added.

    Raises:
        NotImplementedError: an operator that surely multiplies and is counted by none.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counts = FlopCountAnalysis(network, inputs)
        for name, handle in _ADDED.items():
            counts.set_op_handle(name, handle)
        found = counts.unsupported_ops_warnings(False).uncalled_modules_warnings(False).by_operator()
        if unknown := [name for name in counts.unsupported_ops() if re.search(r"conv|mm|matmul|attention", name)]:
            raise NotImplementedError(f"fvcore does not count {', '.join(unknown)}")
    return int(sum(found[name] for name in _COUNTED))


def counted_macs(network: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """By fvcore, or by torch's counter where torch.jit, which fvcore looks through, cannot follow the network."""
    try:
        return fvcore_macs(network, inputs)
    except NotImplementedError:
        raise
    except RuntimeError:
        with torch.no_grad(), flop_counter() as counter:
            network(*inputs)
        return counter.get_total_flops() // 2


def flop_counter() -> FlopCounterMode:
    """Torch's counter (2 a multiply-accumulate), with the CPU's attention kernel added."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={kernel: _kernel})


def _kernel(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention(inputs: list[Any], outputs: list[Any]) -> dict[str, int]:
    query, key, value = (get_shape(x) for x in inputs[:3])
    macs = math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
    return {"scaled_dot_product_attention": macs}


def _baddbmm(inputs: list[Any], outputs: list[Any]) -> dict[str, int]:
    first, second = (get_shape(x) for x in inputs[1:3])
    return {"baddbmm": math.prod(first) * second[-1]}


def _same_convolution(inputs: list[Any], outputs: list[Any]) -> dict[str, int]:
    """A convolution with padding "same"."""
    result, weight = get_shape(outputs[0]), get_shape(inputs[1])
    return {"conv": math.prod(result) * math.prod(weight[1:])}


def _einsum(inputs: list[Any], outputs: list[Any]) -> dict[str, int]:
    """Of two operands; fvcore's own reads them from a text with four digits."""
    terms = inputs[0].toIValue().replace(" ", "").partition("->")[0].split(",")
    shapes = [get_shape(x) for x in inputs[1].node().inputs()]
    sizes = {
        letter: size
        for term, shape in zip(terms, shapes, strict=True)
        for letter, size in zip(term, shape, strict=True)
    }
    return {"einsum": math.prod(sizes.values())}


_ADDED = {
    "aten::einsum": _einsum,
    "aten::scaled_dot_product_attention": _attention,
    "aten::baddbmm": _baddbmm,
    "aten::_convolution_mode": _same_convolution,
}
