"""Annotations of PASCAL-Part, in which each object of a picture has a mask, and each of its parts another."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gate2static.data.contract import IGNORE
from gate2static.data.decoding import read_mat_file
from gate2static.data.pascal_context_classes import HUMAN_PART_OF, PERSON
from gate2static.errors import DataError


def read_human_parts(path: Path) -> Tensor:
    """The parts of all people in a picture, int64 (H, W).

    A picture in which no part of a person is marked says nothing about parts: all of it is `IGNORE`.

    Raises:
        DataError: The file is missing, cut off or no such annotation.
    """
    try:
        objects = _listed(read_mat_file(path, simplify_cells=True)["anno"]["objects"])
        shapes = {item["mask"].shape for item in objects}
        people = [item for item in objects if item["class_ind"] == PERSON]
        named = [(str(part["part_name"]), part["mask"]) for person in people for part in _listed(person["parts"])]
        parts = [(name, np.asarray(mask, dtype=np.float32)) for name, mask in named]
        shapes |= {mask.shape for _, mask in parts}
    except (AttributeError, KeyError, TypeError, IndexError, ValueError) as error:
        raise DataError(
            f"{path}: not an annotation of PASCAL-Part ({error}); it has anno.objects with class_ind, mask and parts"
        ) from None
    if len(shapes) != 1:
        raise DataError(f"{path}: found masks of the shapes {sorted(shapes)}; allowed: one shape, that of the picture")
    found = torch.zeros(shapes.pop(), dtype=torch.int64)
    for name, mask in parts:
        if name not in HUMAN_PART_OF:
            raise DataError(f"{path}: found the human part {name}; allowed: {', '.join(HUMAN_PART_OF)}")
        found[torch.from_numpy(mask != 0)] = HUMAN_PART_OF[name]
    return found if bool(found.any()) else torch.full_like(found, IGNORE)


def _listed(structs: Any) -> list[dict[str, Any]]:
    """MATLAB's structs as a list, be they none, one or many."""
    return list(np.atleast_1d(structs))
