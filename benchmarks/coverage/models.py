"""Which networks are tried, at which image size, and how they are built.

A family is a module of timm's registry; its smallest model is the one with the fewest parameters that is neither
deprecated nor one of timm's `test_*` toys. The choice is kept in `smallest.json`; `choose_smallest` makes it anew.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import nn

CHOICE = Path(__file__).parent / "smallest.json"
SUITES = ("timm", "torchvision")
_CLASSES = 10
_SIZES = (64, 96, 128, 160, 192)
_BUILT_SIZES = (112, 128, 160, 192, 224, 256)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One network.

    Attributes:
        suite: `timm` or `torchvision`.
        family: timm's module; `classification` or `segmentation` in torchvision.
        model: name in the library's registry.
    """

    suite: str
    family: str
    model: str


def cases(suites: tuple[str, ...] = SUITES) -> list[Case]:
    """All networks, sorted by family."""
    found = []
    if "timm" in suites:
        chosen: dict[str, str] = json.loads(CHOICE.read_text())
        found += [Case(suite="timm", family=family, model=model) for family, model in sorted(chosen.items())]
    if "torchvision" in suites:
        library = torchvision.models
        for family, module in (("classification", library), ("segmentation", library.segmentation)):
            names = library.list_models(module=module)
            found += [Case(suite="torchvision", family=family, model=name) for name in sorted(names)]
    return found


def choose_smallest() -> None:
    """Count the parameters of all models of timm on the meta device (minutes) and write `smallest.json`."""
    smallest = {}
    for family in timm.list_modules():
        names = [n for n in timm.list_models(module=family) if not n.startswith("test_")]
        counted = {name: sum(p.numel() for p in _on_meta("timm", name).parameters()) for name in names}
        if counted:
            smallest[family] = min(counted, key=lambda name: (counted[name], name))
    CHOICE.write_text(json.dumps(smallest, indent=1) + "\n")


def build(case: Case) -> tuple[nn.Module, torch.Tensor]:
    """The network in eval mode with random weights, and a batch of two random images.

    The images are as small as the network allows, down to 64 pixels. A network made for one size is built for smaller
    images, down to 112 pixels, where its constructor takes the size.
    """
    meta = _on_meta(case.suite, case.model)
    size, options = next(_runnable(case, meta))
    net = _create(case.suite, case.model, **options).eval()
    return net, torch.randn(2, *size)


def _runnable(case: Case, meta: nn.Module) -> Iterator[tuple[tuple[int, int, int], dict[str, int]]]:
    channels, *default = _default_size(case, meta)
    for side in (s for s in _SIZES if s < min(default)):
        if _runs(meta, (channels, side, side)):
            yield (channels, side, side), {}
    keyword = "img_size" if case.suite == "timm" else "image_size"
    for side in _BUILT_SIZES:
        if side < min(default):
            try:
                smaller = _on_meta(case.suite, case.model, **{keyword: side})
            except (TypeError, ValueError, AssertionError, RuntimeError):
                continue
            if _runs(smaller, (channels, side, side)):
                yield (channels, side, side), {keyword: side}
    yield (channels, default[0], default[1]), {}


def _runs(meta: nn.Module, size: tuple[int, ...]) -> bool:
    try:
        with torch.device("meta"), torch.no_grad():
            meta.eval()(torch.empty(2, *size))
    except Exception:  # noqa: BLE001 - networks refuse sizes in their own ways
        return False
    return True


def _default_size(case: Case, meta: nn.Module) -> tuple[int, int, int]:
    if case.suite == "timm":
        channels, height, width = meta.default_cfg["input_size"]  # type: ignore[index]
        return channels, height, width
    return 3, 224, 224


def _on_meta(suite: str, name: str, **options: Any) -> nn.Module:
    try:
        with torch.device("meta"):
            return _create(suite, name, **options)
    except NotImplementedError:  # a constructor that reads values, as torchvision's RegNet does
        return _create(suite, name, **options).to("meta")


def _create(suite: str, name: str, **options: Any) -> nn.Module:
    if suite == "timm":
        made: nn.Module = timm.create_model(name, pretrained=False, num_classes=_CLASSES, **options)
        return made
    options |= {"weights": None, "num_classes": _CLASSES}
    if name in torchvision.models.list_models(module=torchvision.models.segmentation):
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False  # their own initialisation draws millions of numbers with SciPy
    network: nn.Module = torchvision.models.get_model(name, **options)
    return network
