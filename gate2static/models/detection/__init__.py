"""Objects in images with depth (Mao et al., section 3.1): a backbone that can be gated and pruned, and dynamic heads.

The backbone, up to the feature pyramid, is a static graph. What finds objects in the pyramid is not, since every image
has another number of them: `DetectionHeads` stays a torch module, and reads the features of a gated or a static network
alike. docs/metagraspnet.md has the whole road.
"""

from gate2static.runtimes.optional import require

require("torchvision")  # the modules below import it while they are read

from gate2static.models.detection.heads import GROUPS, LOSSES, DetectionHeads, Detections  # noqa: E402
from gate2static.models.detection.mean_precision import MeanPrecision  # noqa: E402
from gate2static.models.detection.rgbd_pyramid import LEVELS, RGBDPyramid, rgbd_resnet18_fpn  # noqa: E402

__all__ = [
    "GROUPS",
    "LEVELS",
    "LOSSES",
    "DetectionHeads",
    "Detections",
    "MeanPrecision",
    "RGBDPyramid",
    "rgbd_resnet18_fpn",
]
