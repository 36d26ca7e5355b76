"""A random room with its furniture, lights and camera.

The world's axes are x and y along the walls and z up; the room is the box from (0, 0, 0) to its size.
"""

from dataclasses import dataclass, field

import numpy as np

from gate2static.data.scenes.camera import Camera, look_at
from gate2static.data.scenes.furniture import BUILDERS, CLASSES, Piece
from gate2static.data.scenes.solids import Array, Indices, Solid, Solids
from gate2static.data.scenes.textures import Textures, draw_textures

ROOM_TEXTURES = 4
"""The textures of a room: floor, ceiling, two opposite walls, and the other two walls."""

_AT_A_WALL = ("cabinet", "sofa", "bed")
_ANYWHERE = ("table", "chair", "lamp", "ball")
_HANGING = ("door", "window", "picture")
_PERSONAL_SPACE = 0.45
"""The distance in metres around the camera without furniture."""


@dataclass(frozen=True, kw_only=True)
class Light:
    """A point light.

    Attributes:
        position: The light's position in metres, (3,).
        power: The light on a surface that faces it at a distance of almost 0, linear RGB (3,).
        shadows: Whether the light throws shadows.
    """

    position: Array
    power: Array
    shadows: bool


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A room, from which a picture and its targets follow."""

    room: Array
    """The room's size in metres, (3,)."""
    solids: Solids
    classes: Indices
    """The class of each object; the first entry is for the room, which has no class."""
    textures: Textures
    lights: tuple[Light, Light]
    ambient: Array
    """The light from all directions, linear RGB (3,)."""
    camera: Camera


def draw_scene(random: np.random.Generator) -> Scene:
    """Draws a room with at least one object in it."""
    room = random.uniform((3.2, 3.2, 2.3), (6.5, 6.5, 3.1))
    # The camera stands towards one corner and looks across the room.
    away = random.uniform(0.08, 0.4, 2)
    position = np.array([*np.where(random.random(2) < 0.5, away, 1 - away) * room[:2], random.uniform(1.0, 1.9)])
    plan = _Plan(room, position[:2])
    _hang(plan, random)
    _furnish(plan, random)
    middle = room[:2] - position[:2] + random.normal(0, 0.5, 2)
    target = np.array([*np.clip(middle, 0.2, room[:2] - 0.2), random.uniform(0.1, 1.3)])
    camera = look_at(position, target, roll=random.normal(0, 0.08), slope=np.tan(random.uniform(0.52, 0.72)))
    warmth = np.array([1.0, 0.0, -1.0])
    lights = (
        Light(
            position=room * random.uniform((0.15, 0.15, 0.93), (0.85, 0.85, 0.98)),
            power=random.uniform(2.0, 4.0) * (1 + random.uniform(-0.25, 0.35) * warmth),
            shadows=True,
        ),
        Light(
            position=room * random.uniform((0.05, 0.05, 0.3), (0.95, 0.95, 0.9)),
            power=random.uniform(0.0, 1.5) * (1 + random.uniform(-0.35, 0.25) * warmth),
            shadows=False,
        ),
    )
    return Scene(
        room=room,
        solids=Solids.of(plan.solids),
        classes=np.array([-1, *plan.classes]),
        textures=draw_textures(ROOM_TEXTURES + 2 * len(plan.classes), random),
        lights=lights,
        ambient=random.uniform(0.15, 0.5) * (1 + random.uniform(-0.15, 0.15) * warmth),
        camera=camera,
    )


