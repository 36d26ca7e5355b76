"""Targets that follow from what each pixel shows: edges and the object that stands out most."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gate2static.data.scenes.furniture import FURNITURE
from gate2static.data.scenes.render import Surfaces
from gate2static.data.scenes.solids import Array, Indices, Mask

_Value = TypeVar("_Value", bound=np.generic)

_SHARPEST = np.cos(np.radians(15))
_STEP_M = 0.05


def edges(surfaces: Surfaces, size: int) -> Mask:
    """Where one surface ends (size, size).

    Two neighbouring pixels, beside or above one another, have an edge between them if they show different objects, or
    different sides of one that meet at more than 15° or of which one lies over 5 cm before or behind the plane of the
    other. The nearer of the two pixels is marked.
    """
    depth = surfaces.depth.reshape(size, size)
    objects, faces = (ids.reshape(size, size) for ids in (surfaces.objects, surfaces.faces))
    points, normals = (a.reshape(3, size, size) for a in (surfaces.points, surfaces.normals))
    marked = np.zeros((size, size), dtype=bool)
    for axis in (0, 1):
        before, after = _pair(depth, axis)
        between = _differ(_pair(objects, axis)) | _differ(_pair(faces, axis)) & _creased(
            _pair(points, axis + 1), _pair(normals, axis + 1)
        )
        first, second = _pair(marked, axis)
        first |= between & (before <= after)
        second |= between & (after < before)
    return marked


def salient(surfaces: Surfaces, size: int) -> Mask:
    """Where the piece of furniture that stands out most is seen (size, size); lamps and balls count as furniture.

    It is the one with the largest sum of exp(-r²/2) over its pixels, r being a pixel's distance from the centre of the
    picture in quarters of the picture's side. Where none is in the picture, nothing is marked.
    """
    steps = ((np.arange(size) + 0.5) / size - 0.5) * 4
    weight = np.exp(-(steps[:, None] ** 2 + steps**2) / 2).ravel()
    furniture = surfaces.classes >= FURNITURE
    prominence = np.bincount(surfaces.objects, weights=weight * furniture)
    chosen: Mask = furniture & (surfaces.objects == prominence.argmax())
    return chosen.reshape(size, size)


def _pair(values: NDArray[_Value], axis: int) -> tuple[NDArray[_Value], NDArray[_Value]]:
    """Views of all but the last and all but the first along `axis`, which are each other's neighbours."""
    moved = np.moveaxis(values, axis, 0)
    return np.moveaxis(moved[:-1], 0, axis), np.moveaxis(moved[1:], 0, axis)


def _differ(pair: tuple[Indices, Indices]) -> Mask:
    differ: Mask = pair[0] != pair[1]
    return differ


def _creased(points: tuple[Array, Array], normals: tuple[Array, Array]) -> Mask:
    step = points[1] - points[0]
    out = np.maximum(*(np.abs((normal * step).sum(axis=0)) for normal in normals))
    creased: Mask = ((normals[0] * normals[1]).sum(axis=0) < _SHARPEST) | (out > _STEP_M)
    return creased
