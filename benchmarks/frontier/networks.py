"""The networks of a frontier, as recipes: what one would try, each with the same number of epochs per task."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from gate2static.models import build_model
from gate2static.recipe import Recipe, parse

WIDTHS = (0.35, 0.5, 0.7, 1.4)
"""Factors of the backbone's width; the widest is trained as one shared network only."""
_SEARCH = 0.3
"""The share of the training in which gates are learned, where they are frozen behind it."""
_EARLY = 0.6
"""The share of the epochs that networks get which are thinned, or which the paper's gated network starts from."""
_FIRST_COST = 0.02
"""A child of the backbone with less than this share of its parameters, such as a stem, is no stage to branch behind."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A network of the frontier.

    Attributes:
        name: What it is called in tables.
        family: How it was made: one colour in the picture.
        folder: The run that it is part of, below the seed's folder.
        row: Its row in that run.
        recipe: The recipe of that row.
    """

    name: str
    family: str
    folder: str
    row: str
    recipe: Recipe


def candidates(recipe: Recipe, seed: int, budgets: Sequence[float]) -> list[Candidate]:
    """Returns all networks of one seed that are trained by recipes, in the order in which they are trained.

    Args:
        recipe: The recipe; its shared network's settings are used for every training.
        seed: The seed of everything.
        budgets: MACs as shares of separate networks', for the networks that a budget shapes.
    """
    of_seed = base(recipe, seed)
    found = list(_baselines(of_seed))
    for name, family, changes in _gated(of_seed, budgets):
        found.append(
            Candidate(name=name, family=family, folder="main", row=f"gated-{name}", recipe=_changed(of_seed, changes))
        )
    for budget in budgets:
        changes = {
            "budget": {"macs": budget},
            "training.gated": {**_plain(recipe.training.gated), "epochs": late_epochs(of_seed)},
        }
        name = f"paper-{budget:g}"
        paper = _changed(early(of_seed), changes)
        found.append(Candidate(name=name, family="learned", folder="early", row=f"gated-{name}", recipe=paper))
    return found


def base(recipe: Recipe, seed: int) -> Recipe:
    """Returns the recipe of the baselines: separate networks are trained as the shared one is."""
    separate = {key: value for key, value in _plain(recipe.training.shared).items() if key != "balancing"}
    undecided = {"decisions": "learned", "private": {}, "prefix": False, "branch_epoch": None}
    gating = {**_plain(recipe.gating), **undecided}
    gated = {**_plain(recipe.training.gated), "freeze_at": None}
    return _changed(
        recipe,
        {"seed": seed, "budget": None, "gating": gating, "training.single": separate, "training.gated": gated},
    )


def early(base: Recipe) -> Recipe:
    """Returns the recipe of the networks that are trained for the first part of the epochs, and then changed."""
    epochs = base.training.shared.epochs - late_epochs(base)
    return _changed(base, {"training.single.epochs": epochs, "training.shared.epochs": epochs})


def late(base: Recipe) -> Recipe:
    """Returns the recipe of the rest of such a training."""
    return _changed(base, {"training.shared.epochs": late_epochs(base)})


def late_epochs(base: Recipe) -> int:
    """Returns the epochs that are left for a network that starts from trained ones."""
    return base.training.shared.epochs - round(_EARLY * base.training.shared.epochs)


def _baselines(base: Recipe) -> Iterator[Candidate]:
    yield Candidate(name="separate", family="separate", folder="main", row="separate", recipe=base)
    yield Candidate(name="shared", family="shared", folder="main", row="shared", recipe=base)
    width = base.model.options.get("width", 1.0)
    assert isinstance(width, int | float)
    for factor in WIDTHS:
        narrower = _changed(base, {"model.options": {**base.model.options, "width": width * factor}})
        if factor > 1:
            # Separate networks that are wider still cost too much to be of interest, and a run trains them first.
            narrower = _changed(narrower, {"training.single.epochs": 1})
        for row in ("separate", "shared") if factor < 1 else ("shared",):
            yield Candidate(name=f"{row} ×{factor:g}", family=row, folder=f"width-{factor:g}", row=row, recipe=narrower)


def _gated(base: Recipe, budgets: Sequence[float]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields the name, the family and the changes of every gated network that starts with the first weights."""
    epochs = base.training.shared.epochs
    fixed = {**_plain(base.training.shared), "epochs": epochs, "freeze_at": 0.0}
    start = {"training.gated": fixed, "gating.branch_init": "initial", "gating.shared_init": "initial"}
    distilled = {"training.distillation": 1.0}
    tasks = [task.name for task in base.tasks]
    modules = {**start, "gating.decisions": "modules"}
    yield "shared+distilled", "distilled", {**modules, "gating.private": {}, **distilled}
    stages = stages_of(base)
    for k in range(1, len(stages)):
        private = dict.fromkeys(tasks, stages[k:])
        branch = {**modules, "gating.private": private}
        yield f"branch-after-{stages[k - 1]}", "branch", branch
        yield f"branch-after-{stages[k - 1]}+distilled", "distilled", {**branch, **distilled}
    for task in tasks:
        yield f"own-encoder-{task}", "branch", {**modules, "gating.private": {task: [""]}}
    for budget in budgets:
        on_budget = {**start, "budget": {"macs": budget}}
        yield f"random-{budget:g}", "random", {**on_budget, "gating.decisions": "random"}
        salient = {**on_budget, "gating.decisions": "saliency"}
        yield f"saliency-{budget:g}", "saliency", salient
        yield f"saliency-prefix-{budget:g}", "saliency", {**salient, "gating.prefix": True}
        layers = {**salient, "gating.group_size": "layer"}
        yield f"saliency-layers-{budget:g}", "saliency", layers
        yield f"saliency-layers-{budget:g}+distilled", "distilled", {**layers, **distilled}
        learned = {
            **on_budget,
            "training.gated": {**fixed, "freeze_at": _SEARCH, "gates": {"kind": "scaled"}},
            "sparsity_weight": 0.3,
            "gating.gate_init": 0.0,
            "gating.gate_init_std": 0.05,
        }
        yield f"learned-{budget:g}", "learned", learned


def stages_of(recipe: Recipe) -> list[str]:
    """Returns the paths of the backbone's stages, in order; what comes before the second is always shared."""
    backbone, _, _ = build_model(recipe, initial_weights=False)
    return _stages(backbone, "")


def _stages(module: nn.Module, path: str) -> list[str]:
    sizes = {name: sum(p.numel() for p in child.parameters()) for name, child in module.named_children()}
    total = sum(sizes.values())
    large = [name for name, size in sizes.items() if size > _FIRST_COST * total]
    if len(large) == 1:
        return _stages(module.get_submodule(large[0]), f"{path}{large[0]}.")
    return [f"{path}{name}" for name in sizes if sizes[name]]


def _plain(settings: Any) -> dict[str, Any]:
    plain: dict[str, Any] = settings.model_dump(mode="json")
    return plain


def _changed(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    """Returns a recipe with some values changed, by dotted key."""
    plain = _plain(recipe)
    for key, value in changes.items():
        *path, last = key.split(".")
        inner = plain
        for part in path:
            inner = inner[part]
        inner[last] = value
    return parse(Recipe, plain, where="the frontier's recipe")
