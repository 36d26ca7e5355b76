"""Multi-task architectures that GatedMTL and Safe MTL are compared with, from any backbone that can be traced."""

from gate2static.architectures.architecture import Architecture
from gate2static.architectures.as_gated import as_gated
from gate2static.architectures.registry import ARCHITECTURES, architecture, check_options
from gate2static.architectures.stages import Stages, split

__all__ = ["ARCHITECTURES", "Architecture", "Stages", "architecture", "as_gated", "check_options", "split"]
