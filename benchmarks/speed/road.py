"""Seconds of gate, prune and verify, stage by stage, for ten usual networks of torchvision.

    python -m benchmarks.speed.road                             # the ten, and the median of their sums
    python -m benchmarks.speed.road resnet18 --repeat 3         # one of them, the fastest of three rounds
    python -m benchmarks.speed.road --against DIR               # and the same with another checkout of gate2static

Each network is gated for two tasks at the smallest size it takes, as in `benchmarks.coverage`, with random weights and
30 % of its gates task-specific. A network runs in a process of its own, on one thread. Seconds are those of the
processor, which other work on the machine disturbs least; `--wall` shows those of the clock. With `--against`, both
checkouts take turns, network by network.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

NETWORKS = (
    "resnet18",
    "resnet50",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "regnet_y_400mf",
    "densenet121",
    "googlenet",
    "convnext_tiny",
    "vit_b_16",
    "swin_t",
)
STAGES = ("gate", "emit", "capture", "describe", "verify")
"""`prune` is plan and emit, then capture, then describe, which counts and serialises."""
SPECIFIC = 0.3
_ROOT = Path(__file__).parents[2]

Seconds = dict[str, float]


def main() -> None:
    """Prints a row per network and checkout, and the median of the sums."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--repeat", type=int, default=1, help="rounds; the fastest counts")
    parser.add_argument("--wall", action="store_true", help="seconds of the clock, not of the processor")
    parser.add_argument("--against", type=Path, metavar="DIR", help="another checkout, measured in turns with this one")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.networks[0], time.perf_counter if options.wall else time.process_time)))
        return
    checkouts = {"here": _ROOT} | ({"other": options.against} if options.against else {})
    sums: dict[str, list[float]] = {label: [] for label in checkouts}
    print(f"{'network':20} {'':6}" + "".join(f"{stage:>10}" for stage in (*STAGES, "sum")))
    for name in options.networks:
        rounds: dict[str, list[Seconds]] = {label: [] for label in checkouts}
        for _ in range(options.repeat):
            for label, checkout in checkouts.items():
                rounds[label].append(_in_process(name, checkout, wall=options.wall))
        for label, measured in rounds.items():
            best = min(measured, key=lambda seconds: sum(seconds.values()))
            sums[label].append(sum(best.values()))
            row = (*(best[stage] for stage in STAGES), sums[label][-1])
            print(f"{name:20} {label:6}" + "".join(f"{seconds:10.2f}" for seconds in row), flush=True)
    for label, totals in sums.items():
        print(f"{'median':20} {label:6}{'':{10 * len(STAGES)}}{median(totals):10.2f}")


def _in_process(name: str, checkout: Path, *, wall: bool) -> Seconds:
    """The stages' seconds in a fresh process that imports gate2static from a checkout."""
    environment = os.environ | {"PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, name, "--one", *(["--wall"] if wall else [])]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    seconds: Seconds = json.loads(done.stdout)
    return seconds


def measure(name: str, clock: Callable[[], float]) -> Seconds:
    """Stage -> seconds, of one network in this process."""
    import torch

    import gate2static as g2s
    from benchmarks.coverage.case import TASKS, PooledHead
    from benchmarks.coverage.models import Case, build
    from benchmarks.coverage.perturbing import perturb

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    backbone, images = build(Case(suite="torchvision", family="classification", model=name))
    with torch.no_grad():
        channels = backbone(images).shape[1]
    heads = {task: PooledHead(channels) for task in TASKS}
    seconds: Seconds = {}
    start = clock()
    gated = g2s.gate(backbone, tasks=TASKS, example_inputs=(images,), heads=heads).eval()
    seconds["gate"] = clock() - start
    perturb(gated, specific=SPECIFIC)
    start = clock()
    with _captures_timed(clock) as captures:
        static = g2s.prune(gated)
    pruned = clock()
    [(captures_from, captures_to)] = captures
    seconds["emit"] = captures_from - start
    seconds["capture"] = captures_to - captures_from
    seconds["describe"] = pruned - captures_to
    g2s.verify(gated, static)  # its cost, not its outcome: random norms magnify rounding in float32
    seconds["verify"] = clock() - pruned
    return seconds


@contextmanager
def _captures_timed(clock: Callable[[], float]) -> Iterator[list[tuple[float, float]]]:
    """Start and end of every call of `capture`, wherever gate2static imported it."""
    from gate2static.static.capturing.capture import capture

    spans: list[tuple[float, float]] = []

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = clock()
        network = capture(*args, **kwargs)
        spans.append((start, clock()))
        return network

    users = [m for n, m in sys.modules.items() if n.startswith("gate2static.") and vars(m).get("capture") is capture]
    for module in users:
        module.capture = timed  # type: ignore[attr-defined]
    try:
        yield spans
    finally:
        for module in users:
            module.capture = capture  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
