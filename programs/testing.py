"""Evaluating a model on a benchmark into a run folder."""

import shlex
import time
from contextlib import nullcontext
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from dhpf.common.errors import UserError
from dhpf.common.processes import gather, start
from dhpf.common.run import Run, progress, replace_run, versions
from dhpf.data import open_benchmark
from dhpf.data.benchmark import Benchmark, read_trained
from dhpf.data.own_data import OwnData
from dhpf.evaluation.external_predictions import external_rows, is_table, read_external
from dhpf.evaluation.partial_predictions import PartialPredictions, delete, identity
from dhpf.evaluation.predictions import read_predictions, table_of
from dhpf.evaluation.results import RESULTS, describe, rescore, save_results
from dhpf.matching.matcher import Matcher
from dhpf.matching.predict import in_order, predict
from dhpf.model import file_name
from dhpf.model.ablation import ablation, layer_count
from dhpf.model.compiled import CompiledDHPF
from dhpf.model.dhpf import DHPF
from dhpf.model.options import DEFAULT_BACKBONE, DEFAULT_VOTING
from dhpf.programs.compare import CompareOptions
from dhpf.programs.match import MatchOptions
from dhpf.programs.search import SearchOptions
from dhpf.programs.test import TestOptions
from dhpf.report.runs import report_test, resources
from dhpf.weights.checkpoint import build_model, load_model
from dhpf.weights.released import resolve


