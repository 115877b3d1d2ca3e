"""Points of an image, as people write them and as annotation programs do: labelme, COCO, VGG Image Annotator (VIA)."""

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dhpf.common.errors import UserError, error_context
from dhpf.data.names import path_parts

Points = list[tuple[float, float]]

COLUMN_NAMES = (("x", "y"), ("source_x", "source_y"))  # the latter are those that match.py writes
VIA_SHAPES = "region_shape_attributes"  # a column of VIA's CSV
IGNORED_MARKS = str.maketrans("()[]−", "    -", "'\"\ufeff")  # brackets are as good as none
NUMBER = r"[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|nan|inf)"
PAIR = re.compile(rf"({NUMBER})\s*,\s*({NUMBER})", re.IGNORECASE)
NAMED_PAIR = re.compile(
    rf"(?:(.*\S)[,\s]\s*)?({NUMBER})(?:\s*,\s*|\s+)({NUMBER})(?:[,\s]\s*(.*))?", re.IGNORECASE
)


def read_points(text: str, image: Path) -> Points:
    """The points of a text: lines, or what an annotation program wrote about this image or about one alone.

    A line holds x and y, separated by a comma, a semicolon, a tab or spaces, perhaps with a name before or behind; or
    several points 'x,y x,y'.  A head may name the columns; lines that are blank or begin with '#' say nothing.
    Raises:
        UserError: names what is wrong with which line.
    """
    with suppress(ValueError, RecursionError):
        content = json.loads(text.lstrip("\ufeff"))
        if isinstance(content, dict) or (
            isinstance(content, list) and isinstance(next(iter(content), None), list)
        ):
            return read_json_points(content, image)
    if VIA_SHAPES in text.partition("\n")[0]:
        return read_via_table(text, image)
    lines = [(n, line.translate(IGNORED_MARKS).strip()) for n, line in enumerate(text.splitlines(), 1)]
    lines = [(n, line) for n, line in lines if line and not line.startswith(("#", "//"))]
    head = re.split(r"\s*[;\t,]\s*|\s+", lines[0][1].lower()) if lines else []
    columns = next(([head.index(name) for name in both] for both in COLUMN_NAMES if {*both} <= {*head}), None)
    points: Points = []
    for n, line in lines[columns is not None :]:
        with error_context(f"line {n}"):
            points += parse_line(line.partition(" #")[0].strip(), columns)
    return points


def parse_line(line: str, columns: Sequence[int] | None = None) -> Points:
    """The points of a line, of whose cells `columns` are x and y if that is known. Raises: UserError: it has none."""
    separator = next((mark for mark in ";\t" if mark in line), None)
    words = line.split()
    if columns or separator:
        cells = [cell.strip(" ,") for cell in line.split(separator or ("," if "," in line else None))]
        cells = [cells[k] for k in columns if k < len(cells)] if columns else cells
        decimal = [cell.replace(",", ".") for cell in cells]
        values = [float(cell) for cell in decimal if re.fullmatch(NUMBER, cell, re.IGNORECASE)]
        if len(values) == 2:
            return [(values[0], values[1])]
        pairs = list(filter(None, map(PAIR.fullmatch, cells)))
    elif len(words) > 1 and len(pairs := list(filter(None, map(PAIR.fullmatch, words)))) == len(words):
        if len(words) == 2:
            raise UserError(f"'{line}' is two points, or one with decimal commas: write x;y")
    else:
        match = NAMED_PAIR.fullmatch(line)
        # Beside the two numbers there may be a name, but no third number.
        named = match and all(text is None or re.search(r"[^\W\d]", text) for text in match.group(1, 4))
        found = PAIR.fullmatch(f"{match[2]},{match[3]}") if match and named else None
        pairs = [found] if found else []
    if not pairs:
        raise UserError(f"'{line}' is not a point x,y in pixels")
    return [(float(pair[1]), float(pair[2])) for pair in pairs if pair]


def read_json_points(content: Any, image: Path) -> Points:
    """The points in what an annotation program wrote as JSON, or match.py, or in a list [[x, y], ...]."""
    try:
        if isinstance(content, list):
            points = content
        elif "shapes" in content:  # labelme
            points = [p for s in content["shapes"] if s.get("shape_type") == "point" for p in s["points"]]
        elif "annotations" in content:  # COCO
            names = {str(entry["id"]): entry["file_name"] for entry in content["images"]}
            key = entry_of(names, image)
            rows = [a.get("keypoints", ()) for a in content["annotations"] if str(a["image_id"]) == key]
            triples = [row[k : k + 3] for row in rows for k in range(0, len(row), 3)]
            points = [(x, y) for x, y, visible in triples if visible]
        elif "matches" in content:  # match.py
            points = [match["source"] for match in content["matches"]]
        else:  # VIA
            entries = content.get("_via_img_metadata", content)
            key = entry_of({key: entry["filename"] for key, entry in entries.items()}, image)
            regions = entries[key]["regions"]
            regions = regions.values() if isinstance(regions, dict) else regions
            points = via_points(region["shape_attributes"] for region in regions)
        return [(float(x), float(y)) for x, y in points]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            "not JSON of labelme, COCO or VGG Image Annotator with points, and no list of [x, y] "
            f"({type(error).__name__}: {error})"
        ) from error


def read_via_table(text: str, image: Path) -> Points:
    """The points of VIA's CSV."""
    rows = list(csv.DictReader(line.lstrip("#") for line in text.splitlines() if not line.startswith("# ")))
    try:
        names = {str(n): row["filename"] for n, row in enumerate(rows)}
        name = names[entry_of(names, image)]
        return via_points(json.loads(row[VIA_SHAPES]) for row in rows if row["filename"] == name)
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(f"not a CSV of VGG Image Annotator with points ({error})") from error


def via_points(shapes: Iterable[Mapping[str, Any]]) -> Points:
    return [(float(s["cx"]), float(s["cy"])) for s in shapes if s.get("name") == "point"]


def entry_of(names: Mapping[str, str], image: Path) -> str:
    """The key of the image's entry, or of the only one. Raises: UserError: it is not among several."""
    for key, name in names.items():
        if path_parts(str(name))[-1] == image.name:
            return key
    if len(set(names.values())) != 1:
        listed = ", ".join(map(str, list(names.values())[:3]))
        raise UserError(f"{len(names)} images, none of which is {image.name}: {listed}, ...")
    return next(iter(names))
