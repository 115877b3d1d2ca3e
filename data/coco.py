"""COCO key-point files: pairs are drawn from the objects of a category."""

import math
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress, count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dhpf.common.errors import UserError, error_context
from dhpf.common.files import MIB, read_json
from dhpf.data.benchmark import Array, Pair
from dhpf.data.own_data import OwnData, clean, located, own_pair, plain

MAX_BYTES = 1024 * MIB  # COCO's own largest key-point file has 240
MOST_POINTS = 1000
SHARED = 3  # key-points that the objects of a pair must share
PAIRS = 100  # drawn a category
MOST_PAIRS = 1_000_000
EXACT = 2000  # objects whose pairs are all looked at; of more, pairs are drawn and looked at
ROUNDS = 50
CORRECT = "correct it, or leave it out"
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Object:
    """An annotation: its place in the file, its image's name, key-points [P, 3] (x, y, v), box x1 y1 x2 y2."""

    record: int
    image: str
    kps: Array
    box: Array | None


class Coco(OwnData):
    """Pairs of the objects of a COCO key-point file.

    A pair is two objects of a category in different images that share at least three key-points (v > 0 in both), in
    this order: categories, sources, targets as in the file.

    Args: those of `OwnData`; images: folder of the images, the file's own if not given; pairs: how many are
    drawn a category, or 'all'.
    """

    name = "coco"
    bbox_words = "larger side of the target object's box"
    options = ("images", "pairs", "val_share")

    def __init__(
        self, *args: Any, images: Path | None = None, pairs: int | str = PAIRS, **named: Any
    ) -> None:
        self.images = images
        self.per_category = None if pairs == "all" else int(pairs)
        super().__init__(*args, **named)

    def read_pairs(self) -> list[Pair]:
        path = self.list_path = self.choose_file()
        self.root = self.images or path.parent
        groups = self._with_boxes(self._grouped(path))
        self.categories = tuple(groups)
        self.max_pts = max((len(o.kps) for objects in groups.values() for o in objects), default=0)
        self._ends: list[tuple[Object, Object]] = []
        ids, poor = [], []
        for number, (category, objects) in enumerate(groups.items()):
            ends = self._draw(category, objects) if len(objects) > 1 else ()
            self._ends += [(objects[s], objects[t]) for s, t in ends]
            ids += [number] * len(ends)
            if objects and not len(ends):
                poor.append(f"{category} ({len(objects)} object{'s' * (len(objects) > 1)})")
        if empty := [category for category, objects in groups.items() if not objects]:
            poor.append(
                f"{', '.join(empty) if len(empty) < 9 else f'{len(empty)} more categories'} (no object)"
            )
        if self.per_category:
            self.notes.append(f"at most {self.per_category} pairs drawn of each category")
        if poor:
            self.notes.append(f"no pair of {', '.join(poor)}")
        if not ids:
            raise UserError(
                f"{path}: there is no pair in split {self.split}, that is two objects of a category in different "
                f"images that share {SHARED} key-points ({'; '.join(self.notes)}): choose another split or file"
            )
        with error_context(str(path)):
            places = located(self.root, {o.image for ends in self._ends for o in ends})
        self.frames = {places[name]: size for name, size in self.frames.items() if name in places}
        return [
            own_pair(n, places[s.image], places[t.image], category)
            for n, ((s, t), category) in enumerate(zip(self._ends, ids, strict=True))
        ]

    def complete(self, pair: Pair) -> Pair:
        """The pair with the key-points that both objects have, and their boxes if those are used."""
        source, target = self._ends[pair.line]
        common = (source.kps[:, 2] > 0) & (target.kps[:, 2] > 0)
        return replace(
            pair,
            src_kps=source.kps[common, :2].T,
            trg_kps=target.kps[common, :2].T,
            points=self._point_names(pair.category_id, common),
            src_bbox=source.box,
            trg_bbox=target.box,
        )

    def _point_names(self, category_id: int, chosen: Flags) -> tuple[str, ...]:
        """The names, or the numbers, of some of a category's key-points."""
        names = self.point_names[category_id]
        return tuple(compress(names if len(names) == len(chosen) else map(str, count()), chosen))

    def where(self, i: int) -> str:
        source, target = (end.record for end in self._ends[self.pairs[i].line])
        return f"{self.list_path}, annotations[{source}] and annotations[{target}]"

    def _grouped(self, path: Path) -> dict[str, list[Object]]:
        """The objects of the split that have key-points, by category, in the file's order."""
        content = read_json(path, MAX_BYTES)
        names = {k: clean(name) for k, name in names_of(path, content, "categories", "name").items()}
        images = {k: plain(name) for k, name in names_of(path, content, "images", "file_name").items()}
        for record in content["images"]:
            if size := size_of(record):
                self.frames[images[identity(record, "id")]] = size
        self.point_names = [point_names(record.get("keypoints")) for record in content["categories"]]
        groups: dict[str, list[Object]] = {name: [] for name in names.values()}
        if len(groups) < len(names):
            raise UserError(f"{path}: two categories have one name: rename one")
        left_out: Counter[str] = Counter()
        annotations = tqdm(records(path, content, "annotations"), str(path), delay=2, disable=None)
        for number, record in enumerate(annotations):
            with error_context(f"{path}, annotations[{number}]", CORRECT):
                category = names.get(identity(record, "category_id"))
                if category is None:
                    raise UserError(f"no category has the id {brief(record['category_id'])}")
                image, kps = images.get(identity(record, "image_id")), points_of(record.get("keypoints"))
                why = (
                    "are crowds" if record.get("iscrowd") in (1, "1")
                    else "belong to no image of the file" if image is None
                    else "have no key-points" if not kps[:, 2].any()
                    else ""
                )  # fmt: skip
                left_out[why] += 1
                if why or not self.belongs(str(image)):
                    continue
                group = groups[category]
                if group and len(group[0].kps) != len(kps):
                    raise UserError(
                        f"{len(kps)} key-points, where annotations[{group[0].record}] of {category} has "
                        f"{len(group[0].kps)}"
                    )
                group.append(Object(number, str(image), kps, box_of(record.get("bbox"))))
        self.notes += [
            f"{number} annotations {why} and are left out" for why, number in left_out.items() if why
        ]
        return groups

    def _with_boxes(self, groups: dict[str, list[Object]]) -> dict[str, list[Object]]:
        """The objects that the threshold leaves."""
        number = sum(map(len, groups.values()))
        boxes = sum(o.box is not None for objects in groups.values() for o in objects)
        if self.choose_threshold(boxes, number, "objects"):
            return {name: [o for o in objects if o.box is not None] for name, objects in groups.items()}
        return groups

    def _draw(self, category: str, objects: Sequence[Object]) -> list[list[int]]:
        """Source and target, as numbers of objects, of the pairs of a category."""
        shown = np.array([o.kps[:, 2] > 0 for o in objects])
        images = np.unique([o.image for o in objects], return_inverse=True)[1]
        codes = draw(shown, images, self.per_category, zlib.crc32(category.encode()))
        if len(self._ends) + len(codes) > MOST_PAIRS:
            raise UserError(
                f"--pairs {self.per_category or 'all'}: {self.list_path} gives more than {MOST_PAIRS:,} pairs, "
                "draw fewer a category, --pairs N"
            )
        if len(objects) > EXACT and self.per_category and len(codes) < self.per_category:
            self.notes.append(f"{category}: only {len(codes)} pairs were found, few objects share key-points")
        return np.stack(np.divmod(codes, len(objects)), 1).tolist()


