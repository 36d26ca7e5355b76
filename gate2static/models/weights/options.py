"""The options that say where a backbone's first weights come from."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from gate2static.recipe import Strict

Colour = tuple[float, float, float]
Scale = Annotated[float, Field(gt=0)]


class WeightOptions(Strict):
    """Options of all backbones."""

    weights: str | None = None
    """A file with the backbone's first weights: `.safetensors`, or a state dict that torch saved. It is needed until
    the run is trained, and never again."""
    mean: Colour | None = None
    """The mean of the RGB images in [0, 1] that the weights were trained on. The default is what timm says of the
    network; for other networks it is ImageNet's, which data sets use."""
    std: tuple[Scale, Scale, Scale] | None = None
    """The standard deviation that belongs to `mean`."""

    @model_validator(mode="after")
    def _normalisation_is_whole(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together; give both or neither")
        if self.mean is not None and not self.starts_trained:
            raise ValueError("mean and std describe the images of trained weights; give weights too, or leave both out")
        return self

    @property
    def starts_trained(self) -> bool:
        """Whether the first weights are trained ones."""
        return self.weights is not None

    @property
    def normalisation(self) -> tuple[Colour, Colour] | None:
        """Mean and standard deviation, if the recipe gives them."""
        return None if self.mean is None or self.std is None else (self.mean, self.std)

    def untrained(self) -> Self:
        """Returns the options of the same network with random first weights."""
        return self.model_copy(update={"weights": None, "mean": None, "std": None})


class LibraryOptions(WeightOptions):
    """Options of backbones for which a library has weights."""

    pretrained: bool = False
    """Whether to start from the library's default weights, which are downloaded once."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.pretrained and self.weights is not None:
            raise ValueError("pretrained and weights both give first weights; leave one out")
        return self

    @property
    def starts_trained(self) -> bool:
        """Whether the first weights are trained ones."""
        return self.pretrained or super().starts_trained

    def untrained(self) -> Self:
        """Returns the options of the same network with random first weights."""
        return super().untrained().model_copy(update={"pretrained": False})


UNTRAINED = LibraryOptions()
"""Random first weights."""
