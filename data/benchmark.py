"""The base of all benchmarks: pairs of images with key-points, brought into one square frame.

A benchmark reads its pair list when it is opened (`read_pairs`) and everything else per access.  What they
share is here: decoding and scaling of images (method, section 1), thresholds (8), mirroring and padding (9); finding
folder and list, and comparing the list with the published one.
"""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from dhpf.common.errors import UserError, count_text, error_context
from dhpf.common.files import is_file, sha256
from dhpf.data import layout
from dhpf.data.image_annotation import (
    UNKNOWN_AZIMUTH,
    ImageAnnotation,
    PointGroups,
    azimuth_difference,
)
from dhpf.data.images import normalised, opened_image, to_rgb
from dhpf.data.names import printable
from dhpf.data.published_lists import Published, compare_with_published

PADDING = -1
UNKNOWN = -1  # value of a label
MAX_COORDINATE_PX = 1e6

Array = NDArray[np.floating[Any]]
NO_POINTS: Array = np.zeros((2, 0))
NO_BOX: Array = np.full(4, np.nan, np.float32)


@dataclass(frozen=True, slots=True)
class Pair:
    """One pair of images and its annotation, in pixels of the stored images.

    line: where the pair list names the pair.  src_kps, trg_kps: [2, n] (x; y).  points: their names or numbers, n or
    none.  src_bbox, trg_bbox: [4] (x1 y1 x2 y2), None where there is none.  labels: integers that go into the sample
    as they are.  file: name of the annotation that the pair has beside the list, for messages.
    """

    line: int
    src_key: str
    trg_key: str
    category_id: int
    src_kps: Array = field(default_factory=lambda: NO_POINTS)
    trg_kps: Array = field(default_factory=lambda: NO_POINTS)
    points: tuple[str, ...] = ()
    src_bbox: Array | None = None
    trg_bbox: Array | None = None
    flip: int = 0
    labels: Mapping[str, int] = field(default_factory=dict)
    file: str = ""