def draw(shown: Flags, images: NDArray[np.intp], wanted: int | None, seed: int) -> NDArray[np.int64]:
    """Pairs of n objects, each as source · n + target, ascending.

    Args: shown [n, P]: which key-points each has; images [n]: in which image each is; wanted: how many are drawn,
    without repetition; None: all, of which slightly more than MOST_PAIRS may come.
    """
    n, rng = len(shown), np.random.default_rng(seed)
    codes = np.zeros(0, np.int64)
    if wanted is None or n <= EXACT:
        for first in range(0, n, 2**22 // n + 1):
            block = slice(first, first + 2**22 // n + 1)
            shared = shown[block].astype(np.float32) @ shown.T.astype(np.float32)
            good = (shared >= SHARED) & (images[block, None] != images)
            codes = np.concatenate([codes, np.flatnonzero(good) + first * n])
            if wanted is None and len(codes) > MOST_PAIRS:
                break
    else:
        wanted = min(wanted, MOST_PAIRS + 1)
        chunk = min(4 * wanted + 1000, 2**19)
        for _ in range(ROUNDS * wanted // chunk + ROUNDS):
            source, target = rng.integers(n, size=(2, chunk))
            good = ((shown[source] & shown[target]).sum(1) >= SHARED) & (images[source] != images[target])
            drawn = np.concatenate([codes, source[good] * n + target[good]])
            codes = drawn[np.sort(np.unique(drawn, return_index=True)[1])]
            if len(codes) >= wanted:
                return np.sort(codes[:wanted])
    if wanted is not None and len(codes) > wanted:
        codes = rng.choice(codes, wanted, replace=False)
    return np.sort(codes)


def records(path: Path, content: Any, kind: str) -> list[dict[str, Any]]:
    """A list of a COCO file."""
    found = content.get(kind) if isinstance(content, dict) else None
    if not isinstance(found, list):
        raise UserError(f"{path}: not a COCO file of key-points, it has no list '{kind}': export it as such")
    for number, record in enumerate(found):
        if not isinstance(record, dict):
            raise UserError(f"{path}, {kind}[{number}]: not a record with names and values: {CORRECT}")
    return found


def names_of(path: Path, content: Any, kind: str, field: str) -> dict[str, str]:
    """A text of each record of a list, by the record's id."""
    names: dict[str, str] = {}
    for number, record in enumerate(records(path, content, kind)):
        with error_context(f"{path}, {kind}[{number}]", CORRECT):
            name = record.get(field)
            if not isinstance(name, str) or not name.strip():
                raise UserError(f"it has no {field}")
            if names.setdefault(identity(record, "id"), name) != name:
                raise UserError(f"another has the id {record['id']!r}")
    return names


def identity(record: dict[str, Any], field: str) -> str:
    """An id, which may be a number in one list and a text in another: 7, 7.0 and "7" are one."""
    value = record.get(field)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UserError(f"its {field} is {brief(value)}, not a number or a text")
    return str(value)


def size_of(record: dict[str, Any]) -> tuple[int, int] | None:
    """Width and height of an image, if its record says them."""
    try:
        width, height = (int(float(record[field])) for field in ("width", "height"))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return (width, height) if min(width, height) > 0 else None


def points_of(value: Any) -> Array:
    """Key-points [P, 3] (x, y, v) of an annotation; none where it has none."""
    try:
        kps = np.array([] if value is None else value, dtype=np.float64).reshape(-1, 3)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"keypoints is {brief(value)}, not a list x, y, v, x, y, v, ...") from None
    if len(kps) > MOST_POINTS:
        raise UserError(f"{len(kps)} key-points, at most {MOST_POINTS} are possible")
    v = kps[:, 2]
    if not ((v == 0) | (v == 1) | (v == 2)).all():
        raise UserError("keypoints is not a list x, y, v, x, y, v, ...: a v is not 0, 1 or 2")
    return kps


def point_names(value: Any) -> tuple[str, ...]:
    """The names of a category's key-points; none where they are not a list of texts."""
    named = isinstance(value, list) and all(isinstance(name, str) and name.strip() for name in value)
    return tuple(map(clean, value)) if named else ()


def box_of(value: Any) -> Array | None:
    """A box x1 y1 x2 y2 from x y w h; None where there is none, or it has no extent."""
    if value is None or value == []:
        return None
    try:
        x, y, w, h = map(float, list(value))
    except (TypeError, ValueError, OverflowError):
        x = y = w = h = math.nan
    if not math.isfinite(x + y + w + h):
        raise UserError(f"bbox is {brief(value)}, not x, y, w, h")
    return np.array((x, y, x + w, y + h)) if min(w, h) > 0 else None


def brief(value: Any) -> str:
    return repr(value)[:60]
