"""Match points of your own images; see `python match.py --help` and docs/own-images.md."""

import hashlib
import io
import json
import os
import re
import sys
from argparse import Namespace
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from PIL import Image

from dhpf.common.errors import UserError, error_context
from dhpf.common.files import is_file, read_text, replace_file
from dhpf.common.processes import choose_device
from dhpf.common.program import echo
from dhpf.common.run import versions
from dhpf.data import MAX_PIXELS
from dhpf.data.annotated_points import parse_line, read_points
from dhpf.data.images import HEIF, formats
from dhpf.data.lists import read_table
from dhpf.data.pair_table import COLUMNS
from dhpf.evaluation.metrics import keypoint_errors
from dhpf.matching.found import Found
from dhpf.matching.matcher import DEFAULT_GRID, Matcher, Reals, as_rgb, checked_points, grid_points
from dhpf.model.compiled import CompiledDHPF
from dhpf.model.dhpf import DHPF
from dhpf.programs import run_program
from dhpf.programs.opening import ablate, layer_count, open_benchmark, open_model, requested_ablation
from dhpf.report import pictures
from dhpf.report.explorer import explorer

MAX_POINTS_FILE_BYTES = 2**24
SUFFIXES = (".json", ".csv", "-matches.png", "-warped.png")  # of the files of a pair
MAX_NAME_BYTES = 90  # of an image's name in that of a result; file systems take 143 or 255 in all
MAX_PRINTED = 50  # points that are printed
MAX_WAIT_S = 60  # for another program that adds to the same table
PAIR_ALPHA = 0.1  # a key-point within this share of the threshold is drawn as correct


def main(arguments: Sequence[str] | None = None) -> None:
    run_program("match", arguments)


def run(options: Namespace) -> None:
    """Match as the options say; what can be refused without a model is refused first. Raises: UserError."""
    if options.max_pixels > MAX_PIXELS:
        Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit; ours is checked
    choose_device(options.device, options.compile)
    if options.pair is None:
        match_images(options)
    else:
        match_pair(options)


def match_images(options: Namespace) -> None:
    """Match the source with every target.

    Raises:
        UserError: a mistake, or no target can be read.
        SystemExit: 1, some targets cannot be read.
    """
    targets, unread = image_files(options.targets), []
    if options.explore and len(targets) > 1:
        raise UserError(f"--explore {options.explore}: a page shows one pair, give one TRG")
    source_image = as_rgb(options.source, options.max_pixels)
    points = requested_points(options, source_image.size)
    if options.table_out:
        check_new_pairs(options.table_out, options.source, targets)
    matcher = open_matcher(options)
    source = matcher.encode(source_image, str(options.source))
    for target in targets:
        try:
            target_image = as_rgb(target, options.max_pixels)
        except UserError as error:
            unread.append(str(error))
            continue
        found = chosen(matcher.match(source, matcher.encode(target_image, str(target)), points), options)
        files = options.source, target
        save(options, matcher, free_path(options.output, files, found), found, files)
        if options.table_out:
            add_to_table(options.table_out, files, found)
    if len(unread) == len(targets):
        raise UserError(unread[0])
    for message in unread:
        echo(f"not matched: {message}", stream=sys.stderr)
    if unread:
        sys.exit(1)


def match_pair(options: Namespace) -> None:
    """Match a pair of a benchmark at its key-points, unless other points are asked for; the annotation is drawn, too.

    Raises: UserError: there is no such pair, or it has no points.
    """
    benchmark, number = open_benchmark(options), options.pair
    if number >= len(benchmark):
        raise UserError(f"--pair {number}: {benchmark.list_path} has the pairs 0 to {len(benchmark) - 1}")
    sample = benchmark.annotation(number)
    keys = sample["src_key"], sample["trg_key"]
    source, target = map(benchmark.pil_image, keys)
    src_kps, trg_kps = sample["src_kps"][:, : sample["n_pts"]], sample["trg_kps"][:, : sample["n_trg_pts"]]
    scales = [np.array(image.size) / benchmark.img_side for image in (source, target)]
    own_points = options.own_points
    points = requested_points(options, source.size) if own_points else src_kps.double().numpy().T * scales[0]
    inside = np.logical_and(points >= 0, points <= source.size).all(axis=1)
    if not inside.any():
        raise UserError(f"--pair {number}: it has no key-point in the image, give --points")
    matcher = open_matcher(options)
    ends = matcher.encode(source, keys[0]), matcher.encode(target, keys[1])
    found = chosen(matcher.match(*ends, points[inside]), options)
    name = f"{benchmark.name} {benchmark.split}, pair {number}, {pictures.short(sample['category'])}"
    drawn: dict[str, Any] = {"title": name}
    if not own_points:
        drawn["trg_kps"] = trg_kps.double().numpy() * scales[1][:, None]
        if not inside.all():
            echo(f"{(~inside).sum()} of {len(points)} key-points are outside the image and left out")
        if benchmark.metric == "pck":
            # In the frame and not cut at the image's border, as a test does it.
            predicted = found.matches.transfer(src_kps[None].to(matcher.model.device)).cpu()
            n_pts, threshold = torch.tensor([len(points)]), sample["pckthres"][None]
            correct, _ = keypoint_errors(predicted, trg_kps[None], n_pts, threshold, PAIR_ALPHA)
            drawn["correct"] = correct[0].numpy()[inside]
            drawn["title"] = f"{name}: PCK@{PAIR_ALPHA} {100 * correct[0].double().mean():.1f} %"
    files = benchmark.root / keys[0], benchmark.root / keys[1]
    save(
        options,
        matcher,
        options.output / f"{benchmark.name}-{benchmark.split}-{number}",
        found,
        files,
        **drawn,
    )


