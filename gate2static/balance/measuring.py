"""The measures of conflict of a step, also where the network is cut behind its shared features."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from gate2static.arguments import described, require_kind, require_number
from gate2static.balance import processes
from gate2static.balance.conflict_measures import Conflict, disentanglement, similarities
from gate2static.balance.method import gramian_of
from gate2static.balance.roads import matrix_of
from gate2static.errors import BalanceError


def conflict(
    losses: Mapping[str, Tensor],
    *,
    shared: nn.Module | Iterable[nn.Parameter],
    features: Tensor | Sequence[Tensor] | None = None,
    temperature: float | None = None,
) -> Conflict:
    """Measures the conflict of tasks in the step whose losses are given; no gradient is kept, and the graph stays.

    Args:
        losses: Task -> its loss without a weight, a scalar: a factor of a loss changes GMS and FD.
        shared: The shared module, or its parameters, for GDS and GMS.
        features: The shared features Z that the losses were computed from, for FD; all elements of several tensors
            count alike. Where one is computed from another, its gradient is also in the other's; a view of each, for
            the tasks to read, keeps them apart.
        temperature: The temperature of `fd_smoothed`, in units of the gradients.

    Raises:
        BalanceError: There are fewer than two tasks, or nothing is shared.
    """
    require_kind(losses, Mapping, name="losses", allowed="a dict of scalar tensors by task", error=BalanceError)
    if len(losses) < 2:
        raise BalanceError(f"conflict is between tasks, and there are losses of {len(losses)}; give two at least")
    if temperature is not None:
        require_number(temperature, name="temperature", error=BalanceError, least=1e-12)
    for task, loss in losses.items():
        is_scalar = isinstance(loss, Tensor) and loss.numel() == 1 and loss.requires_grad
        if not is_scalar or not bool(loss.isfinite()):
            raise BalanceError(f"the loss of {task} is {loss}; allowed is a finite scalar with a graph.")
    allowed = "a module, or a list of parameters"
    require_kind(shared, (nn.Module, Iterable), name="shared", allowed=allowed, error=BalanceError)
    parameters = list(shared.parameters()) if isinstance(shared, nn.Module) else list(shared)
    for parameter in parameters:
        require_kind(parameter, nn.Parameter, name="shared", allowed=allowed, error=BalanceError)
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    if not parameters:
        raise BalanceError("shared holds no parameter that is trained; name the module that the tasks share")
    allowed = "the shared features: a tensor, or a list of tensors, with a graph"
    require_kind(features, (Tensor, list, tuple, type(None)), name="features", allowed=allowed, error=BalanceError)
    tensors = [features] if isinstance(features, Tensor) else list(features or ())
    for tensor in tensors:
        if not isinstance(tensor, Tensor) or not tensor.requires_grad:
            raise BalanceError(f"features hold {described(tensor)}; allowed is {allowed}.")
    return measure(losses, parameters, features=tensors, copies=tensors, temperature=temperature)


def measure(
    losses: Mapping[str, Tensor],
    parameters: Sequence[nn.Parameter],
    *,
    features: Sequence[Tensor] = (),
    copies: Sequence[Tensor] = (),
    temperature: float | None = None,
) -> Conflict:
    """Measures the conflict of tasks in a step; no gradient is kept, and the graph stays.

    Args:
        losses: Task -> its loss without a weight, a scalar.
        parameters: The shared parameters.
        features: The shared features, in front of a cut.
        copies: What the tasks read: the same behind the cut, or the features themselves or views of them.
        temperature: The temperature of `fd_smoothed`; None leaves it out.
    """
    is_cut = any(copy is not feature and copy.is_leaf for copy, feature in zip(copies, features, strict=True))
    rows = []
    magnitudes = []
    for loss in losses.values():
        if is_cut:
            at_features = torch.autograd.grad(loss, list(copies), retain_graph=True, allow_unused=True)
            behind = [torch.zeros_like(z) if g is None else g for z, g in zip(copies, at_features, strict=True)]
            row = torch.autograd.grad(list(features), parameters, behind, retain_graph=True, allow_unused=True)
        else:
            both = torch.autograd.grad(loss, [*parameters, *copies], retain_graph=True, allow_unused=True)
            row, at_features = both[: len(parameters)], both[len(parameters) :]
        rows.append(row)
        if copies:
            magnitudes.append(matrix_of([at_features], copies)[0].float().abs())
    gds, gms = similarities(gramian_of(processes.mean(matrix_of(rows, parameters))))
    if not copies:
        return Conflict(gds=gds, gms=gms)
    whole, used, smoothed = disentanglement(torch.stack(magnitudes), temperature)
    return Conflict(
        gds=gds,
        gms=gms,
        fd=float(whole),
        fd_where_used=float(used),
        fd_smoothed=None if smoothed is None else float(smoothed),
    )
