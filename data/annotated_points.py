"""Points of an image, as people write them and as annotation programs do: labelme, COCO, VGG Image Annotator (VIA)."""

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from dhpf.common.errors import UserError, error_context

Points = list[tuple[float, float]]

HEADS = (("x", "y"), ("source_x", "source_y"))  # of columns; the latter are those that match.py writes
VIA_SHAPES, VIA_FILE = "region_shape_attributes", "filename"  # columns of VIA's CSV
MARKS = str.maketrans("()[]−", "    -", "'\"\ufeff")  # brackets are as good as none
NUMBER = r"[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|nan|inf)"
PAIR = re.compile(rf"({NUMBER})\s*,\s*({NUMBER})", re.IGNORECASE)
NAMED = re.compile(rf"(?:(.*\S)[,\s]\s*)?({NUMBER})(?:\s*,\s*|\s+)({NUMBER})(?:[,\s]\s*(.*))?", re.IGNORECASE)


def read_points(text: str, image: Path) -> Points:
    """The points of a text: lines, or what an annotation program wrote about this image or about one alone.

    A line holds x and y, separated by a comma, a semicolon, a tab or spaces, perhaps with a name before or behind; or
    several points 'x,y x,y'.  A head may name the columns; lines that are blank or begin with '#' say nothing.
    Raises:
        UserError: names what is wrong with which line.
    """
    content = as_json(text)
    if isinstance(content, dict) or (
        isinstance(content, list) and isinstance(next(iter(content), None), list)
    ):
        return of_content(content, image)
    lines = [(n, line.translate(MARKS).strip()) for n, line in enumerate(text.splitlines(), 1)]
    lines = [(n, line) for n, line in lines if line and not line.startswith(("#", "//"))]
    if VIA_SHAPES in text.partition("\n")[0]:
        return of_via_table(text, image)
    heads = [head.strip() for head in re.split(r"[;\t,]|\s+", lines[0][1].lower())] if lines else []
    columns = next(([heads.index(head) for head in pair] for pair in HEADS if {*pair} <= {*heads}), None)
    points: Points = []
    for n, line in lines[columns is not None :]:
        with error_context(f"line {n}"):
            points += of_line(line.partition(" #")[0].strip(), columns)
    return points


def as_json(text: str) -> Any:
    """What a text holds, if it is JSON."""
    try:
        return json.loads(text.lstrip("\ufeff"))
    except (ValueError, RecursionError):
        return None


def of_line(line: str, columns: Sequence[int] | None = None) -> Points:
    """The points of a line, of whose cells `columns` are x and y if that is known. Raises: UserError: it has none."""
    separator = next((mark for mark in ";\t" if mark in line), None)
    words = line.split()
    if columns or separator:
        cells = line.split(separator or ("," if "," in line else None))
        cells = [cell.strip(" ,") for cell in cells]
        cells = [cells[k] for k in columns if k < len(cells)] if columns else cells
        values = [float(cell.replace(",", ".")) for cell in cells if is_number(cell)]
        if len(values) == 2:
            return [(values[0], values[1])]
        pairs = list(filter(None, map(PAIR.fullmatch, cells)))
    elif len(words) > 1 and len(pairs := list(filter(None, map(PAIR.fullmatch, words)))) == len(words):
        if len(words) == 2:
            raise UserError(f"'{line}' is two points, or one with decimal commas: write x;y")
    else:
        named = NAMED.fullmatch(line)
        # Beside the two numbers there may be a name, but no third number.
        if named and all(text is None or re.search(r"[^\W\d]", text) for text in named.group(1, 4)):
            return [(float(named[2]), float(named[3]))]
        pairs = []
    if not pairs:
        raise UserError(f"'{line}' is not a point x,y in pixels")
    return [(float(pair[1]), float(pair[2])) for pair in pairs]


def is_number(text: str) -> bool:
    return re.fullmatch(NUMBER, text.replace(",", "."), re.IGNORECASE) is not None


def of_content(content: Any, image: Path) -> Points:
    """The points in what an annotation program wrote as JSON, or match.py, or in a list [[x, y], ...]."""
    try:
        if isinstance(content, list):
            return [(float(x), float(y)) for x, y in content]
        if "shapes" in content:
            return [
                (float(x), float(y))
                for shape in content["shapes"]
                if shape.get("shape_type") == "point"
                for x, y in shape["points"]
            ]
        if "annotations" in content:
            named = {str(entry["id"]): entry["file_name"] for entry in content["images"]}
            key = of_image(named, image)
            rows = [a.get("keypoints", ()) for a in content["annotations"] if str(a["image_id"]) == key]
            triples = [row[k : k + 3] for row in rows for k in range(0, len(row), 3)]
            return [(float(x), float(y)) for x, y, visible in triples if visible]
        if "matches" in content:
            return [(float(x), float(y)) for x, y in (match["source"] for match in content["matches"])]
        entries = content.get("_via_img_metadata", content)
        regions = entries[of_image({key: entry["filename"] for key, entry in entries.items()}, image)][
            "regions"
        ]
        regions = regions.values() if isinstance(regions, dict) else regions
        return list(via_points(region["shape_attributes"] for region in regions))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            "not JSON of labelme, COCO or VGG Image Annotator with points, and no list of [x, y] "
            f"({type(error).__name__}: {error})"
        ) from error


def of_via_table(text: str, image: Path) -> Points:
    """The points of VIA's CSV."""
    rows = list(csv.DictReader(line for line in text.splitlines() if not line.startswith("# ")))
    names = {str(n): row[name] for n, row in enumerate(rows) for name in row if name.lstrip("#") == VIA_FILE}
    name = names[of_image(names, image)]
    try:
        return list(via_points(json.loads(rows[int(n)][VIA_SHAPES]) for n in names if names[n] == name))
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(f"not a CSV of VGG Image Annotator with points ({error})") from error


def via_points(shapes: Iterator[Mapping[str, Any]]) -> Iterator[tuple[float, float]]:
    for shape in shapes:
        if shape.get("name") == "point":
            yield float(shape["cx"]), float(shape["cy"])


def of_image(names: Mapping[str, str], image: Path) -> str:
    """The key of the image's entry, or of the only one. Raises: UserError: it is not among several."""
    for key, name in names.items():
        if PurePosixPath(str(name).replace("\\", "/")).name == image.name:
            return key
    if len(set(names.values())) != 1:
        listed = ", ".join(map(str, list(names.values())[:3]))
        raise UserError(f"{len(names)} images, none of which is {image.name}: {listed}, ...")
    return next(iter(names))
