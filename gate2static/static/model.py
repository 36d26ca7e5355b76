"""`StaticModel`: the pruned network as a plain module, saved to a folder and loaded from it."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, fx, nn

from gate2static.arguments import require_count, require_kind, require_path
from gate2static.errors import ArtefactError, Gate2StaticError
from gate2static.messages import brief
from gate2static.static.deploy.pipeline import deploy
from gate2static.static.draws import draw_inputs
from gate2static.static.folder import digest, read_folder, serialise, write_folder
from gate2static.static.graph_json import graph_from_dict, graph_to_dict
from gate2static.static.manifest import Manifest, TensorSpec
from gate2static.static.outputs import structured
from gate2static.static.training.as_layers import with_layers
from gate2static.static.vetting.consistency import excess_at, inconsistency
from gate2static.strict_json import first_problem

_NAMED_LAYERS = 3
"""How many layers an error names."""
TORCHS_ERRORS = (RuntimeError, IndexError, TypeError, ValueError, AttributeError, AssertionError)
"""What torch and our own passes raise where a graph's operators do not fit the values that they meet."""


def not_computable(error: Exception) -> Exception:
    """Returns the error for a network that loads and cannot be computed, since shapes do not say everything.

    Args:
        error: What torch raised; the error itself where it is ours, or says that a device is out of memory.
    """
    if isinstance(error, (torch.OutOfMemoryError, Gate2StaticError)) or not isinstance(error, TORCHS_ERRORS):
        return error
    return ArtefactError(
        f"the static network cannot be computed: {brief(error)}. If its folder was not written by `prune`, prune again."
    )


