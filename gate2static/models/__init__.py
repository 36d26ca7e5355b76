"""Backbones and heads, by the names that a recipe uses."""

from gate2static.models.backbones.resnet20 import ResNet20
from gate2static.models.build import build_model
from gate2static.models.heads import DenseHead, LinearHead
from gate2static.models.network import MultiTaskNetwork

__all__ = ["DenseHead", "LinearHead", "MultiTaskNetwork", "ResNet20", "build_model"]
