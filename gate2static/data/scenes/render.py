"""The rendering of a scene: the surface behind each pixel, and its light."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gate2static.data.scenes.furniture import CEILING, FLOOR, WALL
from gate2static.data.scenes.layout import Scene
from gate2static.data.scenes.solids import Array, Indices

_ROOM_CLASSES = np.array([WALL, WALL, WALL, WALL, FLOOR, CEILING])
"""The classes of the room's faces: x low, x high, y low, y high, z low, z high."""
_ROOM_TEXTURES = np.array([2, 2, 3, 3, 0, 1])
_FACES = 6
_BRIGHTNESS_AT_M = 2.0
"""The distance at which light has fallen to a half; far beyond, it falls with the square of the distance."""


@dataclass(frozen=True, kw_only=True)
class Surfaces:
    """The surfaces behind N pixels."""

    depth: Array
    """The depth along the optical axis in metres, (N,)."""
    points: Array
    """The points in metres, in world axes, (3, N)."""
    normals: Array
    """The normals towards the visible side, in world axes, (3, N)."""
    classes: Indices
    objects: Indices
    """The numbers of the objects, (N,); 0 is the room."""
    faces: Indices
    """The numbers of the faces, (N,), equal for pixels on the same smooth side of one solid."""
    textures: Indices
    local: Array
    """The points in the axes of the visible object, which carry its texture, (3, N)."""


def see(scene: Scene, size: int) -> Surfaces:
    """Casts a ray through every pixel of a picture of size×size pixels."""
    camera = scene.camera
    origin = camera.position
    directions = camera.to_world(camera.rays(size))
    depth, faces = _room_hits(scene.room, origin, directions)
    points = origin[:, None] + depth * directions
    normals = np.zeros_like(points)
    axis, high = np.divmod(faces, 2)
    normals[axis, np.arange(len(faces))] = 1.0 - 2 * high
    surfaces = Surfaces(
        depth=depth,
        points=points,
        normals=normals,
        classes=_ROOM_CLASSES[faces],
        objects=np.zeros_like(faces),
        faces=faces,
        textures=_ROOM_TEXTURES[faces],
        local=points.copy(),
    )
    # Solids are inside the room, so a solid that a ray meets is always in front of the room's faces.
    _cover(surfaces, scene, origin, directions)
    return surfaces


def _cover(surfaces: Surfaces, scene: Scene, origin: Array, directions: Array) -> None:
    """Writes the visible parts of the solids over the room's surfaces."""
    solids = scene.solids
    distance, first = solids.first_hits(origin, directions)
    seen = np.flatnonzero((first >= 0) & (distance < surfaces.depth))
    index = first[seen]
    distance = distance[seen]
    points = origin[:, None] + distance * directions[:, seen]
    local = solids.turned(index, points - solids.centre[index].T)
    normals, face = solids.normals(index, local)
    surfaces.depth[seen] = distance
    surfaces.points[:, seen] = points
    surfaces.normals[:, seen] = normals
    surfaces.objects[seen] = solids.object[index]
    surfaces.classes[seen] = scene.classes[solids.object[index]]
    surfaces.faces[seen] = _FACES * (index + 1) + face
    surfaces.textures[seen] = solids.texture[index]
    surfaces.local[:, seen] = local


def paint(scene: Scene, surfaces: Surfaces, size: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """Returns the picture with the noise of a camera: RGB from 0 to 255, (3, size, size)."""
    footprint = surfaces.depth * scene.camera.slope * 2 / size
    albedo = scene.textures.albedo(surfaces.textures, surfaces.local, footprint)
    # The light from all directions is a little stronger from above.
    light = scene.ambient[:, None] * (0.85 + 0.15 * surfaces.normals[2])
    for lamp in scene.lights:
        ray = surfaces.points - lamp.position[:, None]
        square = (ray**2).sum(axis=0) + 1e-9
        facing = np.maximum(-(surfaces.normals * ray).sum(axis=0), 0) / np.sqrt(square)
        if lamp.shadows:
            lit = np.flatnonzero(facing)
            first, _ = scene.solids.first_hits(lamp.position, ray[:, lit])
            facing[lit[first < 1 - 1e-4]] = 0
        light = light + lamp.power[:, None] * facing / (1 + square / _BRIGHTNESS_AT_M**2)
    radiance = albedo * light
    # The exposure is a camera's, a little too long or too short.
    exposed = radiance * random.uniform(0.22, 0.42) / radiance.mean()
    noise = random.standard_normal(radiance.shape) * random.uniform(0.005, 0.03)
    picture = np.clip(np.round(255 * (np.clip(exposed, 0, 1) ** (1 / 2.2) + noise)), 0, 255)
    bytes_: NDArray[np.uint8] = picture.astype(np.uint8).reshape(3, size, size)
    return bytes_


def _room_hits(room: Array, origin: Array, directions: Array) -> tuple[Array, Indices]:
    """Returns where rays (3, N) from inside leave the room: their distances and faces, (N,)."""
    walls = np.where(directions > 0, room[:, None], 0.0)
    distances = (walls - origin[:, None]) / np.where(directions == 0, 1e-300, directions)
    axis = distances.argmin(axis=0)
    columns = np.arange(directions.shape[1])
    return distances[axis, columns], 2 * axis + (directions[axis, columns] > 0)
