"""Plane geometry of the synthetic pairs: where an object lies in two frames.

Points of a plane are complex numbers here, x + iy, so that a similarity is one product and one sum.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RBFInterpolator

Points = NDArray[np.complex128]
Reals = NDArray[np.float64]

RADIUS = 0.28  # mean radius of an object, in sides of the frame
ROTATION = np.deg2rad(45)  # at most, between the frames
SCALE = 1.5  # at most, between the object's sizes in the frames
BEND = 0.18  # standard deviation of the thin plate's 3x3 knots, in radii


class Similarity(NamedTuple):
    """Points -> factor * points + offset: rotation and scale, then translation."""

    factor: complex
    offset: complex

    def __call__(self, points: Points) -> Points:
        return self.factor * points + self.offset

    def inverse(self, points: Points) -> Points:
        return (points - self.offset) / self.factor


def as_reals(points: Points) -> Reals:
    """Points [...] as pairs x, y: [..., 2]."""
    return np.stack((points.real, points.imag), -1)


def pixels(width: int, height: int) -> Points:
    """The points at an image's pixels [height, width]."""
    return np.arange(width) + 1j * np.arange(height)[:, None]


def box_around(points: Points) -> Reals:
    """The box (x1, y1, x2, y2) around points [n]."""
    reals = as_reals(points)
    return np.concatenate((reals.min(0), reals.max(0)))


@dataclass(frozen=True)
class Warp:
    """Where an object (the point 0 its middle, 1 its mean radius) lies in the two frames.

    source: object -> source frame.  target: bent object -> target frame.  plate: bent object -> object.
    """

    source: Similarity
    target: Similarity
    plate: RBFInterpolator

    def from_source(self, points: Points) -> Points:
        """Source frame -> object."""
        return self.source.inverse(points)

    def from_target(self, points: Points) -> Points:
        """Target frame -> object."""
        return straightened(self.plate, self.target.inverse(points))

    def to_source(self, points: Points) -> Points:
        """Target frame -> source frame."""
        return self.source(self.from_target(points))


def straightened(plate: RBFInterpolator, points: Points) -> Points:
    return (plate(as_reals(points).reshape(-1, 2)) @ (1, 1j)).reshape(points.shape)


def draw_plate(rng: np.random.Generator) -> RBFInterpolator:
    """A random thin-plate spline that moves the knots -1, 0, 1 squared, without folds up to 1.6 from the middle."""
    knots = as_reals(pixels(3, 3) - 1 - 1j).reshape(-1, 2)
    around = (pixels(33, 33) - 16 - 16j) / 10
    while True:
        plate = RBFInterpolator(knots, rng.normal(knots, BEND), kernel="thin_plate_spline")
        down, right = np.gradient(straightened(plate, around) * 10)
        if (right.conj() * down).imag.min() > 0.3:  # the determinant of the Jacobian
            return plate


def draw_warp(rng: np.random.Generator, side: int) -> Warp:
    """A random placement in two frames of side x side pixels."""
    ratio, turn, tilt = (
        SCALE ** rng.uniform(-1, 1),
        rng.uniform(-ROTATION, ROTATION),
        rng.uniform(-0.15, 0.15),
    )

    def place(size: float, angle: float) -> Similarity:
        middle = side * complex(*rng.uniform(0.36, 0.64, 2))
        return Similarity(side * RADIUS * size * np.exp(1j * angle), middle)

    return Warp(place(ratio**-0.5, tilt), place(ratio**0.5, tilt + turn), draw_plate(rng))
