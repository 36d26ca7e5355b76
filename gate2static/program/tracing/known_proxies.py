"""Proxies that can stand where Python needs a number, because their tracer knows their values.

torch.fx refuses `bool`, `int`, `len` and the like of a proxy, since a graph has no values. Here these ask the tracer,
which raises where the value depends on the batch size or on a tensor's numbers.
"""

import operator
from typing import Any

import numpy as np
from torch import fx
from torch.fx.proxy import Attribute, TraceError

_PROTOCOLS = ("__array", "__cuda_array_interface__")
"""The names by which NumPy and torch ask whether an object has numbers in memory."""

_REDUCTIONS = ("prod", "sum", "max", "min", "mean", "any", "all", "cumsum", "cumprod", "argmax", "argmin")
"""Methods of tensors that `np.prod(shape)` and its like take from an object that has them."""


class FollowsBatchError(TraceError):
    """Python needs a number that depends on the batch size, so the code cannot run whole either."""


class KnownProxy(fx.Proxy):
    """A proxy that can stand where Python needs a number, if its value does not depend on the batch size."""

    tracer: Any  # the ValueTracer that made the proxy, which knows its value

    def __getattr__(self, k: str) -> Attribute:
        if k.startswith(_PROTOCOLS) or (k in _REDUCTIONS and self.tracer.is_number(self)):
            # NumPy and torch.tensor ask for these first, and read the value where there are none.
            raise AttributeError(k)
        return _KnownAttribute(self, k)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.asarray(self.tracer.constant(self), dtype=dtype)

    def __format__(self, format_spec: str) -> str:
        # A name such as f"stage{size}" has the number, and a message about tensors has the proxy.
        number = self.tracer.constant(self) if self.tracer.is_number(self) else str(self)
        return format(number, format_spec)

    def __round__(self, ndigits: int | None = None) -> Any:
        return round(self.tracer.constant(self), ndigits)

    def __divmod__(self, divisor: Any) -> tuple[Any, Any]:
        return self // divisor, self % divisor

    def __setitem__(self, index: Any, value: Any) -> None:
        if self.tracer.shape(self) is None:
            raise TypeError("only a tensor's items can be assigned while tracing")
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    def __len__(self) -> int:
        length: int = self.tracer.length(self)
        return length

    def __index__(self) -> int:
        try:
            return self.__int__()
        except FollowsBatchError as error:
            # Functions that torch.fx does not record ask for the index; the code around them can run whole.
            raise TraceError(str(error)) from error

    def __int__(self) -> int:
        return int(self.tracer.constant(self))

    def __float__(self) -> float:
        return float(self.tracer.constant(self))


class _KnownAttribute(Attribute, KnownProxy):
    """An attribute of a known proxy."""

    def __getattr__(self, k: str) -> Any:
        attribute = super().__getattr__(k)
        # `torch.autocast` insists on a plain string for the type of a device.
        return self.tracer.constant(attribute) if (self.attr, k) == ("device", "type") else attribute
