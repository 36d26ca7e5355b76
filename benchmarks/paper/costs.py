"""MACs and parameters of the paper's networks beside its tables 1 to 5, 7 and 8; writes docs/paper_costs.md.

Run:  python -m benchmarks.paper.costs [--output FILE]
Takes seconds: the networks have no weights (torch's meta device), only shapes.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import DOCS
from benchmarks.paper.networks import GIGA, MEGA, NYUD, ROWS, Row

DPT_TOKENS = {"ViT-base": 768, "ViT-small": 384}


@dataclass(frozen=True)
class Cost:
    """MACs, those of them that attention's two products take, and parameters."""

    macs: int
    attention_macs: int
    parameters: int

    def flops(self, row: Row) -> float:
        """FLOPs as the row's table counts them."""
        return (self.macs - self.attention_macs) * row.per_mac + self.attention_macs * row.per_attention_mac


def count(network: nn.Module, *inputs: Any) -> tuple[Cost, Any]:
    """Counts a network without weights; also returns its output."""
    with FlopCounterMode(display=False) as counter:
        output = network.eval()(*inputs)
    by_operator = counter.get_flop_counts()["Global"]
    attention = sum(flops for operator, flops in by_operator.items() if "bmm" in str(operator))
    parameters = sum(p.numel() for p in network.parameters())
    return Cost(counter.get_total_flops() // 2, attention // 2, parameters), output


def measure(row: Row) -> tuple[Cost, list[Cost]]:
    """Counts a row's backbone and the decoder of every task."""
    with torch.device("meta"):
        encoder, features = count(row.backbone(), torch.zeros(1, 3, *row.size))
        shapes = [f.shape for f in features]
        return encoder, [count(row.head(shapes, c, row.size), features)[0] for c in row.outputs]


def table(rows: Sequence[Sequence[str]]) -> str:
    """A markdown table whose first row is the head."""
    lines = ["| " + " | ".join(cells) + " |" for cells in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def cost_table(measured: Sequence[tuple[Row, Cost, list[Cost]]]) -> str:
    """STL and MTL of every network: MACs, FLOPs as its table counts them, and parameters."""
    lines = [["network", "table", "MACs", "FLOPs", "the paper's", "difference", "GatedMTL there", "parameters"]]
    for row, encoder, heads in measured:
        networks = (len(heads), 1)
        letter = "G" if row.unit == GIGA else "M"
        macs = [(n * encoder.macs + sum(h.macs for h in heads)) / row.unit for n in networks]
        flops = [(n * encoder.flops(row) + sum(h.flops(row) for h in heads)) / row.unit for n in networks]
        parameters = [(n * encoder.parameters + sum(h.parameters for h in heads)) / MEGA for n in networks]
        gated = [f"{g:g} ({100 * (g - row.paper[1]) / (row.paper[0] - row.paper[1]):.0f} %)" for g in row.gated]
        said = f" (paper: {pair(row.paper_parameters, 'M')})" if row.paper_parameters else ""
        lines.append(
            [
                row.name,
                row.tables,
                pair(macs, letter),
                pair(flops, letter),
                pair(row.paper, letter),
                " / ".join(f"{100 * (f / p - 1):+.1f} %" for f, p in zip(flops, row.paper, strict=True)),
                ", ".join(gated),
                pair(parameters, "M") + said,
            ]
        )
    return table(lines)


def pair(values: Sequence[float], letter: str) -> str:
    """STL and MTL."""
    return " / ".join(f"{v:.4g}" for v in values) + f" {letter}"


def split_table(measured: Sequence[tuple[Row, Cost, list[Cost]]]) -> str:
    """What the paper's two figures imply for one encoder and for all decoders together, beside ours."""
    lines = [["network", "encoder", "implied", "all decoders", "implied"]]
    for row, encoder, heads in measured:
        separate, shared = row.paper
        others = len(heads) - 1
        implied = (separate - shared) / others
        # Figures are rounded to their last digit, which moves both at once in opposite directions.
        digit = 10.0 ** -max(len(f"{p:g}".partition(".")[2]) for p in row.paper) / 2
        slack = 2 * digit / others
        lines.append(
            [
                row.name,
                f"{encoder.flops(row) / row.unit:.4g}",
                f"{implied:.4g} ± {slack:.2g}",
                f"{sum(h.flops(row) for h in heads) / row.unit:.4g}",
                f"{round(shared - implied, 2):g} ± {slack + digit:.2g}",
            ]
        )
    return table(lines)


def dpt_parts(
    tokens: int, widths: Sequence[int], width: int = 64, grid: tuple[int, int] = (30, 40)
) -> dict[str, float]:
    """GFLOPs of one DPT decoder's parts at 480×640, two a MAC, from the layers' shapes alone."""
    n = math.prod(grid)
    pixels = (16 * n, 4 * n, n, n // 4)
    convolution = 9 * width**2
    parts = {
        "reassemble: 1×1": tokens * sum(widths) * n,
        "reassemble: resampling": widths[0] ** 2 * pixels[0]
        + widths[1] ** 2 * pixels[1]
        + 9 * widths[3] ** 2 * pixels[3],
        "reassemble: 3×3 to 64": sum(9 * w * width * p for w, p in zip(widths, pixels, strict=True)),
        "fusion": sum((4 if p < 3 else 2) * convolution * pixels[p] + 4 * width**2 * pixels[p] for p in range(4)),
        "head, mean of three": convolution * 64 * n + sum(NYUD) / 3 * width * 64 * n,
    }
    return {name: 2 * macs / GIGA for name, macs in parts.items()}


def dpt_table() -> str:
    """The DPT decoder part by part, for DPT's widths and for others."""
    variants = {
        "ViT-small, widths 48 96 192 384": dpt_parts(384, (48, 96, 192, 384)),
        "ViT-base, widths 96 192 384 768": dpt_parts(768, (96, 192, 384, 768)),
        "ViT-base, widths 64 128 256 512": dpt_parts(768, (64, 128, 256, 512)),
    }
    names = list(next(iter(variants.values())))
    lines = [["one decoder, GFLOPs", *names, "sum"]]
    for variant, parts in variants.items():
        lines.append([variant, *(f"{parts[name]:.2f}" for name in names), f"{sum(parts.values()):.2f}"])
    return table(lines)


PAGE = """# What the paper's networks cost, beside its tables

This page says whether our networks are those of the paper, by their costs. They agree within 2 %, with two exceptions
that are explained below as far as we can: ResNet-20 on CelebA, and the decoders of DPT ViT-base.

Two figures stand for STL / MTL: T separate networks, and one encoder with T decoders. All decoders are included. The
paper's tables count FLOPs in different ways, and so do we in the column "FLOPs":

| tables | FLOPs per multiply-accumulate (MAC) |
|---|---|
| 2, 5, 7 (NYUD) | 2 |
| 1, 7 (CelebA), 8 | 1 |
| 3, 4 (DPT), at 480×640, which the tables do not name | 2, but 1 in attention's two products, as the encoders imply |

{costs}

"GatedMTL there" has the paper's GatedMTL rows, and where they lie between its MTL (0 %) and its STL (100 %). A gated
network costs what its gates pick: exactly our MTL figure when all are shared, our STL figure when all are specific.

## Where a difference lies

STL and MTL differ by T - 1 encoders. So two figures of the paper give one encoder and all decoders. The table has them
in FLOPs, in the unit of the first table, with what the paper's rounding leaves open:

{split}

- **ResNet-20 (CelebA)** is not explained. The paper's figures are {celeba} times the MACs of the CIFAR
  ResNet-20 at 32×32, at widths 1, 1/2 and 1/4. Neither two FLOPs per MAC nor a stem of 7×7, which section A.1 could be
  read to mean, gives them. STL is three times MTL, here as there: the heads cost nothing.
- **DPT ViT-base, MTL**: the encoder agrees; the decoders do not. The paper does not say how wide the four reassembled
  maps are. We take those of Ranftl et al. (96, 192, 384, 768), halved for ViT-small, where they agree. With powers of
  two from the decoder's 64 on, a ViT-base decoder would cost what the paper's figures imply, {implied:.1f} GFLOPs:

{dpt}

- **DPT's readout**: a linear layer from the class token and each token (DPT's "project") at four depths would add
  {readout_base:.1f} GFLOPs to each ViT-base decoder and {readout_small:.1f} to each ViT-small one, more than the
  figures leave room for. So the class token is not read here ("ignore").
- **ResNet-50, width 1/4**: the stem is narrowed with the rest. With a stem of 64 the encoder would cost {stem:.1f}
  GFLOPs, more than the table leaves room for.

Made by `python -m benchmarks.paper.costs`.
"""


def wide_stem(row: Row, encoder: Cost, width: float) -> float:
    """GFLOPs of a narrow ResNet-50 whose stem keeps 64 channels."""
    rows, columns = row.size
    missing = 64 * (1 - width)
    stem = 3 * 49 * missing * rows * columns / 4
    first_block = missing * (64 * width + 256 * width) * rows * columns / 16
    return (encoder.macs + stem + first_block) * 2 / GIGA


def page() -> str:
    """The whole page."""
    measured = [(row, *measure(row)) for row in ROWS]
    by_name = {row.name: (row, encoder, heads) for row, encoder, heads in measured}
    celeba = [
        row.paper[1] * MEGA / (encoder.macs + sum(h.macs for h in heads))
        for row, encoder, heads in measured
        if row.unit == MEGA
    ]
    quarter, encoder, _ = by_name["ResNet-50 dilated + ASPP, width 0.25"]
    base = by_name["DPT ViT-base"][0].paper
    readout = {name: 4 * 2 * 2 * tokens**2 * 1200 / GIGA for name, tokens in DPT_TOKENS.items()}
    return PAGE.format(
        costs=cost_table(measured),
        split=split_table(measured),
        celeba=", ".join(f"{c:.2f}" for c in celeba),
        dpt=dpt_table(),
        implied=(base[1] - (base[0] - base[1]) / 2) / 3,
        readout_base=readout["ViT-base"],
        readout_small=readout["ViT-small"],
        stem=wide_stem(quarter, encoder, 0.25),
    )


def main() -> None:
    """Print the page and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=DOCS / "paper_costs.md", help="where the page goes")
    arguments = parser.parse_args()
    text = page()
    print(text)
    arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
