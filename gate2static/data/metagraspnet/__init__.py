"""MetaGraspNet (Gilles et al., 2022): bins of objects with depth, visible masks and the masks of whole objects."""

from gate2static.data.metagraspnet.scenes import CATEGORIES, MetaGraspNet, Objects, collate

__all__ = ["CATEGORIES", "MetaGraspNet", "Objects", "collate"]
