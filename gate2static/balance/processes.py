"""Values of all training processes: what the whole batch's gradients need when each process has its share of it."""

import torch
from torch import Tensor, nn
from torch import distributed as dist


def count() -> int:
    """Returns the number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def mean(value: Tensor) -> Tensor:
    """Returns the mean over the processes, as DistributedDataParallel averages gradients."""
    if count() == 1:
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / count()


def total_of_products(gramian: Tensor, device: torch.device) -> Tensor:
    """Returns the products of gradients with respect to the features of all processes, (T, T) on the CPU.

    Every process has other samples, so products add up. The gradient of the mean of the processes' losses with respect
    to a process's features is that of its own loss over the number of processes.

    Args:
        gramian: This process's products, (T, T).
        device: A device that processes can exchange tensors of.
    """
    if count() == 1:
        return gramian
    total = gramian.to(device)
    dist.all_reduce(total)
    return (total / count() ** 2).cpu()


def average_gradients(model: nn.Module) -> None:
    """Averages all gradients over the processes, where DistributedDataParallel did not.

    The same parameters have gradients in all processes, which run the same network.
    """
    trained = [parameter for parameter in model.parameters() if parameter.grad is not None]
    if not trained:
        return
    flat = torch.cat([parameter.grad.flatten() for parameter in trained if parameter.grad is not None])
    averaged = mean(flat).split([parameter.numel() for parameter in trained])
    for parameter, part in zip(trained, averaged, strict=True):
        parameter.grad = part.view_as(parameter)
