"""A pinhole camera, whose axes are x to the right, y down and z into the picture."""

from dataclasses import dataclass

import numpy as np

from gate2static.data.scenes.solids import Array


@dataclass(frozen=True)
class Camera:
    """The position, the orientation and the field of view of a camera."""

    position: Array
    """The position in metres, (3,)."""
    axes: Array
    """The camera's x, y and z axis in world coordinates, as rows: (3, 3)."""
    slope: float
    """The tangent of half the field of view."""

    def rays(self, size: int) -> Array:
        """Returns the directions (3, size²) in the camera's axes through the pixels' centres, row by row.

        The directions' z is 1, so a distance along a ray, in lengths of the direction, is the depth along the optical
        axis.
        """
        steps = ((np.arange(size) + 0.5) / size * 2 - 1) * self.slope
        rows, columns = np.meshgrid(steps, steps, indexing="ij")
        return np.stack([columns.ravel(), rows.ravel(), np.ones(size * size)])

    def to_world(self, vectors: Array) -> Array:
        """Converts vectors (3, N) from the camera's axes to the world's."""
        return _rotated(self.axes.T, vectors)

    def from_world(self, vectors: Array) -> Array:
        """Converts vectors (3, N) from the world's axes to the camera's."""
        return _rotated(self.axes, vectors)


def look_at(position: Array, target: Array, roll: float, slope: float) -> Camera:
    """Returns a camera with a target in the middle of its picture.

    Args:
        position: The camera's position in metres, (3,).
        target: The point in the middle of the picture, (3,).
        roll: The turn about the viewing direction in radians.
        slope: The tangent of half the field of view.
    """
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.array([forward[1], -forward[0], 0.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    cos, sin = np.cos(roll), np.sin(roll)
    return Camera(position, np.stack([cos * right + sin * down, cos * down - sin * right, forward]), slope)


def _rotated(rotation: Array, vectors: Array) -> Array:
    # Written out, because a BLAS may round the same product differently from machine to machine.
    columns = rotation.T[:, :, None]
    rotated: Array = columns[0] * vectors[0] + columns[1] * vectors[1] + columns[2] * vectors[2]
    return rotated
