"""One grid of λ on several recipes: the share of channels that tasks keep private after a short search.

    python -m benchmarks.evidence.lambda_grid recipes/scenes_resnet18.yaml recipes/digits_resnet20.yaml

Every recipe's network starts with its first weights, and weights and gates train together, as in the README's example.
Prints the table of docs/learning_gates.md.
"""

import argparse
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import torch

from gate2static import gate_shares, optimisers
from gate2static.data import describe_data, load_data
from gate2static.recipe import Recipe, load_recipe
from gate2static.tasks import build_tasks
from gate2static.train.deciding import shown_batches
from gate2static.train.networks import build_untrained

GRID = (0.01, 0.03, 0.1, 0.3, 1.0)
_BATCH = 8
_RATE = 2e-3


def private_shares(recipe: Recipe, steps: int) -> Iterator[float]:
    """Yields the mean private share of channels over tasks, per λ of the grid."""
    torch.manual_seed(recipe.seed)
    gated = build_untrained(recipe).train()
    start = {name: value.clone() for name, value in gated.state_dict().items()}
    tasks = build_tasks(recipe.tasks, describe_data(recipe.data))
    splits = load_data(recipe.data, [task.name for task in tasks])
    for sparsity_weight in GRID:
        gated.load_state_dict(start)
        both = optimisers(gated, lr=_RATE, steps=steps, sparsity_weight=sparsity_weight)
        batches, losses = shown_batches(recipe, tasks, splits, _BATCH, device=None)
        for images, targets in islice(cycle(batches), steps):
            both.zero_grad()
            torch.stack(list(losses(gated(images), targets).values())).sum().backward()
            both.step()
        shares = gate_shares(gated)
        yield sum(shares.values()) / len(shares)


def main() -> None:
    """Prints a row per recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", type=Path, nargs="+")
    parser.add_argument("--set", nargs="*", default=[], help="changes to every recipe, as for `gate2static train`")
    parser.add_argument("--steps", type=int, default=50, help="steps of the search")
    options = parser.parse_args()
    print("| recipe |", *(f"{sparsity_weight:g} |" for sparsity_weight in GRID))
    print("|---|" + "---:|" * len(GRID))
    for path in options.recipes:
        changes = ["gating.gate_init=0.2", "gating.gate_init_std=0", "gating.decisions=learned", *options.set]
        shares = private_shares(load_recipe(path, changes), options.steps)
        print(f"| `{path.stem}` |", *(f"{100 * share:.0f} |" for share in shares), flush=True)


if __name__ == "__main__":
    main()
