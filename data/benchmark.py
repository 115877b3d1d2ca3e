"""The base of all benchmarks: pairs of images with key-points, brought into one square frame.

A benchmark reads its pair list when it is opened (`read_pairs`) and everything else per access.  What they
share is here: decoding and scaling of images (spec section 1), thresholds (8), mirroring and padding (9).
"""

import csv
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from dhpf.common.errors import UserError

IMAGENET_MEAN = np.array((0.485, 0.456, 0.406), dtype=np.float32)
IMAGENET_STD = np.array((0.229, 0.224, 0.225), dtype=np.float32)
PADDING = -1
MIB = 1024 * 1024
MAX_LIST_BYTES = 64 * MIB
FARTHEST = 1e6  # pixels

Array = NDArray[np.floating[Any]]
NO_POINTS: Array = np.zeros((2, 0))


@dataclass(frozen=True, slots=True)
class Pair:
    """One pair of images and its annotation, in pixels of the stored images.

    line: where the pair list names the pair.  src_kps, trg_kps: [2, n] (x; y).  src_bbox, trg_bbox: [4]
    (x1 y1 x2 y2), None where a benchmark has no boxes.  labels: integers that go into the sample as they are.
    file: name of the pair's own annotation file, where it has one.
    """

    line: int
    src_key: str
    trg_key: str
    category_id: int
    src_kps: Array = field(default_factory=lambda: NO_POINTS)
    trg_kps: Array = field(default_factory=lambda: NO_POINTS)
    src_bbox: Array | None = None
    trg_bbox: Array | None = None
    flip: int = 0
    labels: Mapping[str, int] = field(default_factory=dict)
    file: str = ""


