"""Batch norm over the images of all processes, on CPUs too; torch's SyncBatchNorm works on GPUs only."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F
from torch.nn.modules._functions import SyncBatchNorm as _OnGpus  # what nn.SyncBatchNorm calls
from torch.overrides import TorchFunctionMode


class SynchronisedBatchNorm(TorchFunctionMode):
    """A context in which batch norm in training takes its statistics over the images of all processes.

    The context replaces the function and not the modules. So it covers every kind of module: torch's, those of
    libraries, and layers that compute some of their channels. The keys of checkpoints stay the same.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Calls `func`, or `batch_norm` of this module in its place."""
        return (batch_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Computes `torch.nn.functional.batch_norm` over the batches of all processes.

    Args:
        x: This process's batch, (N, C, ...); N may differ between processes.
        running_mean: The running mean (C,), updated in place in training.
        running_var: The running variance (C,), updated in place in training.
        weight: The scale (C,).
        bias: The shift (C,).
        training: Whether to normalise by the batches' statistics instead of the running ones.
        momentum: The weight of the batches' statistics in the running ones.
        eps: Added to the variance.
    """
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    if x.is_cuda:
        group = dist.group.WORLD
        world_size = dist.get_world_size(group)
        on_gpus: Tensor = _OnGpus.apply(x, weight, bias, running_mean, running_var, eps, momentum, group, world_size)
        return on_gpus
    dims = [0, *range(2, x.dim())]  # all but the channels
    shape = [1, -1] + [1] * (x.dim() - 2)  # (C,) as a factor of x
    # Statistics are summed in float32 at least, as torch does.
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    count = _sum(wide.new_tensor(x.numel() / x.shape[1]))
    mean = _sum(wide.sum(dims)) / count
    centred = wide - mean.view(shape)
    variance = _sum(centred.square().sum(dims)) / count
    with torch.no_grad():
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean.to(running_mean), momentum)
            # torch keeps the unbiased variance here and normalises by the biased one.
            running_var.lerp_((variance * count / (count - 1)).to(running_var), momentum)
    scale = (variance + eps).rsqrt() if weight is None else weight * (variance + eps).rsqrt()
    normed = centred * scale.view(shape)
    return (normed if bias is None else normed + bias.view(shape)).to(x.dtype)


class _Sum(torch.autograd.Function):
    """The sum over all processes. The loss is the sum of the processes' losses, so gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone()
        dist.all_reduce(total)
        return total


def _sum(value: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(value)
    return total
