"""`StaticModel`: the pruned network as a thing of its own; knows neither gates nor pruning."""

from gate2static.static.folder import check_replaceable, read_manifest
from gate2static.static.manifest import Manifest, TensorSpec
from gate2static.static.model import StaticModel, load_static

__all__ = ["Manifest", "StaticModel", "TensorSpec", "check_replaceable", "load_static", "read_manifest"]
