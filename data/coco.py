"""COCO key-point files: pairs are drawn from the objects of a category."""

import math
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import compress, count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dhpf.common.errors import UserError, error_context
from dhpf.common.files import MIB, read_json
from dhpf.data.benchmark import Array, Pair
from dhpf.data.layout import find_images
from dhpf.data.names import path_parts, printable
from dhpf.data.own_data import UNKNOWN_OVERLAP, OwnData

MAX_BYTES = 1024 * MIB  # COCO's own largest key-point file has 240
MAX_KEYPOINTS = 1000  # of an object
MIN_SHARED_KEYPOINTS = 3  # of the objects of a pair
DEFAULT_PAIRS = 100  # drawn a category
MAX_PAIRS = 1_000_000
MAX_ENUMERATED = 2000  # objects of a category of which all pairs are looked at; of more, some are drawn
DRAWS_PER_PAIR = 50  # at most
MAX_NAMES = 9  # of categories in a note
ADVICE = "correct it, or leave it out"
Mask = NDArray[np.bool_]


class Object(NamedTuple):
    """An annotation: its number in the file, its image's name, key-points [P, 3] (x, y, v), box x1 y1 x2 y2."""

    number: int
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
    bbox_definition = "larger side of the target object's box"
    likely_box_error = "x1 y1 x2 y2 where x y w h belongs"
    options = ("images", "pairs", "val_share")

    def __init__(
        self, *args: Any, images: Path | None = None, pairs: int | str = DEFAULT_PAIRS, **named: Any
    ) -> None:
        self.images = images
        self.per_category = None if pairs == "all" else int(pairs)
        super().__init__(*args, **named)

    def read_pairs(self) -> list[Pair]:
        path = self.list_path = self.choose_file()
        self.root = self.images or path.parent
        groups = self._read_objects(path)  # of all splits, whose threshold is one
        boxes = sum(o.box is not None for objects in groups.values() for o in objects)
        if self.choose_threshold(boxes, sum(map(len, groups.values())), "objects"):
            groups = {k: [o for o in objects if o.box is not None] for k, objects in groups.items()}
        groups = {k: [o for o in objects if self.in_split(o.image)] for k, objects in groups.items()}
        self.categories = tuple(groups)
        self.max_pts = max((len(o.kps) for objects in groups.values() for o in objects), default=0)
        self._objects: list[tuple[Object, Object]] = []  # of each pair
        ids = []
        for number, (category, objects) in enumerate(groups.items()):
            ends = self._draw(category, objects) if len(objects) > 1 else ()
            self._objects += [(objects[s], objects[t]) for s, t in ends]
            ids += [number] * len(ends)
        if self.per_category:
            self.notes.append(f"at most {self.per_category} pairs of each category")
        if without := [self.categories[k] for k in sorted({*range(len(groups))} - {*ids})]:
            more = f" and {len(without) - MAX_NAMES} more categories" if len(without) > MAX_NAMES else ""
            self.notes.append(f"no pair of {', '.join(without[:MAX_NAMES])}{more}")
        if not ids:
            notes = "; ".join(self.notes)
            raise UserError(f"{path}: split {self.split} has no pair ({notes}): choose another split or file")
        with error_context(str(path)):
            keys = find_images(self.root, {o.image for both in self._objects for o in both})
        self.annotated_sizes = {keys[k]: size for k, size in self.annotated_sizes.items() if k in keys}
        return [
            Pair(n, keys[source.image], keys[target.image], category, labels=UNKNOWN_OVERLAP)
            for n, ((source, target), category) in enumerate(zip(self._objects, ids, strict=True))
        ]

    def complete(self, pair: Pair) -> Pair:
        """The pair with the key-points that both objects have, and their boxes if those are used."""
        source, target = self._objects[pair.line]
        common = (source.kps[:, 2] > 0) & (target.kps[:, 2] > 0)
        names = self.point_names[pair.category_id]
        return replace(
            pair,
            src_kps=source.kps[common, :2].T,
            trg_kps=target.kps[common, :2].T,
            points=tuple(compress(names if len(names) == len(common) else map(str, count()), common)),
            src_bbox=source.box,
            trg_bbox=target.box,
        )

    def where(self, i: int) -> str:
        source, target = (end.number for end in self._objects[self.pairs[i].line])
        return f"{self.list_path}, annotations[{source}] and annotations[{target}]"

    def _read_objects(self, path: Path) -> dict[str, list[Object]]:
        """The objects that have key-points, by category, in the file's order; notes what is odd about them."""
        content = read_json(path, MAX_BYTES)
        names = {k: printable(name) for k, name in texts_by_id(path, content, "categories", "name").items()}
        images = texts_by_id(path, content, "images", "file_name")
        with error_context(f"{path}, images", ADVICE):
            images = {k: "/".join(path_parts(name)) for k, name in images.items()}
        sizes = {images[parse_id(record, "id")]: parse_size(record) for record in content["images"]}
        self.annotated_sizes = {name: size for name, size in sizes.items() if size}
        self.point_names = [parse_names(record.get("keypoints")) for record in content["categories"]]
        groups: dict[str, list[Object]] = {name: [] for name in names.values()}
        if len(groups) < len(names):
            raise UserError(f"{path}: two categories have one name: rename one")
        left_out: Counter[str] = Counter()
        odd: Counter[str] = Counter()
        seen: set[tuple[Any, ...]] = set()
        annotations = records(path, content, "annotations")
        for index, record in enumerate(tqdm(annotations, str(path), delay=2, disable=None)):
            with error_context(f"{path}, annotations[{index}]", ADVICE):
                category = names.get(parse_id(record, "category_id"))
                if category is None:
                    raise UserError(f"no category has the id {short_repr(record['category_id'])}")
                image = images.get(parse_id(record, "image_id"))
                kps = parse_keypoints(record.get("keypoints"))
                if record.get("iscrowd") in (1, "1"):
                    left_out["are crowds"] += 1
                elif image is None:
                    left_out["belong to no image of the file"] += 1
                elif not kps[:, 2].any():
                    left_out["have no key-points"] += 1
                else:
                    box = parse_box(record.get("bbox"))
                    groups[category].append(Object(index, image, kps, box))
                    odd["key-points are given (v > 0) at (0, 0), where missing ones are often"] += int(
                        ((kps[:, :2] == 0).all(1) & (kps[:, 2] > 0)).sum()
                    )
                    odd["boxes have no positive width and height and are not used"] += (
                        box is None and record.get("bbox") not in (None, [])
                    )
                    annotation = category, image, kps.tobytes()
                    odd["annotations are there twice, with the same image and key-points"] += (
                        annotation in seen
                    )
                    seen.add(annotation)
                    first = groups[category][0]
                    if len(first.kps) != len(kps):
                        other = f"annotations[{first.number}] of {category} has {len(first.kps)}"
                        raise UserError(f"it has {len(kps)} key-points, {other}")
        self.notes += [f"{n} annotations {reason} and are left out" for reason, n in left_out.items()]
        self.notes += [f"{n} {what}" for what, n in odd.items() if n]
        for (category, objects), names_of in zip(groups.items(), self.point_names, strict=True):
            if objects and names_of and len(names_of) != len(objects[0].kps):
                self.notes.append(
                    f"{category}: {len(names_of)} names of key-points are not used, its objects have "
                    f"{len(objects[0].kps)} key-points"
                )
        return groups

    def _draw(self, category: str, objects: Sequence[Object]) -> list[list[int]]:
        """Source and target, as numbers of objects, of the pairs of a category."""
        visible = np.array([o.kps[:, 2] > 0 for o in objects])
        images = np.unique([o.image for o in objects], return_inverse=True)[1]
        pairs = draw_pairs(visible, images, self.per_category, zlib.crc32(category.encode()))
        if len(self._objects) + len(pairs) > MAX_PAIRS:
            option = f"--pairs {self.per_category or 'all'}"
            raise UserError(f"{option}: more than {MAX_PAIRS:,} pairs of {self.list_path}: take fewer")
        if len(objects) > MAX_ENUMERATED and self.per_category and len(pairs) < self.per_category:
            self.notes.append(f"{category}: only {len(pairs)} pairs were found, few objects share key-points")
        return np.stack(np.divmod(pairs, len(objects)), 1).tolist()


