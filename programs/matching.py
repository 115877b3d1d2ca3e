"""What `match.py` reads and writes: images of folders, points, results with pictures."""

import hashlib
import io
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from dhpf.common.errors import UserError, error_context
from dhpf.common.files import is_file, read_text, replace_file
from dhpf.common.processes import choose_device
from dhpf.common.run import versions
from dhpf.data import MAX_PIXELS
from dhpf.data.annotated_points import parse_line, read_points
from dhpf.data.images import HEIF, formats
from dhpf.data.lists import read_table
from dhpf.data.pair_table import COLUMNS as ENDS
from dhpf.matching.matcher import Found, Matcher, Reals, as_rgb, checked_points, grid_points, listed
from dhpf.model.ablation import ablation, layer_count
from dhpf.model.options import DEFAULT_BACKBONE
from dhpf.programs.match import MatchOptions
from dhpf.report import pictures
from dhpf.report.explorer import explorer

MAX_POINTS_FILE = 2**24  # bytes
ENDINGS = (".json", ".csv", "-matches.png", "-warped.png")
LONGEST = 90  # bytes of an image's name in that of a result; file systems take 143 or 255 in all
GRID = 6  # points a side, where none are given
LISTED = 50  # points that are printed
COLUMNS = [*ENDS[2:], "confidence"]


def match(options: MatchOptions) -> None:
    """Match the source with every target; what can be refused without a model is refused first.

    Raises:
        UserError: a mistake, or no target can be read.
        SystemExit: 1, some targets cannot be read.
    """
    assert options.source
    Image.MAX_IMAGE_PIXELS = max(MAX_PIXELS, options.max_pixels)  # Pillow's own limit is lower
    targets, unread = image_files(options.targets), []
    if options.explore and len(targets) > 1:
        raise UserError(f"--explore {options.explore}: a page shows one pair, give one TRG")
    source = as_rgb(options.source, options.max_pixels)
    points = chosen_points(options, source.size)
    table = table_so_far(options.table_out, options.source, targets) if options.table_out else None
    matcher = loaded(options)
    code = matcher.encode(source)
    for target in targets:
        try:
            picture = as_rgb(target, options.max_pixels)
        except UserError as error:
            unread.append(str(error))
            continue
        found = matcher.match(code, picture, points).at_least(options.min_confidence)
        ends = options.source, target
        save(options, matcher, place_for(options.output, ends), found, ends)
        if options.table_out:
            named = zip(ENDS, pair_names(options.table_out, ends), strict=False)
            table = pd.concat([table, rows_of(found).assign(**dict(named))[[*ENDS, "confidence"]]])
            replace_file(options.table_out, csv_of(table))
    if len(unread) == len(targets):
        raise UserError(unread[0])
    for message in unread:
        print(f"not matched: {message}", file=sys.stderr)
    if unread:
        sys.exit(1)


def loaded(options: MatchOptions) -> Matcher:
    """The matcher that the options ask for; it says what it is. Raises: UserError."""
    raw = replace(options, raw=options.raw or not options.load)
    if not options.load:
        ablation(raw, layer_count(options), learned=False)
    choose_device(options.device, options.compile)
    matcher = Matcher.load(
        options.load or options.backbone or DEFAULT_BACKBONE,
        backbone=options.backbone,
        backbone_weights=options.backbone_weights,
        voting=options.voting,
        img_side=options.img_side,
        device=options.device,
        layers=options.backbone_layers,
        side=options.backbone_side,
    )
    model = matcher.model
    chosen = ablation(raw, len(model.backbone.channels), bool(options.load), model.ablation.layers)
    model.bf16 = options.precision == "bf16"
    model.ablate(chosen)
    if options.compile:
        model.compile_pairs(options.img_side, partial(print, file=sys.stderr))
    if not options.json:
        print(matcher)
    return matcher


def image_files(places: Sequence[Path]) -> list[Path]:
    """Image files, those of folders in order of their names, without what is hidden or by its name no picture.

    HEIC counts, that it may be told what is missing to read it.
    Raises:
        UserError: a folder without an image.
    """
    read = formats()
    known = {*HEIF, *(ending for ending, form in Image.EXTENSION.items() if form in read)}
    files: list[Path] = []
    for place in places:
        inside = sorted(p for p in place.glob("[!.]*") if p.suffix.lower() in known and p.is_file())
        if place.is_dir() and not inside:
            raise UserError(f"{place}: the folder holds no image")
        files += inside if place.is_dir() else [place]
    return files


def place_for(folder: Path, files: tuple[Path, Path]) -> Path:
    """Where what is found in a pair of files is written, without ending: never where another pair's is, or other files.

    The names of the pair, shortened where a file system would not take them, and counted where they are taken.
    """
    first = "-".join(shortened(file.stem) for file in files)
    names = (first if number == 1 else f"{first}-{number}" for number in count(1))
    return next(folder / name for name in names if free(folder / name, files))


def results(path: Path) -> dict[str, Path]:
    """The files of what is found in a pair, by their endings."""
    return {ending: path.with_name(path.name + ending) for ending in ENDINGS}


