"""A table of pairs: CSV with a line for each key-point, as `match.py --table-out` writes it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dhpf.common.errors import UserError
from dhpf.common.files import is_file
from dhpf.data.benchmark import Array, Pair
from dhpf.data.lists import at_line, numbers, read_table
from dhpf.data.own_data import OwnData, clean, own_pair

ENDS = ("source_x", "source_y", "target_x", "target_y")
COLUMNS = ("source", "target", *ENDS)
BOX = ("x1", "y1", "x2", "y2")  # optional, of the target
NO_CATEGORY = "all"


class PairTable(OwnData):
    """Pairs of images, in the order of their first lines; lines of one pair need not be adjacent.

    Paths are relative to the table's folder.  Optional columns: `category`, `point`, `x1,y1,x2,y2` (the target's box).
    """

    name = "table"

    def read_pairs(self) -> list[Pair]:
        path = self.list_path = self.choose_file()
        self.root = path.parent
        lines: dict[tuple[str, str, str], list[tuple[int, Array, Array | None, str]]] = {}
        for line, row in read_table(path, COLUMNS):
            with at_line(path, line):
                source, target = (image_name(self.root, row[end]) for end in ("source", "target"))
                key = source, target, clean((row.get("category") or "").strip()) or NO_CATEGORY
                point = clean((row.get("point") or "").strip())
                lines.setdefault(key, []).append((line, *values_of(row), point))
        inside = {key: [self.belongs(name) for name in key[:2]] for key in lines}
        kept = {key: rows for key, rows in lines.items() if all(inside[key])}
        if mixed := sum(any(ends) and not all(ends) for ends in inside.values()):
            self.notes.append(f"{mixed} of {len(lines)} pairs have images of two splits and are left out")
        if not kept:
            raise UserError(
                f"{path}: there is no pair in split {self.split} ({'; '.join(self.notes) or 'none at all'}); another "
                "--val-share, or three files, --datapath TRN,VAL,TEST, give other splits"
            )
        self.categories = tuple(sorted({category for *_, category in kept}))
        boxes = {
            key: next((box for _, _, box, _ in rows if box is not None), None) for key, rows in kept.items()
        }
        strict = self.choose_threshold(sum(box is not None for box in boxes.values()), len(kept), "pairs")
        self.max_pts = max(map(len, kept.values()))
        return [
            own_pair(
                rows[0][0],
                source,
                target,
                self.category_id(category),
                src_kps=np.stack([ends[:2] for _, ends, *_ in rows], 1),
                trg_kps=np.stack([ends[2:] for _, ends, *_ in rows], 1),
                points=tuple(name for *_, name in rows) if all(name for *_, name in rows) else (),
                trg_bbox=box,
            )
            for ((source, target, category), rows), box in zip(kept.items(), boxes.values(), strict=True)
            if box is not None or not strict
        ]


def image_name(folder: Path, text: str) -> str:
    """The path of an image as a table says it, with the separators of this system."""
    name = clean(text.strip())
    if not name:
        raise UserError("it does not name both images")
    return name if is_file(folder / name) else name.replace("\\", "/")


def values_of(row: Mapping[str, str]) -> tuple[Array, Array | None]:
    """A line's four coordinates and the target's box."""
    ends = np.concatenate([numbers(row[name]) for name in ENDS])
    corners = [(row.get(name) or "").strip() for name in BOX]
    box = np.concatenate(list(map(numbers, corners))) if all(corners) else None
    if len(ends) != 4 or (box is not None and len(box) != 4):
        raise UserError("a coordinate is not one number")
    if box is None and any(corners):
        raise UserError(f"a box has all of {','.join(BOX)} or none")
    return ends, box
