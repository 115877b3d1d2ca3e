"""Measure what a table of the paper shows, beside the published values; see docs/tables.md."""

import json
import shutil
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from dhpf.common.errors import UserError
from dhpf.common.files import replace_file, sha256
from dhpf.common.program import echo
from dhpf.common.run import OPTIONS, RESULTS, lock_folder
from dhpf.data.spair import SPair
from dhpf.programs import run_program
from dhpf.programs.options import FREE_IN, as_json, flag, parse, to_save
from dhpf.programs.test import evaluate
from dhpf.report.formats import SUFFIXES, WRITERS
from dhpf.report.page import Section

ALPHAS = ("0.05", "0.1", "0.15")
PCK = tuple(f"PCK@{alpha}" for alpha in ALPHAS)
# What the table decides of test.py's options, and what else may differ between a finished cell and now.
CHOSEN = {"--load", "--benchmark", "--split", "--list", "--categories", "--backbone", "--alpha", "--thres"}
CHOSEN |= {"--logpath", "--from-predictions", "--predictions-frame", "--resume", "--overwrite"}
FREE = (FREE_IN["test"] - {"alpha", "datapath", "images", "backbone_weights"}) | {
    "load",
    "seed",
    "voting",
    "decoder",
    "predictions_frame",
    "measures",
    "features_frame",
}
# Verified values with their sources: checkpoints' names without ending, benchmark, figure.
PUBLISHED = json.loads((Path(__file__).parent / "published.json").read_text())


class Table(NamedTuple):
    """A table: figures on some benchmarks of models trained on one of them, for all supervisions and backbones."""

    title: str
    trained: str
    benchmarks: tuple[str, ...]
    figures: tuple[str, ...]
    row: str  # its name, from benchmark, figure, category and mu
    mus: tuple[float, ...] = (0.5,)
    categories: tuple[str, ...] = ("all",)


MUS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
ALL = ("all", *SPair.categories)
TABLES = {
    "1": Table("PF-PASCAL and PF-WILLOW", "pfpascal", ("pfpascal", "pfwillow"), PCK, "{benchmark} {figure}"),
    "2": Table("SPair-71k, PCK@0.1", "spair", ("spair",), ("PCK@0.1",), "{category}", categories=ALL),
    "3": Table("Caltech-101", "pfpascal", ("caltech",), ("LT-ACC", "IoU"), "{figure}"),
    "mu": Table("PF-PASCAL, PCK@0.1", "pfpascal", ("pfpascal",), ("PCK@0.1",), "μ = {mu:g}", MUS),
}  # fmt: skip


class Evaluation(NamedTuple):
    """A checkpoint, what it is, the benchmark, the run folder and the options of test.py."""

    checkpoint: Path
    model: str
    mu: float
    benchmark: str
    folder: Path
    options: Namespace


def evaluations(
    table: Table, weights: Path, out: Path, backbones: Sequence[str], given: list[str]
) -> list[Evaluation]:
    """The evaluations of a table, with test.py's options `given`."""
    found = []
    for supervision, backbone in ((s, b) for s in ("strong", "weak") for b in backbones):
        for mu, benchmark in ((mu, b) for mu in table.mus for b in table.benchmarks):
            checkpoint = weights / f"{table.trained}-{supervision}-{backbone.replace(':', '-')}-mu{mu:g}.pt"
            folder = out.resolve() / "cells" / f"{checkpoint.stem}-on-{benchmark}"
            chosen = ["--backbone", backbone, "--benchmark", benchmark, "--alpha", *ALPHAS, "--thres", "auto"]
            options = parse("test", [*given, *chosen, "--logpath", str(folder)])
            options.load = str(checkpoint)  # it may be missing: the table says so
            found.append(Evaluation(checkpoint, f"{supervision} {backbone}", mu, benchmark, folder, options))
    return found


def finished(cell: Evaluation) -> dict[str, Any] | None:
    """The results of a cell, if it is finished.

    Raises:
        UserError: another checkpoint or other options gave them.
    """
    if not (cell.folder / RESULTS).exists():
        return None
    results, saved = (json.loads((cell.folder / name).read_text()) for name in (RESULTS, OPTIONS))
    now = as_json(to_save(cell.options))
    changed = [flag(k) for k in now if k not in FREE and now[k] != saved.get(k)]
    if cell.checkpoint.is_file() and results["checkpoint"]["sha256"] != sha256(cell.checkpoint):
        changed.append(str(cell.checkpoint))
    if changed:
        names = ", ".join(changed)
        raise UserError(f"{cell.folder}: measured with another {names}: remove it, or choose another --out")
    return results


