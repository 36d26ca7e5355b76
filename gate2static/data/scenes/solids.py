"""The solids of furniture, and the points where rays meet them first.

All three shapes are convex, so a ray is inside a solid between two distances and meets it at the first of them. All
rays of one call start at one point: the camera, or a light for shadows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.intp]
Mask = NDArray[np.bool_]

BOX, CYLINDER, BALL = 0, 1, 2
"""The shapes; cylinders are upright, and round shapes have the radius `half[0]`."""

_MARGIN = 1e-6


class Solid(NamedTuple):
    """One solid: its centre and half of its extent in metres, and its turn about the vertical axis in radians."""

    shape: int
    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    yaw: float
    object: int
    """The number of the object that it is a part of, from 1 on; 0 is the room."""
    texture: int


@dataclass(frozen=True)
class Solids:
    """P solids as arrays, ordered by shape."""

    shape: Indices
    centre: Array
    """(P, 3)."""
    half: Array
    """(P, 3)."""
    cos: Array
    sin: Array
    object: Indices
    texture: Indices

    @classmethod
    def of(cls, solids: Sequence[Solid]) -> "Solids":
        """Collects single solids."""
        shape, centre, half, yaw, object_, texture = zip(*sorted(solids, key=lambda s: s.shape), strict=True)
        turn = np.array(yaw)
        return cls(
            shape=np.array(shape),
            centre=np.array(centre),
            half=np.array(half),
            cos=np.cos(turn),
            sin=np.sin(turn),
            object=np.array(object_),
            texture=np.array(texture),
        )

    def turned(self, index: Indices, vectors: Array) -> Array:
        """Converts world vectors (3, K) to the axes of the solids `index` (K,)."""
        cos, sin, (x, y, z) = self.cos[index], self.sin[index], vectors
        return np.stack([cos * x + sin * y, cos * y - sin * x, z])

    def normals(self, index: Indices, local: Array) -> tuple[Array, Indices]:
        """Returns the outward normals (3, K) in world axes at surface points, and the faces (K,) of these points.

        The faces of boxes are numbered 0 to 5; a cylinder has a top, a bottom and a side, and a ball has one face.

        Args:
            index: The solids, (K,).
            local: The points in the solids' own axes, (3, K).
        """
        shape = self.shape[index]
        half = self.half[index].T
        relative = local / half
        axis = np.abs(relative).argmax(axis=0)
        # A cylinder's point is on an end or on the side, whichever is nearer; both are at 1 on the surface.
        radial = shape == CYLINDER
        side = radial & (np.hypot(relative[0], relative[1]) > np.abs(relative[2]))
        axis[radial] = 2
        columns = np.arange(len(index))
        positive = relative[axis, columns] > 0
        normals = np.zeros_like(local)
        normals[axis, columns] = np.where(positive, 1.0, -1.0)
        normals[:, side] = relative[:, side] * np.array([[1.0], [1.0], [0.0]])
        normals[:, shape == BALL] = relative[:, shape == BALL]
        normals /= np.sqrt((normals**2).sum(axis=0))
        face = np.where(side | (shape == BALL), 0, 2 * axis + positive)
        cos, sin, (x, y, z) = self.cos[index], self.sin[index], normals
        return np.stack([cos * x - sin * y, sin * x + cos * y, z]), face

    def first_hits(self, origin: Array, directions: Array) -> tuple[Array, Indices]:
        """Returns the first solid that each ray meets.

        Args:
            origin: The start of all rays, outside all solids, (3,).
            directions: The directions of the rays, of any length, (3, N).

        Returns:
            The distances (N,) in lengths of the directions, infinite for rays that meet nothing, and the solids (N,).
        """
        index, ray = self._candidates(origin, directions)
        from_centre = self.turned(np.arange(len(self.shape)), (origin - self.centre).T)
        near = np.empty(len(index))
        far = np.empty(len(index))
        # Pairs are ordered by solid, and solids by shape.
        bounds = np.searchsorted(index, np.searchsorted(self.shape, [BOX, CYLINDER, BALL, BALL + 1]))
        for shape, (start, stop) in enumerate(pairwise(bounds)):
            part = index[start:stop]
            inside = _INSIDE[shape]
            local = self.turned(part, directions[:, ray[start:stop]])
            near[start:stop], far[start:stop] = inside(from_centre[:, part], local, self.half[part].T)
        met = np.flatnonzero((near < far) & (near > _MARGIN))
        near = near[met]
        ray = ray[met]
        index = index[met]
        distance = np.full(directions.shape[1], np.inf)
        np.minimum.at(distance, ray, near)
        first = np.full(directions.shape[1], -1)
        nearest = near == distance[ray]
        first[ray[nearest]] = index[nearest]
        return distance, first

    def _candidates(self, origin: Array, directions: Array) -> tuple[Indices, Indices]:
        """Returns the pairs of solid and ray where the ray points into the cone around the solid's bounding ball."""
        offset = self.centre - origin
        reach = (offset**2).sum(axis=1) - (self.half**2).sum(axis=1) * (1 + _MARGIN)
        lowest = np.where(reach > 0, np.sqrt(np.maximum(reach, 0)), -np.inf)
        length = np.sqrt((directions**2).sum(axis=0))
        pairs = np.flatnonzero(offset @ (directions / length) > lowest[:, None] * (1 - _MARGIN))
        return np.divmod(pairs, directions.shape[1])


def _inside_box(origin: Array, direction: Array, half: Array) -> tuple[Array, Array]:
    inverse = 1 / np.where(direction == 0, 1e-300, direction)
    middle = -origin * inverse
    reach = np.abs(half * inverse)
    return (middle - reach).max(axis=0), (middle + reach).min(axis=0)


def _inside_round(origin: Array, direction: Array, radius: Array) -> tuple[Array, Array]:
    """Returns the distances between which rays are within a radius of the origin of their 2 or 3 coordinates."""
    square = (direction**2).sum(axis=0) + 1e-300
    middle = -(origin * direction).sum(axis=0) / square
    rest = middle**2 - ((origin**2).sum(axis=0) - radius**2) / square
    reach = np.where(rest > 0, np.sqrt(np.maximum(rest, 0)), -np.inf)
    return middle - reach, middle + reach


def _inside_cylinder(origin: Array, direction: Array, half: Array) -> tuple[Array, Array]:
    ends = _inside_box(origin[2:], direction[2:], half[2:])
    side = _inside_round(origin[:2], direction[:2], half[0])
    return np.maximum(ends[0], side[0]), np.minimum(ends[1], side[1])


def _inside_ball(origin: Array, direction: Array, half: Array) -> tuple[Array, Array]:
    return _inside_round(origin, direction, half[0])


_INSIDE = {BOX: _inside_box, CYLINDER: _inside_cylinder, BALL: _inside_ball}
