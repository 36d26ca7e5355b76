"""Backbones of the user's own, by the name of the function that builds them."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gate2static import plugins
from gate2static.arguments import described
from gate2static.errors import RecipeError
from gate2static.recipe.parsing import suggest

Shape = tuple[int, int, int]
"""The images' (C, H, W)."""


@dataclass(frozen=True)
class OwnBackbone:
    """A backbone of the user's own.

    Attributes:
        name: The name of the function, as the recipe has it.
        build: The function, which `plugins.backbone` marked.
    """

    name: str
    build: Callable[..., Any]
    decoder: str = "light"

    def make(self, image_shape: Shape, options: Mapping[str, Any], *, initial_weights: bool) -> nn.Module:
        """Builds the backbone from the options of a recipe.

        Args:
            image_shape: The images' (C, H, W).
            options: The recipe's options.
            initial_weights: Whether the first weights matter.

        Raises:
            RecipeError: The function does not take the options, fails, or returns something else than a backbone.
        """
        loads = not initial_weights and "pretrained" in inspect.signature(self.build).parameters
        options = {**options, "pretrained": False} if loads else options
        network = plugins.call(self.build, self.name, options, image_shape, where="model.options", error=RecipeError)
        if not isinstance(network, nn.Module):
            raise RecipeError(
                f"model.name: {self.name} returned {described(network)}; it must return a torch.nn.Module"
            )
        self._check_features(network, image_shape)
        return network

    def _check_features(self, network: nn.Module, image_shape: Shape) -> None:
        """Raises a RecipeError unless a backbone maps images to feature maps."""
        was_training = network.training
        images = torch.zeros(2, *image_shape)
        with torch.no_grad():
            features = plugins.call(network.eval(), self.name, {}, images, where="model.name", error=RecipeError)
        network.train(was_training)
        is_list = isinstance(features, list | tuple) and bool(features)
        if not is_list or not all(isinstance(x, Tensor) and x.dim() == 4 for x in features):
            raise RecipeError(
                f"model.name: {self.name} maps images to {described(features)}; allowed is a list or tuple of feature "
                "maps (N, C, H, W), finest first"
            )


def own_backbone(name: str, known: Iterable[str]) -> OwnBackbone:
    """Returns the user's own backbone of a name.

    Args:
        name: The name of the code, such as `package.module:build`.
        known: The names of other backbones, for the error message.

    Raises:
        RecipeError: The name stands for no backbone, or its module may not be imported.
    """
    build = plugins.find(name, "backbones", where="model.name", error=RecipeError)
    if build is None:
        allowed = [*known, *plugins.installed("backbones")]
        raise RecipeError(f"model.name: found {name}; {suggest(name, allowed)}, or your own, as package.module:build")
    if not plugins.is_marked(build, "backbones"):
        raise RecipeError(f"model.name: {name} is no backbone; mark the function with @backbone of gate2static.plugins")
    return OwnBackbone(name, build)
