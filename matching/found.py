"""What matching two images gives: points, confidence, dense flow, pictures and files."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image

from dhpf.common.errors import UserError
from dhpf.common.files import replace_file
from dhpf.evaluation.metrics import Reals, to_float64
from dhpf.matching.flow import corner_flow, dense_flow, flo_file, sampled_cells, warp
from dhpf.model.dhpf import Matches
from dhpf.model.features import ImageFeatures
from dhpf.model.grid import STRIDE

NOTEBOOK_DPI = 110
COLUMNS = ["source_x", "source_y", "target_x", "target_y", "confidence"]


@dataclass(frozen=True, repr=False)
class Encoded:
    """An image and its features: give it to `Matcher.match` again and it is not encoded again."""

    image: Image.Image
    features: ImageFeatures
    side: int

    def __repr__(self) -> str:
        width, height = self.image.size
        return f"<Encoded: {width}×{height} pixels, in a frame of {self.side}>"

    @property
    def scale(self) -> Reals:
        """Pixels of the image by pixels of the square frame (method, section 1), (x, y)."""
        return np.array(self.image.size) / self.side

    @cached_property
    def blank(self) -> bool:
        """Whether it has one colour everywhere, so that there is nothing to match."""
        return all(low == high for low, high in np.reshape(self.image.getextrema(), (-1, 2)))


@dataclass(frozen=True, repr=False)
class Found:
    """What matching a source with a target image gave. A notebook shows it as the picture that `save` writes.

    source: n×2 points in pixels of the source.
    points: n×2, where they are in the target, in its pixels.
    confidence: n values in 0..1, the share of the match scores near the best target cell (`confident_targets`); NaN
    where an image is blank.
    layers: the hyperpixel layers that this pair selected.
    """

    source: Reals
    points: Reals
    confidence: Reals
    layers: tuple[int, ...]
    images: tuple[Encoded, Encoded]
    matches: Matches

    def __str__(self) -> str:
        known = self.confidence[np.isfinite(self.confidence)]
        confidence = f"mean confidence {known.mean():.2f}" if len(known) else "no confidence"
        layers = f"layers {layer_ranges(self.layers)} ({len(self.layers)} of {self.matches.weights.shape[1]})"
        return f"{len(self.points)} point{'s' * (len(self.points) != 1)}, {confidence}, {layers}"

    def __repr__(self) -> str:
        return f"<Found: {self}>"

    def at_least(self, confidence: float) -> "Found":
        """The matches of that confidence or more; all are of 0 or more, those without one too."""
        return self._chosen(np.nan_to_num(self.confidence) >= confidence)

    def mutual(self) -> "Found":
        """The matches whose points come back: matched from the target, they are within a cell of where they began."""
        source, target = self.images
        there = torch.from_numpy((self.points / target.scale).T).to(self.matches.scores.column_max)[None]
        back = to_array(self.matches.transfer_back(there)[0]).T
        return self._chosen(np.linalg.norm(back - self.source / source.scale, axis=1) <= STRIDE)

    def _chosen(self, chosen: NDArray[np.bool_]) -> "Found":
        return replace(
            self,
            source=self.source[chosen],
            points=self.points[chosen],
            confidence=self.confidence[chosen],
        )

    def table(self) -> pd.DataFrame:
        """A row for each point, with `COLUMNS`, rounded to four digits."""
        values = np.column_stack([self.source, self.points, self.confidence]).round(4)
        return pd.DataFrame(values, columns=COLUMNS)

    @cached_property
    def _corners(self) -> Reals:
        """Where the corners of the source's cells are in the target (see `corner_flow`)."""
        cells = sampled_cells(self.matches.side)
        device = self.matches.scores.column_max.device
        targets, confidence = self.matches.confident(torch.from_numpy(cells)[None].to(device))
        return corner_flow(cells, targets[0].cpu().numpy(), to_array(confidence[0]), self.matches.side)

    @cached_property
    def flow(self) -> NDArray[np.float32]:
        """Where each source pixel is in the target, in its pixels: height×width×2 (x, y).

        The best target cells of all source cells, smoothed by a thin plate that forgives outliers.
        """
        source, target = (encoded.image.size for encoded in self.images)
        return dense_flow(self._corners, source, target)

    @property
    def displacement(self) -> NDArray[np.float32]:
        """`flow` without where each pixel is in the source: how far it moves, height×width×2 (x, y), in pixels."""
        height, width, _ = self.flow.shape
        own = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)
        return self.flow - own.astype(np.float32)

    def warped(self) -> Image.Image:
        """The target warped onto the source, of its size: RGBA, transparent where the target does not reach."""
        source, target = (encoded.image for encoded in self.images)
        return warp(target, self._corners, source.size)

    def picture(self, form: str = "png", dpi: int = 300, **drawn: Any) -> bytes:
        """A file (png, pdf or jpg) of both images, the points joined in the colour of their confidence.

        Args: drawn: more arguments of `drawing.matches`.
        """
        from dhpf.matching import drawing  # matplotlib: only where something is drawn

        source, target = (encoded.image for encoded in self.images)
        look = {"title": str(self)} | ({} if "correct" in drawn else {"confidence": self.confidence})
        figure = drawing.matches(source, target, self.source.T, self.points.T, **{**look, **drawn})
        return drawing.render(figure, form, dpi)

    def _repr_png_(self) -> bytes:
        return self.picture(dpi=NOTEBOOK_DPI)

    def show(self) -> None:
        """Show the picture: in a notebook, else in the system's viewer."""
        Image.open(io.BytesIO(self._repr_png_())).show()

    def save(self, path: str | Path) -> None:
        """Write what the suffix says.

        .png, .pdf, .jpg: the picture; .csv: `table`; .npy: `flow`; .flo: `displacement`, as Middlebury's files have it.
        Raises: UserError: another suffix; the file cannot be written.
        """
        path, array = Path(path), io.BytesIO()
        match path.suffix.lower():
            case ".png" | ".pdf" | ".jpg" as suffix:
                content = self.picture(suffix[1:])
            case ".csv":
                content = self.table().to_csv(index=False, lineterminator="\n").encode()
            case ".npy":
                np.save(array, self.flow)
                content = array.getvalue()
            case ".flo":
                content = flo_file(self.displacement)
            case _:
                raise UserError(f"{path}: give a name that ends in .png, .pdf, .jpg, .csv, .npy or .flo")
        replace_file(path, content)


def layer_ranges(layers: Sequence[int]) -> str:
    """Ascending layers as text: 0-3, 7."""
    starts = [k for k in layers if k - 1 not in layers]
    ends = [k for k in layers if k + 1 not in layers]
    return ", ".join(f"{a}-{b}" if a < b else f"{a}" for a, b in zip(starts, ends, strict=True))


def to_array(x: torch.Tensor) -> Reals:
    return to_float64(x).cpu().numpy()