class Benchmark(Dataset[dict[str, Any]], ABC):
    """Pairs of one split of a benchmark.  Frame of all coordinates: the square of img_side pixels.

    A sample (one pair) is a dict: `index`, `src_key`, `trg_key`, `category`, `category_id`, `n_pts`, `flip`;
    `src_kps`, `trg_kps` float32 [2, max_pts] padded with -1; `src_bbox`, `trg_bbox` float32 [4] where the
    benchmark has boxes; `pckthres` float32 []; `src_size`, `trg_size` int64 [2] (width, height of the stored
    image); the pair's `labels`; `src_img`, `trg_img` float32 [3, img_side, img_side].

    Args:
        datapath: folder that holds the folders of all benchmarks.
        split: one of `splits`.
        thres: 'auto' or one of `thresholds`, what the PCK is relative to (spec section 8).
        img_side: side of the frame in pixels.
    Raises:
        UserError: missing folder, unknown split or threshold, a pair list that cannot be used.
    """

    name: str
    folder: str  # inside --datapath; '' for a benchmark without files
    list_name: str  # the pair list inside the folder, '{split}' stands for the split
    categories: tuple[str, ...]
    splits: tuple[str, ...]
    thresholds: tuple[str, ...]
    auto_thres: str
    max_pts: int = 40

    def __init__(self, datapath: str | Path, split: str, thres: str = "auto", img_side: int = 240) -> None:
        if split not in self.splits:
            raise UserError(f"benchmark {self.name} has no split '{split}', only {', '.join(self.splits)}")
        if thres not in ("auto", *self.thresholds):
            choice = ", ".join(("auto", *self.thresholds))
            raise UserError(f"--thres {thres}: benchmark {self.name} cannot give it, only {choice}")
        self.root = Path(datapath) / self.folder
        self.split = split
        self.thres = self.auto_thres if thres == "auto" else thres
        self.img_side = img_side
        self.list_path = self.root / self.list_name.format(split=split)
        self._sizes: dict[str, tuple[int, int]] = {}
        self.require_folder(datapath)
        self.pairs = self.read_pairs()
        if not self.pairs:
            raise UserError(f"{self.list_path}: the list names no pair")

    @classmethod
    def require_folder(cls, datapath: str | Path) -> None:
        """A UserError unless the benchmark's folder is there."""
        if cls.folder and not (Path(datapath) / cls.folder).is_dir():
            raise UserError(
                f"--datapath {datapath}: benchmark {cls.name} needs the folder '{cls.folder}' in it, let "
                "the program download it (without --no-download) or unpack its archive there (see the README)"
            )

    @abstractmethod
    def read_pairs(self) -> list[Pair]:
        """The pairs of the split in the order of its list; `complete` may add the annotation later."""

    def complete(self, pair: Pair) -> Pair:
        """The pair with its key-points, for benchmarks that keep them in a file per image or pair."""
        return pair

    def size(self, key: str) -> tuple[int, int]:
        """Width and height of a stored image in pixels, from the file's header."""
        if key not in self._sizes:
            with opened_image(self.root / key) as image:
                self._sizes[key] = image.size
        return self._sizes[key]

    def image(self, key: str) -> Tensor:
        """One image, resized to the frame and normalised: float32 [3, img_side, img_side]."""
        with opened_image(self.root / key) as image:
            return normalised(to_rgb(image), self.img_side)

    def annotation(self, i: int) -> dict[str, Any]:
        """Sample i without its images.

        Raises:
            UserError: an annotation or an image header that cannot be used; names list, line and file.
        """
        with naming(self.where(i)):
            pair = self.complete(self.pairs[i])
            return self._in_frame(i, pair)

    def where(self, i: int) -> str:
        """The place of pair i in the pair list, for messages."""
        return f"{self.list_path}, line {self.pairs[i].line}"

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: int) -> dict[str, Any]:
        sample = self.annotation(i)
        with naming(self.where(i)):
            for end in ("src", "trg"):
                image = self.image(sample[f"{end}_key"])
                sample[f"{end}_img"] = image.flip(-1) if sample["flip"] else image
        return sample

    def _in_frame(self, i: int, pair: Pair) -> dict[str, Any]:
        """The sample of a complete pair: scaled, thresholded, then mirrored and padded (in this order)."""
        sizes = {"src": self.size(pair.src_key), "trg": self.size(pair.trg_key)}
        points = {"src": pair.src_kps, "trg": pair.trg_kps}
        boxes = {end: box for end, box in (("src", pair.src_bbox), ("trg", pair.trg_bbox)) if box is not None}
        for end, size in sizes.items():
            # In float32, like the published program: a rounding decides which of two cells is nearest.
            scale = (self.img_side / np.array(size)).astype(np.float32)
            points[end] = self._checked_points(points[end]) * scale[:, None]
            if end in boxes:
                boxes[end] = checked_box(boxes[end]) * np.tile(scale, 2)
        threshold = self._threshold(points["trg"], boxes.get("trg"))
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
            "pckthres": torch.tensor(threshold, dtype=torch.float32),
            "flip": pair.flip,
            **{f"{end}_kps": torch.from_numpy(padded(kps, self.max_pts)) for end, kps in points.items()},
            **{f"{end}_bbox": torch.from_numpy(box) for end, box in boxes.items()},
            **{f"{end}_size": torch.tensor(size) for end, size in sizes.items()},
            **pair.labels,
        }

    def _checked_points(self, kps: Array) -> Array:
        if kps.shape[1] > self.max_pts:
            raise UserError(f"{kps.shape[1]} key-points, at most {self.max_pts} are possible")
        if not (np.abs(kps) <= FARTHEST).all():
            raise UserError("a key-point is NaN, infinite or far outside any image")
        return kps.astype(np.float32)

    def _threshold(self, trg_kps: Array, trg_bbox: Array | None) -> float:
        """What the PCK of a pair is relative to, in pixels of the frame (spec section 8)."""
        if self.thres == "img":
            return float(self.img_side)
        if self.thres == "bbox" and trg_bbox is not None:
            return float(max(trg_bbox[2] - trg_bbox[0], trg_bbox[3] - trg_bbox[1]))
        # Without boxes 'bbox' is the published extent of the *padded* list: the padding counts as a point.
        kps = padded(trg_kps, self.max_pts) if self.thres == "bbox" else trg_kps
        return float(np.ptp(kps, axis=1).max()) if kps.size else 0.0

    def category_id(self, name: str) -> int:
        """Index of a category's name."""
        if name not in self.categories:
            raise UserError(f"unknown category '{name}'")
        return self.categories.index(name)

    def category_of_class(self, number: str) -> int:
        """Index of a category from the class number of a pair list, which counts from 1."""
        if not number.strip().isdecimal() or not 1 <= int(number) <= len(self.categories):
            raise UserError(f"unknown category: class '{number}' is not one of 1 to {len(self.categories)}")
        return int(number) - 1


def padded(kps: Array, length: int) -> Array:
    """Key-points [2, n] as [2, length], the rest filled with -1."""
    return np.pad(kps, ((0, 0), (0, length - kps.shape[1])), constant_values=PADDING)


