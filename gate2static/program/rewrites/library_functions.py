"""Lets functions of einops and torchvision be followed, which ask of what library a tensor is before they do anything.

A proxy is of none. While a network is traced, what they ask answers for proxies as for torch's tensors. Neither library
is imported here: only code that has imported it can call it.
"""

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

SizesOf = Callable[[fx.Proxy], tuple[Any, ...]]
"""Returns the sizes of a proxy: numbers where they are known, proxies where they follow the batch."""


@contextmanager
def followed_libraries(sizes_of: SizesOf) -> Iterator[None]:
    """Lets the functions take proxies for as long as the context lasts."""
    replaced: list[tuple[Any, str, Any]] = []
    try:
        for owner, name, function in (*_of_einops(sizes_of), *_of_torchvision()):
            replaced.append((owner, name, getattr(owner, name)))
            setattr(owner, name, function)
        yield
    finally:
        for owner, name, function in reversed(replaced):
            setattr(owner, name, function)


def as_function(module: nn.Module) -> Callable[..., Any] | None:
    """Returns the function of einops that a layer of einops calls, or None for other modules."""
    kind = type(module)
    if kind.__module__ != "einops.layers.torch" or kind.__name__ not in ("Rearrange", "Reduce"):
        return None
    einops = sys.modules["einops"]
    settings: Any = module
    if kind.__name__ == "Rearrange":
        return lambda x: einops.rearrange(x, settings.pattern, **settings.axes_lengths)
    return lambda x: einops.reduce(x, settings.pattern, settings.reduction, **settings.axes_lengths)


def _of_einops(sizes_of: SizesOf) -> Iterator[tuple[Any, str, Any]]:
    """Yields what is replaced in einops: an object, the name of its attribute, and the replacement."""
    backends = sys.modules.get("einops._backends")
    if backends is None:
        return
    plain = backends.get_backend
    of_torch = copy.copy(plain(torch.empty(0)))
    of_torch.shape = sizes_of

    def get_backend(tensor: Any) -> Any:
        return of_torch if isinstance(tensor, fx.Proxy) else plain(tensor)

    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] != "einops":
            continue
        if getattr(module, "get_backend", None) is plain:
            yield module, "get_backend", get_backend
        # Its cache would keep the proxies of this trace.
        uncached = getattr(module, "_reconstruct_from_shape_uncached", None)
        if uncached is not None and hasattr(module, "_reconstruct_from_shape"):
            yield module, "_reconstruct_from_shape", uncached


def _of_torchvision() -> Iterator[tuple[Any, str, Any]]:
    """Yields what is replaced in torchvision's pooling over boxes, see `_of_einops`."""
    for name, module in list(sys.modules.items()):
        if not name.startswith("torchvision.ops."):
            continue
        for function in ("check_roi_boxes_shape", "convert_boxes_to_roi_format"):
            plain = getattr(module, function, None)
            if plain is not None:
                yield module, function, _unless_proxy(plain)


def _unless_proxy(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Returns a function that gives back proxies as they are, and calls the given one otherwise."""

    def call(boxes: Any) -> Any:
        return boxes if isinstance(boxes, fx.Proxy) else function(boxes)

    return call
