"""The kinds of task, by the name a recipe gives: a loss, metrics, and what a better metric is."""

from gate2static.tasks import classification, mask
from gate2static.tasks.kind import Kind

KINDS: dict[str, Kind] = {
    "classification": classification.KIND,
    "mask": mask.KIND,
}
