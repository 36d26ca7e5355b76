"""The networks of the paper's tables 1 to 5, 7 and 8, and what the tables say that they cost."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from gate2static.models import ResNet20
from gate2static.models.aspp_head import AsppHead
from gate2static.models.backbones.dilated_resnet import DilatedResNet
from gate2static.models.backbones.hrnet import HRNet
from gate2static.models.backbones.vit import ViT
from gate2static.models.dpt_head import DptHead
from gate2static.models.heads import LinearHead
from gate2static.models.hrnet_head import HrnetHead

GIGA, MEGA = 1e9, 1e6
NYUD = (40, 1, 3)  # semantic classes, depth, normals
PASCAL = (21, 7, 1, 3, 1)  # semantic classes, human parts, saliency, normals, edges
# One output for each attribute (section A.1). "Clothes" is no attribute of CelebA (docs/paper.md, note 7): the recipe
# has four for it, so it gives (1, 1, 4), at 192 MACs more in 40.8 million.
CELEBA = (1, 1, 1)


@dataclass(frozen=True)
class Row:
    """A network of the paper: how it is built, what the paper says of it, and how the paper counts."""

    name: str
    tables: str
    size: tuple[int, int]
    outputs: tuple[int, ...]
    backbone: Callable[[], nn.Module]
    head: Callable[..., nn.Module]
    paper: tuple[float, float]
    """FLOPs of STL and MTL, in `unit`."""
    gated: tuple[float, ...]
    """FLOPs of the GatedMTL rows."""
    paper_parameters: tuple[float, float] | None = None
    unit: float = GIGA
    per_mac: int = 2
    per_attention_mac: int = 2


def nyud_resnet50(
    width: float, paper: tuple[float, float], gated: tuple[float, ...], parameters: tuple[float, float] | None = None
) -> Row:
    """A ResNet-50 of tables 2 and 7."""
    return Row(
        name=f"ResNet-50 dilated + ASPP, width {width:g}",
        tables="2, 7" if width == 1 else "7",
        size=(480, 640),
        outputs=NYUD,
        backbone=lambda: DilatedResNet(50, 3, width),
        head=AsppHead,
        paper=paper,
        gated=gated,
        paper_parameters=parameters,
    )


def nyud_dpt(size: str, table: str, paper: tuple[float, float], gated: tuple[float, ...]) -> Row:
    """A DPT of table 3 or 4."""
    return Row(
        name=f"DPT ViT-{size}",
        tables=table,
        size=(480, 640),
        outputs=NYUD,
        backbone=lambda: ViT(f"vit_{size}_patch16_384", (3, 480, 640)),
        head=DptHead,
        paper=paper,
        gated=gated,
        per_attention_mac=1,
    )


def celeba_resnet20(width: float, paper: tuple[float, float], gated: tuple[float, ...]) -> Row:
    """A ResNet-20 of tables 7 and 8."""
    return Row(
        name=f"ResNet-20, width {width:g}",
        tables="7, 8",
        size=(32, 32),
        outputs=CELEBA,
        backbone=lambda: ResNet20(3, width),
        head=lambda shapes, outputs, size: LinearHead(shapes, outputs),
        paper=paper,
        gated=gated,
        unit=MEGA,
        per_mac=1,
    )


ROWS = (
    Row(
        name="HRNet-18",
        tables="1",
        size=(480, 640),
        outputs=NYUD,
        backbone=lambda: HRNet((3, 480, 640)),
        head=HrnetHead,
        paper=(65.1, 24.5),
        gated=(43.2, 38.3, 36.0, 33.1, 29.2),
        paper_parameters=(28.9, 9.8),
        per_mac=1,
    ),
    nyud_resnet50(1.0, (1149, 683), (916, 892, 794), parameters=(118.9, 71.9)),
    nyud_resnet50(0.5, (415, 296), (348,)),
    nyud_resnet50(0.25, (177, 147), (164,)),
    nyud_dpt("base", "3", (759, 294), (626, 483, 387, 324)),
    nyud_dpt("small", "4", (248, 118), (229, 183, 168, 132)),
    Row(
        name="ResNet-18 dilated + ASPP",
        tables="5",
        size=(512, 512),
        outputs=PASCAL,
        backbone=lambda: DilatedResNet(18),
        head=AsppHead,
        paper=(670, 284),
        gated=(664, 577, 435, 377, 334),
    ),
    celeba_resnet20(1.0, (174, 58), (162, 59)),
    celeba_resnet20(0.5, (44.4, 14.8), (24.5, 17.4, 15.5)),
    celeba_resnet20(0.25, (11.6, 3.9), (6.4, 5.5, 4.7)),
)
