"""Prune and verify a gated ResNet-50 with five tasks: seconds and peak memory.

Run:  python -m benchmarks.speed.prune_resnet50
Allowed: 60 s on 2 cores; peak memory at most 3 times the gated model's parameters plus activations.
"""

import argparse
import resource
import time

import torch
from torch import nn
from torchvision.models import resnet50

import gate2static as g2s

TASKS = ["a", "b", "c", "d", "e"]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--specific", type=float, default=0.25, help="share of task-specific gates")
    parser.add_argument("--size", type=int, default=224, help="height and width of the input")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    backbone = resnet50().eval()
    backbone.fc = nn.Identity()
    example = torch.randn(2, 3, arguments.size, arguments.size)
    gated = g2s.gate(
        backbone, tasks=TASKS, example_inputs=(example,), heads={task: nn.Linear(2048, 10) for task in TASKS}
    ).eval()
    decisions = g2s.gate_decisions(gated)
    g2s.set_gates(gated, {name: torch.rand(d.shape) < arguments.specific for name, d in decisions.items()})
    sizes: list[int] = []
    leaves = [m for m in gated.modules() if not any(m.children())]
    hooks = [m.register_forward_hook(lambda m, i, o: sizes.append(_bytes(o))) for m in leaves]
    with torch.no_grad():
        gated(example)
    for hook in hooks:
        hook.remove()
    parameters = sum(p.numel() * p.element_size() for p in gated.parameters())
    before = _peak_bytes()
    start = time.perf_counter()
    static = g2s.prune(gated)
    pruned = time.perf_counter()
    report = g2s.verify(gated, static)
    verified = time.perf_counter()
    report.require()
    gated_bytes, peak, mib = parameters + sum(sizes), _peak_bytes(), 2**20
    print(f"prune {pruned - start:.1f} s, verify {verified - pruned:.1f} s: {verified - start:.1f} s (allowed 60 s)")
    print(f"gated: parameters {parameters / mib:.0f} MiB, activations of a batch of 2 {sum(sizes) / mib:.0f} MiB")
    print(f"peak {peak / mib:.0f} MiB, {before / mib:.0f} MiB before pruning: {peak / gated_bytes:.2f} (allowed 3)")
    print(f"float64 errors: { {t: f'{d.max_rel:.1e}' for t, d in report.per_task.items()} }")
    print(f"MACs: {static.manifest.macs}")


def _bytes(output: object) -> int:
    values = output if isinstance(output, tuple) else (output,)
    return sum(v.numel() * v.element_size() for v in values if isinstance(v, torch.Tensor))


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
