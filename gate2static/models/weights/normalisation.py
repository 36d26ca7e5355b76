"""A network that was trained on images of another normalisation takes those of the data sets.

With x = (image - mean) / std of ImageNet, the network was trained on (x std + mean - own mean) / own std. That is
linear in x, so the first convolution can absorb it. Its weight takes the scale. Its bias takes the shift, or else the
batch norm behind it does. Padding is the exception: zeros stand for ImageNet's mean colour now, where they stood for
the network's own mean, so outputs at the border of a padded convolution differ a little.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gate2static.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from gate2static.errors import RecipeError

_TOLERANCE = 1e-3


def take_normalised(model: nn.Module, mean: Sequence[float], std: Sequence[float], where: str) -> None:
    """Changes trained weights, in place, to take images with ImageNet's normalisation.

    Args:
        model: A network that begins with a convolution of RGB images.
        mean: The mean of the images that the weights were trained on.
        std: Their standard deviation.
        where: The network, for the error message.

    Raises:
        RecipeError: The network does not begin with a convolution that can absorb the change.
    """
    if tuple(mean) == IMAGENET_MEAN and tuple(std) == IMAGENET_STD:
        return
    scale = torch.tensor(IMAGENET_STD) / torch.tensor(std)
    shift = (torch.tensor(IMAGENET_MEAN) - torch.tensor(mean)) / torch.tensor(std)
    convolution, norm = _stem(model)
    if convolution is None or not _is_linear(convolution):
        raise RecipeError(
            f"{where}: its weights want images of mean {_listed(mean)} and std {_listed(std)}, and its first layer "
            "cannot take others; to use the weights as they are, set model.options.mean and std to ImageNet's, "
            f"{_listed(IMAGENET_MEAN)} and {_listed(IMAGENET_STD)}"
        )
    with torch.no_grad():
        offset = (convolution.weight * shift.view(1, -1, 1, 1)).sum(dim=(1, 2, 3))  # (channels out,)
        if convolution.bias is not None:
            convolution.bias += offset
        else:
            assert norm is not None
            assert norm.running_mean is not None
            norm.running_mean -= offset
        convolution.weight *= scale.view(1, -1, 1, 1)


def _stem(model: nn.Module) -> tuple[nn.Conv2d | None, nn.BatchNorm2d | None]:
    """Returns the first convolution, if its bias or a batch norm behind it can absorb a shift, and that norm."""
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    convolution = layers[0] if layers else None
    if not isinstance(convolution, nn.Conv2d) or convolution.in_channels != 3:
        return None, None
    if convolution.bias is not None:
        return convolution, None
    # Networks register their layers in the order of use, so the norm behind the convolution comes next.
    norm = layers[1] if len(layers) > 1 else None
    if not isinstance(norm, nn.BatchNorm2d) or norm.num_features != convolution.out_channels:
        return None, None
    return (convolution, norm) if norm.running_mean is not None else (None, None)


def _is_linear(convolution: nn.Conv2d) -> bool:
    """Returns whether a convolution is linear in its weight, unlike those that standardise it."""
    images = torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64)
    with torch.no_grad():
        output = convolution(images)
        convolution.weight *= 2
        doubled = convolution(images)
        convolution.weight /= 2
    bias = torch.zeros(()) if convolution.bias is None else convolution.bias.view(1, -1, 1, 1)
    return _close(doubled - bias, 2 * (output - bias))


def _close(value: Tensor, other: Tensor) -> bool:
    return bool(torch.allclose(value, other, rtol=_TOLERANCE, atol=_TOLERANCE * float(other.detach().abs().max())))


def _listed(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:g}' for value in values)}]"
