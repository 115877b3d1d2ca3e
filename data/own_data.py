"""What the benchmarks of one's own data share: splits, images as they are shown, overlap with a training."""

import hashlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from PIL import Image

from dhpf.common.errors import UserError
from dhpf.data.benchmark import UNKNOWN, Benchmark
from dhpf.data.images import on_white, opened_image, upright

VAL_SHARE = 0.1
UNKNOWN_OVERLAP = MappingProxyType({"leaked": UNKNOWN})  # labels of a pair


class OwnData(Benchmark):
    """Pairs of one's own images, from one file or from three.

    Three files, `--datapath TRN,VAL,TEST`, are the splits.  One file is `whole`; in it the hash of an image's file name
    says whether the image is for validation or for training, and a pair belongs to a split that both its images
    belong to.  The threshold `auto` is `bbox` if there are boxes for all, else `img`.

    A subclass sets `categories`, `max_pts` and, by `choose_threshold`, `auto_thres` when it reads the file; its pairs
    have the labels `UNKNOWN_OVERLAP`.

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
    overlap = "show an image of the training"
    overlap_unknown = "the training images of this model are not recorded"
    options: tuple[str, ...] = ("val_share",)

    def __init__(self, *args: Any, val_share: float = VAL_SHARE, **named: Any) -> None:
        if named.get("pair_list"):
            raise UserError(f"--list: benchmark {self.name} reads what --datapath names")
        self.val_share = val_share
        # Width and height that annotations mean, by image, where the file gives them.
        self.annotated_sizes: dict[str, tuple[int, int]] = {}
        super().__init__(*args, **named)

    def choose_file(self) -> Path:
        """The file that holds the split. Raises: UserError: there is none."""
        self.is_divided = self.split in ("trn", "val")  # by the names of the images
        whole, three = self.list_path, [Path(name) for name in str(self.list_path).split(",")]
        if whole.is_file() or len(three) == 1:
            if whole.is_dir():
                raise UserError(f"--datapath {whole}: benchmark {self.name} needs a file, this is a folder")
            if self.split == "test":
                raise UserError(f"{whole}: one file has no split 'test': give three, --datapath TRN,VAL,TEST")
            return whole
        if len(three) != 3:
            raise UserError(f"--datapath {whole}: give one file, or three as TRN,VAL,TEST")
        self.split = "test" if self.split == "whole" else self.split
        self.is_divided = False
        return three[("trn", "val", "test").index(self.split)]

    def in_split(self, name: str) -> bool:
        """Whether the image of this file name is of the split."""
        return not self.is_divided or is_validation_image(name, self.val_share) == (self.split == "val")

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

    def label_overlap(self, trained: Collection[str] | None) -> None:
        """Labels the pairs that show an image whose file has one of these hashes; None: not known."""
        if trained is None:
            return
        keys = {key for key, value in self.hashes().items() if value in trained}
        labels = [MappingProxyType({"leaked": leaked}) for leaked in (0, 1)]
        self.pairs = [replace(p, labels=labels[p.src_key in keys or p.trg_key in keys]) for p in self.pairs]

    def rgb(self, image: Image.Image) -> Image.Image:
        return on_white(image)

    @contextmanager
    def open_image(self, key: str) -> Iterator[Image.Image]:
        """An image as it is shown (EXIF), which is what annotation programs mean; as stored where only that
        has the annotated size."""
        with opened_image(self._path(key)) as stored:
            shown, size = upright(stored), self.annotated_sizes.get(key)
            if size in (None, shown.size):
                yield shown
            elif size == stored.size:
                yield stored
            else:
                sizes = "{}×{} pixels, but was annotated with {}×{}".format(*shown.size, *(size or ()))
                raise UserError(f"{self._path(key)}: the image has {sizes}")


def is_validation_image(name: str, share: float) -> bool:
    """Whether the hash of an image's file name puts it into the share that is for validation."""
    digest = hashlib.sha256(name.rpartition("/")[2].encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