class Benchmark(Dataset[dict[str, Any]], ABC):
    """Pairs of one split of a benchmark.  Frame of all coordinates: the square of img_side pixels.

    A sample (one pair) is a dict: `index`, `src_key`, `trg_key`, `category`, `category_id`, `n_pts`, `flip`;
    `n_trg_pts`; `src_kps`, `trg_kps` float32 [2, max_pts] padded with -1; `points`, their names separated by tabs;
    `src_bbox`, `trg_bbox` float32 [4] and `bbox_extent` float32 [2], NaN: none; `pckthres` float32 []; `src_size`,
    `trg_size` int64 [2] (width, height of the stored image); the pair's `labels`; `azimuth_difference`;
    `src_visible`, `trg_visible`, all visible points of either image as JSON {name: [x, y]}, empty: unknown;
    `src_img`, `trg_img` float32 [3, input_size, input_size], which is the frame's side unless a backbone is given
    larger images.

    `notes` says in sentences for the log what was read and what is unusual about it.

    A subclass says everything about its benchmark in the attributes below and in `read_pairs` and `complete`.

    Args:
        datapath: folder that holds the folders of all benchmarks, or the benchmark's own.
        split: one of `splits`.
        thres: 'auto' or one of `thresholds`, what the PCK is relative to (method, section 8).
        img_side: side of the frame in pixels.
        pair_list: read instead of the folder's own list.
        only: names of the categories whose pairs are kept; none: all.
        evaluation: no pair is mirrored, not even a training pair, and mirrored copies of pairs are left out.
    Raises:
        UserError: missing folder, unknown split, threshold or category, a pair list that cannot be used.
    """

    name: str
    folder: str  # inside --datapath
    other_folders: tuple[str, ...] = ()  # other names of it
    subfolders: tuple[str, ...] = ()  # patterns of folders of which it holds one at least
    never_holds: tuple[str, ...] = ()  # patterns of what other data sets with such folders hold
    archive: tuple[
        str, ...
    ] = ()  # a user's benchmark: addresses of an archive of the folder, in the order tried
    # Names of the pair list in the folder, those that win first; '{split}' stands for the split.
    lists: tuple[str, ...] = ()
    published: Mapping[str, Published] = MappingProxyType({})  # by split
    categories: tuple[str, ...]
    splits: tuple[str, ...]
    test_split: str = "test"  # what is tested unless another is asked for
    thresholds: tuple[str, ...]
    auto_thres: str
    max_pts: int = 40
    likely_box_error: str = "x y w h where x1 y1 x2 y2 belongs"  # where most boxes are odd
    bbox_definition: str = "larger side of the target box"  # what the threshold 'bbox' is
    metric: str = "pck"  # a key of `evaluation.METRICS`
    # What pairs are labelled with: the names of 0, 1, ...; -1 is unknown.
    labels: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    # Of the label 'leaked', the overlap of test and training: what is true of such pairs; why it can be unknown.
    overlap: str = "are training pairs"
    overlap_unknown: str = "the training list is missing"
    options: tuple[str, ...] = ()  # of the command line, which only this benchmark understands
    how_to_get: str = "let the program download it (without --no-download) or unpack its archive there"
    # Which figures are defined as the paper's: those whose definition has all of these; none where nothing is said.
    paper: Mapping[str, Any] = MappingProxyType({})

    def __init__(
        self,
        datapath: str | Path,
        split: str,
        thres: str = "auto",
        img_side: int = 240,
        *,
        pair_list: str | Path | None = None,
        only: Sequence[str] = (),
        evaluation: bool = False,
    ) -> None:
        if split not in self.splits:
            raise UserError(f"benchmark {self.name} has no split '{split}', only {', '.join(self.splits)}")
        if thres not in ("auto", *self.thresholds):
            choice = ", ".join(("auto", *self.thresholds))
            raise UserError(f"--thres {thres}: benchmark {self.name} has {choice}")
        self.split = split
        self.thres = self.auto_thres if thres == "auto" else thres
        self.img_side = self.input_size = img_side
        self.features: Any = None
        self._sizes: dict[str, tuple[int, int]] = {}
        self.root = self.require_folder(Path(datapath))
        fitting = [Path(pair_list)] if pair_list else self.lists_of(split)
        if self.lists and not fitting:
            names = ", ".join(name.format(split=split) for name in self.lists)
            raise UserError(f"{self.root}: it has no list of {split} pairs ({names}): name one with --list")
        self.list_path = fitting[0] if fitting else self.root
        self.notes: list[str] = []
        self.pairs = self.read_pairs()
        if not self.pairs:
            raise UserError(f"{self.list_path}: the list names no pair: name another with --list")
        self._restrict(only, mirrored=split == "trn" and not evaluation)
        keys = {key for pair in self.pairs for key in (pair.src_key, pair.trg_key)} if self.lists else ()
        self._names_on_disk = layout.names_on_disk(self.root, sorted(keys))
        self._describe_source(fitting[1:])

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.name} {self.split}, {len(self)} pairs>"

    @classmethod
    def find_folder(cls, datapath: Path) -> Path | None:
        """The benchmark's folder, if it is there."""
        names = (cls.folder, *cls.other_folders)
        return (
            layout.find_folder(datapath, names, cls.subfolders, cls.never_holds) if cls.folder else datapath
        )

    @classmethod
    def find_datapath_below(cls, datapath: Path) -> Path | None:
        """The folder in datapath that holds the benchmark's folder, what to give as --datapath instead."""
        return next((folder for folder in layout.subfolders(datapath) if cls.find_folder(folder)), None)

    @classmethod
    def require_folder(cls, datapath: Path) -> Path:
        """The benchmark's folder. Raises: UserError: it is not there."""
        if folder := cls.find_folder(datapath):
            return folder
        below = cls.find_datapath_below(datapath)
        advice = f"give --datapath {below}" if below else f"{cls.how_to_get} (see the README)"
        raise UserError(f"--datapath {datapath}: it has no folder '{cls.folder}' of {cls.name}: {advice}")

    def lists_of(self, split: str) -> list[Path]:
        """The pair lists that fit a split, the one to read first."""
        return layout.find_lists(self.root, self.lists, split)

    def _restrict(self, only: Sequence[str], mirrored: bool) -> None:
        """Leaves only pairs of some categories, and without `mirrored` each pair once and as it is."""
        with error_context("--categories", f"choose of {', '.join(self.categories)}"):
            ids = [self.category_id(name) for name in only]
        present = {pair.category_id for pair in self.pairs}
        if missing := [name for name, k in zip(only, ids, strict=True) if k not in present]:
            raise UserError(f"--categories: {self.list_path} has no pair of {', '.join(missing)}")
        if only:
            self.pairs = [pair for pair in self.pairs if pair.category_id in ids]
            self.notes.append(f"categories: {', '.join(only)}")
        if not mirrored:
            before, self.pairs = len(self.pairs), originals(self.pairs)
            if len(self.pairs) < before:
                self.notes.append(f"{before - len(self.pairs)} mirrored copies of pairs left out")

    def _describe_source(self, unread: Sequence[Path]) -> None:
        """Begins `notes` with what was read."""
        pairs = count_text(len(self.pairs), "pair")
        note = f"{self.name} {self.split}: {pairs} of {self.list_path}, images in {self.root}"
        if files := [str(path) for path in unread if path.is_file()]:
            note += f"; other lists there: {', '.join(files)}"
        names = ((self.categories[p.category_id], p.src_key, p.trg_key) for p in originals(self.pairs))
        self.is_published, sentence = compare_with_published(self.published, self.split, names)
        self.notes = [note, *([f"list: {sentence}"] if sentence else []), *self.notes]
        for key, name in [*self._names_on_disk.items()][:1]:
            many = f"{len(self._names_on_disk)} images are named in another case or Unicode form"
            self.notes.append(f"{many}, such as {name} for {key}")

    @abstractmethod
    def read_pairs(self) -> list[Pair]:
        """The pairs of the split in the order of its list; `complete` may add the annotation later."""

    def image_annotation(self, key: str) -> ImageAnnotation | None:
        """What is annotated in an image alone; None: unknown."""
        return None

    @classmethod
    def point_groups(cls, category: str) -> PointGroups | None:
        """Which key-points of a category look alike or mirror each other; None: unknown."""
        return None

    def complete(self, pair: Pair) -> Pair:
        """The pair with its key-points, for benchmarks that keep them in a file per image or pair."""
        return pair

    def open_image(self, key: str) -> AbstractContextManager[Image.Image]:
        """An image in the orientation that its annotation means: as stored."""
        return opened_image(self._path(key))

    def hashes(self) -> dict[str, str]:
        """The SHA-256 of the file of each image of the split, by key; of those that are there."""
        keys = dict.fromkeys(key for pair in self.pairs for key in (pair.src_key, pair.trg_key))
        return {key: sha256(self._path(key)) for key in keys if is_file(self._path(key))}

    def rgb(self, image: Image.Image) -> Image.Image:
        """An opened image in the colours that the network sees."""
        return to_rgb(image)

    def size(self, key: str) -> tuple[int, int]:
        """Width and height of a stored image in pixels, from the file's header."""
        if key not in self._sizes:
            with self.open_image(key) as image:
                self._sizes[key] = image.size
        return self._sizes[key]

    def prepare_for(self, backbone: Any) -> None:
        """Gives images as a backbone takes them: its size, or their features of files.

        Raises: UserError: images have no features.
        """
        self.input_size, self.features = backbone.input_size_for(self.img_side), backbone.features
        if self.features:
            self.features.check(
                list(dict.fromkeys(key for p in self.pairs for key in (p.src_key, p.trg_key)))
            )

    def image(self, key: str, mirrored: int = 0) -> Tensor:
        """One image, resized and normalised: float32 [3, input_size, input_size]; or its features."""
        if self.features:
            return self.features.image_tensor(key, self.size(key), bool(mirrored))
        image = normalised(self.pil_image(key), self.input_size)
        return image.flip(-1) if mirrored else image

    def pil_image(self, key: str) -> Image.Image:
        """One image as its annotation means it, RGB of its own size."""
        with self.open_image(key) as image, error_context(str(self._path(key))):
            return self.rgb(image)

    def _path(self, key: str) -> Path:
        return self.root / self._names_on_disk.get(key, key)

    def annotation(self, i: int) -> dict[str, Any]:
        """Sample i without its images.

        Raises:
            UserError: an annotation or an image header that cannot be used; names list, line and file.
        """
        with error_context(self.where(i)):
            pair = self.complete(self.pairs[i])
            return self.in_frame(i, pair)

    def where(self, i: int) -> str:
        """The place of pair i in the pair list, for messages."""
        pair = self.pairs[i]
        return f"{self.list_path}, line {pair.line}" if pair.line else str(self.list_path / pair.file)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: int) -> dict[str, Any]:
        sample = self.annotation(i)
        with error_context(self.where(i)):
            for end in ("src", "trg"):
                sample[f"{end}_img"] = self.image(sample[f"{end}_key"], sample["flip"])
        return sample

    def in_frame(self, i: int, pair: Pair) -> dict[str, Any]:
        """The sample of a complete pair: scaled, thresholded, then mirrored and padded (in this order)."""
        sizes = {"src": self.size(pair.src_key), "trg": self.size(pair.trg_key)}
        points = {"src": pair.src_kps, "trg": pair.trg_kps}
        boxes: dict[str, Array] = {}
        with error_context(pair.file):
            for end, size in sizes.items():
                # In float32, like the published program: a rounding decides which of two cells is nearest.
                scale = (self.img_side / np.array(size)).astype(np.float32)
                points[end] = self.check_points(points[end]) * scale[:, None]
                box = getattr(pair, f"{end}_bbox")
                boxes[end] = NO_BOX if box is None else checked_box(box) * np.tile(scale, 2)
            extent = self.bbox_extent(points["trg"], boxes["trg"])
            threshold = self._threshold(points["trg"], extent)
        if pair.flip:
            points = {end: mirrored_points(kps, self.img_side) for end, kps in points.items()}
            boxes = {end: mirrored_box(box, self.img_side) for end, box in boxes.items()}
        return {
            "index": i,
            "src_key": pair.src_key,
            "trg_key": pair.trg_key,
            "category": self.categories[pair.category_id],
            "category_id": pair.category_id,
            "n_pts": points["src"].shape[1],
            "n_trg_pts": points["trg"].shape[1],
            "points": "\t".join(map(printable, pair.points)),
            "bbox_extent": torch.from_numpy(extent),
            "pckthres": torch.tensor(threshold, dtype=torch.float32),
            "flip": pair.flip,
            **{f"{end}_kps": torch.from_numpy(padded(kps, self.max_pts)) for end, kps in points.items()},
            **{f"{end}_bbox": torch.from_numpy(box) for end, box in boxes.items()},
            **{f"{end}_size": torch.tensor(size) for end, size in sizes.items()},
            **pair.labels,
            **self._of_images(pair, sizes),
        }

    def _of_images(self, pair: Pair, sizes: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
        """What a sample has of the annotations of its images alone; unknown of a mirrored pair."""
        found = {"src": self.image_annotation(pair.src_key), "trg": self.image_annotation(pair.trg_key)}
        sample: dict[str, Any] = {
            "azimuth_difference": UNKNOWN_AZIMUTH, "src_visible": "", "trg_visible": "",
        }  # fmt: skip
        if found["src"] and found["trg"]:
            sample["azimuth_difference"] = azimuth_difference(found["src"], found["trg"])
        for end, annotation in found.items():
            x, y = (self.img_side / length for length in sizes[end])
            if annotation and not pair.flip:
                at = {name: (x * u, y * v) for name, (u, v) in annotation.points.items()}
                sample[f"{end}_visible"] = json.dumps(at)
        return sample

    def check_points(self, kps: Array) -> Array:
        """Key-points in float32. Raises: UserError: too many, or impossible."""
        if kps.shape[1] > self.max_pts:
            raise UserError(f"{kps.shape[1]} key-points, at most {self.max_pts} are possible")
        if not (np.abs(kps) <= MAX_COORDINATE_PX).all():
            raise UserError("a key-point is NaN, infinite or far outside any image")
        return kps.astype(np.float32)

    def bbox_extent(self, trg_kps: Array, trg_bbox: Array) -> Array:
        """Width and height of what the threshold 'bbox' is the larger side of, in pixels of the frame: float32 [2]."""
        return trg_bbox[2:] - trg_bbox[:2]

    def _threshold(self, trg_kps: Array, extent: Array) -> float:
        """What the PCK of a pair is relative to, in pixels of the frame (method, section 8)."""
        if self.thres == "img":
            return float(self.img_side)
        if self.thres == "bbox":
            if np.isnan(extent).any():
                raise UserError("--thres bbox: the target has no box")
            return float(extent.max())
        return float(np.ptp(trg_kps, axis=1).max()) if trg_kps.size else 0.0

    def category_id(self, name: str) -> int:
        """Index of a category's name."""
        if name not in self.categories:
            raise UserError(f"unknown category '{name}'")
        return self.categories.index(name)

    def category_of_class(self, text: str) -> int:
        """Index of a category from the class column of a pair list: its name, or its number, which counts from 1."""
        text = text.strip()
        if text in self.categories:
            return self.categories.index(text)
        number = int(text.partition(".")[0]) if re.fullmatch(r"\d{1,9}(\.0*)?", text) else 0
        if not 1 <= number <= len(self.categories):
            raise UserError(
                f"class '{text}' is neither 1 to {len(self.categories)} nor the name of a category"
            )
        return number - 1


def originals(pairs: list[Pair]) -> list[Pair]:
    """Pairs as they are, without those that are mirrored copies of others."""
    unmirrored = {(pair.src_key, pair.trg_key) for pair in pairs if not pair.flip}
    return [
        replace(pair, flip=0) if pair.flip else pair
        for pair in pairs
        if not pair.flip or (pair.src_key, pair.trg_key) not in unmirrored
    ]


def padded(kps: Array, length: int) -> Array:
    """Key-points [2, n] as [2, length], the rest filled with -1."""
    listed = np.full((2, length), PADDING, kps.dtype)  # np.pad takes ten times as long
    listed[:, : kps.shape[1]] = kps
    return listed


def mirrored_points(kps: Array, side: int) -> Array:
    """Key-points [2, n] of a mirrored frame: x → side − x (method, section 9: not side − 1 − x)."""
    return np.stack((side - kps[0], kps[1]))


def mirrored_box(box: Array, side: int) -> Array:
    """A box (x1 y1 x2 y2) of a mirrored frame."""
    return np.array((side - box[2], box[1], side - box[0], box[3]), box.dtype)


def checked_box(box: Array) -> Array:
    if not (np.abs(box) <= MAX_COORDINATE_PX).all() or box[2] < box[0] or box[3] < box[1]:
        raise UserError(f"the box {box.tolist()} is not x1 y1 x2 y2 with x1 <= x2 and y1 <= y2")
    return box.astype(np.float32)
