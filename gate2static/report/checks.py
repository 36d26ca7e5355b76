"""The results of verification in a static network's manifest: written after a check, and read for the page."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from rich.table import Table

from gate2static.errors import ArtefactError
from gate2static.files import in_turn
from gate2static.report.content import Check
from gate2static.static import Manifest
from gate2static.static.folder import read_manifest, write_manifest
from gate2static.terminal import lines, styled
from gate2static.verify import EquivalenceReport

_GATED = "gated / static"
_ONNX = "static / ONNX Runtime"
_ONNX_REASON = "two libraries sum in another order; the margin is for small differences of large values"
_CHECKS = TypeAdapter(tuple[Check, ...])


def gated_checks(report: EquivalenceReport) -> tuple[Check, ...]:
    """Converts the result of `verify` to the form that `record` writes."""
    outputs = tuple(
        Check(
            comparison=f"{_GATED}, {check.what}",
            task=check.task,
            max_abs=_finite(check.difference.max_abs),
            max_rel=_finite(check.difference.max_rel),
            cosine=check.difference.cosine,
            tolerance=check.tolerance,
            passed=check.passed,
            reason=check.reason,
        )
        for check in report.checks
    )
    if report.changed is None:
        return outputs
    changed = len(report.changed)
    parts = Check(
        comparison=f"{_GATED}, differing parts",
        task="all",
        max_rel=float(changed),
        tolerance=0.0,
        passed=not changed,
        reason="none: weights are slices of the trained ones, bit for bit",
    )
    return (*outputs, parts)


def onnx_checks(errors: Mapping[str, float], tolerances: Mapping[str, float]) -> tuple[Check, ...]:
    """Converts an ONNX file's errors to the form that `record` writes.

    Args:
        errors: The relative error by task, as of `onnx_errors`.
        tolerances: The largest allowed relative error by task.
    """
    return tuple(
        Check(
            comparison=_ONNX,
            task=task,
            max_rel=_finite(error),
            tolerance=tolerances[task],
            passed=bool(error <= tolerances[task]),
            reason=_ONNX_REASON,
        )
        for task, error in errors.items()
    )


def record(static_dir: Path, checks: Sequence[Check]) -> Manifest:
    """Writes comparisons into a static network's manifest, where they replace earlier comparisons of the same kind.

    Args:
        static_dir: The static network's folder.
        checks: The comparisons.

    Returns:
        The new manifest.

    Raises:
        ArtefactError: The manifest cannot be read or written.
    """
    # Two processes that record at once would otherwise lose the comparisons of one.
    with in_turn(static_dir):
        manifest = _with_checks(read_manifest(static_dir), checks)
        write_manifest(static_dir, manifest)
    return manifest


def _with_checks(manifest: Manifest, checks: Sequence[Check]) -> Manifest:
    """Returns a manifest with comparisons, which replace its earlier comparisons of the same kind."""
    # A second recording of `verify` replaces the first one, and keeps the comparison with an ONNX file.
    replaced = {check.comparison for check in checks}
    others = [check for check in read_checks(manifest) if check.comparison not in replaced]
    return manifest.model_copy(update={"equivalence": checks_as_json((*others, *checks))})


def checks_as_json(checks: Sequence[Check]) -> dict[str, Any]:
    """Returns comparisons as plain values, with the verdict over all of them."""
    return {
        "passed": all(check.passed for check in checks),
        "checks": _CHECKS.dump_python(tuple(checks), mode="json"),
    }


def read_checks(manifest: Manifest) -> tuple[Check, ...]:
    """Returns every comparison in the manifest.

    Raises:
        ArtefactError: The entry was not written by `record`.
    """
    try:
        return _CHECKS.validate_python((manifest.equivalence or {}).get("checks", ()))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArtefactError(
            f"the manifest's equivalence entry is not one of ours: {where}: {first['msg']}; prune again"
        ) from None


def was_verified(manifest: Manifest) -> bool:
    """Returns whether the static network was compared with its gated network and passed."""
    verdicts = [check.passed for check in read_checks(manifest) if check.comparison.startswith(_GATED)]
    return bool(verdicts) and all(verdicts)


def checks_table(checks: Sequence[Check]) -> Table:
    """Returns a table of comparisons for a terminal."""
    reasons = {f"{check.comparison}: allowed is {check.reason}" for check in checks if check.reason}
    table = Table("comparison", "task", title="Equivalence", caption=lines(sorted(reasons)))
    for title in ("relative difference", "allowed", "verdict"):
        table.add_column(title, justify="right")
    for check in checks:
        difference = "not finite" if check.max_rel is None else f"{check.max_rel:.1e}"
        verdict = styled("equivalent", "green") if check.passed else styled("DIFFERENT", "red")
        table.add_row(check.comparison, check.task, difference, f"{check.tolerance:.1e}", verdict)
    return table


def _finite(value: float) -> float | None:
    """Returns a finite value, and None for any other, because JSON has no infinity."""
    return value if math.isfinite(value) else None
