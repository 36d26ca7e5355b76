"""Operators between two convolutions, each from `gate` through a training step and pruning to an ONNX file read again.

Run:  python -m benchmarks.robustness.operators [NAME ...] [--json FILE]
An operator works if the whole road ends in an ONNX file that computes what torch computes. It works without ONNX if
`gate` warned that ONNX lacks it and all but the export works. It is refused if `gate` says so in one of the package's
errors, and fails otherwise: then a user would learn of it only after training.
"""

import argparse
import json
import logging
import signal
import sys
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

import gate2static as g2s
from benchmarks import ROOT
from benchmarks.robustness.operator_cases import CHANNELS, OPERATORS, SIDE
from gate2static.errors import Gate2StaticError
from gate2static.export.equality import check_equal, onnx_errors, onnx_tolerances

TASKS = ("a", "b")
LIMIT_S = 120


class Between(nn.Module):
    """A convolution, an operator, and a layer for whatever it returns."""

    def __init__(self, operator: Any) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, CHANNELS, 3, 1, 1)
        self.module = operator if isinstance(operator, nn.Module) else None
        self.operator = operator if self.module is None else None
        self.takes_first = isinstance(operator(torch.randn(2, CHANNELS, SIDE, SIDE)), tuple | list)
        self.image, self.flat = nn.LazyConv2d(6, 1), nn.LazyLinear(6)

    def forward(self, x: Tensor) -> Tensor:
        """Runs the operator on the first convolution's output."""
        y = self.first(x)
        y = self.operator(y) if self.operator is not None else self.module(y)  # type: ignore[misc]
        if self.takes_first:
            y = y[0]
        if not y.is_floating_point():
            y = y.float()
        return self.image(y) if y.dim() == 4 else self.flat(y.flatten(1))


def main() -> None:
    """Prints one line for each operator, and the table of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="parts of names; none for all")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    rows = {}
    for name, make in OPERATORS.items():
        if arguments.names and not any(part in name for part in arguments.names):
            continue
        start = time.process_time()
        outcome, detail = run(make)
        detail = detail.replace(f"{ROOT}/", "")  # where this machine has the project
        seconds = time.process_time() - start
        rows[name] = {"outcome": outcome, "detail": detail, "cpu_seconds": round(seconds, 1)}
        sys.stdout.write(f"{outcome:8} {name}: {detail} ({seconds:.1f} s)\n")
        sys.stdout.flush()
    outcomes = [row["outcome"] for row in rows.values()]
    counts = {kind: outcomes.count(kind) for kind in ("works", "torch", "refused", "fails")}
    sys.stdout.write(f"{len(rows)} operators: {counts}\n")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"counts": counts, "operators": rows}, indent=1) + "\n")
    sys.exit(bool(counts["fails"]))


def run(make: Any) -> tuple[str, str]:
    """Takes one operator along the road.

    Returns:
        "works", "torch", "refused" or "fails", and what there is to say about it.
    """
    torch.manual_seed(0)
    inputs = (torch.randn(2, 3, SIDE, SIDE),)
    stage = "the plain network"
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(LIMIT_S)
    try:
        backbone = Between(make())
        features = backbone.eval()(*inputs)
        if features.dim() == 4:
            del backbone.flat
        else:
            del backbone.image
        kind = (lambda: nn.Conv2d(6, 2, 1)) if features.dim() == 4 else (lambda: nn.Linear(6, 2))
        stage = "gate"
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            gated = g2s.gate(backbone, tasks=TASKS, example_inputs=inputs, heads={task: kind() for task in TASKS})
        lacks_onnx = any("has no form in ONNX" in str(warning.message) for warning in said)
        stage = "training"
        gated.train()
        sum(value.square().mean() for value in gated(*inputs).values()).backward()
        stage = "prune"
        diverge(gated)
        static = g2s.prune(gated.eval())
        stage = "verify"
        report = g2s.verify(gated, static)
        if not report.passed:
            raise AssertionError("not equal")
        with TemporaryDirectory() as folder:
            stage = "save and load"
            static.save(Path(folder) / "static")
            loaded = g2s.load_static(Path(folder) / "static")
            if lacks_onnx:
                return "torch", "ONNX lacks it, as gate says"
            stage = "export"
            g2s.export_onnx(loaded, Path(folder) / "model.onnx")
            stage = "the ONNX file"
            errors = onnx_errors(loaded, Path(folder) / "model.onnx")
            check_equal(errors, onnx_tolerances(loaded, "fp32"))
        return "works", f"largest error of ONNX {max(errors.values()):.0e}"
    except Exception as error:  # noqa: BLE001 - the outcome is what this is about
        text = f"{stage}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return ("refused" if stage == "gate" and isinstance(error, Gate2StaticError) else "fails"), text
    finally:
        signal.alarm(0)


def diverge(gated: g2s.GatedModel) -> None:
    """Draws decisions and lets the branches differ, as training would."""
    for number, branch in enumerate(gated.branches.values()):
        torch.manual_seed(number)
        for parameter in branch.parameters():
            if parameter.is_floating_point():
                parameter.data.add_(torch.randn_like(parameter) * 0.1)
    torch.manual_seed(9)
    g2s.set_gates(gated, {unit: torch.rand(d.shape) < 0.5 for unit, d in g2s.gate_decisions(gated).items()})


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"more than {LIMIT_S} s")


if __name__ == "__main__":
    main()
