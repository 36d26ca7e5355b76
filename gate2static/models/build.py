"""A recipe's backbone and heads."""

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from gate2static.data import DataSpec, describe_data
from gate2static.errors import RecipeError
from gate2static.models.heads import DenseHead, LinearHead
from gate2static.models.resnet20 import ResNet20
from gate2static.recipe import Recipe, Strict, parse
from gate2static.recipe.parsing import suggest
from gate2static.tasks import build_tasks


class ResNet20Options(Strict):
    """Options of `resnet20`."""

    width: Annotated[float, Field(gt=0, le=16)] = 1.0
    """Multiplies the 16, 32 and 64 channels of the stages."""


class LibraryOptions(Strict):
    """Options of `torchvision/<name>` and `timm/<name>`."""

    pretrained: bool = False
    """Whether to start from the library's default weights, which downloads them once."""


def _timm(name: str, image_shape: tuple[int, int, int], *, pretrained: bool) -> nn.Module:
    from gate2static.models.timm_backbone import timm_backbone

    return timm_backbone(name, image_shape, pretrained=pretrained)


def _torchvision(name: str, image_shape: tuple[int, int, int], *, pretrained: bool) -> nn.Module:
    from gate2static.models.torchvision_backbone import torchvision_backbone

    return torchvision_backbone(name, image_shape, pretrained=pretrained)


# Imported when asked for: each library takes seconds.
LIBRARIES: dict[str, Callable[..., nn.Module]] = {"torchvision": _torchvision, "timm": _timm}


def build_model(
    recipe: Recipe, *, initial_weights: bool = True
) -> tuple[nn.Module, dict[str, nn.Module], tuple[Tensor, ...]]:
    """Builds a recipe's backbone and heads; the first weights depend on the recipe's seed and on nothing else.

    Args:
        recipe: What to build.
        initial_weights: False when weights are about to be loaded anyway: pretrained ones are then not fetched.

    Returns:
        The backbone, which maps images to a sequence of feature maps, finest first; the head of every task; and
        example inputs, a batch of two images.

    Raises:
        RecipeError: A name or option of the data set, a task or the model that does not exist.
    """
    spec = describe_data(recipe.data)
    tasks = build_tasks(recipe.tasks, spec)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        backbone = _backbone(recipe, spec, initial_weights=initial_weights)
        images = torch.randn(2, *spec.image_shape)
        with torch.no_grad():
            shapes = [features.shape for features in backbone.eval()(images)]
        size = spec.image_shape[1:]
        heads: dict[str, nn.Module] = {
            t.name: DenseHead(shapes, t.channels, size) if t.kind.dense else LinearHead(shapes, t.channels)
            for t in tasks
        }
    return backbone.train(), heads, (images,)


def _backbone(recipe: Recipe, spec: DataSpec, *, initial_weights: bool) -> nn.Module:
    library, slash, name = recipe.model.name.partition("/")
    if slash and library in LIBRARIES:
        options = parse(LibraryOptions, recipe.model.options, where="model.options")
        return LIBRARIES[library](name, spec.image_shape, pretrained=options.pretrained and initial_weights)
    if recipe.model.name != "resnet20":
        allowed = ["resnet20", *(f"{library}/<name>" for library in LIBRARIES)]
        raise RecipeError(f"model.name: found {recipe.model.name}; {suggest(recipe.model.name, allowed)}")
    return ResNet20(spec.image_shape[0], parse(ResNet20Options, recipe.model.options, where="model.options").width)
