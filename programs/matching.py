"""What `match.py` reads and writes: images of folders, points, results with pictures."""

import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from dhpf.common.errors import UserError, naming
from dhpf.common.files import read_text, replace_file
from dhpf.common.run import versions
from dhpf.data.images import formats
from dhpf.data.lists import read_table
from dhpf.data.pairs import COLUMNS as ENDS
from dhpf.evaluation.matcher import Found, Matcher, Reals, as_rgb, checked_points, grid_points, listed
from dhpf.model import BACKBONES
from dhpf.model.ablation import ablation
from dhpf.model.options import DEFAULT_BACKBONE
from dhpf.programs.match import MatchOptions
from dhpf.report import pictures
from dhpf.report.explorer import explorer

MAX_POINTS_FILE = 2**20  # bytes
COLUMNS = [*ENDS[2:], "confidence"]


def match(options: MatchOptions) -> None:
    """Match the source with every target; what can be refused without a model is refused first. Raises: UserError."""
    assert options.source
    targets = image_files(options.targets)
    if options.explore and len(targets) > 1:
        raise UserError(f"--explore {options.explore}: a page shows one pair, give one TRG")
    source = as_rgb(options.source)
    points = chosen_points(options, source.size)
    table = table_so_far(options.table_out, options.source, targets) if options.table_out else None
    matcher = loaded(options)
    code = matcher.encode(source)
    about = {"model": str(matcher), "img_side": options.img_side, "versions": versions()}
    for target, name in zip(targets, names(options.source, targets), strict=True):
        found = matcher.match(code, target, points)
        path = options.output / name
        save(path, found, (options.source, target), about)
        if options.table_out:
            ends = zip(ENDS, pair_names(options.table_out, (options.source, target)), strict=False)
            table = pd.concat([table, rows_of(found).assign(**dict(ends))[[*ENDS, "confidence"]]])
            replace_file(options.table_out, csv_of(table))
        print(
            f"{target}: {summary(found)}\n  written: {path}.json, .csv, -matches.png, -warped.png", flush=True
        )
        if options.explore:
            explore(options.explore, matcher, found, (options.source, target))


def explore(path: Path, matcher: Matcher, found: Found, files: tuple[Path, Path]) -> None:
    """Writes the page that predicts for any point of a pair. Raises: UserError."""
    page = explorer(matcher, found.images, pair_names(path, files))
    replace_file(path, page)
    print(f"  written: {path}, {len(page) / 1e6:.1f} MB")


def loaded(options: MatchOptions) -> Matcher:
    """The matcher that the options ask for; it says what it is. Raises: UserError."""
    raw = replace(options, raw=options.raw or not options.load)
    if not options.load:
        ablation(raw, BACKBONES[options.backbone or DEFAULT_BACKBONE], learned=False)
    matcher = Matcher.load(
        options.load or options.backbone or DEFAULT_BACKBONE,
        backbone=options.backbone,
        backbone_weights=options.backbone_weights,
        voting=options.voting,
        img_side=options.img_side,
        device=options.device,
    )
    model = matcher.model
    model.ablate(ablation(raw, model.backbone, bool(options.load), model.ablation.layers))
    print(matcher)
    return matcher


def image_files(places: Sequence[Path]) -> list[Path]:
    """Image files, those of folders in order of their names. Raises: UserError: a folder without an image."""
    read = formats()
    files: list[Path] = []
    for place in places:
        images = (p for p in place.glob("*") if Image.EXTENSION.get(p.suffix.lower()) in read)
        inside = sorted(p for p in images if p.is_file())
        if place.is_dir() and not inside:
            raise UserError(f"{place}: the folder holds no image")
        files += inside if place.is_dir() else [place]
    return files


