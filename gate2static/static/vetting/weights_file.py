"""The tensors of `weights.safetensors`, whose header is looked at before its tensors are made."""

import re
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from gate2static.errors import ArtefactError
from gate2static.messages import brief
from gate2static.static.vetting.argument_schema import DTYPES
from gate2static.strict_json import parse_json

_LARGEST_HEADER = 2**24
_MOST_TENSORS = 2**16
_NAME = re.compile(r"(parameter|buffer)_\d{1,9}")
_LENGTH_BYTES = 8


def read_tensors(content: bytes) -> dict[str, Tensor]:
    """Returns the tensors of a file by name.

    Args:
        content: The file, which need not be trusted.

    Raises:
        ArtefactError: The file is damaged, has a header larger than any network's, or holds a tensor that is not ours.
    """
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    if length > min(_LARGEST_HEADER, len(content) - _LENGTH_BYTES):
        raise ArtefactError(f"weights.safetensors is damaged: its header has {length:,} bytes.")
    header = content[_LENGTH_BYTES : _LENGTH_BYTES + length]
    _check_header(parse_json(header, where="the header of weights.safetensors", error=ArtefactError))
    try:
        tensors: dict[str, Tensor] = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ArtefactError(f"weights.safetensors is damaged: {brief(error)}.") from error
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise ArtefactError(f"weights.safetensors has {name} in {tensor.dtype}, which no network of ours has.")
    return tensors


def _check_header(header: Any) -> None:
    """Raises an ArtefactError where a header names other tensors than `capture.store` does."""
    if not isinstance(header, dict) or len(header) > _MOST_TENSORS:
        raise ArtefactError("weights.safetensors is damaged: its header is no list of tensors.")
    for name in header:
        if name != "__metadata__" and not _NAME.fullmatch(name):
            raise ArtefactError(
                f"the weights file holds a tensor named {brief(repr(name), 60)}; allowed are parameter_N and buffer_N."
            )
