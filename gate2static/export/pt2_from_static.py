"""StaticModel -> `.pt2`: a `torch.export` archive, for torch's own deployment tools (AOTInductor, ExecuTorch)."""

import io
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from gate2static.errors import ExportError
from gate2static.export.onnx_tracing import free_sizes, quiet, root_cause
from gate2static.files import sha256_of, write_atomically

if TYPE_CHECKING:
    from gate2static.static import StaticModel


@dataclass(frozen=True, kw_only=True)
class Pt2Report:
    """What was written."""

    path: Path
    size_bytes: int
    sha256: str
    digest: str


def export_pt2(static: "StaticModel", path: str | Path, *, fold_norms: bool = True) -> Pt2Report:
    """Write a static network as a `torch.export` archive with a dynamic batch dimension.

    Loading a `.pt2` can run code: load only your own. `load_static` reads the static folder, which cannot.

    Args:
        static: the network; it is not changed.
        path: where the file goes; a file already there is replaced at the very end.
        fold_norms: fold norms into convolutions first, as deployment wants.

    Raises:
        ExportError: the network cannot be exported.
    """
    path = Path(path)
    network = (static.deployed() if fold_norms else deepcopy(static)).cpu().eval()
    inputs = network.example_inputs(2)  # not 1: torch.export treats a dimension of 1 as fixed
    free = free_sizes(network)
    # One size is one dimension, also where several inputs have it.
    dims = {name: torch.export.Dim(name) for names in free for name in names.values()}
    shapes = tuple({dim: dims[name] for dim, name in names.items()} for names in free)
    are_free = any(len(names) > 1 for names in free)
    archive = io.BytesIO()
    try:
        with quiet():
            program = torch.export.export(
                network, inputs, dynamic_shapes=(shapes,), prefer_deferred_runtime_asserts_over_guards=are_free
            )
            for node in program.graph.nodes:
                node.meta.pop("stack_trace", None)  # holds this machine's paths
            torch.export.save(program, archive)
    except Exception as failure:  # tracing runs arbitrary operators
        raise ExportError(f"torch.export cannot export this network: {root_cause(failure)}") from failure
    data = archive.getvalue()
    write_atomically(path, data)
    return Pt2Report(path=path, size_bytes=len(data), sha256=sha256_of(data), digest=static.manifest.digest)