def names(source: Path, targets: Sequence[Path]) -> Iterator[str]:
    """A name for what is written about each target; equal ones are counted."""
    given: set[str] = set()
    for target in targets:
        first = name = f"{source.stem}-{target.stem}"
        count = 1
        while name in given:
            count += 1
            name = f"{first}-{count}"
        given.add(name)
        yield name


def chosen_points(options: MatchOptions, size: tuple[int, int]) -> Reals:
    """The points that the options ask for, in pixels of a source of this size. Raises: UserError."""
    if options.points is not None:
        place, fields = "--points", {f"'{field}'": field for field in options.points.split()}
    elif options.points_file:
        place, lines = str(options.points_file), read_text(options.points_file, MAX_POINTS_FILE).splitlines()
        fields = {f"line {n}": line.strip() for n, line in enumerate(lines, 1) if line.strip()}
        if fields.get("line 1", "").replace(" ", "").lower() == "x,y":  # the heads of a table
            del fields["line 1"]
    else:
        return grid_points(options.grid, size)
    points = []
    for name, field in fields.items():
        try:
            x, y = map(float, re.split(r"\s*,\s*|\s+", field))
        except ValueError:
            raise UserError(f"{place}: {name} is not a point x,y in pixels") from None
        points.append((x, y))
    with naming(place):
        return checked_points(points, size)


def table_so_far(path: Path, source: Path, targets: Sequence[Path]) -> pd.DataFrame | None:
    """The rows of the table of pairs to add to. Raises: UserError: it is none, or has one of the pairs already."""
    rows = [row for _, row in read_table(path, ENDS)] if path.exists() else []
    there = {(row["source"], row["target"]) for row in rows}
    for pair in (pair_names(path, (source, target)) for target in targets):
        if pair in there:
            raise UserError(
                f"{path}: it has {' - '.join(pair)} already, remove its lines or name another table"
            )
    return pd.DataFrame(rows) if rows else None


def pair_names(path: Path, files: tuple[Path, Path]) -> tuple[str, ...]:
    """Source and target as a table of pairs names them: relative to its folder."""
    return tuple(Path(os.path.relpath(file, path.parent)).as_posix() for file in files)


def rows_of(found: Found) -> pd.DataFrame:
    """What was found, a row for each point."""
    values = np.column_stack([found.source, found.points, found.confidence]).round(4)
    return pd.DataFrame(values, columns=COLUMNS)


def csv_of(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=False, lineterminator="\n").encode()


def summary(found: Found) -> str:
    """What was found, in a line."""
    confidence = f"mean confidence {found.confidence.mean():.2f}"
    layers = f"layers {listed(found.layers)} ({len(found.layers)} of {found.matches.weights.shape[1]})"
    return f"{len(found.points)} points, {confidence}, {layers}"


def save(path: Path, found: Found, files: tuple[Path, Path], about: Mapping[str, Any], **drawn: Any) -> None:
    """Writes what was found as `path`.json, .csv, -matches.png and -warped.png. Raises: UserError.

    Args: drawn: more arguments of the picture (see `pictures.matches`).
    """
    ends = {
        end: {"file": str(file), "width": of.image.width, "height": of.image.height}
        for end, file, of in zip(("source", "target"), files, found.images, strict=True)
    }
    rows = rows_of(found)
    matches = [
        {"source": row[:2], "target": row[2:4], "confidence": row[4]} for row in rows.to_numpy().tolist()
    ]
    content = {**about, **ends, "layers": found.layers, "matches": matches}
    warped = io.BytesIO()
    found.warped().save(warped, "png")
    src, trg = (of.image for of in found.images)
    picture = pictures.matches(src, trg, found.source.T, found.points.T, **{"title": summary(found)} | drawn)
    for ending, data in {
        ".json": (json.dumps(content, indent=2) + "\n").encode(),
        ".csv": csv_of(rows),
        "-matches.png": pictures.render(picture, "png"),
        "-warped.png": warped.getvalue(),
    }.items():
        replace_file(path.with_name(path.name + ending), data)
