"""Plant one wrong number in static networks, and see whether `verify` notices.

Run:  python -m benchmarks.robustness.planted_faults
Allowed: every fault is noticed, and no network without a fault is refused. The networks are random, with inputs of
floating-point numbers, of bytes and of ids. A fault is one number of one tensor, one index of a gather, or one number
in an argument of an operator, anywhere in the network. The table also says how many faults the outputs alone show, and
how many the comparison of an ONNX file shows: neither sees a number that no drawn input reaches.
"""

import argparse
import itertools
import json
import random
import sys
import tempfile
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from gate2static.errors import Gate2StaticError
from gate2static.export import export_onnx, onnx_errors
from gate2static.export.equality import onnx_tolerances
from gate2static.gates import GatedModel, gate, set_gates
from gate2static.prune import prune
from gate2static.static import StaticModel
from gate2static.verify import verify
from tests.prune.random.networks import HEADS, INPUTS, NAMES, RandomNet

_IDS = 50
"""The rows of the table that ids pick from."""


class _FromBytes(nn.Module):
    """A network of bytes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Any:
        return self.network(x.float() / 64 - 2)


class _FromIds(nn.Module):
    """A network of ids, each of which is a row of a table."""

    def __init__(self, network: nn.Module, width: int, *, channels_first: bool) -> None:
        super().__init__()
        self.network = network
        self.table = nn.Embedding(_IDS, width)
        self.channels_first = channels_first

    def forward(self, x: Tensor) -> Any:
        rows = self.table(x)
        # Contiguous, because torch 2.14 aborts in the backward pass of a group norm on some other strides.
        return self.network(rows.movedim(-1, 1).contiguous() if self.channels_first else rows)


def _inputs(kind: str, dtype: torch.dtype) -> Tensor:
    shape = (2, *INPUTS[kind])
    if dtype is torch.uint8:
        return torch.randint(0, 256, shape, dtype=torch.uint8)
    if dtype is torch.int64:
        # One id per position, without the channels.
        positions = shape[2:] if kind == "maps" else shape[1:-1]
        return torch.randint(0, _IDS, (2, *positions))
    return torch.randn(shape)


def make(seed: int, dtype: torch.dtype) -> GatedModel:
    """Makes a gated network with random steps, weights and gates."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    kind = rng.choice(sorted(NAMES))
    program = tuple((rng.choice(NAMES[kind]), rng.randrange(10_000)) for _ in range(rng.randint(1, 6)))
    network: nn.Module = RandomNet(kind, program, 1, 1).eval()
    if dtype is torch.uint8:
        network = _FromBytes(network)
    elif dtype is torch.int64:
        width = INPUTS[kind][0] if kind == "maps" else INPUTS[kind][-1]
        network = _FromIds(network, width, channels_first=kind == "maps")
    x = _inputs(kind, dtype)
    with torch.no_grad():
        features = network.eval()(x.clone())
    heads = {task: HEADS[rng.choice(sorted(HEADS))](features) for task in ("a", "b")}
    gated = gate(network, tasks=["a", "b"], example_inputs=(x,), heads=heads).eval()
    with torch.no_grad():
        for parameter in gated.branches.values():
            for p in parameter.parameters():
                p.add_(torch.randn_like(p) * 0.1)
    share = rng.choice([0.2, 0.5, 0.8])
    set_gates(gated, {unit: torch.rand_like(gate.alpha) < share for unit, gate in gated.gates.items()})
    return gated


def plant(static: StaticModel, rng: random.Random) -> str:
    """Makes one number of a static network wrong, in place, and returns which.

    Tensors and operators with numbers are equally likely, and so are the numbers of one.
    """
    tensors = [*static.network.named_parameters(), *static.network.named_buffers()]
    tensors = [(name, tensor) for name, tensor in tensors if tensor.numel() and tensor.dtype is not torch.bool]
    calls = [node for node in static.network.graph.nodes if node.op == "call_function" and _integers(node)]
    chosen = rng.randrange(len(tensors) + len(calls))
    if chosen < len(tensors):
        return _change_number(*tensors[chosen], rng)
    node = calls[chosen - len(tensors)]
    leaves, structure = pytree.tree_flatten(node.args)
    position = rng.choice(_integers(node))
    leaves[position] += 1
    node.args = pytree.tree_unflatten(leaves, structure)
    static.network.recompile()
    return f"{node.name}: argument {position} is {leaves[position]} and not {leaves[position] - 1}"


