"""Evaluating a model on a benchmark into a run folder."""

import shlex
import time
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch

from dhpf.common.errors import UserError
from dhpf.common.processes import gather, start
from dhpf.common.run import Run, progress, versions
from dhpf.data import open_benchmark
from dhpf.data.benchmark import Benchmark, read_trained
from dhpf.data.own import OwnData
from dhpf.evaluation.matcher import Matcher
from dhpf.evaluation.predict import predict
from dhpf.evaluation.results import describe, save_results
from dhpf.evaluation.table import table_of
from dhpf.model import BACKBONES
from dhpf.model.ablation import ablation
from dhpf.model.checkpoint import build_model, load_model
from dhpf.model.options import DEFAULT_BACKBONE, DEFAULT_VOTING
from dhpf.model.released import resolve
from dhpf.programs.match import MatchOptions
from dhpf.programs.test import TestOptions
from dhpf.report.runs import report_test, resources


def evaluate(options: TestOptions) -> dict[str, Any]:
    """Evaluate into a new run folder; returns what its `results.json` holds, nothing but in the main process."""
    folder = options.run_folder

    backbone, voting = options.backbone or DEFAULT_BACKBONE, options.voting or DEFAULT_VOTING
    if not options.load:  # what can be refused without a model is refused before one is loaded
        ablation(options, len(BACKBONES[backbone].channels), learned=False)
    processes, device = start(options.device)
    rank, count = processes.process_index, processes.num_processes
    checkpoint = resolve(options.load) if options.load else None
    benchmark = opened(options)
    torch.manual_seed(options.seed)
    note = ""
    if checkpoint:
        model, known = load_model(checkpoint, options.backbone, options.backbone_weights, options.voting)
        note = known.note
        if isinstance(benchmark, OwnData):
            benchmark.mark(read_trained(checkpoint.parent))
    else:
        model = build_model(backbone, options.backbone_weights, voting)
    command = drawing(options)
    options = replace(options, backbone=model.backbone.name, voting=model.voting)
    model.ablate(ablation(options, len(model.backbone.channels), bool(options.load)))
    model.bf16 = options.precision == "bf16"
    model.to(device)

    run = None
    if processes.is_main_process:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        name = Path("logs") / f"test-{options.benchmark}-{options.backbone}-{stamp}"
        run = Run.create(folder or name, asdict(options) | {"versions": versions()})
        learner = options.load or f"untrained, drawn from seed {options.seed}"
        learner = "none" if model.ablation.unlearned else learner
        words = "; ".join(filter(None, [f"{options.backbone}, learner: {learner}", model.differences]))
        run.log("\n".join(filter(None, [words, note, *benchmark.notes])))
    share = range(len(benchmark) * rank // count, len(benchmark) * (rank + 1) // count)
    begin = time.monotonic()
    with progress("testing", len(share), run is not None) as advance:
        rows, unread = predict(
            model, benchmark, share, options.bsz, options.workers, options.on_bad_pair, advance
        )
    seconds = time.monotonic() - begin
    every, unread = gather([rows]), gather(unread)
    if not run:
        return {}
    table = table_of({pair: row for part in every for pair, row in part.items()}, list(benchmark.labels))
    left = sorted(set(range(len(benchmark))) - set(table.pair))
    skipped = [f"{benchmark.pairs[i].src_key} - {benchmark.pairs[i].trg_key}" for i in left]
    decisive: dict[str, Any] = {
        k: str(getattr(options, k)) for k in ("benchmark", "backbone", "img_side", "precision")
    }
    decisive |= {"categories": options.categories} if options.categories else {}
    decisive |= {name: value for name, value in options.own.items() if name != "images"}
    decisive |= {"ablation": model.differences} if model.differences else {}
    decisive |= {} if options.load else {"seed": options.seed}
    results = save_results(
        run.folder, table, options.alpha, options.thres, decisive | {"skipped": skipped}, checkpoint
    )
    for message in dict.fromkeys(unread):  # an image may have been tried more than once
        run.log(f"not readable: {message}")
    if skipped:
        run.log(f"{len(skipped)} of {len(benchmark)} pairs skipped: {', '.join(skipped)}")
    run.log(describe(results["figures"]))
    run.log(f"{len(benchmark)} pairs in {seconds:.0f} s; results: {run.folder}")
    used = resources(seconds, len(benchmark), device)
    matcher = Matcher(model, words, options.img_side)
    report_test(run.folder, words, benchmark, table, results, asdict(options), used, matcher, command)
    return results


def opened(options: TestOptions | MatchOptions) -> Benchmark:
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