def draw_pairs(visible: Mask, images: NDArray[np.intp], wanted: int | None, seed: int) -> NDArray[np.int64]:
    """Pairs of n objects, each as source · n + target, ascending.

    Args: visible [n, P]: which key-points each has; images [n]: in which image each is; wanted: how many are drawn,
    without repetition; None: all, of which slightly more than MAX_PAIRS may come.
    """
    n, rng = len(visible), np.random.default_rng(seed)
    pairs = np.zeros(0, np.int64)
    if wanted is None or n <= MAX_ENUMERATED:
        for first in range(0, n, 2**22 // n + 1):
            block = slice(first, first + 2**22 // n + 1)
            shared = visible[block].astype(np.float32) @ visible.T.astype(np.float32)
            valid = (shared >= MIN_SHARED_KEYPOINTS) & (images[block, None] != images)
            pairs = np.concatenate([pairs, np.flatnonzero(valid) + first * n])
            if wanted is None and len(pairs) > MAX_PAIRS:
                break
    else:
        wanted = min(wanted, MAX_PAIRS + 1)
        chunk = min(4 * wanted + 1000, 2**19)
        for _ in range(DRAWS_PER_PAIR * wanted // chunk + DRAWS_PER_PAIR):
            source, target = rng.integers(n, size=(2, chunk))
            shared = (visible[source] & visible[target]).sum(1)
            valid = (shared >= MIN_SHARED_KEYPOINTS) & (images[source] != images[target])
            drawn = np.concatenate([pairs, source[valid] * n + target[valid]])
            pairs = drawn[np.sort(np.unique(drawn, return_index=True)[1])]
            if len(pairs) >= wanted:
                return np.sort(pairs[:wanted])
    if wanted is not None and len(pairs) > wanted:
        pairs = rng.choice(pairs, wanted, replace=False)
    return np.sort(pairs)


def records(path: Path, content: Any, kind: str) -> list[dict[str, Any]]:
    """A list of a COCO file."""
    found = content.get(kind) if isinstance(content, dict) else None
    if not isinstance(found, list):
        raise UserError(f"{path}: not a COCO file of key-points, it has no list '{kind}': export it as such")
    for number, record in enumerate(found):
        if not isinstance(record, dict):
            raise UserError(f"{path}, {kind}[{number}]: not a record with names and values: {ADVICE}")
    return found


def texts_by_id(path: Path, content: Any, kind: str, field: str) -> dict[str, str]:
    """A text of each record of a list, by the record's id."""
    names: dict[str, str] = {}
    for number, record in enumerate(records(path, content, kind)):
        with error_context(f"{path}, {kind}[{number}]", ADVICE):
            name = record.get(field)
            if not isinstance(name, str) or not name.strip():
                raise UserError(f"it has no {field}")
            if names.setdefault(parse_id(record, "id"), name) != name:
                raise UserError(f"another has the id {record['id']!r}")
    return names


def parse_id(record: dict[str, Any], field: str) -> str:
    """An id, which may be a number in one list and a text in another: 7, 7.0 and "7" are one."""
    value = record.get(field)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UserError(f"its {field} is {short_repr(value)}, not a number or a text")
    return str(value)


def parse_size(record: dict[str, Any]) -> tuple[int, int] | None:
    """Width and height of an image, if its record says them."""
    try:
        width, height = (int(float(record[field])) for field in ("width", "height"))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return (width, height) if min(width, height) > 0 else None


def parse_keypoints(value: Any) -> Array:
    """Key-points [P, 3] (x, y, v) of an annotation; none where it has none."""
    try:
        kps = np.array([] if value is None else value, dtype=np.float64).reshape(-1, 3)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"keypoints is {short_repr(value)}, not a list x, y, v, x, y, v, ...") from None
    if len(kps) > MAX_KEYPOINTS:
        raise UserError(f"{len(kps)} key-points, at most {MAX_KEYPOINTS} are possible")
    v = kps[:, 2]
    if not ((v == 0) | (v == 1) | (v == 2)).all():
        raise UserError("keypoints is not a list x, y, v, x, y, v, ...: a v is not 0, 1 or 2")
    return kps


def parse_names(value: Any) -> tuple[str, ...]:
    """The names of a category's key-points; none where they are not a list of texts."""
    are_names = isinstance(value, list) and all(isinstance(name, str) and name.strip() for name in value)
    return tuple(map(printable, value)) if are_names else ()


def parse_box(value: Any) -> Array | None:
    """A box x1 y1 x2 y2 from x y w h; None where there is none, or it has no extent."""
    if value is None or value == []:
        return None
    try:
        x, y, w, h = map(float, list(value))
    except (TypeError, ValueError, OverflowError):
        x = y = w = h = math.nan
    if not math.isfinite(x + y + w + h):
        raise UserError(f"bbox is {short_repr(value)}, not x, y, w, h")
    return np.array((x, y, x + w, y + h)) if min(w, h) > 0 else None


def short_repr(value: Any) -> str:
    return repr(value)[:60]
