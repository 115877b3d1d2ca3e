"""Comparing the predictions of several runs."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from dhpf.common.errors import UserError
from dhpf.common.files import MIB, PREDICTIONS, is_file, read_json, replace_file
from dhpf.data.benchmark import Benchmark
from dhpf.evaluation.comparison import compare
from dhpf.evaluation.external_predictions import external_rows, is_table, read_external
from dhpf.evaluation.predictions import read_predictions, table_of
from dhpf.evaluation.results import RESULTS
from dhpf.programs.compare import CompareOptions
from dhpf.programs.testing import opened
from dhpf.report.comparison import sections, title
from dhpf.report.formats import WRITERS
from dhpf.report.page import Section


def compare_runs(options: CompareOptions) -> None:
    """Print or write what the runs' predictions say of each other. Raises: UserError."""
    names = names_of(options.runs)
    ours = {name: read_predictions(path) for name, path in names.items() if is_table(path)}
    like = next(iter(ours.values())).iloc[0] if ours else None
    tables = dict(ours)
    if len(ours) < len(names):
        benchmark = opened_like(options, like)
        tables |= {name: theirs(path, options, benchmark) for name, path in names.items() if name not in ours}
    found = compare({name: tables[name] for name in names}, options.alpha, chosen_thres(options, names))
    parts = sections(found)
    if options.format == "html":
        try:
            parts = sections(found, opened_like(options, like))
        except UserError as error:
            parts.append(Section(text=f"No pictures: {error}."))
    text = WRITERS[options.format](title(found), parts)
    if options.out:
        replace_file(options.out, text.encode())
        print(f"written: {options.out}")
    else:
        print(text, end="")


def names_of(paths: tuple[Path, ...]) -> dict[str, Path]:
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


def opened_like(options: CompareOptions, like: pd.Series | None) -> Benchmark:
    """The benchmark that the options name, or that of a table of predictions."""
    if like is not None:
        options = replace(options, benchmark=like.benchmark, split=like.split, img_side=int(like.img_side))
    return opened(replace(options, thres="auto"))


def theirs(path: Path, options: CompareOptions, benchmark: Benchmark) -> pd.DataFrame:
    """The table of another method's predictions."""
    given = read_external(path, benchmark)
    rows, _ = external_rows(given, benchmark, options.predictions_frame, options.workers, options.on_bad_pair)
    return table_of(rows, list(benchmark.labels))


def chosen_thres(options: CompareOptions, names: dict[str, Path]) -> str:
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
        raise UserError(f"measured with other thresholds ({how}): say --thres, to measure all anew")
    return next(iter(used.values()))