def mirrored_points(kps: Array, side: int) -> Array:
    """Key-points [2, n] of a mirrored frame: x → side − x (spec section 9: not side − 1 − x)."""
    return np.stack((side - kps[0], kps[1]))


def mirrored_box(box: Array, side: int) -> Array:
    """A box (x1 y1 x2 y2) of a mirrored frame."""
    return np.array((side - box[2], box[1], side - box[0], box[3]))


def checked_box(box: Array) -> Array:
    if not (np.abs(box) <= FARTHEST).all() or box[2] < box[0] or box[3] < box[1]:
        raise UserError(f"the box {box.tolist()} is not x1 y1 x2 y2 with x1 <= x2 and y1 <= y2")
    return box.astype(np.float32)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any image as 8-bit RGB in stored orientation; 16-bit gray is scaled, where PIL itself would clip."""
    if image.mode.startswith("I"):
        gray = np.asarray(image).astype(np.int64).clip(0, 65535) // 257
        return Image.fromarray(gray.astype(np.uint8)).convert("RGB")
    image.load()
    image.info.pop("transparency", None)  # opaque palette colours, without PIL's warning
    return image.convert("RGB")


def normalised(image: Image.Image, side: int) -> Tensor:
    """An RGB image as the network's input, float32 [3, side, side] (spec section 1).

    Bilinear resizing of the PIL image is what torchvision's `Resize((side, side))` does.  In NumPy: torch
    would start threads for so little.
    """
    pixels = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), dtype=np.float32)
    scaled = (pixels / np.float32(255) - IMAGENET_MEAN) / IMAGENET_STD
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))


@contextmanager
def opened_image(path: Path) -> Iterator[Image.Image]:
    """An image file; whatever goes wrong with it, also while it is decoded inside, names the file."""
    try:
        with Image.open(path) as image:
            if min(image.size) < 1:
                raise UserError(f"{path}: the image has no pixels")
            yield image
    except FileNotFoundError:
        raise UserError(f"{path}: the image is missing") from None
    except UserError:
        raise
    except Exception as error:  # PIL's readers raise almost anything on damaged files
        raise UserError(f"{path}: the image cannot be decoded ({error})") from error


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Puts the place of the fault before the message of a UserError raised inside."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from error


def read_bytes(path: Path, limit: int) -> bytes:
    """A file of at most `limit` bytes."""
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise UserError(f"{path}: the file cannot be read ({error.strerror})") from error
    if len(content) > limit:
        raise UserError(f"{path}: the file is larger than {limit // MIB} MiB, which such a file never is")
    return content


def read_text(path: Path, limit: int) -> str:
    """A text file of at most `limit` bytes in UTF-8."""
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: the file is not text ({error.reason})") from error


def read_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Rows of a CSV file as (line, {column: value}); it must have `columns` and may have more."""
    reader = csv.DictReader(StringIO(read_text(path, MAX_LIST_BYTES), newline=""))
    try:
        missing = [column for column in columns if column not in (reader.fieldnames or ())]
        if missing:
            raise UserError(f"{path}, line 1: the list has no column {', '.join(missing)}")
        for row in reader:
            if any(row[column] is None for column in columns):
                raise UserError(f"{path}, line {reader.line_num}: the line has too few columns")
            yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not a line of a CSV file ({error})") from error


def read_pair_table(
    path: Path, columns: Sequence[str], to_pair: Callable[[int, Mapping[str, str]], Pair]
) -> list[Pair]:
    """The pairs of a CSV list; a UserError of `to_pair` names the line."""
    pairs = []
    for line, row in read_table(path, columns):
        with naming(f"{path}, line {line}"):
            pairs.append(to_pair(line, row))
    return pairs


def path_parts(name: str, count: int) -> tuple[str, ...]:
    """The last `count` parts of a relative path that a pair list gives.

    Lists of different publications prefix the path with different folders, hence the last parts.  A path that
    would leave the benchmark's folder is an error.
    """
    parts = PurePosixPath(name).parts
    if len(parts) < count or ".." in parts or name.startswith("/") or "\\" in name or "\0" in name:
        raise UserError(f"'{name}' is not a path inside the benchmark's folder")
    return parts[-count:]


def numbers(text: str) -> Array:
    """The numbers of a comma-separated (older lists: semicolon-separated) list: [n]."""
    try:
        return np.array([float(value) for value in text.replace(";", ",").split(",")])
    except ValueError:
        raise UserError(f"'{text[:40]}' is not a list of numbers") from None