def evaluate(options: TestOptions) -> dict[str, Any]:
    """Evaluate into a run folder, a new one or a stopped one; returns what its `results.json` holds, in the main
    process alone."""
    folder = options.run_folder

    backbone, voting = options.backbone or DEFAULT_BACKBONE, options.voting or DEFAULT_VOTING
    if not options.load:  # what can be refused without a model is refused before one is loaded
        ablation(options, layer_count(options), learned=False)
    elif options.width is not None:
        raise UserError("--width: the checkpoint's own shapes decide it")
    processes, device = start(options.device, options.compile)
    rank, count = processes.process_index, processes.num_processes
    checkpoint = resolve(options.load) if options.load else None
    benchmark = opened(options)
    torch.manual_seed(options.seed)
    note = ""
    form: dict[str, Any] = {"layers": options.backbone_layers, "side": options.backbone_side}
    if checkpoint:
        model, known = load_model(
            checkpoint, options.backbone, options.backbone_weights, options.voting, **form
        )
        note = known.note
        if isinstance(benchmark, OwnData):
            benchmark.mark(read_trained(checkpoint.parent))
    else:
        model = build_model(backbone, options.backbone_weights, voting, width=options.width, **form)
    command, net = drawing(options), model.backbone
    options = replace(options, backbone=net.name, backbone_layers=net.blocks, backbone_side=net.input_size)
    options = replace(options, voting=model.voting)
    model.ablate(ablation(options, len(net.channels), bool(options.load), model.ablation.fixed_layers))
    model.bf16 = options.precision == "bf16"
    model.to(device)

    run, words = None, ""
    if processes.is_main_process:
        learner = options.load or f"untrained, drawn from seed {options.seed}"
        learner = "none" if model.ablation.unlearned else learner
        words = "; ".join(filter(None, [f"{options.backbone}, learner: {learner}", model.differences]))
        lines = [words, note, net.weights_note, net.cost_note(options.img_side), *benchmark.notes]
        run = begun(options, folder, f"{options.benchmark}-{file_name(net.name)}", lines)
    place = Path(gather([str(run.folder) if run else ""])[0])
    with run.ending() if run else nullcontext():
        kept = PartialPredictions(place, identity(benchmark, checkpoint), rank)
        todo = [i for i in in_order(benchmark) if i not in kept.rows]
        if run and kept.rows:
            run.log(f"resumed with {len(kept.rows)} of {len(benchmark)} pairs")
        share = todo[len(todo) * rank // count : len(todo) * (rank + 1) // count]
        evaluated: DHPF | CompiledDHPF = model
        if options.compile:
            evaluated = CompiledDHPF(model, options.img_side, run.log if run else str)
        begin = time.monotonic()
        with progress("testing", len(share), run is not None and not options.quiet) as advance:
            rows, unread, waited = predict(
                evaluated,
                benchmark,
                share,
                options.bsz,
                options.workers,
                options.cache_gb * 1e9,
                options.on_bad_pair,
                advance,
                kept,
            )
        seconds = time.monotonic() - begin
        every, unread = gather([kept.rows | rows]), gather(unread)
        if not run:
            return {}
        table = table_of({pair: row for part in every for pair, row in part.items()}, list(benchmark.labels))
        decisive: dict[str, Any] = {**net.metadata, "precision": options.precision}
        decisive |= {"compiled": True} if options.compile else {}
        decisive |= {"ablation": model.differences} if model.differences else {}
        decisive |= {} if options.load else {"seed": options.seed}
        used = resources(seconds, len(benchmark), device)
        used["loading"] = f"{100 * waited / seconds:.0f} % of the time waiting for images"
        matcher = Matcher(evaluated, words, options.img_side)
        return finished(
            run, options, benchmark, table, unread, words, decisive, used, checkpoint, None, matcher, command
        )


def measure_predictions(options: TestOptions, path: Path) -> None:
    """Score predictions of an earlier run: print the figures, or with --logpath make a run folder of them; or those
    of another method, into a run folder."""
    if options.load:
        raise UserError("--load: predictions need no model, give --from-predictions alone")
    own, folder = is_table(path), options.run_folder
    if own and not folder:
        print(describe(rescore(path, options.alpha, options.thres)))
        return
    unread: list[str] = []
    benchmark, begin = opened(options), time.monotonic()
    words = f"predictions of {path.name}"
    if own:
        table = of_benchmark(path, read_predictions(path), benchmark)
    else:
        given = read_external(path, benchmark)
        words += f", in pixels of the {options.predictions_frame} frame" * (
            options.predictions_frame != "image"
        )
        with progress("reading", len(benchmark), not options.quiet) as advance:
            rows, unread = external_rows(
                given, benchmark, options.predictions_frame, options.workers, options.on_bad_pair, advance
            )
        table = table_of(rows, list(benchmark.labels))
    run = begun(options, folder, f"{options.benchmark}-predictions", [words, *benchmark.notes])
    decisive = {} if own else {"predictions_frame": options.predictions_frame}
    used = resources(time.monotonic() - begin, len(benchmark), torch.device("cpu"))
    with run.ending():
        finished(run, options, benchmark, table, unread, words, decisive, used, predictions=path)


def of_benchmark(path: Path, table: pd.DataFrame, benchmark: Benchmark) -> pd.DataFrame:
    """A table of predictions, if it is of this benchmark and its images."""
    about, keys = table.iloc[0], [(pair.src_key, pair.trg_key) for pair in benchmark.pairs]
    pairs = table.drop_duplicates("pair")
    mine = benchmark.name, benchmark.split, benchmark.img_side
    numbered = zip(pairs.pair, pairs.source, pairs.target, strict=True)
    if tuple(about[["benchmark", "split", "img_side"]]) != mine or not all(
        i < len(keys) and (source, target) == keys[i] for i, source, target in numbered
    ):
        raise UserError(
            f"{path}: it is of other pairs than {benchmark.name} {benchmark.split} at side {benchmark.img_side}: give "
            f"the --benchmark {about.benchmark}, --split {about.split}, --img-side {about.img_side} and list that it "
            "was made with, or leave --logpath out"
        )
    return table


def begun(options: TestOptions, folder: Path | None, name: str, lines: list[str]) -> Run:
    """A run folder with options and first lines of its log: a new one, or the one to resume."""
    if options.resume:
        if (options.resume / RESULTS).exists():
            raise UserError(f"--resume {options.resume}: this test is finished, its results are there")
        return Run(options.resume, options.quiet)
    if options.overwrite:
        if not folder:
            raise UserError("--overwrite: name the run folder with --logpath")
        replace_run(folder)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    place = folder or Path("logs") / f"test-{name}-{stamp}"
    about = asdict(options) | {"versions": versions()}
    run = Run.create(place, about, numbered=not folder, quiet=options.quiet)
    run.log("\n".join(filter(None, lines)))
    return run


def finished(
    run: Run,
    options: TestOptions,
    benchmark: Benchmark,
    table: pd.DataFrame,
    unread: list[str],
    words: str,
    decisive: dict[str, Any],
    used: dict[str, str],
    checkpoint: Path | None = None,
    predictions: Path | None = None,
    matcher: Matcher | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Results, log and report of a run; returns what its `results.json` holds."""
    left = sorted(set(range(len(benchmark))) - set(table.pair))
    skipped = [f"{benchmark.pairs[i].src_key} - {benchmark.pairs[i].trg_key}" for i in left]
    decisive = {"benchmark": options.benchmark, "img_side": str(options.img_side), **decisive}
    decisive |= {"categories": options.categories} if options.categories else {}
    decisive |= {name: value for name, value in options.own.items() if name != "images"}
    results = save_results(
        run.folder,
        table,
        options.alpha,
        options.thres,
        decisive | {"skipped": skipped},
        checkpoint,
        predictions,
        benchmark.list_path,
    )
    for message in dict.fromkeys(unread):  # an image may have been tried more than once
        run.log(f"not readable: {message}")
    if skipped:
        run.log(f"{len(skipped)} of {len(benchmark)} pairs skipped: {', '.join(skipped)}")
    run.log(describe(results["figures"]))
    spent = ", ".join(filter(None, [used["time"].partition(",")[0], used.get("loading")]))
    run.log(f"{len(benchmark)} pairs in {spent}; results: {run.folder}")
    delete(run.folder)
    report_test(run.folder, words, benchmark, table, results, asdict(options), used, matcher, command)
    return results


def opened(options: TestOptions | MatchOptions | CompareOptions | SearchOptions) -> Benchmark:
    """The pairs that the options name, numbered as they are tested. Raises: UserError."""
    assert options.benchmark
    if len(options.list) > 1:
        raise UserError("--list: give one list, of the pairs to measure on")
    return open_benchmark(
        options.benchmark,
        options.datapath,
        options.split,
        options.thres,
        options.img_side,
        not options.no_download,
        pair_list=next(iter(options.list), None),
        only=options.categories,
        evaluation=True,
        own=options.own,
    )


def drawing(options: TestOptions) -> str:
    """The command that draws a pair of a test, whose number is to follow; none for a learner that no file holds."""
    if not (options.load or options.raw):
        return ""
    words = ["python", "match.py"]
    for spec in fields(MatchOptions):
        value, flag = getattr(options, spec.name, spec.default), f"--{spec.name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif value != spec.default and spec.name != "device":
            values = value if isinstance(value, tuple) and "nargs" in spec.metadata else [value]
            words += [flag, *(",".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in values)]
    return shlex.join([*words, "--pair"])
