"""Measure DHPF on a benchmark; see `python test.py --help` and the README."""

import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from dhpf.common.errors import UserError, count_text
from dhpf.common.processes import gather, start_processes
from dhpf.common.program import echo
from dhpf.common.run import RESULTS, Run, progress
from dhpf.data.benchmark import Benchmark
from dhpf.data.own_data import OwnData
from dhpf.evaluation.external_predictions import external_rows, is_table, read_external
from dhpf.evaluation.partial_predictions import PartialPredictions, fingerprint
from dhpf.evaluation.plausibility import plausibility_warning
from dhpf.evaluation.predictions import PairRows, read_predictions, table_of
from dhpf.evaluation.results import describe, rescore, save_results
from dhpf.evaluation.train_test_overlap import load_training_images
from dhpf.matching.matcher import Matcher
from dhpf.matching.predict import LoadingConfig, order_by_images, predict
from dhpf.model.compiled import CompiledDHPF
from dhpf.model.dhpf import DHPF
from dhpf.programs import options as options_of
from dhpf.programs import run_program
from dhpf.programs.opening import (
    OpenedModel,
    ablate,
    create_run,
    layer_count,
    open_benchmark,
    open_model,
    requested_ablation,
    searched_note,
)
from dhpf.programs.options import flag, own_data_options, to_save
from dhpf.report.test_report import TestRun, report_test, resources
from dhpf.weights.config import ModelConfig


def main(arguments: Sequence[str] | None = None) -> None:
    run_program("test", arguments)


def run(options: Namespace) -> None:
    if options.from_predictions:
        measure_predictions(options)
    else:
        evaluate(options)


@dataclass(frozen=True)
class Predicted:
    """The predictions for a benchmark, and where they come from.

    table: as `evaluation.predictions` describes it.  unread: what could not be read, and why.
    title: what predicted, in words.  config: what decides the figures, for results.json.
    resources: time and memory, in words.  checkpoint, predictions: the file that they come from.
    matcher: what predicted, if it can match other points, too.
    """

    table: pd.DataFrame
    unread: list[str]
    title: str
    config: dict[str, Any]
    resources: dict[str, str]
    checkpoint: Path | None = None
    predictions: Path | None = None
    matcher: Matcher | None = None


