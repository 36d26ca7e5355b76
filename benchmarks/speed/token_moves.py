"""What putting a stream of tokens together costs ONNX Runtime, in three ways, over one square layer.

Run:  python -m benchmarks.speed.token_moves
Tokens as a ViT-small has them, (1, 197, 384), of which a task has some channels to itself. `numbers` picks from both
side by side along the last dimension, `rows` does the same where channels come before positions, `product` adds the
shared ones times a mask and the task's own times a matrix of 0 and 1. One thread, medians of runs in rounds.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from gate2static import benchmark

TOKENS, CHANNELS = 197, 384
SHARES = (0.1, 0.25, 0.5)
REPEATED = 20
Way = Callable[[Tensor, Tensor], Tensor]


def main() -> None:
    """Print a table."""
    weight = torch.randn(CHANNELS, CHANNELS)
    shared = torch.randn(1, TOKENS, CHANNELS)
    unread = torch.zeros(1, REPEATED)
    ways: dict[str, tuple[Way, Tensor, Tensor]] = {"layer": (lambda x, _: x @ weight, shared, unread)}
    for share in SHARES:
        for name, (way, *inputs) in _ways(share, shared).items():
            ways[f"{name}, {share:g}"] = (way, *inputs)
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{number}.onnx" for number, name in enumerate(ways)}
        for name, (way, *inputs) in ways.items():
            module = _Repeated(way).eval()
            torch.onnx.export(module, tuple(inputs), files[name], optimize=False, verbose=False, external_data=False)
        report = benchmark(files, backends=["onnxruntime"], threads=1)
    took = {target.name: target.median_ms for target in report.targets}
    print("own channels  " + "  ".join(f"{name:>8s}" for name in ("numbers", "rows", "product")))
    for share in SHARES:
        ratios = (took[f"{name}, {share:g}"] / took["layer"] for name in ("numbers", "rows", "product"))
        print(f"{share:12.0%}  " + "  ".join(f"{ratio:8.2f}" for ratio in ratios))


def _ways(share: float, shared: Tensor) -> dict[str, tuple[Way, Tensor, Tensor]]:
    """Each with the tensors that it reads."""
    own = torch.randperm(CHANNELS, generator=torch.Generator().manual_seed(0))[: round(share * CHANNELS)]
    picks, mask = torch.arange(CHANNELS), torch.ones(CHANNELS)
    picks[own], mask[own] = CHANNELS + torch.arange(len(own)), 0
    scattered = torch.zeros(len(own), CHANNELS)
    scattered[torch.arange(len(own)), own] = 1
    tasks = torch.randn(1, REPEATED, TOKENS, len(own))
    return {
        "numbers": (lambda x, y: torch.cat([x, y], 2).index_select(2, picks), shared, tasks),
        "rows": (lambda x, y: torch.cat([x, y], 1).index_select(1, picks), shared.mT, tasks.mT.contiguous()),
        "product": (lambda x, y: x * mask + y @ scattered, shared, tasks),
    }


class _Repeated(torch.nn.Module):
    """The same way many times, on other tensors each time, so that none is computed once for all."""

    def __init__(self, way: Way) -> None:
        super().__init__()
        self.way = way

    def forward(self, shared: Tensor, tasks: Tensor) -> tuple[Tensor, ...]:
        """What is put together, the task's own stacked -> a result each time."""
        results = []
        for task in tasks.unbind(1):
            results.append(self.way(shared, task))
            shared = results[-1]
        return tuple(results)


if __name__ == "__main__":
    main()
