"""Loading of a file of weights into a whole network."""

from torch import nn

from gate2static.models.weights.files import read_weights
from gate2static.models.weights.normalisation import take_normalised
from gate2static.models.weights.options import WeightOptions
from gate2static.models.weights.pairing import fit


def load_into(model: nn.Module, start: WeightOptions, name: str) -> None:
    """Loads the file of weights of the options, if they name one, and applies their normalisation, if they give one.

    Args:
        model: The network, which is changed in place.
        start: The origin of the first weights.
        name: The network's name, for the error message.

    Raises:
        RecipeError: The file cannot be read or does not fit the network, or the network cannot take the data sets'
            normalisation.
    """
    if start.weights is not None:
        reference = model.state_dict()
        where = f"model.options.weights: {start.weights} for {name}"
        model.load_state_dict(fit(read_weights(start.weights), [reference], where))
    if start.normalisation is not None:
        take_normalised(model, *start.normalisation, name)
