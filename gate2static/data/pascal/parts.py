"""Annotations of PASCAL-Part, which have one mask per object and one per part of an object."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gate2static.data.contract import IGNORE
from gate2static.data.decoding import read_mat_file
from gate2static.data.pascal.classes import HUMAN_PART_OF, PERSON
from gate2static.errors import DataError


def read_human_parts(path: Path) -> Tensor:
    """Reads the parts of all people in a picture: int64 (H, W).

    A picture without any marked part of a person says nothing about parts, so all of it is `IGNORE`.

    Raises:
        DataError: The file is missing, cut off or not such an annotation.
    """
    try:
        objects = _listed(read_mat_file(path, simplify_cells=True)["anno"]["objects"])
        shapes = {item["mask"].shape for item in objects}
        people = [item for item in objects if item["class_ind"] == PERSON]
        parts = []
        for person in people:
            for part in _listed(person["parts"]):
                parts.append((str(part["part_name"]), np.asarray(part["mask"], dtype=np.float32)))
        shapes |= {mask.shape for _, mask in parts}
    except (AttributeError, KeyError, TypeError, IndexError, ValueError) as error:
        raise DataError(
            f"{path}: not an annotation of PASCAL-Part ({error}); it has anno.objects with class_ind, mask and parts"
        ) from None
    if len(shapes) != 1:
        raise DataError(f"{path}: found masks of the shapes {sorted(shapes)}; allowed: one shape, that of the picture")
    labels = torch.zeros(shapes.pop(), dtype=torch.int64)
    for name, mask in parts:
        if name not in HUMAN_PART_OF:
            raise DataError(f"{path}: found the human part {name}; allowed: {', '.join(HUMAN_PART_OF)}")
        labels[torch.from_numpy(mask != 0)] = HUMAN_PART_OF[name]
    return labels if bool(labels.any()) else torch.full_like(labels, IGNORE)


def _listed(structs: Any) -> list[dict[str, Any]]:
    """Returns MATLAB's structs as a list, also where there is none or only one."""
    return list(np.atleast_1d(structs))
