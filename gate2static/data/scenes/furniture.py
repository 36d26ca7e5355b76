"""The furniture of a room and the pieces on its walls, built from boxes, cylinders and balls.

A piece has its own axes: x sideways, y from its back to its front, and z up. The origin is on the floor, or for wall
pieces in the middle of their back. Sizes are in metres and drawn anew for every piece.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from gate2static.data.scenes.solids import BALL, BOX, CYLINDER

CLASSES = (
    "floor",
    "ceiling",
    "wall",
    "door",
    "window",
    "picture",
    "cabinet",
    "table",
    "chair",
    "sofa",
    "bed",
    "lamp",
    "ball",
)
FLOOR, CEILING, WALL = 0, 1, 2
FURNITURE = CLASSES.index("cabinet")
"""The first class of furniture; earlier classes are parts of the building."""

Triple = tuple[float, float, float]


class Part(NamedTuple):
    """One solid of a piece; parts with the same `texture` (0 or 1) look alike."""

    shape: int
    centre: Triple
    half: Triple
    texture: int = 0


class Piece(NamedTuple):
    """A piece: its parts, half of its width (x) and depth (y), and its height."""

    parts: Sequence[Part]
    half: tuple[float, float]
    height: float


def _box(low: Triple, high: Triple, texture: int = 0) -> Part:
    (a, b, c), (x, y, z) = low, high
    return Part(BOX, ((a + x) / 2, (b + y) / 2, (c + z) / 2), ((x - a) / 2, (y - b) / 2, (z - c) / 2), texture)


def _cylinder(radius: float, low: float, high: float, texture: int = 0) -> Part:
    return Part(CYLINDER, (0, 0, (low + high) / 2), (radius, radius, (high - low) / 2), texture)


def _ball(radius: float, centre: Triple, texture: int = 0) -> Part:
    return Part(BALL, centre, (radius, radius, radius), texture)


def _legs(x: float, y: float, height: float, thick: float) -> list[Part]:
    corners = ((-x, -y), (x - thick, -y), (-x, y - thick), (x - thick, y - thick))
    return [_box((a, b, 0), (a + thick, b + thick, height), 1) for a, b in corners]


def cabinet(random: np.random.Generator) -> Piece:
    """Draws a cabinet: a body with up to four drawers or doors that stand out a little."""
    x, y, height = random.uniform((0.3, 0.18, 0.7), (0.75, 0.3, 2.0)).tolist()
    fronts = int(random.integers(1, 5))
    upright = random.random() < 0.4
    parts = [_box((-x, -y, 0), (x, y - 0.03, height))]
    for k in range(fronts):
        low = (k + 0.06) / fronts
        high = (k + 0.94) / fronts
        if upright:
            parts.append(_box((x * (2 * low - 1), y - 0.03, 0.08), (x * (2 * high - 1), y, height - 0.06), 1))
        else:
            parts.append(_box((0.05 - x, y - 0.03, height * low), (x - 0.05, y, height * high), 1))
    return Piece(parts, (x, y), height)


def table(random: np.random.Generator) -> Piece:
    """Draws a table: a board on four legs, or a round board on a column."""
    x, y, height = random.uniform((0.45, 0.35, 0.45), (0.9, 0.5, 0.8)).tolist()
    if random.random() < 0.3:
        parts = [_cylinder(y + 0.1, height - 0.05, height), _cylinder(0.05, 0, height - 0.05, 1)]
        return Piece([*parts, _cylinder(y - 0.1, 0, 0.04, 1)], (y + 0.1, y + 0.1), height)
    return Piece([_box((-x, -y, height - 0.06), (x, y, height)), *_legs(x, y, height - 0.06, 0.07)], (x, y), height)


def chair(random: np.random.Generator) -> Piece:
    """Draws a chair: a seat on four legs with a back."""
    x, y, seat, back = random.uniform((0.2, 0.2, 0.4, 0.35), (0.27, 0.27, 0.5, 0.6)).tolist()
    parts = [_box((-x, -y, seat - 0.06), (x, y, seat)), _box((-x, -y, seat), (x, 0.06 - y, seat + back))]
    return Piece([*parts, *_legs(x, y, seat - 0.06, 0.055)], (x, y), seat + back)


def sofa(random: np.random.Generator) -> Piece:
    """Draws a sofa: a seat, a back and two arms; narrow sofas are armchairs."""
    x, y, seat, back = random.uniform((0.45, 0.38, 0.35, 0.7), (1.1, 0.48, 0.45, 0.95)).tolist()
    arm = seat + 0.2
    parts = [_box((0.15 - x, -y, 0.05), (x - 0.15, y, seat), 1), _box((0.15 - x, -y, seat), (x - 0.15, 0.2 - y, back))]
    parts += [_box((-x, -y, 0), (0.15 - x, y, arm)), _box((x - 0.15, -y, 0), (x, y, arm))]
    return Piece(parts, (x, y), back)


def bed(random: np.random.Generator) -> Piece:
    """Draws a bed: a mattress with a headboard and one or two pillows."""
    x, y, top, head = random.uniform((0.45, 0.95, 0.4, 0.75), (0.9, 1.05, 0.6, 1.15)).tolist()
    pillows = 2 if x > 0.65 else 1
    parts = [_box((-x, 0.06 - y, 0.08), (x, y, top), 1), _box((-x, -y, 0), (x, 0.06 - y, head))]
    for k in range(pillows):
        left = -x + 2 * x * k / pillows
        parts.append(_box((left + 0.08, 0.1 - y, top), (left + 2 * x / pillows - 0.08, 0.5 - y, top + 0.12)))
    return Piece(parts, (x, y), head)


def lamp(random: np.random.Generator) -> Piece:
    """Draws a lamp: a foot, a pole and a shade or globe."""
    radius, height, shade = random.uniform((0.14, 1.2, 0.22), (0.24, 1.7, 0.36)).tolist()
    parts = [_cylinder(0.14, 0, 0.04, 1), _cylinder(0.03, 0.04, height - shade, 1)]
    head = (
        _ball(radius, (0, 0, height - radius)) if random.random() < 0.3 else _cylinder(radius, height - shade, height)
    )
    return Piece([*parts, head], (radius, radius), height)


def ball(random: np.random.Generator) -> Piece:
    """Draws a ball."""
    radius = random.uniform(0.1, 0.28)
    return Piece([_ball(radius, (0, 0, radius))], (radius, radius), 2 * radius)


def door(random: np.random.Generator) -> Piece:
    """Draws a door: a leaf between posts, with a knob; its middle is half its height above the floor."""
    x, z, side = random.uniform((0.38, 0.97, -1), (0.5, 1.06, 1)).tolist()
    parts = [_box((-x, 0, -z), (x, 0.03, z)), _ball(0.045, (0.8 * x if side > 0 else -0.8 * x, 0.06, 0.0), 1)]
    parts += [_box((-x - 0.08, 0, -z), (-x, 0.07, z + 0.08), 1), _box((x, 0, -z), (x + 0.08, 0.07, z + 0.08), 1)]
    return Piece([*parts, _box((-x, 0, z), (x, 0.07, z + 0.08), 1)], (x + 0.08, 0.07), 2 * z)


def window(random: np.random.Generator) -> Piece:
    """Draws a window: a pane in a frame with one or two bars."""
    x, z = random.uniform((0.4, 0.4), (0.9, 0.65)).tolist()
    parts = [_box((-x, 0, -z), (x, 0.02, z)), _box((-0.03, 0.02, -z), (0.03, 0.05, z), 1)]
    if random.random() < 0.5:
        parts.append(_box((-x, 0.02, -0.03), (x, 0.05, 0.03), 1))
    parts += [_box((-x - 0.07, 0, -z), (-x, 0.08, z), 1), _box((x, 0, -z), (x + 0.07, 0.08, z), 1)]
    parts += [_box((-x - 0.07, 0, z), (x + 0.07, 0.08, z + 0.07), 1)]
    return Piece([*parts, _box((-x - 0.1, 0, -z - 0.07), (x + 0.1, 0.14, -z), 1)], (x + 0.1, 0.1), 2 * z)


def picture(random: np.random.Generator) -> Piece:
    """Draws a picture: a canvas in a frame."""
    x, z = random.uniform((0.2, 0.2), (0.55, 0.45)).tolist()
    rim = 0.05
    parts = [_box((-x, 0, -z), (x, 0.04, z), 1), _box((rim - x, 0.04, rim - z), (x - rim, 0.05, z - rim))]
    return Piece(parts, (x, 0.05), 2 * z)


BUILDERS: dict[str, Callable[[np.random.Generator], Piece]] = {
    build.__name__: build for build in (door, window, picture, cabinet, table, chair, sofa, bed, lamp, ball)
}
