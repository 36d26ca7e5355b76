"""What putting a stream of tokens together costs ONNX Runtime: copied channel by channel, or by matrix products.

Run:  python benchmarks/token_moves.py
Tokens as a ViT-small has them, (1, 197, 384), of which a task has a tenth of the channels to itself. `gather` reads the
channels of both side by side, `product` adds the shared ones times a mask and the task's own times a matrix of 0 and 1;
`layer` is one square layer, for comparison. Milliseconds of one thread, the median of runs in rounds.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from gate2static import benchmark

TOKENS, CHANNELS, OWN = 197, 384, 38
REPEATED = 20


def main() -> None:
    """Print a line for each way."""
    generator = torch.Generator().manual_seed(0)
    own = torch.randperm(CHANNELS, generator=generator)[:OWN]
    picks, mask = torch.arange(CHANNELS), torch.ones(CHANNELS)
    picks[own], mask[own] = CHANNELS + torch.arange(OWN), 0
    scattered = torch.zeros(OWN, CHANNELS)
    scattered[torch.arange(OWN), own] = 1
    weight = torch.randn(CHANNELS, CHANNELS, generator=generator)
    ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "gather": lambda shared, task: torch.cat([shared, task], -1).index_select(-1, picks),
        "product": lambda shared, task: shared * mask + task @ scattered,
        "layer": lambda shared, task: shared @ weight,
    }
    inputs = (torch.randn(1, TOKENS, CHANNELS), torch.randn(1, TOKENS, OWN))
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{name}.onnx" for name in ways}
        for name, way in ways.items():
            repeated = _Repeated(way).eval()
            torch.onnx.export(repeated, inputs, files[name], optimize=False, verbose=False, external_data=False)
        report = benchmark(files, backends=["onnxruntime"], threads=1)
    for target in report.targets:
        print(f"{target.name:8s} {target.median_ms / REPEATED:.3f} ms")


class _Repeated(torch.nn.Module):
    """The same way many times, on other inputs each time, so that none is computed once for all."""

    def __init__(self, way: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.way = way

    def forward(self, shared: Tensor, task: Tensor) -> tuple[Tensor, ...]:
        """(1, tokens, channels) and (1, tokens, own channels) -> a result each time."""
        results = []
        for _ in range(REPEATED):
            results.append(self.way(shared, task))
            shared = results[-1]
        return tuple(results)


if __name__ == "__main__":
    main()