class StaticModel(nn.Module):
    """A static multi-task network: one forward pass, every task's output, any batch size.

    Attributes:
        network: The graph of tensor operators; returns a tuple over tasks.
        manifest: What the network is and where it came from.
    """

    def __init__(self, network: fx.GraphModule, manifest: Manifest) -> None:
        super().__init__()
        self.network = network
        self.manifest = manifest
        # The shapes of inputs of other sizes than the example's that the network takes not too much for.
        self._accepted_sizes: set[tuple[tuple[int, ...], ...]] = set()
        self.eval()

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, in the order of the outputs."""
        return self.manifest.tasks

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the outputs in their order: those of the tasks, and `task.name` where a task has several."""
        return tuple(spec.name for spec in self.manifest.outputs)

    def __repr__(self) -> str:
        """Returns one line with inputs, outputs and cost."""
        return f"StaticModel({_described(self.manifest)})"

    def __call__(self, *inputs: Any, **keywords: Any) -> Any:
        """Runs `forward`; where that fails on inputs that the network does not take, the error says so.

        Raises:
            ArtefactError: Other inputs than the network has, see `forward`, or inputs on another device.
        """
        try:
            return super().__call__(*inputs, **keywords)
        except ArtefactError:
            raise
        except Exception as error:
            # Looked at only now, so that a call that works costs nothing.
            difference = "takes its inputs by position, not by name" if keywords else self._difference(inputs)
            if difference is None:
                raise not_computable(error) from error
            raise ArtefactError(f"the static network {difference}.") from error

    def _difference(self, inputs: tuple[Any, ...]) -> str | None:
        """Returns how tensors differ from the network's weights in dtype or device; None where they do not."""
        # The network may have been moved or converted since its manifest was written.
        weight = next((p for p in self.parameters() if p.is_floating_point()), torch.empty(()))
        for x, spec in zip(inputs, self.manifest.inputs, strict=False):
            dtype = getattr(torch, spec.dtype)
            dtype = weight.dtype if dtype.is_floating_point else dtype
            if x.dtype != dtype:
                return f"takes the input {spec.name} as {dtype} and was given {x.dtype}; convert it"
            if x.device != weight.device:
                return f"is on {weight.device} and its input {spec.name} on {x.device}; move one of them"
        return None

    def forward(self, *inputs: Tensor) -> dict[str, Any]:
        """Runs the network.

        Args:
            inputs: The backbone's inputs, batch first.

        Returns:
            Task -> the task's output, batch first. Where a task has several, they are a tuple or a dict, as in
            `structured`.

        Raises:
            ArtefactError: Inputs of other shapes; sizes that the backbone's code read are constants here.
        """
        return structured(self.outputs(*inputs))

    def outputs(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Runs the network.

        Args:
            inputs: The backbone's inputs, batch first.

        Returns:
            Name of an output, as in `output_names` -> the output, batch first.

        Raises:
            ArtefactError: Other inputs than the network has: of another number, another type, or another shape, since
                sizes that the backbone's code read are constants here. Or it takes too much for free sizes like theirs.
        """
        self.check_inputs(inputs)
        if any(spec.dynamic for spec in self.manifest.inputs) and not torch.compiler.is_compiling():
            self._check_sizes(tuple(tuple(x.shape[1:]) for x in inputs))
        return dict(zip(self.output_names, self.network(*inputs), strict=True))

    def check_inputs(self, inputs: tuple[Any, ...]) -> None:
        """Refuses inputs that the network was not captured for, with or without an error of torch's.

        Args:
            inputs: The arguments of `forward`.

        Raises:
            ArtefactError: They differ from the manifest's in number, type or shape.
        """
        _check_inputs(inputs, self.manifest.inputs, self.network)

    def _check_sizes(self, sizes: tuple[tuple[int, ...], ...]) -> None:
        """Refuses sizes for which a network with free sizes takes too much; a file is looked at for its example only.

        Raises:
            ArtefactError: It takes more than a network of these inputs and its weights.
        """
        if sizes in self._accepted_sizes or sizes == tuple(spec.shape for spec in self.manifest.inputs):
            return
        reason = excess_at(self.network, self.manifest, sizes)
        if reason is not None:
            raise ArtefactError(
                f"the static network takes more than a network of its weights and of inputs of these sizes: {reason}. "
                "Use smaller inputs; if its folder was not written by `prune`, prune again."
            )
        self._accepted_sizes.add(sizes)

    def train(self, mode: bool = True) -> "StaticModel":
        """Lets the parameters be trained, or no longer; what is computed stays that of evaluation.

        A static network has no training mode: norms keep their statistics, and nothing is dropped. So this trains a
        network whose norms are frozen; `trainable` returns one that trains as the gated network does.

        Args:
            mode: Whether the parameters require gradients.
        """
        self.requires_grad_(mode)
        return super().train(False)

    def trainable(self, *, strict: bool = True) -> "TrainableModel":
        """Returns a network that trains as the gated network does with frozen gates, at the static network's cost.

        Norms use the statistics of the batch and follow them, dropout drops, and weights require gradients. Mixing
        weights do not, as frozen gates' do not.

        Args:
            strict: Whether a layer is refused that does something in training which this network lacks, such as
                stochastic depth. Otherwise the network trains without that.

        Raises:
            ArtefactError: Training needs a layer that this network lacks, which the message names; or the network does
                not say what it lacks: it is a deployed form, or was pruned by an earlier version.
        """
        return TrainableModel(self, strict=strict)

    def example_inputs(self, batch_size: int = 1) -> tuple[Tensor, ...]:
        """Returns inputs of the right shapes and dtypes, the same at every call.

        Args:
            batch_size: The number of samples, 0 and more.

        Raises:
            ArtefactError: The batch size is no such number.

        Returns:
            Numbers from the ranges of the example inputs. Where a range is not known: standard-normal numbers, and
            zeros for integers.
        """
        require_count(batch_size, name="the batch size", least=0, error=ArtefactError)
        return draw_inputs(self.manifest.inputs, batch_size)

    def deployed(self) -> "StaticModel":
        """Returns the form that is deployed, which computes the same function in fewer or faster operators.

        Norms and mixing weights are folded, in float64 and rounded once. Where the network was pruned for a target that
        is faster so, convolutions move channels, or channels move as rows (`deploy.pipeline`).
        """
        try:
            network = deploy(
                self.network,
                self.example_inputs(),
                convolve_moves=self.manifest.convolve_moves,
                channels_first=self.manifest.channels_first,
                layers=self.manifest.layers,
            )
        except TORCHS_ERRORS as error:
            raise not_computable(error) from error
        count = sum(parameter.numel() for parameter in network.parameters())
        parameters = self.manifest.parameters.model_copy(update={"static": count})
        # The deployed form of a deployed form is itself, and its norms are gone.
        done: dict[str, Any] = {"convolve_moves": False, "channels_first": False, "pruning": None, "layers": {}}
        done |= {"parameters": parameters, "lacks_in_training": None}
        return StaticModel(network, self.manifest.model_copy(update=done))

    def describe(
        self,
        *,
        inputs: Mapping[str, Mapping[str, Any]] | None = None,
        outputs: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Notes in the manifest what inputs and outputs mean, for who deploys the network.

        `gate2static prune` does that itself where a recipe says it. What is given again replaces what was noted.

        Args:
            inputs: Name of an input that is a picture -> `mean`, `std` and `colours`, as of `Picture`.
            outputs: Name of an output -> `kind`, `activation`, `unit` and `classes`, as of `Prediction`.

        Raises:
            ArtefactError: The network has no such input or output, or a value is none of those.
        """
        known = self.manifest.model_dump(mode="json")
        old = known["meaning"] or {}
        known["meaning"] = {
            "inputs": {**old.get("inputs", {}), **(inputs or {})},
            "outputs": {**old.get("outputs", {}), **(outputs or {})},
        }
        try:
            self.manifest = Manifest.model_validate(known)
        except ValidationError as error:
            raise ArtefactError(f"the network cannot be described so: {first_problem(error)}.") from error

    def fold_norms(self) -> "StaticModel":
        """Returns `deployed()`; deprecated, to be removed in 0.3."""
        warnings.warn(
            "StaticModel.fold_norms() is called deployed() now; the old name goes in 0.3.",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.deployed()

    def save(self, folder: Path | str) -> None:
        """Writes `graph.json`, `weights.safetensors` and `manifest.json`; the folder appears whole or not at all.

        Args:
            folder: The folder, which may hold an earlier static model.

        Raises:
            ArtefactError: The folder cannot be written, it exists and is not a static model's, or `load_static` would
                refuse the network.
        """
        path = require_path(folder, name="the folder to save to", error=ArtefactError)
        try:
            write_folder(path, self.network, self.manifest)
        except OSError as error:  # a path that the file system cannot have
            name = brief(path, 80)
            raise ArtefactError(f"cannot write the static model {name}: {error.strerror or error}.") from error


class TrainableModel(nn.Module):
    """A static network that trains; `StaticModel.trainable` makes it, and `static` goes back.

    In evaluation it computes what the static network does. A parameter is named for its layer, and for the streams
    that it serves, as in `network.layer1_0_conv1.seg_shared.weight`.

    Args:
        source: The static network; it is not changed.
        strict: See `StaticModel.trainable`.

    Attributes:
        network: The graph, with layers for norms and dropout; returns a tuple over outputs.
        manifest: The manifest of the static network that it was made from.

    Raises:
        ArtefactError: See `StaticModel.trainable`.
    """

    def __init__(self, source: StaticModel, *, strict: bool = True) -> None:
        super().__init__()
        lacks = source.manifest.lacks_in_training
        if lacks is None:
            raise ArtefactError(
                "the static network does not say what training needs: it is a deployed form, whose norms are folded, "
                "or it was pruned by an earlier version. Prune again, and train what `prune` returns."
            )
        if lacks and strict:
            named = "; ".join(f"{layer} {reason}" for layer, reason in list(lacks.items())[:_NAMED_LAYERS])
            others = f"; and {len(lacks) - _NAMED_LAYERS} others" if len(lacks) > _NAMED_LAYERS else ""
            raise ArtefactError(
                f"the static network cannot train as the gated one does: {named}{others}. Train it without that by "
                "`trainable(strict=False)`, or train the gated network on with `freeze_gates` and prune again."
            )
        self.network, self._names = with_layers(source.network, source.manifest.layers)
        self.manifest = source.manifest
        self._graph = graph_to_dict(source.network.graph)
        self.train()

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, in the order of the outputs."""
        return self.manifest.tasks

    def __repr__(self) -> str:
        """Returns one line with inputs, outputs and cost."""
        return f"TrainableModel({_described(self.manifest)}, {'training' if self.training else 'evaluation'})"

    def forward(self, *inputs: Tensor) -> dict[str, Any]:
        """Runs the network in the mode that it is in.

        Args:
            inputs: The backbone's inputs, batch first.

        Returns:
            Task -> the task's output, batch first, as `StaticModel.forward` returns it.

        Raises:
            ArtefactError: Other inputs than the network was pruned for.
        """
        _check_inputs(inputs, self.manifest.inputs, self.network)
        names = [spec.name for spec in self.manifest.outputs]
        return structured(dict(zip(names, self.network(*inputs), strict=True)))

    def static(self) -> StaticModel:
        """Returns the static network of the weights and statistics as they are, on the CPU.

        Its manifest says from which network it was fine-tuned. It can be saved, deployed and exported as any other.
        """
        state = {**dict(self.network.named_parameters()), **dict(self.network.named_buffers())}
        tensors = {tensor: state[name].detach().cpu().clone() for tensor, name in self._names.items()}
        network = graph_from_dict(self._graph, tensors)
        trained = {
            "digest": digest(*serialise(network)),
            "fine_tuned_from": self.manifest.fine_tuned_from or self.manifest.digest,
            # No pruning makes these weights, and nothing was compared with them yet.
            "pruning": None,
            "equivalence": None,
        }
        return StaticModel(network, self.manifest.model_copy(update=trained))


def static_model(value: Any, *, error: type[Gate2StaticError]) -> StaticModel:
    """Returns the static model that an argument is.

    Args:
        value: The argument.
        error: The exception class for other values.

    Raises:
        Gate2StaticError: The argument is something else (of type `error`).
    """
    allowed = "a StaticModel: make one with `gate2static.prune`, or load its folder with `gate2static.load_static`"
    return require_kind(value, StaticModel, name="the network", allowed=allowed, error=error)


def load_static(folder: Path | str) -> StaticModel:
    """Reads a static model; safe on files from strangers: no pickle, no code from the file.

    Args:
        folder: The folder of a static model.

    Raises:
        ArtefactError: The folder is missing, incomplete, altered, unsafe or from a newer format.
    """
    network, manifest = read_folder(require_path(folder, name="the static model's folder", error=ArtefactError))
    reason = inconsistency(network, manifest)
    if reason is not None:
        raise ArtefactError(f"{folder} is not consistent: graph and manifest disagree: {reason}.")
    return StaticModel(network, manifest)


def _check_inputs(inputs: tuple[Any, ...], specs: tuple[TensorSpec, ...], network: nn.Module) -> None:
    """Refuses inputs that a network was not captured for, see `StaticModel.check_inputs`."""
    expected = ", ".join(f"{spec.name} {_shape(spec)} {spec.dtype}" for spec in specs)
    if len(inputs) != len(specs) or not all(isinstance(x, Tensor) for x in inputs):
        kinds = ", ".join(type(x).__name__ for x in inputs) or "none"
        raise ArtefactError(f"the static network takes the tensors {expected}, and was given {kinds}.")
    # Without the batch, which may be of any size.
    if not all(_fits(x, spec) for x, spec in zip(inputs, specs, strict=True)):
        shapes = ", ".join(f"({', '.join(('batch', *map(str, x.shape[1:])))})" for x in inputs)
        raise ArtefactError(
            f"the static network takes inputs of shape {', '.join(map(_shape, specs))}, and was given {shapes}. "
            "Resize them, gate and prune with example inputs of that size, or prune with "
            'dynamic=("height", "width") where nothing in the network depends on the size.'
        )
    # A network that was converted after pruning has another type than its manifest says.
    floating = next((p.dtype for p in network.parameters() if p.is_floating_point()), None)
    for x, spec in zip(inputs, specs, strict=True):
        dtype = getattr(torch, spec.dtype)
        is_other = _kind(x.dtype) != _kind(dtype)
        if x.is_floating_point() and floating is not None and not torch.is_autocast_enabled(x.device.type):
            is_other = is_other or (x.dtype is not floating and x.dtype is not dtype)
        if is_other:
            raise ArtefactError(
                f"the static network takes the input {spec.name} as {spec.dtype}, and was given "
                f"{str(x.dtype).removeprefix('torch.')}; convert it with `.to(torch.{spec.dtype})`."
            )


def _described(manifest: Manifest) -> str:
    """Returns a network's inputs, outputs and costs in a line."""
    inputs = ", ".join(f"{spec.name} {_shape(spec)} {spec.dtype}" for spec in manifest.inputs)
    outputs = ", ".join(f"{spec.name} {_shape(spec)}" for spec in manifest.outputs)
    macs = manifest.macs
    return (
        f"{inputs} -> {outputs}; {macs.static / 1e6:.2f} M MACs per sample, separate {macs.separate / 1e6:.2f} M; "
        f"{manifest.parameters.static / 1e6:.2f} M parameters"
    )


def _shape(spec: TensorSpec) -> str:
    """Returns a shape for a message, with its batch and its free sizes."""
    sizes = ("any" if dim in spec.dynamic else str(size) for dim, size in enumerate(spec.shape))
    return f"({', '.join(('batch', *sizes))})"


def _fits(x: Tensor, spec: TensorSpec) -> bool:
    """Returns whether a tensor has the shape of an input, but for the batch and free sizes."""
    sizes = x.shape[1:]
    if len(sizes) != len(spec.shape):
        return False
    return all(dim in spec.dynamic or a == b for dim, (a, b) in enumerate(zip(sizes, spec.shape, strict=True)))


def _kind(dtype: torch.dtype) -> tuple[bool, bool, bool]:
    """Returns what cannot be converted without a change of meaning: floating point, complex or boolean."""
    return dtype.is_floating_point, dtype.is_complex, dtype is torch.bool