def open_matcher(options: Namespace) -> Matcher:
    """The matcher that the options ask for; it says what it is. Raises: UserError."""
    if not options.load:
        requested_ablation(options, layer_count(options))  # refused before weights are fetched
    opened = open_model(options)
    ablate(options, opened.model)
    model: DHPF | CompiledDHPF = opened.model.to(choose_device(options.device))
    origin = f"{model.backbone.name} with {options.load}" if options.load else model.backbone.name
    name = "; ".join([origin, *opened.notes])
    if options.compile:
        model = CompiledDHPF(opened.model, options.img_side, lambda text: echo(text, stream=sys.stderr))
    matcher = Matcher(model, name, options.img_side)
    if not options.json:
        echo(str(matcher))
    return matcher


def chosen(found: Found, options: Namespace) -> Found:
    """The matches that the options leave."""
    found = found.at_least(options.min_confidence)
    return found.mutual() if options.mutual else found


def image_files(paths: Sequence[Path]) -> list[Path]:
    """Image files; those of folders in order of their names, without hidden ones and those that by name are no images.

    Raises: UserError: a folder without an image.
    """
    readable = formats()
    suffixes = {*HEIF, *(suffix for suffix, name in Image.EXTENSION.items() if name in readable)}
    files: list[Path] = []
    for path in paths:
        inside = sorted(p for p in path.glob("[!.]*") if p.suffix.lower() in suffixes and p.is_file())
        if path.is_dir() and not inside:
            raise UserError(f"{path}: the folder holds no image")
        files += inside if path.is_dir() else [path]
    return files


def requested_points(options: Namespace, size: tuple[int, int]) -> Reals:
    """The points that the options ask for, in pixels of a source of this size. Raises: UserError."""
    text, file = options.points, options.points_file
    if text is not None and text != "-" and is_file(Path(text)):
        file = Path(text)
    if text is None and file is None:
        return grid_points(options.grid or DEFAULT_GRID, size)
    if file is None and text != "-":
        with error_context("--points"):
            fields = re.sub(r"\s*,\s*", ",", text or "").split()
            return checked_points([point for field in fields for point in parse_line(field)], size)
    with error_context(str(file or "standard input")):
        content = read_text(file, MAX_POINTS_FILE_BYTES) if file else standard_input()
        return checked_points(read_points(content, options.source or Path()), size)


def standard_input() -> str:
    """What is piped into the program. Raises: UserError: it is no text."""
    try:
        return sys.stdin.buffer.read(MAX_POINTS_FILE_BYTES).decode("utf-8-sig")
    except (AttributeError, OSError, ValueError) as error:
        raise UserError(f"it cannot be read as text ({error}): pipe points into it") from error


# What is written


def free_path(folder: Path, files: tuple[Path, Path], found: Found) -> Path:
    """Where the results of a pair of files are written, without suffix: never where those of other files or points are.

    The names of the pair, shortened where a file system would not take them, and counted where they are taken.
    """
    first = "-".join(shortened(file.stem) for file in files)
    names = (first if number == 1 else f"{first}-{number}" for number in count(1))
    return next(
        folder / name for name in names if is_free(folder / name, files, found.source.round(4).tolist())
    )


def result_files(path: Path) -> dict[str, Path]:
    """The files of a pair's results by their suffixes."""
    return {suffix: path.with_name(path.name + suffix) for suffix in SUFFIXES}


def is_free(path: Path, files: tuple[Path, Path], points: list[list[float]]) -> bool:
    """Whether nothing is written there, or the results of the same points of the same pair of files."""
    if not any(file.exists() for file in result_files(path).values()):
        return True
    try:
        content = json.loads(result_files(path)[".json"].read_text())
        paths = [content[end]["path"] for end in ("source", "target")]
        same_points = [match["source"] for match in content["matches"]] == points
        return same_points and paths == [str(file.resolve()) for file in files]
    except (OSError, ValueError, LookupError, TypeError):
        return False


