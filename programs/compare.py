"""Compare runs or predictions on the same pairs; see `python compare.py --help` and docs/comparing.md."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dhpf.common.errors import UserError
from dhpf.common.files import MIB, is_file, read_json, replace_file
from dhpf.common.program import echo
from dhpf.common.run import PREDICTIONS, RESULTS
from dhpf.data.benchmark import Benchmark
from dhpf.evaluation.comparison import compare
from dhpf.evaluation.external_predictions import external_rows, is_table, read_external
from dhpf.evaluation.plausibility import plausibility_warning
from dhpf.evaluation.predictions import read_predictions, table_of
from dhpf.programs import run_program
from dhpf.programs.opening import open_benchmark
from dhpf.report.comparison import sections, title
from dhpf.report.formats import WRITERS
from dhpf.report.page import Section


def main(arguments: Sequence[str] | None = None) -> None:
    run_program("compare", arguments)


def run(options: Namespace) -> None:
    """Print or write what the runs' predictions say of each other. Raises: UserError."""
    names = run_names(options.runs)
    ours = {name: read_predictions(path) for name, path in names.items() if is_table(path)}
    like = next(iter(ours.values())).iloc[0] if ours else None
    tables = dict(ours)
    if len(ours) < len(names):
        benchmark = open_benchmark_of(options, like)
        tables |= {
            name: read_external_table(path, options, benchmark)
            for name, path in names.items()
            if name not in ours
        }
    tables = {name: tables[name] for name in names}
    found = compare(tables, options.alpha, threshold_of(options, names), options.measures)
    parts = sections(found)
    if options.format == "html":
        try:
            parts = sections(found, open_benchmark_of(options, like))
        except UserError as error:
            parts.append(Section(text=f"No pictures: {error}."))
    text = WRITERS[options.format](title(found), parts)
    if options.out:
        replace_file(options.out, text.encode())
        echo(f"written: {options.out}")
    else:
        echo(text.rstrip("\n"))


def run_names(paths: tuple[Path, ...]) -> dict[str, Path]:
    """What to call the runs: folders and files by their own names, with the folders above where those are the same."""
    places = [path.parent if path.name == PREDICTIONS else path for path in paths]
    short = [place.name or str(place) for place in places]
    named: dict[str, Path] = {}
    for path, place, name in zip(paths, places, short, strict=True):
        name = name if short.count(name) == 1 else str(place)
        if name in named:
            raise UserError(f"{name}: give each run once")
        named[name] = path
    return named


def open_benchmark_of(options: Namespace, like: pd.Series | None) -> Benchmark:
    """The benchmark that the options name, or that of a table of predictions."""
    changed: dict[str, Any] = {}
    if like is not None:
        changed = {"benchmark": like.benchmark, "split": like.split, "img_side": int(like.img_side)}
    return open_benchmark(Namespace(**vars(options) | changed | {"thres": "auto"}))


def read_external_table(path: Path, options: Namespace, benchmark: Benchmark) -> pd.DataFrame:
    """The table of another method's predictions."""
    given = read_external(path, benchmark)
    rows, _ = external_rows(given, benchmark, options.predictions_frame, options.workers, options.on_bad_pair)
    table = table_of(rows, list(benchmark.labels))
    if warning := plausibility_warning(table, benchmark, options.predictions_frame):
        echo(f"warning: {path}: {warning}", stream=sys.stderr)
    return table


def threshold_of(options: Namespace, names: dict[str, Path]) -> str:
    """The threshold that is asked for, or that the runs were measured with. Raises: UserError: they differ."""
    if options.thres != "auto":
        return options.thres
    used = {}
    for name, path in names.items():
        results = path.with_name(RESULTS)
        if path.name == PREDICTIONS and is_file(results):
            said = read_json(results, 64 * MIB)
            used[name] = str(
                said.get("options", {}).get("thres", "auto") if isinstance(said, dict) else "auto"
            )
        else:
            used[name] = "auto"
    if len(set(used.values())) > 1:
        how = ", ".join(f"{name} with {thres}" for name, thres in used.items())
        raise UserError(
            f"the runs have different thresholds ({how}): give the --thres to measure all of them with"
        )
    return next(iter(used.values()))
