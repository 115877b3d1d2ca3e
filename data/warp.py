"""Plane geometry of the synthetic pairs: where an object lies in two frames.

Points are arrays [2, ...] (x; y), as key-points are everywhere.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RBFInterpolator

Array = NDArray[np.float64]

RADIUS = 0.28  # mean radius of an object, in sides of the frame
MAX_ROTATION = np.deg2rad(45)  # between the frames
MAX_SCALE = 1.5  # between the object's sizes in the frames
BEND = 0.18  # standard deviation of the thin plate's 3x3 knots, in radii


@dataclass(frozen=True)
class Similarity:
    """Rotation by `angle` and scaling, then translation by `offset` (x, y)."""

    scale: float
    offset: Array
    angle: float = 0.0

    def __call__(self, points: Array) -> Array:
        (x, y), cos, sin = points, self.scale * np.cos(self.angle), self.scale * np.sin(self.angle)
        return np.stack((cos * x - sin * y + self.offset[0], sin * x + cos * y + self.offset[1]))

    def inverse(self, points: Array) -> Array:
        x, y = points[0] - self.offset[0], points[1] - self.offset[1]
        cos, sin = np.cos(self.angle) / self.scale, np.sin(self.angle) / self.scale
        return np.stack((cos * x + sin * y, cos * y - sin * x))


def pixel_grid(width: int, height: int) -> Array:
    """The points at an image's pixels: [2, height, width]."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height))).astype(np.float64)


@dataclass(frozen=True)
class Warp:
    """Where an object (the point 0 its middle, 1 its mean radius) lies in the two frames.

    source: object -> source frame.  target: bent object -> target frame.  plate: bent object -> object.
    """

    source: Similarity
    target: Similarity
    plate: RBFInterpolator

    def from_target(self, points: Array) -> Array:
        """Target frame -> object."""
        return interpolate(self.plate, self.target.inverse(points))

    def to_source(self, points: Array) -> Array:
        """Target frame -> source frame."""
        return self.source(self.from_target(points))


def interpolate(plate: RBFInterpolator, points: Array) -> Array:
    """The plate's values at points [2, ...]."""
    return plate(points.reshape(2, -1).T).T.reshape(points.shape)


def draw_plate(rng: np.random.Generator) -> RBFInterpolator:
    """A random thin-plate spline that moves the knots -1, 0, 1 squared, without folds up to 1.6 from the middle."""
    knots = (pixel_grid(3, 3) - 1).reshape(2, -1).T
    grid = (pixel_grid(33, 33) - 16) / 10
    while True:
        plate = RBFInterpolator(knots, rng.normal(knots, BEND), kernel="thin_plate_spline")
        by_y, by_x = np.gradient(interpolate(plate, grid) * 10, axis=(1, 2))
        (x_by_y, y_by_y), (x_by_x, y_by_x) = np.asarray(by_y), np.asarray(by_x)
        if (x_by_x * y_by_y - y_by_x * x_by_y).min() > 0.3:  # determinant of the Jacobian
            return plate


def draw_warp(rng: np.random.Generator, side: int) -> Warp:
    """A random placement in two frames of side x side pixels."""
    ratio = MAX_SCALE ** rng.uniform(-1, 1)
    turn, tilt = rng.uniform(-MAX_ROTATION, MAX_ROTATION), rng.uniform(-0.15, 0.15)

    def draw_place(size: float, angle: float) -> Similarity:
        return Similarity(side * RADIUS * size, side * rng.uniform(0.36, 0.64, 2), angle)

    return Warp(draw_place(ratio**-0.5, tilt), draw_place(ratio**0.5, tilt + turn), draw_plate(rng))
