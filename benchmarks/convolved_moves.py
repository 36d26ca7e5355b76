"""What moving channels by convolutions is worth on ONNX Runtime, where other work makes timings unsteady.

Run:  python -m benchmarks.convolved_moves     (from the repository's root; 10 minutes)

Networks take turns run by run, in one process on one thread, and a figure is the median over the turns of the ratio to
the shared network's run of the same turn: slow spells longer than a turn meet all of them.
"""

import tempfile
import time
from itertools import product
from pathlib import Path

import numpy as np
import onnxruntime

import gate2static as g2s
from benchmarks.latency_fidelity.cases import LOWERINGS, Gates, draw, gated_network

CASES = (
    *product(["resnet18"], [16], [0.1, 0.25, 0.5, 0.75]),
    *product(["resnet18"], [1], [0.1, 0.25, 0.5, 0.75]),
    ("resnet50", 16, 0.25),
)
TURNS = 25


def main() -> None:
    """Print a row for each network."""
    print("| network | channels a gate | p | MACs | separate | plainest | ours | efficiency: plainest | ours |")
    print("|---|---|---|---|---|---|---|---|---|")
    for network, group_size, share in CASES:
        gates = Gates(share=share, group_size=group_size, mixing="softmax")
        gated = gated_network(network, gates)
        made = {}
        for name, specific in (("shared", False), ("separate", True)):
            g2s.set_gates(gated, specific)
            made[name] = g2s.prune(gated)
        draw(gated, gates)
        made |= {"plain": g2s.prune(gated, target=LOWERINGS["plain"]), "ours": g2s.prune(gated, target="ort-cpu")}
        _, separate, plain, ours = times_shared(list(made.values()))
        macs = made["ours"].manifest.macs
        more = macs.static / macs.shared
        print(
            f"| {network} | {group_size} | {share:g} | {more:.2f}× | {separate:.2f}× | {plain:.2f}× | {ours:.2f}× | "
            f"{more / plain:.2f} | **{more / ours:.2f}** |",
            flush=True,
        )


def times_shared(statics: list[g2s.StaticModel]) -> list[float]:
    """Latency of each network over that of the first."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    feed = {statics[0].manifest.inputs[0].name: statics[0].example_inputs(1)[0].numpy()}
    with tempfile.TemporaryDirectory() as folder:
        sessions = []
        for number, static in enumerate(statics):
            path = Path(folder) / f"{number}.onnx"
            g2s.export_onnx(static, path)
            sessions.append(onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]))
    taken = np.zeros((TURNS + 2, len(sessions)))
    for turn in range(len(taken)):
        for number, session in enumerate(sessions):
            start = time.perf_counter()
            session.run(None, feed)
            taken[turn, number] = time.perf_counter() - start
    ratios: list[float] = np.median(taken[2:] / taken[2:, :1], axis=0).tolist()
    return ratios


if __name__ == "__main__":
    main()
