"""The targets `edges` and `saliency`, computed from the surfaces behind the pixels."""

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
    """Returns True where a surface ends, (size, size).

    Two neighbouring pixels, side by side or one above the other, have an edge between them if they show different
    objects. They also have an edge if they show different sides of one object, and the sides meet at more than 15° or
    one side is more than 5 cm before or behind the plane of the other. The nearer of the two pixels is marked.
    """
    depth = surfaces.depth.reshape(size, size)
    objects = surfaces.objects.reshape(size, size)
    faces = surfaces.faces.reshape(size, size)
    points = surfaces.points.reshape(3, size, size)
    normals = surfaces.normals.reshape(3, size, size)
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
    """Returns True where the most prominent piece of furniture is seen, (size, size); lamps and balls are furniture.

    The most prominent piece has the largest sum of exp(-r²/2) over its pixels, where r is a pixel's distance from the
    centre of the picture in quarters of the picture's side. In a picture without furniture nothing is marked.
    """
    steps = ((np.arange(size) + 0.5) / size - 0.5) * 4
    weight = np.exp(-(steps[:, None] ** 2 + steps**2) / 2).ravel()
    furniture = surfaces.classes >= FURNITURE
    prominence = np.bincount(surfaces.objects, weights=weight * furniture)
    chosen: Mask = furniture & (surfaces.objects == prominence.argmax())
    return chosen.reshape(size, size)


def _pair(values: NDArray[_Value], axis: int) -> tuple[NDArray[_Value], NDArray[_Value]]:
    """Returns views of all but the last and all but the first entry along an axis: each entry and its neighbour."""
    moved = np.moveaxis(values, axis, 0)
    return np.moveaxis(moved[:-1], 0, axis), np.moveaxis(moved[1:], 0, axis)


def _differ(pair: tuple[Indices, Indices]) -> Mask:
    differ: Mask = pair[0] != pair[1]
    return differ


def _creased(points: tuple[Array, Array], normals: tuple[Array, Array]) -> Mask:
    """Returns True where two neighbours' surfaces meet at a sharp angle, or one is off the plane of the other."""
    step = points[1] - points[0]
    off_plane = np.maximum(*(np.abs((normal * step).sum(axis=0)) for normal in normals))
    creased: Mask = ((normals[0] * normals[1]).sum(axis=0) < _SHARPEST) | (off_plane > _STEP_M)
    return creased
