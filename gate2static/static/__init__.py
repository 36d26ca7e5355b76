"""`StaticModel`: the pruned network as a plain module, its files, and its deployed form.

Nothing here knows gates or pruning, so a static model loads without the code that made it.
"""

from gate2static.static.folder import check_replaceable, read_manifest
from gate2static.static.manifest import Manifest, TensorSpec
from gate2static.static.model import StaticModel, TrainableModel, load_static

__all__ = [
    "Manifest",
    "StaticModel",
    "TensorSpec",
    "TrainableModel",
    "check_replaceable",
    "load_static",
    "read_manifest",
]
