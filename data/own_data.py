"""What the benchmarks of one's own data share: splits, images as they are shown, what a run was trained on."""

import hashlib
import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from types import MappingProxyType
from typing import Any

from PIL import Image
from tqdm import tqdm

from dhpf.common.errors import UserError
from dhpf.common.files import is_file
from dhpf.data.benchmark import Benchmark, Pair
from dhpf.data.images import on_white, opened_image, upright

VAL_SHARE = 0.1
MOST_FILES = 1_000_000  # looked through for images
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
UNKNOWN = MappingProxyType({"leaked": -1})


class OwnData(Benchmark):
    """Pairs of one's own images, from one file or from three.

    Three files, `--datapath TRN,VAL,TEST`, are the splits.  One file is `whole`; in it the hash of an image's file name
    says whether the image is for validation or for training, and a pair belongs to a split that both its images
    belong to.  The threshold `auto` is `bbox` if there are boxes for all, else `img`.

    A subclass sets `categories`, `max_pts` and, by `choose_threshold`, `auto_thres` when it reads the file.

    Args: those of `Benchmark`, but datapath: the file, or the three with commas; val_share: the share of
    images that are for validation.
    """

    folder = ""
    categories: tuple[str, ...] = ()
    splits = ("whole", "trn", "val", "test")
    test_split = "whole"
    thresholds = ("img", "bbox", "bbox-kp")
    auto_thres = "auto"
    labels = MappingProxyType({"leaked": ("no", "yes")})
    leak = "show an image of the training"
    unknown_leak = "there is no record of the images of a training"
    options: tuple[str, ...] = ("val_share",)

    def __init__(self, *args: Any, val_share: float = VAL_SHARE, **named: Any) -> None:
        if named.get("pair_list"):
            raise UserError(f"--list: benchmark {self.name} reads what --datapath names")
        self.val_share = val_share
        # The sizes that annotations mean, by image, where the file gives them.
        self.frames: dict[str, tuple[int, int]] = {}
        super().__init__(*args, **named)

    def choose_file(self) -> Path:
        """The file that holds the split. Raises: UserError: there is none."""
        self.divided = self.split in ("trn", "val")  # by the names of the images
        whole, three = self.list_path, [Path(name) for name in str(self.list_path).split(",")]
        if whole.is_file() or len(three) == 1:
            if whole.is_dir():
                raise UserError(f"--datapath {whole}: benchmark {self.name} needs a file, this is a folder")
            if self.split == "test":
                raise UserError(
                    f"{whole}: one file has no split 'test', only whole, trn and val; give three, "
                    "--datapath TRN,VAL,TEST"
                )
            return whole
        if len(three) != 3:
            raise UserError(f"--datapath {whole}: give one file, or three as TRN,VAL,TEST")
        self.split = "test" if self.split == "whole" else self.split
        self.divided = False
        return three[("trn", "val", "test").index(self.split)]

    def belongs(self, name: str) -> bool:
        """Whether the image of this file name is of the split."""
        return not self.divided or held_out(name, self.val_share) == (self.split == "val")

    def choose_threshold(self, boxes: int, number: int, things: str) -> bool:
        """Settles `auto` where `boxes` of `number` things have a box; returns whether those without are left out."""
        self.auto_thres = "bbox" if boxes == number else "img"
        without = f"{number - boxes} of {number} {things} have no box"
        if self.thres == "auto":
            self.thres = self.auto_thres
            if boxes < number:
                self.notes.append(f"{without}: the threshold is the image's side (img) for all")
        elif self.thres == "bbox" and boxes < number:
            self.notes.append(f"{without} and are left out")
        return self.thres == "bbox"

    def mark(self, trained: Collection[str] | None) -> None:
        """Labels the pairs that show an image with one of these hashes; None: not known."""
        if trained is None:
            return
        known = {key for key, value in self.hashes().items() if value in trained}
        labels = [MappingProxyType({"leaked": leaked}) for leaked in (0, 1)]
        self.pairs = [replace(p, labels=labels[p.src_key in known or p.trg_key in known]) for p in self.pairs]

    def rgb(self, image: Image.Image) -> Image.Image:
        return on_white(image)

    @contextmanager
    def opened(self, key: str) -> Iterator[Image.Image]:
        """An image as it is shown (EXIF), which is what annotation programs mean; as stored where only that
        has the annotated size."""
        with opened_image(self._path(key)) as image:
            shown, told = upright(image), self.frames.get(key)
            if told not in (None, image.size, shown.size):
                size, other = ("×".join(map(str, pair)) for pair in (told or (), shown.size))
                raise UserError(
                    f"{self._path(key)}: the image has {other} pixels, but was annotated with {size}"
                )
            yield image if told == image.size != shown.size else shown


def held_out(name: str, share: float) -> bool:
    """Whether the hash of an image's file name puts it into the share that is for validation."""
    digest = hashlib.sha256(name.rpartition("/")[2].encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def clean(text: str) -> str:
    """A name of a file, printable and encodable."""
    return UNPRINTABLE.sub("?", text)


def plain(name: str) -> str:
    """A path of a file as one inside a folder: no drive, root or way up."""
    parts = [part for part in clean(name).replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return "/".join(parts[1:] if parts and parts[0].endswith(":") else parts)


def located(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Where images are inside a folder, by name: at the name's place, else anywhere below, where most of the last
    parts of its path agree (upper and lower case do not matter). What is not there keeps its name.

    Raises: UserError: several files fit a name alike; too many files to look through.
    """
    found = {name: name for name in names}
    missing = [name for name in found if not is_file(folder / name)]
    if not missing:
        return found
    below: dict[str, list[str]] = {backwards(name)[0]: [] for name in missing}
    count = 0
    with tqdm(desc=f"looking for images in {folder}", unit="file", delay=2, disable=None) as bar:
        for place, _, files in os.walk(folder):
            bar.update(len(files))
            count += len(files)
            if count > MOST_FILES:
                raise UserError(
                    f"{folder}: too many files to look for images, say with --images where they are"
                )
            for name in files:
                if name.lower() in below:
                    below[name.lower()].append(Path(place, name).relative_to(folder).as_posix())
    for name in missing:
        parts = backwards(name)
        agreeing = {path: agreement(parts, backwards(path)) for path in below[parts[0]]}
        best = [path for path, number in agreeing.items() if number == max(agreeing.values())]
        if len(best) > 1:
            raise UserError(
                f"{folder}: {best[0]} and {best[1]} both could be the image '{name}', use --images"
            )
        found[name] = best[0] if best else name
    return found


def backwards(path: str) -> list[str]:
    """The parts of a path in lower case, the last first."""
    return path.lower().split("/")[::-1]


def agreement(parts: list[str], others: list[str]) -> int:
    """How many parts agree before the first that does not."""
    return len(list(takewhile(lambda both: both[0] == both[1], zip(parts, others, strict=False))))


def own_pair(number: int, src_key: str, trg_key: str, category_id: int, **annotation: Any) -> Pair:
    """A pair of which it is not known whether a run was trained on its images."""
    return Pair(number, src_key, trg_key, category_id, labels=UNKNOWN, **annotation)
