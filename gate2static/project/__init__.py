"""A new project: a small template of a data set, a backbone, a kind of task and a training loop, which runs."""

from gate2static.project.template import write_project

__all__ = ["write_project"]
