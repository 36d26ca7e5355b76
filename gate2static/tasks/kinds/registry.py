"""The kinds of task by the name that a recipe uses."""

from gate2static.tasks.kind import Kind
from gate2static.tasks.kinds import attributes, classification, depth, foreground, l1_maps, normals, semantic

KINDS: dict[str, Kind] = {
    "classification": classification.KIND,
    "attributes": attributes.KIND,
    "semantic": semantic.KIND,
    "depth": depth.KIND,
    "normals": normals.KIND,
    "normals_cosine": normals.COSINE_KIND,
    "edges": foreground.EDGES,
    "saliency": foreground.SALIENCY,
    "keypoints": l1_maps.KEYPOINTS,
    "instance_offsets": l1_maps.INSTANCE_OFFSETS,
    "mask": foreground.MASK,
}
