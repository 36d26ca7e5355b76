"""The page: what passes, what does not, what is removed."""

import operator
import re
import statistics
from collections import Counter
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.coverage.models import SUITES

Result = dict[str, Any]

COLUMNS = ("gate", "train", "prune", "equivalence", "macs", "onnx", "load", "removed")
_GROUPS = {
    "ResNet": r"resnet |classification (wide_)?res(net|next)",
    "RegNet": r"regnet |classification regnet",
    "MobileNetV3": r"mobilenetv3 |classification mobilenet_v3",
    "EfficientNet": r"efficientnet |classification efficientnet",
    "ConvNeXt": r"convnext |classification convnext",
    "DenseNet": r"densenet |classification densenet",
    "HRNet": r"hrnet ",
    "VGG": r"vgg |classification vgg",
    "CSPNet": r"cspnet ",
    "ViT": r"vision_transformer |classification vit",
    "DeiT": r"deit ",
    "Swin": r"swin_transformer(_v2)? |classification swin",
}
"""Name -> what matches `family model`."""
_SLOW = ("onnx", "load")
"""What takes more than half of the time, and may be left out."""
_TRANSFORMERS = ("ViT", "DeiT", "Swin")
_ALLOWED = {"timm": 95, "torchvision": 80}
_INTRODUCTION = """# Coverage

This page says which networks gate2static takes, and how much of them it removes. Look up your backbone here. If it is
not in the tables, find out in half a minute: [your own backbone](backbones.md).

It tests the smallest model of every family of timm, and every classification and segmentation model of torchvision.
Each is gated with two tasks and random gates, 30 % of them specific. Weights and statistics are random, and different
in every stream. Made by `python -m benchmarks.coverage`; {versions}.

| column | what passes |
|---|---|
| gate | `gate` traces the network, and the gated network computes the same |
| train | one training step: gradients are finite and reach every gate, outputs are finite and depend on the image |
| prune | `prune` makes a static network |
| equal | `verify`: float64 within 1e-9, float32 as close to float64 as rounding allows |
| MACs | `expected_macs` and the manifest equal what fvcore counts on the static network |
| ONNX | ONNX Runtime is as close to float64 as float32 rounding allows |
| load | a fresh process that imports `load_static` alone gives the same bits |
| removed | (gated − static) / (gated − perfect), in MACs: 100 % means that nothing is left which could go |
| barriers | operators without a channel rule, which run whole, and their share of the gated MACs |
| seconds | time of gate, prune and verify, on one thread beside other work |

*Perfect* is what an oracle counts that knows no rules. It sends random gradients back from every output of the gated
network, and counts the elements whose gradient is not exactly zero; of layers with weights, whole output channels.
Elements of equal value in several streams count once. Flat activations and maxima are replaced by smooth ones, so that
a zero gradient is never an accident. Torch counts no MACs of an LSTM, so the share of sequencer means nothing.
"""


def passed(result: Result, skipped: Collection[str] = ()) -> bool:
    """Whether every column was reached and passed, but for those that were left out."""
    return all(result["columns"].get(column) == "ok" for column in COLUMNS if column not in skipped)


def write_page(path: Path, results: list[Result]) -> None:
    """Write the page for all results, given in the order of the rows."""
    libraries = ("torch", "timm", "torchvision", "onnxruntime-gpu")
    versions = ", ".join(f"{name.removesuffix('-gpu')} {_version(name)}" for name in libraries)
    parts = [_INTRODUCTION.format(versions=versions), *_summary(results)]
    for suite in SUITES:
        rows = sorted((r for r in results if r["suite"] == suite), key=lambda r: (r["family"], r["model"]))
        if rows:
            parts += [f"\n## {suite}\n", *_table(rows)]
    parts += _failures(results)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(parts) + "\n")


def _version(name: str) -> str:
    try:
        return version(name)
    except ModuleNotFoundError:
        return version(name.removesuffix("-gpu"))


