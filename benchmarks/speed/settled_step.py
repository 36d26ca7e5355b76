"""What settled gates save: a gated training step against the T+1 bare backbones with heads, run one after another.

Run:  python -m benchmarks.speed.settled_step        (writes docs/settled_gates.md)
Both sides run in turn in one process, on one thread, and are measured in CPU seconds; figures are medians of the ratios
of the rounds. Settled are channels drawn at random, the same share in every layer: either all of a channel's gates
(`channel`), or each task's gate apart from the others' (`gate`). The others are undecided.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from string import Template

import torch
from torch import Tensor, nn
from torchvision import models

import gate2static as g2s
from benchmarks import DOCS
from gate2static.gates import GatedModel
from gate2static.gates.settled.lift import lift_settled
from gate2static.train.processes.memory import keep_freed_memory

PAGE = DOCS / "settled_gates.md"
MARK = "<!-- What follows is made by python -m benchmarks.speed.settled_step. -->\n"
"""What the page says before it is written by hand, and stays."""
SHARES = (0.0, 0.5, 0.8, 0.95)
_MARKED, _MARK = 0.8, 0.5  # the share of settled gates, and what a step may then cost


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--tasks", type=int, default=3, help="of the first table; the second has 5")
    parser.add_argument("--sizes", nargs="+", default=["4x224", "16x64"], help="batch x pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=PAGE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    steps, passes = [], []
    for size in arguments.sizes:
        for unit in ("channel", "gate"):
            ratios = [_step_ratio(arguments, arguments.tasks, size, share, unit) for share in SHARES]
            steps.append([f"{arguments.backbone}, T = {arguments.tasks}, {size}", unit, *(f"{r:.2f}" for r in ratios)])
            print(steps[-1], flush=True)
    for share in (*SHARES, 1.0):
        ratios = _pass_ratios(arguments, arguments.sizes[0], share)
        passes.append([f"{share:.0%}", *(f"{r:.2f}" for r in ratios)])
        print(passes[-1], flush=True)
    tables = _TEXT.substitute(
        steps=_table(["network", "settled by", *(f"{share:.0%}" for share in SHARES)], steps),
        passes=_table(["settled", "forward", "backward"], passes),
        rounds=arguments.rounds,
        verdict=_verdict([float(row[2 + SHARES.index(_MARKED)]) for row in steps], arguments.tasks),
    )
    said = arguments.out.read_text().split(MARK)[0] if arguments.out.is_file() else "# Settled gates\n\n"
    arguments.out.write_text(f"{said}{MARK}{tables}")


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def _verdict(found: list[float], tasks: int) -> str:
    left = 1 + (1 - _MARKED) * tasks
    return (
        f"The goal at {100 * _MARKED:.0f} % settled is {_MARK:.2f}; measured were {min(found):.2f} to "
        f"{max(found):.2f}. With T = {tasks} the\nmultiplications of {left:.1f} of {tasks + 1} streams remain, which "
        f"is {left / (tasks + 1):.2f}."
    )


def build(name: str, tasks: int, share: float, unit: str, x: Tensor) -> tuple[GatedModel, nn.Module]:
    """A gated backbone with linear heads, a share of whose gates is settled as shared; and the backbone."""
    torch.manual_seed(0)
    backbone = getattr(models, name)()
    backbone.fc = nn.Identity()
    features = backbone.eval()(x[:1]).shape[1]
    names = [f"t{i}" for i in range(tasks)]
    heads = {t: nn.Linear(features, 16) for t in names}
    gated = g2s.gate(backbone, tasks=names, example_inputs=(x[:1],), heads=heads).train()
    settled = {}
    for name_, gate in gated.gates.items():
        rows, channels = gate.alpha.shape
        order = torch.rand(1 if unit == "channel" else rows, channels).argsort(1).expand(rows, channels)
        mask = order < round(share * channels)
        with torch.no_grad():
            gate.alpha.copy_(torch.where(mask, -1.0, gate.alpha))
        settled[name_] = mask.numpy()
    gated.train_with(lift_settled(gated.program, gated.branches, gated.gates, settled))
    return gated, backbone.train()


def _images(size: str) -> Tensor:
    batch, pixels = map(int, size.split("x"))
    return torch.randn(batch, 3, pixels, pixels)


def _step_ratio(arguments: argparse.Namespace, tasks: int, size: str, share: float, unit: str) -> float:
    x = _images(size)
    gated, backbone = build(arguments.backbone, tasks, share, unit, x)
    bare = [nn.Sequential(copy.deepcopy(backbone), copy.deepcopy(gated.heads["t0"])) for _ in range(tasks)]
    bare.append(nn.Sequential(copy.deepcopy(backbone)))

    def gated_step() -> None:
        sum(y.square().mean() for y in gated(x).values()).backward()
        gated.zero_grad()

    def bare_steps() -> None:
        for network in bare:
            network(x).square().mean().backward()
            network.zero_grad()

    gated_step()
    bare_steps()
    return statistics.median(_seconds(gated_step) / _seconds(bare_steps) for _ in range(arguments.rounds))


def _pass_ratios(arguments: argparse.Namespace, size: str, share: float) -> list[float]:
    """Forward and backward against plain multi-task learning, T = 5, each task's gate settled by itself."""
    x = _images(size)
    gated, backbone = build(arguments.backbone, 5, share, "gate", x)
    heads = nn.ModuleList(copy.deepcopy(list(gated.heads.values())))

    def plain() -> list[Tensor]:
        features = backbone(x)
        return [head(features) for head in heads]

    rounds = []
    for _ in range(arguments.rounds + 1):
        times = []
        for network in (lambda: list(gated(x).values()), plain):
            outputs: list[Tensor] = []
            times.append(_seconds(lambda found=outputs, run=network: found.extend(run())))
            loss = sum(y.square().mean() for y in outputs)
            times.append(_seconds(loss.backward))
        rounds.append((times[0] / times[2], times[1] / times[3]))
        for network in (gated, backbone, heads):
            network.zero_grad()
    return [statistics.median(ratios) for ratios in zip(*rounds[1:], strict=True)]


def _seconds(step: Callable[[], None]) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


_TEXT = Template("""
## Savings

CPU seconds of a training step, relative to a step of the T+1 bare backbones. Both are forward and backward with
heads, and medians of $rounds rounds. The given share of gates is settled as shared: all gates of a channel together
(`channel`), or each task's gates on their own (`gate`, where fewer channels are shared by all tasks). No other gate is
settled.

$steps

$verdict

The next table has forward and backward pass relative to plain multi-task learning, for T = 5, with each task's gates
on their own. The paper has forward 1.27, 1.70, 1.98 and backward 1.08, 1.26, 1.42 for three gated networks (table 9);
it does not state how sparse they are.

$passes
""")

if __name__ == "__main__":
    main()
