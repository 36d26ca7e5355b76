"""Inputs of a network from a file: `.npy`, `.npz` or `.safetensors`, none of which runs code from the file."""

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from gate2static.errors import VerificationError
from gate2static.files import open_regular, read_bytes
from gate2static.messages import brief
from gate2static.static import TensorSpec

_BATCH_SIZE = 8
_UNREADABLE = (OSError, ValueError, EOFError, TypeError, KeyError, BadZipFile, SafetensorError, zlib.error)
"""What NumPy and safetensors raise on files that are cut off, of another kind, or hold objects."""


def read_inputs(path: Path, specs: Sequence[TensorSpec]) -> list[tuple[Tensor, ...]]:
    """Reads inputs, batch by batch.

    Args:
        path: An array of a network's only input, `.npy`, or arrays by the inputs' names, `.npz` or `.safetensors`,
            batch first.
        specs: The network's inputs.

    Raises:
        VerificationError: The file cannot be read, or does not hold arrays of the inputs' shapes.
    """
    arrays = _arrays(path, specs)
    names = [spec.name for spec in specs]
    if sorted(arrays) != sorted(names):
        raise VerificationError(
            f"{path} holds {', '.join(arrays) or 'nothing'}; the network takes {', '.join(names)}: name the arrays so"
        )
    counts = {len(array) if array.dim() else 0 for array in arrays.values()}
    if len(counts) != 1 or 0 in counts:
        raise VerificationError(f"{path} must hold equally many samples of each input, at least one, batch first")
    inputs = tuple(_as_input(path, arrays[spec.name], spec) for spec in specs)
    (count,) = counts
    starts = range(0, count, _BATCH_SIZE)
    return [tuple(value[start : start + _BATCH_SIZE] for value in inputs) for start in starts]


def _arrays(path: Path, specs: Sequence[TensorSpec]) -> Mapping[str, Tensor]:
    """Returns a file's arrays by name; the array of an `.npy` file has the name of the only input."""
    try:
        if path.suffix == ".safetensors":
            return dict(load_tensors(read_bytes(path, what="inputs", error=VerificationError)))
        with open_regular(path) as file:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return {specs[0].name: torch.from_numpy(content)} if len(specs) == 1 else {"one array": torch.empty(1)}
            return {name: torch.from_numpy(content[name]) for name in content.files}
    except VerificationError:
        raise
    except _UNREADABLE as error:
        raise VerificationError(
            f"{path} cannot be read as inputs: {brief(error)}; save them with numpy.save, numpy.savez or safetensors"
        ) from error


def _as_input(path: Path, array: Tensor, spec: TensorSpec) -> Tensor:
    """Returns an array as a network takes it; floating-point numbers are converted, all others must be as they are."""
    dtype: torch.dtype = getattr(torch, spec.dtype)
    sizes = tuple(array.shape[1:])
    fits = len(sizes) == len(spec.shape) and all(
        dim in spec.dynamic or a == b for dim, (a, b) in enumerate(zip(sizes, spec.shape, strict=True))
    )
    same_kind = array.dtype == dtype or (array.is_floating_point() and dtype.is_floating_point)
    if not fits or not same_kind:
        found = f"{str(array.dtype).removeprefix('torch.')} {tuple(array.shape)}"
        raise VerificationError(
            f"{path} holds {spec.name} as {found}; the network takes {spec.dtype} {('batch', *spec.shape)}, "
            "preprocessed as in training"
        )
    return array.to(dtype)