def _summary(results: list[Result]) -> list[str]:
    lines = ["| what | wanted | found |", "|---|---|---|"]
    for suite in SUITES:
        rows = [r for r in results if r["suite"] == suite]
        if rows:
            what = "families of timm" if suite == "timm" else "models of torchvision"
            good = sum(map(passed, rows))
            lines.append(f"| {what} that pass every column | {_ALLOWED[suite]} of {len(rows)} | {good} |")
            without = [r for r in rows if passed(r, _SLOW)]
            if len(without) > good:
                reached = sum("onnx" in r["columns"] for r in rows)
                run = sum(bool(r["columns"]) for r in rows)
                what += f" that pass all but ONNX and load ({run} of {len(rows)} run, {reached} with ONNX)"
                lines.append(f"| {what} | {_ALLOWED[suite]} | {len(without)} |")
    errors = [r["float64_error"] for r in results if "float64_error" in r]
    if errors:
        lines.append(f"| largest error in float64, relative to the output | 1e-9 | {max(errors):.0e} |")
    seconds = [s for r in results if (s := _seconds(r)) is not None]
    if seconds:
        lines.append(f"| median seconds of gate + prune + verify | 15 | {statistics.median(seconds):.1f} |")
    for name, pattern in _GROUPS.items():
        group = [r for r in results if re.match(pattern, f"{r['family']} {r['model']}")]
        lines += _shares(f"of removable MACs removed, {name}", f"{95 if name in _TRANSFORMERS else 98} %", group)
    lines += _shares("the same, networks without attention", "", [r for r in results if not r.get("stateless", 1)])
    lines += _shares("the same, networks with attention", "", [r for r in results if r.get("stateless", 0)])
    return lines


def _shares(what: str, wanted: str, group: list[Result]) -> list[str]:
    shares = [100 * r["removed"] for r in group if "removed" in r]
    if not shares:
        return []
    found = f"{statistics.median(shares):.1f} % ({min(shares):.1f} %)"
    return [f"| {what}: median (least) of {len(shares)} | {wanted} | {found} |"]


def _table(rows: list[Result]) -> list[str]:
    head = ["family", "model", "pixels", "params (M)", "gate", "train", "prune", "equal", "MACs", "ONNX", "load"]
    head += ["GMACs gated", "static", "removed", "barriers", "seconds"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for r in rows:
        marks = [_mark(r["columns"].get(column)) for column in COLUMNS[:-1]]
        macs = r.get("macs", {})
        seconds = _seconds(r)
        cells = [
            r["family"], r["model"], str(r["size"][-1]) if "size" in r else "",
            f"{r['parameters'] / 1e6:.1f}" if "parameters" in r else "", *marks,
            _giga(macs.get("oracle_gated", macs.get("gated"))), _giga(macs.get("static")),
            f"{100 * r['removed']:.1f} %" if "removed" in r else "",
            _barriers(r), "" if seconds is None else f"{seconds:.1f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _mark(found: str | None) -> str:
    if found is None:
        return "–"
    return "✓" if found == "ok" else "**✗**"


def _giga(macs: float | None) -> str:
    return "" if macs is None else f"{macs / 1e9:.2f}"


def _seconds(r: Result) -> float | None:
    parts = [r["seconds"].get(name) for name in ("gate", "prune", "verify")]
    return None if None in parts else float(sum(parts))


def _barriers(r: Result) -> str:
    """How many, their share of the MACs, and the most frequent operators."""
    barriers: dict[str, int] = r.get("barriers", {})
    if not barriers:
        return "0" if "barriers" in r else ""
    kinds = Counter(_operator(name) for name in barriers)
    named = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common(4))
    share = sum(barriers.values()) / max(1, r["macs"]["gated"])
    return f"{len(barriers)} ({100 * share:.0f} %): {named}"


def _operator(name: str) -> str:
    """Of a node's name: a function's own, the last part of a module's path."""
    plain = re.sub(r"_\d+$", "", name)
    if any(hasattr(owner, plain) for owner in (torch, Tensor, functional, operator)):
        return plain
    parts = [part for part in plain.split("_") if not part.isdigit()]
    return re.sub(r"\d+$", "", parts[-1]) if parts else plain


def _failures(results: list[Result]) -> list[str]:
    lines = []
    for r in results:
        for column in COLUMNS:
            found = r["columns"].get(column)
            if found not in (None, "ok"):
                lines.append(f"- {r['suite']} `{r['model']}`, {column}: {found[:300].replace('|', '/')}")
    return ["\n## Failures\n", *lines] if lines else []
