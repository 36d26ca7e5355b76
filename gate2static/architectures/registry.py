"""The architectures by the names that a recipe uses."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from gate2static.architectures.adashare import AdaShare
from gate2static.architectures.afa import AFA
from gate2static.architectures.architecture import Architecture
from gate2static.architectures.branching import Branching
from gate2static.architectures.cross_stitch import CrossStitch
from gate2static.architectures.mtan import MTAN
from gate2static.architectures.nddr import NDDR
from gate2static.architectures.places import Places
from gate2static.architectures.smtl import LSMTL, SMTL, LSMTLc, SMTLc
from gate2static.architectures.stages import split
from gate2static.arguments import require_kind
from gate2static.errors import ArchitectureError, GateError
from gate2static.gates.arguments import check_tasks
from gate2static.recipe.parsing import suggest, unknown_option

ARCHITECTURES: dict[str, type[Architecture]] = {
    "adashare": AdaShare,
    "afa": AFA,
    "branching": Branching,
    "cross_stitch": CrossStitch,
    "l_smtl": LSMTL,
    "l_smtl_c": LSMTLc,
    "mtan": MTAN,
    "nddr": NDDR,
    "smtl": SMTL,
    "smtl_c": SMTLc,
}
_PLACES: dict[str, Places] = {
    "adashare": "blocks",
    "afa": "stages",
    "branching": "stages",
    "cross_stitch": "stages",
    "mtan": "last blocks",
    "nddr": "stages",
}
"""Where backbones are cut by default; not at all where an architecture joins whole encoders."""


def architecture(
    name: str,
    backbone: nn.Module,
    *,
    heads: Mapping[str, nn.Module],
    example_inputs: Sequence[Any] | Mapping[str, Any],
    places: Places | None = None,
    **options: Any,
) -> Architecture:
    """Builds a multi-task architecture from a backbone (docs/architectures.md).

    Args:
        name: The architecture's name.
        backbone: Any module that torch.fx can trace; it is copied, not changed.
        heads: Task -> module that is called on what the backbone returns; heads are copied.
        example_inputs: The backbone's arguments, as for `gate`.
        places: Where the backbone is cut: `stages`, `blocks`, or the paths of modules behind which it is cut. None is
            what the architecture wants.
        options: The architecture's own options.

    Raises:
        ArchitectureError: There is no such architecture or option, or the backbone does not allow it.
        TraceError: The backbone cannot be traced.
    """
    require_kind(name, str, name="name", allowed="an architecture's name, such as 'mtan'", error=ArchitectureError)
    check_options(name, options)
    _check_heads(heads)
    stages = split(backbone, example_inputs, _PLACES.get(name, ()) if places is None else places)
    return ARCHITECTURES[name](stages, heads, **options)


def _check_heads(heads: Any) -> None:
    """Raises an ArchitectureError unless these are modules by names that tasks may have."""
    allowed = "a dict of modules by task"
    require_kind(heads, (Mapping, nn.ModuleDict), name="heads", allowed=allowed, error=ArchitectureError)
    if not heads:
        return  # an architecture says how many it needs
    try:
        check_tasks(list(heads), heads, 1, {})
    except GateError as error:
        raise ArchitectureError(str(error)) from error


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raises an ArchitectureError unless there is such an architecture with such options."""
    if name not in ARCHITECTURES:
        raise ArchitectureError(f"there is no architecture {name!r}; {suggest(name, ARCHITECTURES)}")
    if problem := unknown_option(name, ARCHITECTURES[name], options, given={"stages", "heads"}):
        raise ArchitectureError(problem)