def shortened(name: str) -> str:
    """A name of at most `MAX_NAME_BYTES`; different names stay different."""
    encoded = os.fsencode(name)
    if len(encoded) <= MAX_NAME_BYTES:
        return name
    return (
        f"{encoded[: MAX_NAME_BYTES - 9].decode(errors='ignore')}-{hashlib.sha256(encoded).hexdigest()[:8]}"
    )


def pair_names(path: Path, files: tuple[Path, Path]) -> tuple[str, ...]:
    """Source and target as a table of pairs names them: relative to its folder."""
    return tuple(Path(os.path.relpath(file, path.parent)).as_posix() for file in files)


def check_new_pairs(path: Path, source: Path, targets: Sequence[Path]) -> None:
    """Raises: UserError: the table of pairs has one of the pairs already, or is no table of pairs."""
    rows = [row for _, row in read_table(path, COLUMNS)] if path.exists() else []
    present = {(row["source"], row["target"]) for row in rows}
    for pair in (pair_names(path, (source, target)) for target in targets):
        if pair in present:
            raise UserError(
                f"{path}: it has {' - '.join(pair)} already, remove its lines or name another table"
            )


def add_to_table(path: Path, files: tuple[Path, Path], found: Found) -> None:
    """Add the matches of a pair to a table of pairs; one program at a time does so."""
    source, target = pair_names(path, files)
    rows = found.table().assign(source=source, target=target)[[*COLUMNS, "confidence"]]
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock"), timeout=MAX_WAIT_S):
        earlier = [pd.DataFrame([row for _, row in read_table(path, COLUMNS)])] if path.exists() else []
        table = pd.concat([*earlier, rows])
        replace_file(path, table.to_csv(index=False, lineterminator="\n").encode())


def save(
    options: Namespace, matcher: Matcher, path: Path, found: Found, files: tuple[Path, Path], **drawn: Any
) -> None:
    """Write what was found as `path`.json, .csv, -matches.png and -warped.png, with --explore the page; print it.

    Args: drawn: more arguments of `drawing.matches`. Raises: UserError: a file cannot be written.
    """
    rows = found.table()
    content: dict[str, Any] = {
        "model": str(matcher),
        "img_side": options.img_side,
        "precision": options.precision,
        "versions": versions(),
    }
    for end, file, encoded in zip(("source", "target"), files, found.images, strict=True):
        width, height = encoded.image.size
        content[end] = {"file": str(file), "path": str(file.resolve()), "width": width, "height": height}
    content["layers"] = found.layers
    content["matches"] = [
        {"source": row[:2], "target": row[2:4], "confidence": row[4] if np.isfinite(row[4]) else None}
        for row in rows.to_numpy().tolist()
    ]
    written = {
        ".json": (json.dumps(content, indent=2) + "\n").encode(),
        ".csv": rows.to_csv(index=False, lineterminator="\n").encode(),
        "-matches.png": found.picture(**drawn),
    }
    if options.no_warp:
        result_files(path)["-warped.png"].unlink(missing_ok=True)  # of an earlier call
    else:
        warped = io.BytesIO()
        found.warped().save(warped, "png")
        written["-warped.png"] = warped.getvalue()
    for suffix, data in written.items():
        replace_file(result_files(path)[suffix], data)
    for file, encoded in zip(files, found.images, strict=True):
        if encoded.blank:
            echo(f"warning: {file} has one colour everywhere: no match has a confidence", stream=sys.stderr)
    if options.json:
        echo(json.dumps(content))
    else:
        echo(f"{files[1]}: {found}\n{printed(rows)}  written: {path}{', '.join(written)}")
    if options.explore:
        page = explorer(matcher, found.images, pair_names(options.explore, files))
        replace_file(options.explore, page)
        stream = sys.stderr if options.json else None
        echo(f"  written: {options.explore}, {len(page) / 1e6:.1f} MB", stream=stream)


def printed(rows: pd.DataFrame) -> str:
    """The points as lines under a header; of many the first."""
    lines = ["  source x,y  target x,y  confidence\n"]
    for x, y, u, v, confidence in rows.to_numpy()[:MAX_PRINTED]:
        lines.append(f"  {x:g},{y:g}  {u:.1f},{v:.1f}  {confidence:.2f}\n".replace("nan", "-"))
    if len(rows) > MAX_PRINTED:
        lines.append(f"  … and {len(rows) - MAX_PRINTED} more\n")
    return "".join(lines)
