"""A table of pairs: CSV with a line for each key-point, as `match.py --table-out` writes it."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from dhpf.common.errors import UserError
from dhpf.common.files import is_file
from dhpf.data.benchmark import Array, Pair
from dhpf.data.lists import at_line, parse_numbers, read_table
from dhpf.data.names import printable
from dhpf.data.own_data import UNKNOWN_OVERLAP, OwnData

ENDS = ("source_x", "source_y", "target_x", "target_y")
COLUMNS = ("source", "target", *ENDS)
BOX = ("x1", "y1", "x2", "y2")  # optional, of the target
NO_CATEGORY = "all"


class Row(NamedTuple):
    """A line: where it is, the key-point's ends [4], the target's box [4], the key-point's name."""

    line: int
    ends: Array
    box: Array | None
    point: str


class PairTable(OwnData):
    """Pairs of images, in the order of their first lines; lines of one pair need not be adjacent.

    Paths are relative to the table's folder.  Optional columns: `category`, `point`, `x1,y1,x2,y2` (the target's box).
    """

    name = "table"

    def read_pairs(self) -> list[Pair]:
        path = self.list_path = self.choose_file()
        self.root = path.parent
        rows_of: dict[tuple[str, str, str], list[Row]] = {}  # by source, target, category
        for line, cells in read_table(path, COLUMNS):
            with at_line(path, line):
                source, target = (self._image_name(cells[end]) for end in ("source", "target"))
                key = source, target, printable(cells.get("category") or NO_CATEGORY)
                rows_of.setdefault(key, []).append(read_row(line, cells))
        with_box = [any(row.box is not None for row in rows) for rows in rows_of.values()]
        boxes_alone = self.choose_threshold(
            sum(with_box), len(with_box), "pairs"
        )  # of all splits, as is the threshold
        ends_in_split = {key: [self.in_split(name) for name in key[:2]] for key in rows_of}
        chosen = {key: rows for key, rows in rows_of.items() if all(ends_in_split[key])}
        if mixed := sum(any(ends) and not all(ends) for ends in ends_in_split.values()):
            self.notes.append(f"{mixed} of {len(rows_of)} pairs have images of two splits and are left out")
        if not chosen:
            advice = "choose another --val-share, or give three files, --datapath TRN,VAL,TEST"
            raise UserError(f"{path}: split {self.split} has no pair ({'; '.join(self.notes)}): {advice}")
        self.categories = tuple(sorted({category for *_, category in chosen}))
        self.max_pts = max(map(len, chosen.values()))
        pairs = []
        for (source, target, category), rows in chosen.items():
            ends, names = np.stack([row.ends for row in rows], 1), tuple(row.point for row in rows)
            box = next((row.box for row in rows if row.box is not None), None)
            points = names if all(names) else ()
            ids = rows[0].line, source, target, self.category_id(category)
            pairs.append(Pair(*ids, ends[:2], ends[2:], points=points, trg_bbox=box, labels=UNKNOWN_OVERLAP))
        return [pair for pair in pairs if pair.trg_bbox is not None or not boxes_alone]

    def _image_name(self, text: str) -> str:
        """The path of an image as a table says it, with the separators of this system."""
        name = printable(text)
        if not name:
            raise UserError("it does not name both images")
        return name if is_file(self.root / name) else name.replace("\\", "/")


def read_row(line: int, cells: Mapping[str, str]) -> Row:
    ends = np.concatenate([parse_numbers(cells[name]) for name in ENDS])
    corners = [cells.get(name, "") for name in BOX]
    box = np.concatenate(list(map(parse_numbers, corners))) if all(corners) else None
    if len(ends) != 4 or (box is not None and len(box) != 4):
        raise UserError("a coordinate is not one number")
    if box is None and any(corners):
        raise UserError(f"a box has all of {','.join(BOX)} or none")
    return Row(line, ends, box, printable(cells.get("point", "")))