def evaluate(options: Namespace) -> dict[str, Any]:
    """Evaluate a model into a run folder, a new one or a stopped one; returns what its results.json holds, in the main
    process alone. Raises: UserError."""
    if not options.load:
        requested_ablation(options, layer_count(options))  # refused before anything is fetched
    processes, device = start_processes(options.device, options.compile)
    benchmark = open_benchmark(options)
    torch.manual_seed(options.seed)
    opened = open_model(options)
    ablate(options, opened.model)
    benchmark.prepare_for(opened.model.backbone)
    model = opened.model.to(device)
    if isinstance(benchmark, OwnData):
        checkpoint = opened.checkpoint
        benchmark.label_overlap(load_training_images(checkpoint.parent) if checkpoint else set())
    config = ModelConfig.of_model(model)
    title = "; ".join(filter(None, [title_of(options, opened), searched_note(options.layers, benchmark)]))

    run = None
    if processes.is_main_process:
        notes = [title, *opened.notes, model.backbone.cost_note(options.img_side), *benchmark.notes]
        run = start_run(options, f"{options.benchmark}-{config.backbone}", notes)
    # The list of what is to do is the main process's.
    folder = Path(gather([str(run.folder) if run else ""])[0])
    with run or nullcontext():
        partial = PartialPredictions(
            folder, fingerprint(benchmark, opened.checkpoint), processes.process_index
        )
        pairs = gather([[i for i in order_by_images(benchmark) if i not in partial.rows]])[0]
        if run and partial.rows:
            run.log(f"resumed with {len(partial.rows)} of {count_text(len(benchmark), 'pair')}")
        tested: DHPF | CompiledDHPF = model
        if options.compile:
            tested = CompiledDHPF(model, options.img_side, run.log if run else str)
        rank, count = processes.process_index, processes.num_processes
        share = pairs[len(pairs) * rank // count : len(pairs) * (rank + 1) // count]
        begin = time.monotonic()
        with progress("testing", len(share), run is not None and not options.quiet) as advance:
            loading = LoadingConfig(options.workers, options.bsz, options.cache_gb * 1e9, options.on_bad_pair)
            kap = options.alpha if "kap" in options.measures else ()
            rows, unread, waited = predict(tested, benchmark, share, loading, advance, partial.append, kap)
        seconds = time.monotonic() - begin
        parts, unread = gather([partial.rows | rows]), gather(unread)
        if not run:
            return {}
        every: PairRows = {pair: row for part in parts for pair, row in part.items()}
        used = resources(seconds, len(benchmark), device)
        used["loading"] = f"{100 * waited / seconds:.0f} % of the time waiting for images"
        predicted = Predicted(
            table_of(every, list(benchmark.labels)), unread, title, eval_config(options, opened), used,
            opened.checkpoint, matcher=Matcher(tested, title, options.img_side),
        )  # fmt: skip
        results = finish_run(run, options, benchmark, predicted, draw_command(options, config))
        partial.delete()
        return results


def eval_config(options: Namespace, opened: OpenedModel) -> dict[str, Any]:
    """What of a model and its options decides the figures."""
    model = opened.model
    config: dict[str, Any] = {**ModelConfig.of_model(model).to_metadata(), "precision": options.precision}
    config |= {"compiled": True} if options.compile else {}
    config |= {"ablation": model.differences} if model.differences else {}
    return config if options.load else config | {"seed": options.seed}


def title_of(options: Namespace, opened: OpenedModel) -> str:
    """What is tested, in words."""
    model, name = opened.model, opened.model.backbone.name
    if not model.ablation.unlearned:
        name += f", model: {options.load or f'random gates and transformation of seed {options.seed}'}"
    return str(Matcher(model, name, options.img_side))


def measure_predictions(options: Namespace) -> None:
    """Score predictions: those of an earlier run are printed, or with --logpath get a run folder; those of another
    method get a run folder. Raises: UserError."""
    path = options.from_predictions
    own = is_table(path)
    if own and not options.logpath:
        echo(describe(rescore(path, options.alpha, options.thres, options.measures)))
        return
    unread: list[str] = []
    benchmark, begin = open_benchmark(options), time.monotonic()
    title = f"predictions of {path.name}"
    if own:
        table = read_predictions(path)
        check_same_pairs(path, table, benchmark)
    else:
        external = read_external(path, benchmark)
        frame = options.predictions_frame
        title += f", in the frame {frame}" * (frame != "image")
        with progress("reading", len(benchmark), not options.quiet) as advance:
            rows, unread = external_rows(
                external, benchmark, frame, options.workers, options.on_bad_pair, advance
            )
        table = table_of(rows, list(benchmark.labels))
    run = start_run(options, f"{options.benchmark}-predictions", [title, *benchmark.notes])
    config = {} if own else {"predictions_frame": options.predictions_frame}
    used = resources(time.monotonic() - begin, len(benchmark), torch.device("cpu"))
    with run:
        if warning := "" if own else plausibility_warning(table, benchmark, options.predictions_frame):
            run.log(f"warning: {warning}")
        predicted = Predicted(table, unread, title, config, used, predictions=path)
        finish_run(run, options, benchmark, predicted)


def check_same_pairs(path: Path, table: pd.DataFrame, benchmark: Benchmark) -> None:
    """Raises: UserError: a table of predictions is of other pairs than the benchmark's."""
    first, keys = table.iloc[0], [(pair.src_key, pair.trg_key) for pair in benchmark.pairs]
    pairs = table.drop_duplicates("pair")
    expected = benchmark.name, benchmark.split, benchmark.img_side
    numbered = zip(pairs.pair, pairs.source, pairs.target, strict=True)
    if tuple(first[["benchmark", "split", "img_side"]]) != expected or not all(
        i < len(keys) and (source, target) == keys[i] for i, source, target in numbered
    ):
        raise UserError(
            f"{path}: its pairs are not those of {benchmark.name} {benchmark.split} at size {benchmark.img_side}: give "
            f"the --benchmark {first.benchmark}, --split {first.split}, --img-side {first.img_side} and list that it "
            "was made with, or leave --logpath out"
        )


def start_run(options: Namespace, name: str, notes: list[str]) -> Run:
    """A run folder with options and the first lines of its log: a new one, or the one to resume."""
    if options.resume:
        if (options.resume / RESULTS).exists():
            raise UserError(f"--resume {options.resume}: this test is finished, its results are there")
        return Run(options.resume, options.quiet)
    run = create_run(options, "test", name)
    run.log("\n".join(filter(None, notes)))
    return run


def finish_run(
    run: Run, options: Namespace, benchmark: Benchmark, predicted: Predicted, draw_command: str = ""
) -> dict[str, Any]:
    """Write results, log and report of a run; returns what its results.json holds."""
    missing = sorted(set(range(len(benchmark))) - set(predicted.table.pair))
    skipped = [f"{benchmark.pairs[i].src_key} - {benchmark.pairs[i].trg_key}" for i in missing]
    config = {"benchmark": options.benchmark, "img_side": str(options.img_side), **predicted.config}
    config |= {"categories": options.categories} if options.categories else {}
    config |= {name: value for name, value in own_data_options(options).items() if name != "images"}
    results = save_results(
        run.folder, predicted.table, options.alpha, options.thres, config | {"skipped": skipped},
        predicted.checkpoint, predicted.predictions, benchmark.list_path, options.measures,
    )  # fmt: skip
    for message in dict.fromkeys(predicted.unread):  # an image may have been tried more than once
        run.log(f"not readable: {message}")
    if skipped:
        run.log(f"{len(skipped)} of {count_text(len(benchmark), 'pair')} skipped: {', '.join(skipped)}")
    lines = describe(results["figures"]).splitlines()
    run.log("\n".join(line for line in lines if line not in benchmark.notes))  # which begin the log
    used = predicted.resources
    spent = ", ".join(filter(None, [used["time"].partition(",")[0], used.get("loading")]))
    run.log(f"{count_text(len(benchmark), 'pair')} in {spent}; results: {run.folder}")
    if not options.no_report:
        typed = shlex.join([*options_of.typed_command(options.program), *sys.argv[1:]])
        defaults = vars(options_of.Parser("test").parse_args([]))
        tested = TestRun(
            run.folder, predicted.title, benchmark, predicted.table, results, to_save(options), used, defaults, typed,
            draw_command, predicted.matcher,
        )  # fmt: skip
        report_test(tested, options.explore_pairs)
    return results


def draw_command(options: Namespace, config: ModelConfig) -> str:
    """The command that draws a pair of a test, whose number is to follow; none for a model that no file holds."""
    if options.untrained and not options.load:
        return ""
    parser = options_of.Parser("match")
    defaults = vars(parser.parse_args([]))
    values = {name: value for name, value in vars(options).items() if name in defaults}
    values |= {
        "backbone": config.backbone,
        "voting": config.voting,
        "decoder": config.decoder,
        "datapath": Path(options.datapath).resolve(),
    }
    values |= {"backbone_layers": config.blocks, "backbone_side": config.input_size}
    words = options_of.typed_command("match")
    for name, value in values.items():
        if value is True:
            words.append(flag(name))
        elif value != defaults[name] and name not in ("device", "program"):
            several = isinstance(value, tuple) and name == "list"
            words += [flag(name), *(_text(each) for each in (value if several else [value]))]
    return shlex.join([*words, "--pair"])


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
