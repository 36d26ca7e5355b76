"""First weights of a backbone from a file, and the normalisation of images that they were trained on."""

from gate2static.models.weights.files import read_weights
from gate2static.models.weights.loading import load_into
from gate2static.models.weights.normalisation import take_normalised
from gate2static.models.weights.options import UNTRAINED, LibraryOptions, WeightOptions
from gate2static.models.weights.pairing import fit

__all__ = ["UNTRAINED", "LibraryOptions", "WeightOptions", "fit", "load_into", "read_weights", "take_normalised"]
