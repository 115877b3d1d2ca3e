"""Dense flow from the best target cells of a source, and the target warped onto the source by it.

A thin plate that forgives outliers is fitted to the shifts of the cells. The flow is what it says at the corners of all
cells, interpolated in between.
"""

from collections.abc import Iterator
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import grid_sample

from dhpf.data.images import shrunk
from dhpf.evaluation.metrics import Reals

Size = tuple[int, int]  # width, height in pixels
Tile = tuple[slice, slice]  # rows and columns

MAX_CELLS = 60  # a side, of the source cells that the plate is fitted to
KNOTS = 20  # a side; each is the mean of some of these cells
STIFFNESS = 1.0  # of the plate, where the frame has a side of 1
OUTLIER = 0.05  # sides of the frame: a match so far off the plate counts half
ROUNDS = 5  # of fitting the plate and weighing the matches anew
TILE = 512  # pixels a side of a source that are warped together


def sampled_cells(side: int) -> NDArray[np.int64]:
    """The cells of a side×side grid that a plate is fitted to, evenly spaced: n numbers, row by row."""
    axis = np.arange(0, side, -(-side // MAX_CELLS))
    return (axis[:, None] * side + axis).ravel()


def corner_flow(cells: NDArray[np.int64], targets: NDArray[np.int64], confidence: Reals, side: int) -> Reals:
    """Where the corners of the source's cells are in the target.

    Args:
        cells, targets: n source cells and the best target cell of each, numbers in grids of side×side cells.
        confidence: n values in 0..1.
    Returns:
        (side+1)×(side+1)×2 (x, y), in sides of the frame.
    """
    from scipy.interpolate import RBFInterpolator  # half a second, for flows alone

    starts, ends = (np.stack([numbers % side, numbers // side], -1) / side for numbers in (cells, targets))
    shifts, weights = ends - starts, confidence + 1e-6
    n = min(side, KNOTS)
    knot = (cells // side * n // side) * n + cells % side * n // side
    robust = weights
    for _ in range(ROUNDS):
        total = np.bincount(knot, robust)
        place, shift = (
            np.stack([np.bincount(knot, robust * v) for v in xy.T], 1) / total[:, None]
            for xy in (starts, shifts)
        )
        plate = RBFInterpolator(place, shift, smoothing=STIFFNESS / total, kernel="thin_plate_spline")
        distance = np.linalg.norm(plate(starts) - shifts, axis=1)
        robust = weights / (1 + (distance / OUTLIER) ** 2)
    corners = np.stack(np.meshgrid(*[np.arange(side + 1) / side] * 2), -1)
    return corners + plate(corners.reshape(-1, 2)).reshape(corners.shape)


def flow_tiles(corners: Reals, source: Size, target: Size) -> Iterator[tuple[Tile, NDArray[np.float32]]]:
    """Parts of the source and where their pixels are in the target, in its pixels: height×width×2 (x, y).

    Args: corners: see `corner_flow`; source, target: sizes of the images.
    """
    grid = torch.from_numpy(corners).permute(2, 0, 1)[None].float()
    x, y = (torch.arange(n) * (2 / n) - 1 for n in source)
    for top, left in product(range(0, len(y), TILE), range(0, len(x), TILE)):
        rows, columns = slice(top, top + TILE), slice(left, left + TILE)
        position = torch.stack(torch.meshgrid(x[columns], y[rows], indexing="xy"), -1)
        part = grid_sample(grid, position[None], align_corners=True)[0].permute(1, 2, 0)
        yield (rows, columns), part.numpy() * np.array(target, np.float32)


def dense_flow(corners: Reals, source: Size, target: Size) -> NDArray[np.float32]:
    """Where each source pixel is in the target, in its pixels: height×width×2 (x, y). Args: as for `flow_tiles`."""
    flow = np.empty((source[1], source[0], 2), np.float32)
    for tile, part in flow_tiles(corners, source, target):
        flow[tile] = part
    return flow


def flo_file(displacement: NDArray[np.float32]) -> bytes:
    """A file of Middlebury's format .flo: its tag, width and height, then x and y of each pixel, row by row."""
    height, width, _ = displacement.shape
    return b"PIEH" + np.array([width, height], "<i4").tobytes() + displacement.astype("<f4").tobytes()


def warp(target: Image.Image, corners: Reals, source: Size) -> Image.Image:
    """The target warped onto a source of this size: RGBA, transparent where the target does not reach.

    Args: corners: see `corner_flow`.
    """
    picture = shrunk(target, 2 * max(source))  # a much larger target would flicker
    size = np.array(picture.size, np.float32)
    scale = size / np.array(target.size, np.float32)
    result = Image.new("RGBA", source)
    for (rows, columns), flow in flow_tiles(corners, source, target.size):
        position = (flow + 0.5) * scale - 0.5
        inside = ((position >= -0.5) & (position <= size - 0.5)).all(-1)
        if not inside.any():
            continue
        position = position.clip(0, size - 1)
        left, top = np.floor(position[inside].min(0)).astype(int)  # the rest of the target is not read
        right, bottom = np.minimum(np.floor(position[inside].max(0)) + 2, size).astype(int)
        pixels = np.array(picture.crop((left, top, right, bottom)))
        crop = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
        extent = np.maximum(np.array(crop.shape[:1:-1], np.float32) - 1, np.float32(1))
        grid = torch.from_numpy((position - np.array([left, top], np.float32)) * (2 / extent) - 1)
        values = grid_sample(crop, grid[None], padding_mode="border", align_corners=True)[0]
        colours = values.round().byte().permute(1, 2, 0).numpy() * np.expand_dims(inside, 2)
        tile = np.dstack([colours, 255 * inside.astype(np.uint8)])
        result.paste(Image.fromarray(tile), (columns.start, rows.start))
    return result
