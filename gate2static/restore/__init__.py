"""Restoring: from a checkpoint of an own training loop, and the name of what builds its network, to a `GatedModel`.

The file says what the network was and is checked against what was built; it never decides what is imported.
"""

from gate2static.restore.own_checkpoint import load_checkpoint, save_checkpoint

__all__ = ["load_checkpoint", "save_checkpoint"]
