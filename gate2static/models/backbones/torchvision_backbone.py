"""A torchvision classifier as a backbone that returns its last feature map at every resolution, finest first."""

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from gate2static.errors import RecipeError
from gate2static.models.library import fetching
from gate2static.models.weights import LibraryOptions, load_into
from gate2static.recipe.parsing import suggest
from gate2static.runtimes.optional import require

# The feature maps of these networks are tokens or have the channels last.
NOT_CONVOLUTIONAL = ("maxvit", "swin_", "vit_")


def torchvision_backbone(name: str, image_shape: tuple[int, int, int], start: LibraryOptions) -> nn.Module:
    """Builds `torchvision/<name>` up to its feature maps, as a traced module.

    The module is traced in evaluation mode, so functions that torchvision switches by mode (stochastic depth) are off.

    Args:
        name: A convolutional network in torchvision's own registry; no other code is imported.
        image_shape: The images' (C, H, W); torchvision's networks take three channels.
        start: The origin of the first weights.

    Raises:
        RecipeError: The name is unknown, the weights cannot be had, or the images are not RGB.
    """
    models = require("torchvision.models")
    known = [n for n in models.list_models(module=models) if not n.startswith(NOT_CONVOLUTIONAL)]
    if name not in known:
        raise RecipeError(f"model.name: found torchvision/{name}; {suggest(name, known)}")
    if image_shape[0] != 3:
        raise RecipeError(
            f"model.name: torchvision/{name} takes images of 3 channels, the data set's have {image_shape[0]}; "
            "timm/<name> adapts to any number"
        )
    with fetching(f"torchvision/{name}"):
        model = models.get_model(name, weights="DEFAULT" if start.pretrained else None)
    load_into(model, start, f"torchvision/{name}")
    traced = fx.symbolic_trace(model.eval())
    images = torch.zeros(1, *image_shape)
    with torch.no_grad():
        try:
            traced(images)
        except RuntimeError as error:
            raise RecipeError(
                f"model.name: torchvision/{name} cannot take images of {image_shape}: {error}; use larger images"
            ) from error
        ShapeProp(traced).propagate(images)
    return _cut(traced).train()


def _cut(traced: fx.GraphModule) -> fx.GraphModule:
    """Makes a traced classifier return its last feature map of every resolution, in place."""
    maps: dict[torch.Size, fx.Node] = {}
    smallest = float("inf")
    for node in traced.graph.nodes:
        size: torch.Size = getattr(node.meta.get("tensor_meta"), "shape", torch.Size())[2:]
        # Pooled 1×1 maps, and pools that enlarge a map again, do not count as resolutions.
        if node.op in ("placeholder", "output") or len(size) != 2 or min(size) == 1:
            continue
        if size.numel() <= smallest or size in maps:
            maps[size] = node
            smallest = min(smallest, size.numel())
    # The old output returned the logits; the classifier behind the last map is dead code then.
    traced.graph.erase_node(next(iter(reversed(traced.graph.nodes))))
    traced.graph.output(tuple(maps.values()))
    traced.graph.eliminate_dead_code()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced
