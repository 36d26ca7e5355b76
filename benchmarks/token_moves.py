"""What putting a stream of tokens together costs ONNX Runtime: copied channel by channel, or by matrix products.

Run:  python benchmarks/token_moves.py
Tokens as a ViT-small has them, (1, 197, 384), of which a task has a tenth of the channels to itself. `gather` reads the
channels of both side by side, `product` adds the shared ones times a mask and the task's own times a matrix of 0 and 1;
`layer` is one square layer, for comparison. Milliseconds of one thread, the median of runs in turns.
"""

import time
from collections.abc import Callable
from statistics import median

import numpy as np
import onnxruntime
import torch
from torch import Tensor

TOKENS, CHANNELS, OWN = 197, 384, 38
REPEATED, TURNS = 20, 30


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
    runs = {name: prepared(way, inputs) for name, way in ways.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(TURNS):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - start) / REPEATED * 1e3)
    for name, found in times.items():
        print(f"{name:8s} {median(found):.3f} ms")


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


def prepared(way: Callable[[Tensor, Tensor], Tensor], inputs: tuple[Tensor, Tensor]) -> Callable[[], object]:
    """One thread's run of an exported way."""
    program = torch.onnx.export(_Repeated(way).eval(), inputs, dynamo=True, optimize=False, verbose=False)
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_inputs()]
    feed = {name: np.asarray(value) for name, value in zip(names, inputs, strict=False)}
    session.run(None, feed)
    return lambda: session.run(None, feed)


if __name__ == "__main__":
    main()
