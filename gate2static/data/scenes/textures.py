"""Colours and patterns, drawn in the same way for all objects, so that they do not reveal an object's class.

A pattern is a function of the point p in the object: u = sin(k₁·p + a·sin(k₂·p)) and v = sin(k₃·p) give stripes, waves,
checks or blobs, depending on how sharply u or its product with v is cut.
"""

from dataclasses import dataclass

import numpy as np

from gate2static.data.scenes.solids import Array, Indices, Mask

_AXES = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]])


@dataclass(frozen=True)
class Textures:
    """M textures as arrays."""

    colours: Array
    """The two colours of each pattern, linear RGB, (M, 2, 3)."""
    waves: Array
    """k₁, k₂ and k₃ in radians per metre, (M, 3, 3)."""
    phases: Array
    """The phases of the three sines, (M, 3)."""
    warp: Array
    """The factor a, (M,)."""
    crossed: Mask
    """Whether u is multiplied by v, (M,)."""
    sharpness: Array
    """The factor of the pattern before it is cut at -1 and 1, (M,)."""

    def albedo(self, index: Indices, points: Array, footprint: Array) -> Array:
        """Returns the colours of points, linear RGB (3, N).

        Args:
            index: The texture of each point, (N,).
            points: The points in metres, (3, N).
            footprint: The width of a pixel in metres, (N,); finer patterns fade into their mean.
        """
        first, second, third = (
            (self.waves[:, k].T[:, index] * points).sum(axis=0) + self.phases[:, k][index] for k in range(3)
        )
        u = np.sin(first + self.warp[index] * np.sin(second))
        u *= np.where(self.crossed[index], np.sin(third), 1)
        finest = np.abs(self.waves).max(axis=(1, 2))[index] * footprint
        contrast = 1 / (1 + np.square(np.square(finest)))
        mix = 0.5 + 0.5 * contrast * np.clip(self.sharpness[index] * u, -1, 1)
        low, high = self.colours.transpose(1, 2, 0)
        blended: Array = low[:, index] + (high - low)[:, index] * mix
        return blended


def draw_textures(count: int, random: np.random.Generator) -> Textures:
    """Draws `count` textures."""
    base = random.random((count, 3))
    # Muted colours are more common than bright ones.
    grey = base.mean(axis=1, keepdims=True)
    first = grey + (base - grey) * random.random((count, 1))
    difference = (random.random((count, 3)) - 0.5) * random.random((count, 1)) ** 2 * 1.2
    colours = np.clip(0.08 + 0.8 * np.stack([first, first + difference], axis=1), 0.03, 0.95)
    wavelength = 0.12 * 8 ** random.random((count, 3, 1))
    directions = _AXES[random.integers(len(_AXES), size=(count, 3))] + 0.1 * (random.random((count, 3, 3)) - 0.5)
    return Textures(
        colours=colours,
        waves=2 * np.pi / wavelength * directions,
        phases=2 * np.pi * random.random((count, 3)),
        warp=np.where(random.random(count) < 0.5, 0.0, 3 * random.random(count)),
        crossed=random.random(count) < 0.4,
        sharpness=np.where(random.random(count) < 0.5, 1.0, 8.0),
    )
