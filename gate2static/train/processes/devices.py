"""The devices and processes of a run: Lightning Fabric, and one error for all processes."""

import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from gate2static import errors
from gate2static.errors import Gate2StaticError, MissingDependencyError, RecipeError, TrainingError
from gate2static.recipe import Recipe
from gate2static.runtimes.optional import require

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def pick_device(choice: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Returns the device that `training.device` means on this machine.

    Raises:
        MissingDependencyError: The recipe asks for CUDA and torch finds no CUDA device.
    """
    if choice == "cuda" and not torch.cuda.is_available():
        raise MissingDependencyError("training.device is cuda, but torch finds no CUDA device; set it to auto or cpu")
    return torch.device("cuda" if choice != "cpu" and torch.cuda.is_available() else "cpu")


def start_fabric(recipe: Recipe) -> "Fabric":
    """Returns Fabric for the processes that a recipe asks for, or that torchrun has started.

    Raises:
        MissingDependencyError: Lightning Fabric is not installed, or the machine has fewer devices than the recipe
            asks for.
        RecipeError: Batches cannot be divided evenly, or the device cannot compute in the requested way.
    """
    training = recipe.training
    kind = pick_device(training.device).type
    processes, nodes = _processes(recipe, kind)
    check_batch_sizes(recipe, processes * nodes)
    if training.compile and processes * nodes > 1:
        # Compiled, DDP's collectives and those of batch norm wait for each other.
        raise RecipeError("training.compile works in a single process; set it to false, or training.devices to 1")
    if training.precision == "16-mixed" and kind == "cpu":
        raise RecipeError("training.precision: found 16-mixed, which needs a GPU; use bf16-mixed or 32-true")

    fabric_class: type[Fabric] = require("lightning_fabric").Fabric
    from gate2static.train.processes.strategy import Strategy

    # Batch norm's buffers are equal in all processes (`SynchronisedBatchNorm`), so they need not be sent.
    ddp = Strategy(start_method="popen" if under_torchrun() else "spawn", forward_sync_buffers=False)
    return fabric_class(
        accelerator=kind,
        devices=processes,
        num_nodes=nodes,
        strategy=ddp if processes * nodes > 1 else "auto",
        precision=training.precision,
    )


def check_batch_sizes(recipe: Recipe, world_size: int) -> None:
    """Raises a RecipeError unless every process gets equally many images of a batch, in equal parts."""
    training = recipe.training
    unit = world_size * training.accumulate
    for name in ("single", "shared", "gated"):
        size = getattr(training, name).batch_size
        if size % unit:
            below = size - size % unit
            sizes = [multiple for multiple in (below, below + unit) if multiple]
            raise RecipeError(
                f"training.{name}.batch_size: found {size} for {world_size} processes that accumulate "
                f"{training.accumulate} parts; allowed are multiples of {unit}, such as {' or '.join(map(str, sizes))}"
            )


def launch(fabric: "Fabric", function: Callable[..., None], *args: Any) -> None:
    """Runs `function(fabric, *args)` in every process; in this one if it is the only one or torchrun's.

    Args:
        fabric: The processes and devices.
        function: Called with `fabric` and `args`.
        args: Further arguments, which are pickled for other processes.

    Raises:
        Gate2StaticError: A process raised it.
        TrainingError: A process was killed.
    """
    from torch.multiprocessing import active_children
    from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

    # Processes that exist already belong to other code, such as a data loader.
    others = set(active_children())
    try:
        fabric.launch(function, *args)
    except ProcessExitedException as error:
        raise TrainingError(
            f"a training process ended unexpectedly ({error}); it may have run out of memory: lower the batch size, "
            "then continue with --resume"
        ) from error
    except ProcessRaisedException as error:
        raise original_error(error) or error from None
    except BaseException:  # an interruption that reached this process alone
        if fabric.world_size > 1 and not under_torchrun():
            for process in set(active_children()) - others:
                process.terminate()
        raise


def original_error(error: BaseException) -> Gate2StaticError | None:
    """Returns the error of ours that another process raised, read from its traceback; None for other errors."""
    # torch passes an error on as the text of its traceback, in which the last of ours is the cause.
    lines = re.findall(r"^gate2static\.errors\.(\w+): (.*)$", str(error), flags=re.MULTILINE)
    if not lines:
        return None
    name, message = lines[-1]
    ours: Gate2StaticError = getattr(errors, name)(message)
    return ours


def on_first_process(fabric: "Fabric", write: Callable[[], None]) -> None:
    """Writes on the first process while the others wait, so that no process reads half a file.

    Raises:
        Gate2StaticError: `write` raised it; all processes raise the same error.
    """
    error = None
    if fabric.is_global_zero:
        try:
            write()
        except Gate2StaticError as failure:
            error = failure
    if (error := fabric.broadcast(error)) is not None:
        raise error


def freeze_unused(model: nn.Module, images: Tensor) -> None:
    """Freezes parameters that no output depends on, because DDP would wait for their gradients forever.

    Such parameters would never change in any case.

    Args:
        model: Maps images to a dict of outputs. Its training mode is restored.
        images: A batch, (N, C, H, W).
    """
    was_training = model.training
    outputs = model.eval()(images)
    model.train(was_training)
    parameters = [p for p in model.parameters() if p.requires_grad]
    total = torch.stack([output.sum() for output in outputs.values()]).sum()
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)


def _processes(recipe: Recipe, kind: str) -> tuple[int, int]:
    """Returns the number of processes per machine, and the number of machines."""
    if under_torchrun():
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        return local, int(os.environ["WORLD_SIZE"]) // local
    available = torch.cuda.device_count() if kind == "cuda" else 1
    devices = available if recipe.training.devices == "auto" else recipe.training.devices
    if kind == "cuda" and devices > available:
        raise MissingDependencyError(
            f"training.devices is {devices}, but torch finds {available} CUDA devices; allowed are 1 to {available}"
        )
    return devices, 1


def starts_the_run() -> bool:
    """Returns whether this process stands for the run: torchrun starts several that do the same."""
    return not under_torchrun() or os.environ.get("RANK") == "0"


def under_torchrun() -> bool:
    """Returns whether torchrun started this process."""
    return torch.distributed.is_available() and torch.distributed.is_torchelastic_launched()