def measure(cell: Evaluation) -> dict[str, Any]:
    """The results of a cell, or its state; what a killed run left of it is begun anew."""
    if results := finished(cell):
        return results
    if not cell.checkpoint.is_file():
        return {"state": "missing"}
    echo(f"{cell.checkpoint.name} on {cell.benchmark}")
    shutil.rmtree(cell.folder, ignore_errors=True)
    try:
        return evaluate(cell.options)
    except UserError as error:
        echo(f"failed: {error}")
        return finished(cell) or {"state": "failed", "reason": str(error)}  # perhaps its report alone failed


def records(table: Table, cell: Evaluation, results: dict[str, Any]) -> list[dict[str, Any]]:
    """What the table shows of a cell: means over pairs, in the frame, for each category and figure."""
    figures = results.get("figures", {"totals": [], "categories": {}})
    groups = figures["categories"] | {"all": figures["totals"]}
    listed = []
    for category, name in ((c, f) for c in table.categories for f in table.figures):
        # Of the figures of one name the first is that mean.
        figure: dict[str, Any] = next((f for f in groups.get(category, []) if f["name"] == name), {})
        value, known = figure.get("value"), None
        for group in PUBLISHED:
            if (group["benchmark"], group["figure"], "all") == (cell.benchmark, name, category):
                known = group["values"].get(cell.checkpoint.stem, known)
        difference = None if value is None or known is None else round(value - known, 4)
        listed.append({
            "row": table.row.format(benchmark=cell.benchmark, figure=name, category=category, mu=cell.mu),
            "model": cell.model, "mu": cell.mu, "benchmark": cell.benchmark, "category": category, "figure": name,
            "value": value, "published": known, "difference": difference, "pairs": figure.get("n_pairs"),
            "state": results.get("state", "measured"),
        })  # fmt: skip
    return listed


def shown(record: dict[str, Any]) -> str:
    """A record as the table shows it: measured (published, difference)."""
    value, known, state = record["value"], record["published"], record["state"]
    digits = 2 if record["figure"].startswith("PCK") else 4
    text = f"{value:.{digits}f}" if value is not None else "none" if state == "measured" else state
    if known is not None:
        text += f" ({known:.1f}" + (f", {record['difference']:+.2f})" if value is not None else ")")
    return text


def write(name: str, out: Path, found: list[dict[str, Any]], notes: list[str]) -> dict[str, str]:
    """Writes the table in all formats; returns what is written, by format. The CSV file has a line for each value."""
    texts: dict[str, dict[str, str]] = {}
    for record in found:
        texts.setdefault(record["row"], {})[record["model"]] = shown(record)
    header = ["", *dict.fromkeys(record["model"] for record in found)]
    rows = [[row, *by_model.values()] for row, by_model in texts.items()]
    sections = [Section("", header, rows), *(Section(text=note) for note in notes)]
    title = f"Table {name}: {TABLES[name].title}"
    written = {form: writer(title, sections) for form, writer in WRITERS.items()}
    written["csv"] = pd.DataFrame(found).to_csv(index=False)
    for form, text in written.items():
        replace_file(out / f"table-{name}.{SUFFIXES[form]}", text.encode())
    return written


def main(arguments: Sequence[str] | None = None) -> None:
    run_program("reproduce", arguments)


def run(options: Namespace) -> None:
    """Measure a table and print it. Raises: UserError."""
    given = options.test_arguments  # for test.py
    if refused := CHOSEN & {argument.partition("=")[0] for argument in given}:
        raise UserError(f"{', '.join(sorted(refused))}: the table decides this")
    table = TABLES[options.table]
    todo = evaluations(table, options.weights, options.out, options.backbones, given)
    missing = [c.checkpoint.name for c in todo if not (c.checkpoint.is_file() or finished(c))]
    if len(missing) == len(todo):
        raise UserError(
            f"--weights {options.weights}: no checkpoint of the table is there, such as {missing[0]}; "
            "docs/tables.md says how they are named"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    lock = lock_folder(options.out)
    try:
        for cell in todo:
            finished(cell)  # contradictions come to light before hours are spent
        done = [(cell, measure(cell)) for cell in todo]
    finally:
        lock.release()
    found = [record for cell, results in done for record in records(table, cell, results)]
    failed = [f"{cell.folder.name}: {results['reason']}" for cell, results in done if "reason" in results]
    sources = [g["source"] for g in PUBLISHED if any(cell.checkpoint.stem in g["values"] for cell in todo)]
    notes = [
        *(f"In brackets: published value, difference measured − published. Source: {s}." for s in sources),
        *dict.fromkeys(f"Measured on {'; '.join(r['figures']['about'])}." for _, r in done if "figures" in r),
        *([f"Options: {' '.join(given)}."] if given else []),
        *(f"Missing: {name}." for name in dict.fromkeys(missing)),
        *(f"Failed: {reason}." for reason in failed),
    ]
    echo("\n" + write(options.table, options.out, found, notes)[options.format].rstrip("\n"))
    if failed:
        raise UserError(f"{len(failed)} of {len(todo)} evaluations failed, the first: {failed[0]}")
