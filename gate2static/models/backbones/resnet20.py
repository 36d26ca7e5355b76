"""The CIFAR ResNet-20 of He et al. (2016), section 4.2: a stem and three stages of three blocks.

Where a block changes the shape, its shortcut is a 1×1 convolution with a norm (their option B) and not a padding with
zeros (option A), because a gated unit needs weights. At full width the network has 40.8 MMACs for RGB images of 32×32;
the paper's 58 MFLOPs are unexplained (docs/paper.md, note 5).
"""

from torch import Tensor, nn


class _Block(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(cout)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(cout)
        self.act2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or cin != cout:
            self.shortcut = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x)))))
        return self.act2(y + self.shortcut(x))  # type: ignore[no-any-return]


class ResNet20(nn.Module):
    """Maps images (N, C, H, W) to the features of the three stages, at strides 1, 2 and 4.

    Args:
        in_channels: The channels of the images.
        width: A factor of the stages' 16, 32 and 64 channels.
        blocks: Blocks per stage: n of He et al., whose networks have 6n + 2 layers.
    """

    def __init__(self, in_channels: int = 3, width: float = 1.0, blocks: int = 3) -> None:
        super().__init__()
        c1, c2, c3 = (max(1, round(count * width)) for count in (16, 32, 64))
        self.stem = nn.Sequential(nn.Conv2d(in_channels, c1, 3, 1, 1, bias=False), nn.BatchNorm2d(c1), nn.ReLU())
        self.stage1 = _stage(c1, c1, blocks, stride=1)
        self.stage2 = _stage(c1, c2, blocks, stride=2)
        self.stage3 = _stage(c2, c3, blocks, stride=2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps images (N, C, H, W) to (N, 16w, H, W), (N, 32w, H/2, W/2) and (N, 64w, H/4, W/4)."""
        fine = self.stage1(self.stem(x))
        middle = self.stage2(fine)
        return fine, middle, self.stage3(middle)


def _stage(cin: int, cout: int, blocks: int, stride: int) -> nn.Sequential:
    return nn.Sequential(_Block(cin, cout, stride), *(_Block(cout, cout, 1) for _ in range(blocks - 1)))