def free(path: Path, files: tuple[Path, Path]) -> bool:
    """Whether nothing is written there, or what was found in the same pair of files."""
    if not any(file.exists() for file in results(path).values()):
        return True
    try:
        content = json.loads(results(path)[".json"].read_text())
        return [content[end]["path"] for end in ("source", "target")] == [str(f.resolve()) for f in files]
    except (OSError, ValueError, LookupError, TypeError):
        return False


def shortened(name: str) -> str:
    """A name of at most 90 bytes, of which two with the longest ending are a file name; others stay others."""
    encoded = os.fsencode(name)
    if len(encoded) <= LONGEST:
        return name
    return f"{encoded[: LONGEST - 9].decode(errors='ignore')}-{hashlib.sha256(encoded).hexdigest()[:8]}"


def chosen_points(options: MatchOptions, size: tuple[int, int]) -> Reals:
    """The points that the options ask for, in pixels of a source of this size. Raises: UserError."""
    given, file = options.points, options.points_file
    if given is not None and given != "-" and is_file(Path(given)):
        file = Path(given)
    if given is None and file is None:
        return grid_points(options.grid or GRID, size)
    if file:
        place, text = str(file), read_text(file, MAX_POINTS_FILE)
    elif given == "-":
        place, text = "standard input", standard_input()
    else:
        fields = re.sub(r"\s*,\s*", ",", given or "").split()
        with error_context("--points"):
            return checked_points([point for field in fields for point in parse_line(field)], size)
    with error_context(place):
        return checked_points(read_points(text, options.source or Path()), size)


def standard_input() -> str:
    """What is piped into the program. Raises: UserError: it is no text."""
    try:
        return sys.stdin.buffer.read(MAX_POINTS_FILE).decode("utf-8-sig")
    except (AttributeError, OSError, ValueError) as error:
        raise UserError(
            f"standard input: it cannot be read as text ({error}): pipe points into it"
        ) from error


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
    sure = found.confidence[np.isfinite(found.confidence)]
    confidence = f"mean confidence {sure.mean():.2f}" if len(sure) else "no confidence"
    layers = f"layers {listed(found.layers)} ({len(found.layers)} of {found.matches.weights.shape[1]})"
    return f"{len(found.points)} points, {confidence}, {layers}"


def listing(found: Found) -> str:
    """The points as lines: in the source, in the target, confidence; of many the first."""
    rows = [
        f"  {x:g},{y:g}  {u:.1f},{v:.1f}  {sure:.2f}\n".replace("nan", "-")
        for x, y, u, v, sure in rows_of(found).to_numpy()[:LISTED]
    ]
    more = [f"  … and {len(found.points) - LISTED} more\n"] if len(found.points) > LISTED else []
    return "".join(rows + more)


def save(
    options: MatchOptions,
    matcher: Matcher,
    path: Path,
    found: Found,
    files: tuple[Path, Path],
    **drawn: Any,
) -> None:
    """Writes what was found as `path`.json, .csv, -matches.png and -warped.png, and the page to explore it if one is
    asked for; prints it. `drawn`: more arguments of `pictures.matches`. Raises: UserError."""
    about = {
        "model": str(matcher),
        "img_side": options.img_side,
        "precision": options.precision,
        "versions": versions(),
    }
    ends = {
        end: {
            "file": str(file),
            "path": str(file.resolve()),
            "width": of.image.width,
            "height": of.image.height,
        }
        for end, file, of in zip(("source", "target"), files, found.images, strict=True)
    }
    rows = rows_of(found)
    matches = [
        {"source": row[:2], "target": row[2:4], "confidence": row[4] if np.isfinite(row[4]) else None}
        for row in rows.to_numpy().tolist()
    ]
    content = {**about, **ends, "layers": found.layers, "matches": matches}
    src, trg = (of.image for of in found.images)
    look = {"title": summary(found)} | ({} if "correct" in drawn else {"confidence": found.confidence})
    picture = pictures.matches(src, trg, found.source.T, found.points.T, **{**look, **drawn})
    written = {
        ".json": (json.dumps(content, indent=2) + "\n").encode(),
        ".csv": csv_of(rows),
        "-matches.png": pictures.render(picture, "png"),
    }
    if options.no_warp:
        results(path)["-warped.png"].unlink(missing_ok=True)  # of an earlier call
    else:
        warped = io.BytesIO()
        found.warped().save(warped, "png")
        written["-warped.png"] = warped.getvalue()
    for ending, data in written.items():
        replace_file(results(path)[ending], data)
    for file, image in zip(files, found.images, strict=True):
        if image.blank:
            print(f"warning: {file} has one colour everywhere: no match has a confidence", file=sys.stderr)
    if options.json:
        print(json.dumps(content), flush=True)
    else:
        print(
            f"{files[1]}: {summary(found)}\n{listing(found)}  written: {path}{', '.join(written)}", flush=True
        )
    if options.explore:
        page = explorer(matcher, found.images, pair_names(options.explore, files))
        replace_file(options.explore, page)
        print(
            f"  written: {options.explore}, {len(page) / 1e6:.1f} MB",
            file=sys.stderr if options.json else None,
        )
