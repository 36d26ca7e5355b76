"""The backbone and the heads of a recipe."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from gate2static.data import describe_data
from gate2static.models.backbones.dilated_resnet import DilatedResNetOptions, dilated_resnet18, dilated_resnet50
from gate2static.models.backbones.hrnet import hrnet_w18
from gate2static.models.backbones.own_backbone import OwnBackbone, Shape, own_backbone
from gate2static.models.backbones.resnet20 import ResNet20
from gate2static.models.backbones.vit import vit_base, vit_small
from gate2static.models.decoders import decoder
from gate2static.models.heads import LinearHead
from gate2static.models.weights import LibraryOptions, WeightOptions, load_into
from gate2static.recipe import Recipe, parse
from gate2static.tasks import build_tasks

_WIDEST = 256
"""The square of the largest width that three blocks may have."""


class ResNet20Options(WeightOptions):
    """Options of `resnet20`."""

    width: Annotated[float, Field(gt=0, le=16)] = 1.0
    """A factor of the stages' 16, 32 and 64 channels."""
    blocks: Annotated[int, Field(ge=1, le=200)] = 3
    """Blocks per stage: 1 gives a ResNet-8, 9 a ResNet-56."""

    @model_validator(mode="after")
    def _fits_in_memory(self) -> "ResNet20Options":
        if self.blocks * self.width**2 > _WIDEST * 3:
            raise ValueError(f"blocks times width squared is at most {_WIDEST * 3}; give fewer or narrower blocks")
        return self


@dataclass(frozen=True)
class Backbone:
    """A registry entry of a backbone.

    Attributes:
        build: Builds the backbone from the image shape (C, H, W) and the options.
        options: The schema of the options.
        decoder: The decoder that `auto` stands for.
    """

    build: Callable[[tuple[int, int, int], Any], nn.Module]
    options: type[WeightOptions]
    decoder: str

    def make(self, image_shape: Shape, options: Mapping[str, Any], *, initial_weights: bool) -> nn.Module:
        """Builds the backbone from the options of a recipe.

        Args:
            image_shape: The images' (C, H, W).
            options: The recipe's options.
            initial_weights: Whether the first weights matter.

        Raises:
            RecipeError: An option does not exist or has a value that is not allowed.
        """
        parsed = parse(self.options, options, where="model.options")
        return self.build(image_shape, parsed if initial_weights else parsed.untrained())


def _resnet20(image_shape: tuple[int, int, int], options: ResNet20Options) -> nn.Module:
    model = ResNet20(image_shape[0], options.width, options.blocks)
    load_into(model, options, "resnet20")
    return model


def _rgbd_resnet18_fpn(image_shape: tuple[int, int, int], options: LibraryOptions) -> nn.Module:
    from gate2static.models.detection.rgbd_pyramid import build_rgbd  # torchvision takes a second to import

    return build_rgbd(image_shape, options)


BACKBONES: dict[str, Backbone] = {
    "resnet20": Backbone(_resnet20, ResNet20Options, "light"),
    "resnet18_dilated": Backbone(dilated_resnet18, DilatedResNetOptions, "aspp"),
    "resnet50_dilated": Backbone(dilated_resnet50, DilatedResNetOptions, "aspp"),
    "hrnet_w18": Backbone(hrnet_w18, LibraryOptions, "hrnet"),
    "vit_small": Backbone(vit_small, LibraryOptions, "dpt"),
    "vit_base": Backbone(vit_base, LibraryOptions, "dpt"),
    "rgbd_resnet18_fpn": Backbone(_rgbd_resnet18_fpn, LibraryOptions, "light"),
}


def _timm(name: str, image_shape: tuple[int, int, int], options: LibraryOptions) -> nn.Module:
    from gate2static.models.backbones.timm_backbone import timm_backbone

    return timm_backbone(name, image_shape, options)


def _torchvision(name: str, image_shape: tuple[int, int, int], options: LibraryOptions) -> nn.Module:
    from gate2static.models.backbones.torchvision_backbone import torchvision_backbone

    return torchvision_backbone(name, image_shape, options)


# The libraries are imported when they are used, because each import takes seconds.
LIBRARIES: dict[str, Callable[[str, tuple[int, int, int], LibraryOptions], nn.Module]] = {
    "torchvision": _torchvision,
    "timm": _timm,
}


def build_model(
    recipe: Recipe, *, initial_weights: bool = True
) -> tuple[nn.Module, dict[str, nn.Module], tuple[Tensor, ...]]:
    """Builds a recipe's backbone and heads, whose first weights depend on the recipe's seed only.

    Args:
        recipe: The recipe with the model, the tasks and the data set.
        initial_weights: Whether the first weights matter. If other weights are loaded anyway, False avoids the download
            of pretrained ones, and their file need not be there.

    Returns:
        The backbone, which maps images (N, C, H, W) to a sequence of feature maps, finest first; the heads by task; and
        example inputs, a batch of two images.

    Raises:
        RecipeError: A name or option of the data set, a task or the model does not exist, or the decoder does not fit
            the backbone or the tasks.
    """
    spec = describe_data(recipe.data)
    tasks = build_tasks(recipe.tasks, spec)
    entry = find_backbone(recipe.model.name)
    make_head = decoder(recipe.model.decoder, entry.decoder, {task.name: task.kind.dense for task in tasks})
    # The global generator is left as it was, so building a model changes nothing else.
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        backbone = entry.make(spec.image_shape, recipe.model.options, initial_weights=initial_weights)
        images = torch.randn(2, *spec.image_shape)
        with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):  # only shapes are computed
            shapes = [features.shape for features in backbone.eval()(images)]
        size = spec.image_shape[1:]
        heads: dict[str, nn.Module] = {}
        for task in tasks:
            if task.kind.dense:
                heads[task.name] = make_head(shapes, task.channels, size)
            else:
                heads[task.name] = LinearHead(shapes, task.channels)
    return backbone.train(), heads, (images,)


def find_backbone(name: str) -> Backbone | OwnBackbone:
    """Returns the registry entry of a backbone.

    Raises:
        RecipeError: The name is unknown.
    """
    library, slash, model = name.partition("/")
    if slash and library in LIBRARIES:
        return Backbone(partial(LIBRARIES[library], model), LibraryOptions, "light")
    if name in BACKBONES:
        return BACKBONES[name]
    return own_backbone(name, [*BACKBONES, *(f"{library}/<name>" for library in LIBRARIES)])
