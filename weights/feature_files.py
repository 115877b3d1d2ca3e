"""Features from files as a backbone, `files:DIR`, for what nobody computes here (docs/features.md).

For each image DIR has one `.npy`, `.npz`, `.pt` or `.safetensors` file with a map C×h×w or several, the hyperpixel
layers, named as the image is: by its path relative to its benchmark, or by its bare name where that is unique. Maps are
of the whole image, stretched to a square (`files:`), or of the image padded to a square (`files-pad:`).
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dhpf.common.errors import UserError
from dhpf.model.backbone import FrozenBackbone, unbuilt
from dhpf.weights.files import read

SUFFIXES = (".npy", ".npz", ".pt", ".pth", ".safetensors")
PADDED = "files-pad"
Size = tuple[int, int]  # width and height of an image in pixels


class FeatureFiles:
    """The feature files of a folder.

    shapes: (channels, side) of the layers, the finest first, as the first file has them; others are brought to them.
    Raises: UserError: there is no such folder or no file in it; a file holds no maps.
    """

    def __init__(self, folder: Path, padded: bool) -> None:
        self.folder, self.padded = folder, padded
        paths = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)
        if not paths:
            raise UserError(
                f"--backbone files:{folder}: there is no file of features ({', '.join(SUFFIXES)})"
            )
        self.paths = {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}
        self.by_name: dict[str, list[Path]] = {}
        for name, path in self.paths.items():
            self.by_name.setdefault(PurePosixPath(name).name, []).append(path)
        maps = read_maps(paths[0])
        self.order = sorted(range(len(maps)), key=lambda k: -max(maps[k].shape[1:]))
        self.shapes = [(maps[k].shape[0], max(maps[k].shape[1:])) for k in self.order]

    def find(self, image: str) -> Path | None:
        """The file of an image's features, if there is one. Raises: UserError: there are several."""
        parts = PurePosixPath(image.replace("\\", "/")).parts
        for tail in ("/".join(parts[k:]) for k in range(len(parts))):
            for name in (tail, str(PurePosixPath(tail).with_suffix(""))):
                if name in self.paths:
                    return self.paths[name]
        for name in (parts[-1], PurePosixPath(parts[-1]).stem):
            if len(found := self.by_name.get(name, [])) > 1:
                raise UserError(
                    f"{self.folder}: {found[0].name} is there {len(found)} times, and none is named as {image}: put "
                    "files where the images are in their benchmark"
                )
            if found:
                return found[0]
        return None

    def check(self, images: Sequence[str]) -> None:
        """Raises: UserError: some images have no features, or two have the same."""
        found = {image: self.find(image) for image in images}
        if missing := [image for image, path in found.items() if path is None]:
            named = ", ".join(missing[:5]) + ", ..." * (len(missing) > 5)
            raise UserError(
                f"--backbone files:{self.folder}: {len(missing)} of {len(images)} images have no features: {named}"
            )
        owners: dict[Any, str] = {}
        for image, path in found.items():
            if (other := owners.setdefault(path, image)) != image:
                raise UserError(
                    f"{path}: it would be of {other} and of {image}: put files where the images are"
                )

    def image_tensor(self, image: str, size: Size, mirrored: bool = False) -> Tensor:
        """What `Precomputed` is given of an image of this size: all its maps in a row, L×1×1."""
        path = self.find(image)
        if path is None:
            raise UserError(f"--backbone files:{self.folder}: {image} has no features")
        maps = read_maps(path)
        channels = [maps[k].shape[0] for k in self.order] if len(maps) == len(self.order) else []
        if channels != [count for count, _ in self.shapes]:
            expected = ", ".join(f"{count}×{side}×{side}" for count, side in self.shapes)
            raise UserError(f"{path}: its maps are {[tuple(m.shape) for m in maps]}, others have {expected}")
        parts = []
        for k, (_, side) in zip(self.order, self.shapes, strict=True):
            square = of_whole_image(maps[k], side, size if self.padded else (1, 1))
            parts.append((square.flip(-1) if mirrored else square).flatten())
        return torch.cat(parts)[:, None, None]


def read_maps(path: Path) -> list[Tensor]:
    """The maps C×h×w of a file, named ones in the order of their names. Raises: UserError: it holds something else."""
    if path.suffix in (".npy", ".npz"):
        try:
            content = np.load(path, allow_pickle=False)
            content = dict(content) if path.suffix == ".npz" else content
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path}: no maps can be read from it ({error})") from error
    else:
        content = read(path)
    if isinstance(content, dict):
        content = [content[name] for name in sorted(content, key=natural_key)]
    listed = content if isinstance(content, list | tuple) else [content]
    maps = [torch.as_tensor(value) for value in listed if isinstance(value, Tensor | np.ndarray)]
    maps = [m[0] if m.dim() == 4 and len(m) == 1 else m for m in maps]
    if not maps or any(m.dim() != 3 or not m.is_floating_point() or 0 in m.shape for m in maps):
        raise UserError(f"{path}: it holds no map C×h×w of floating point, or several")
    maps = [m.float() for m in maps]
    if not all(bool(m.isfinite().all()) for m in maps):
        raise UserError(f"{path}: it has values that are not finite")
    return maps


def natural_key(name: Any) -> list[Any]:
    """By which names are sorted: layer2 before layer10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(name))]


def of_whole_image(x: Tensor, side: int, size: Size) -> Tensor:
    """A map C×h×w of the square that an image of this size is padded to, as one of the image alone: C×side×side."""
    width, height = (length / max(size) for length in size)
    if x.shape[1:] == (side, side) and width == height == 1:
        return x
    grid = F.affine_grid(
        torch.tensor([[[width, 0, 0], [0, height, 0]]]), [1, 1, side, side], align_corners=False
    )
    return F.grid_sample(x[None], grid, padding_mode="border", align_corners=False)[0]


class Precomputed(FrozenBackbone):
    """A backbone that takes maps for images: it only lays them out."""

    files: FeatureFiles

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.input_size:
            raise UserError("--backbone-side: features from files have a side already, leave it out")
        self.features = self.files
        described = repr((self.files.shapes, self.files.padded))
        self.weights_hash = hashlib.sha256(described.encode()).hexdigest()[:16]

    def __reduce__(self) -> Any:
        return unbuilt, (self.name,), self.__dict__

    def network(self) -> nn.Module:
        return nn.Module()

    @classmethod
    def pretrained(cls) -> dict[str, Tensor]:
        return {}

    def blank(self, frame: int) -> Tensor:
        return torch.zeros(1, sum(count * side**2 for count, side in self.files.shapes), 1, 1)

    def layer_maps(self, images: Tensor, frame: int | None = None) -> Iterator[Tensor]:
        """The maps of B images as `FeatureFiles.image_tensor` gives them, B×L×1×1."""
        parts = images.flatten(1).split([count * side**2 for count, side in self.files.shapes], 1)
        maps = (
            part.reshape(-1, count, side, side)
            for part, (count, side) in zip(parts, self.files.shapes, strict=True)
        )
        return self.select_blocks(maps)


@cache
def named(name: str) -> type[Precomputed]:
    """The backbone of a name, `files:DIR` or `files-pad:DIR`. Raises: UserError: as `FeatureFiles`."""
    prefix, _, folder = name.partition(":")
    files = FeatureFiles(Path(folder), prefix == PADDED)
    channels = tuple(count for count, _ in files.shapes)
    return type("Files", (Precomputed,), {"name": name, "files": files, "channels": channels})