def _change_number(name: str, tensor: Tensor, rng: random.Random) -> str:
    position = rng.randrange(tensor.numel())
    numbers = tensor.detach().view(-1)
    before = numbers[position].item()
    if tensor.is_floating_point():
        # A thousandth of the largest number: large enough to matter, small enough to be overlooked.
        numbers[position] += max(float(numbers.abs().max()), 1e-3) * 1e-3
    else:
        # Another index that exists.
        numbers[position] = 0 if before else 1
    return f"{name}[{position}] is {numbers[position].item():.6g} and not {before:.6g}"


def _integers(node: fx.Node) -> list[int]:
    """Returns the positions of integers among the leaves of a node's arguments."""
    return [i for i, leaf in enumerate(pytree.tree_leaves(node.args)) if type(leaf) is int]


@dataclass
class Counts:
    """How many networks there were, and what was noticed of their faults.

    Attributes:
        networks: The networks, each of which got one fault.
        refused_without_fault: The networks that `verify` refused before they got one.
        noticed: The faults because of which `verify` fails.
        noticed_by_outputs: The faults that the outputs show.
        noticed_by_onnx: The faults that the comparison with the ONNX file of the right network shows.
        missed: The faults that `verify` overlooked.
    """

    networks: int = 0
    refused_without_fault: int = 0
    noticed: int = 0
    noticed_by_outputs: int = 0
    noticed_by_onnx: int = 0
    missed: list[str] = field(default_factory=list)


def count(dtype: torch.dtype, networks: int, *, onnx: bool = True) -> Counts:
    """Plants one fault in each of some networks.

    Args:
        dtype: The type of the networks' inputs.
        networks: The number of networks.
        onnx: Whether an ONNX file of each network is compared too.
    """
    counts = Counts()
    for seed in itertools.count():
        if counts.networks == networks:
            return counts
        try:
            gated = make(seed, dtype)
            static = prune(gated)
        except Gate2StaticError:
            continue  # a network that gating or pruning refuses has no static form
        counts.networks += 1
        counts.refused_without_fault += not verify(gated, static).passed
        file = _onnx_file(static) if onnx else None
        fault = plant(static, random.Random(seed))
        report = verify(gated, static)
        counts.noticed += not report.passed
        counts.noticed_by_outputs += not all(check.passed for check in report.checks)
        counts.noticed_by_onnx += file is not None and _differs(static, file)
        if report.passed:
            counts.missed.append(f"seed {seed}: {fault}")
    raise AssertionError("the seeds have no end")


def _onnx_file(static: StaticModel) -> bytes | None:
    """Returns an ONNX file of a network; None where the exporter has no form for it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        try:
            export_onnx(static, path)
        except Gate2StaticError:
            return None
        return path.read_bytes()


def _differs(static: StaticModel, file: bytes) -> bool:
    """Returns whether a network differs from an ONNX file, or does not even run."""
    try:
        tolerances = onnx_tolerances(static)
        return any(not error <= tolerances[task] for task, error in onnx_errors(static, file).items())
    except (Gate2StaticError, RuntimeError, IndexError, TypeError, ValueError):
        return True


def main() -> None:
    """Prints a table, and a line of JSON; ends with status 1 where a fault was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, default=50, help="the number of networks per type of input")
    parser.add_argument("--no-onnx", action="store_true", help="leave out the ONNX files, which take most of the time")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    console = Console()
    table = Table("inputs", "networks", "refused without a fault", "noticed by verify", "by outputs", "by an ONNX file")
    results = {}
    for dtype in (torch.float32, torch.uint8, torch.int64):
        counts = count(dtype, arguments.networks, onnx=not arguments.no_onnx)
        name = str(dtype).removeprefix("torch.")
        results[name] = asdict(counts)
        of_onnx = "" if arguments.no_onnx else str(counts.noticed_by_onnx)
        numbers = (counts.networks, counts.refused_without_fault, counts.noticed, counts.noticed_by_outputs)
        table.add_row(name, *map(str, numbers), of_onnx)
    console.print(table)
    print(json.dumps(results))  # the line that scripts read
    all_noticed = all(r["noticed"] == r["networks"] and not r["refused_without_fault"] for r in results.values())
    sys.exit(0 if all_noticed else 1)


if __name__ == "__main__":
    main()