@dataclass
class _Plan:
    """The pieces that have been placed so far."""

    room: Array
    viewer: Array
    solids: list[Solid] = field(default_factory=list)
    classes: list[int] = field(default_factory=list)
    occupied: list[tuple[float, float, float, float]] = field(default_factory=list)
    """Occupied rectangles of the floor: from x, to x, from y, to y."""

    def is_free(self, x: float, y: float, across: float, along: float) -> bool:
        """Returns whether a rectangle with these half sides is in the room, and clear of camera and furniture."""
        low_x, high_x = x - across, x + across
        low_y, high_y = y - along, y + along
        if low_x < 0 or low_y < 0 or high_x > self.room[0] or high_y > self.room[1]:
            return False
        gap_x = max(low_x - self.viewer[0], self.viewer[0] - high_x, 0.0)
        gap_y = max(low_y - self.viewer[1], self.viewer[1] - high_y, 0.0)
        if np.hypot(gap_x, gap_y) < _PERSONAL_SPACE:
            return False
        return all(low_x > b or high_x < a or low_y > d or high_y < c for a, b, c, d in self.occupied)

    def stand(self, name: str, piece: Piece, x: float, y: float, yaw: float) -> bool:
        """Puts a piece on the floor if its place is free, and returns whether it was."""
        cos, sin = abs(np.cos(yaw)), abs(np.sin(yaw))
        across = cos * piece.half[0] + sin * piece.half[1]
        along = sin * piece.half[0] + cos * piece.half[1]
        if not self.is_free(x, y, across - 1e-9, along - 1e-9):
            return False
        self.occupied.append((x - across, x + across, y - along, y + along))
        self.add(name, piece, (x, y, 0.0), yaw)
        return True

    def add(self, name: str, piece: Piece, at: tuple[float, float, float], yaw: float) -> None:
        """Adds a piece as a new object at a position, turned by `yaw` radians."""
        self.classes.append(CLASSES.index(name))
        number = len(self.classes)
        cos, sin = float(np.cos(yaw)), float(np.sin(yaw))
        for part in piece.parts:
            x, y, z = part.centre
            centre = (at[0] + cos * x - sin * y, at[1] + sin * x + cos * y, at[2] + z)
            texture = ROOM_TEXTURES + 2 * (number - 1) + part.texture
            self.solids.append(Solid(part.shape, centre, part.half, yaw, number, texture))

    def at_wall(self, wall: int, along: float, out: float) -> tuple[float, float, float]:
        """Returns a place at a wall, and the yaw of a piece with its back to the wall.

        Args:
            wall: The wall's number, 0 to 3.
            along: The position along the wall, 0 to 1.
            out: The distance from the wall in metres.
        """
        width = float(self.room[0])
        depth = float(self.room[1])
        places = (
            (along * width, out),
            (width - out, along * depth),
            (along * width, depth - out),
            (out, along * depth),
        )
        x, y = places[wall]
        return x, y, wall * np.pi / 2


def _hang(plan: _Plan, random: np.random.Generator) -> None:
    """Hangs up to two pieces on each wall, one on each half; a third of the places stays empty."""
    height = float(plan.room[2])
    for place in range(8):
        if random.random() < 0.35:
            continue
        wall, half = divmod(place, 2)
        name = _HANGING[random.integers(len(_HANGING))]
        piece = BUILDERS[name](random)
        room_for = float(plan.room[wall % 2]) / 2
        slack = room_for - 2 * piece.half[0] - 0.1
        if slack <= 0:
            continue
        along = (0.05 + piece.half[0] + slack * random.random()) / (2 * room_for) + half / 2
        x, y, yaw = plan.at_wall(wall, along, 0.0)
        middle = piece.height / 2
        highest = height - middle - 0.15
        z = middle if name == "door" else random.uniform(min(0.8 + middle, highest), highest)
        plan.add(name, piece, (x, y, z), yaw)


def _furnish(plan: _Plan, random: np.random.Generator) -> None:
    """Puts furniture at the walls, then tables with chairs, lamps and balls, until at least one piece stands."""
    while not plan.occupied:
        for _ in range(random.integers(2, 6)):
            _try(plan, _AT_A_WALL[random.integers(len(_AT_A_WALL))], random)
        for _ in range(random.integers(2, 7)):
            _try(plan, _ANYWHERE[random.integers(len(_ANYWHERE))], random)


def _try(plan: _Plan, name: str, random: np.random.Generator) -> None:
    """Tries six places for a piece, and puts it on the first free one."""
    piece = BUILDERS[name](random)
    for _ in range(6):
        if name in _AT_A_WALL:
            x, y, yaw = plan.at_wall(int(random.integers(4)), random.random(), piece.half[1])
        else:
            x, y = (plan.room[:2] * random.random(2)).tolist()
            yaw = random.uniform(0, 2 * np.pi)
        if plan.stand(name, piece, x, y, yaw):
            if name == "table":
                _seat(plan, piece, (x, y, yaw), random)
            return


def _seat(plan: _Plan, table: Piece, at: tuple[float, float, float], random: np.random.Generator) -> None:
    """Puts a ball on a table, and chairs around the table that face it."""
    x, y, yaw = at
    if random.random() < 0.4:
        plan.add("ball", BUILDERS["ball"](random), (x, y, table.height), 0.0)
    for side in range(4):
        if random.random() < 0.5:
            piece = BUILDERS["chair"](random)
            turn = yaw + side * np.pi / 2
            out = table.half[1 - side % 2] + piece.half[1] + 0.25
            # The chair's front, which is its y, faces the table.
            plan.stand("chair", piece, x + np.sin(turn) * out, y - np.cos(turn) * out, turn)
