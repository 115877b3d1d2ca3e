"""Measure DHPF on a benchmark; see `python test.py --help` and the README."""

import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from dhpf.common.processes import gather, start
from dhpf.common.run import Run, progress
from dhpf.data import open_benchmark
from dhpf.evaluation.predict import predict
from dhpf.evaluation.results import describe, rescore, save_results, versions
from dhpf.evaluation.score import merge
from dhpf.model import checkpoint
from dhpf.programs.options import ablation, testing_parser
from dhpf.report.runs import report_test, resources


def main() -> None:
    options = testing_parser().parse_args()
    if options.from_predictions:
        print(describe(rescore(options.from_predictions, options.alpha, options.thres)))
    else:
        evaluate(options)


def evaluate(options: Namespace) -> dict[str, Any]:
    """Evaluate into a new run folder; returns what its `results.json` holds, nothing but in the main process."""
    processes, device = start(options.device)
    rank, count = processes.process_index, processes.num_processes
    benchmark = open_benchmark(
        options.benchmark, options.datapath, "test", options.thres, options.img_side, not options.no_download
    )
    torch.manual_seed(options.seed)
    if options.load:
        model, options.backbone = checkpoint.load_model(
            options.load, options.backbone, options.backbone_weights
        )
    else:
        options.backbone = options.backbone or "efficientnet_lite0"
        model = checkpoint.build_model(options.backbone, options.backbone_weights)
    model.ablate(ablation(options, len(model.backbone.channels)))
    ablated = str(model.ablation)
    model.bf16 = options.precision == "bf16"
    model.to(device)

    run = None
    if processes.is_main_process:
        name = (
            options.logpath or f"test-{options.benchmark}-{options.backbone}-{time.strftime('%Y%m%d-%H%M%S')}"
        )
        run = Run.create(Path("logs") / name, vars(options) | {"versions": versions()})
        learner = options.load or f"untrained, drawn from seed {options.seed}"
        learner = "none" if model.ablation.unlearned else learner
        words = f"{options.backbone}, learner: {learner}" + (f"; {ablated}" if ablated else "")
        run.log(words)
    share = range(len(benchmark) * rank // count, len(benchmark) * (rank + 1) // count)
    begin = time.monotonic()
    with progress("testing", len(share), run is not None) as advance:
        tables, unread = predict(
            model, benchmark, share, options.bsz, options.workers, options.on_bad_pair, advance
        )
    seconds = time.monotonic() - begin
    tables, unread = gather([merge(tables)] if tables else []), gather(unread)
    results: dict[str, Any] = {}
    if run:
        whole = merge(tables)
        left = sorted(set(range(len(benchmark))) - set(whole.pair))
        skipped = [f"{benchmark.pairs[i].src_key} - {benchmark.pairs[i].trg_key}" for i in left]
        decisive = {
            k: str(v)
            for k, v in vars(options).items()
            if k in ("benchmark", "backbone", "img_side", "precision")
        }
        decisive |= {"ablation": ablated} if ablated else {}
        results = save_results(
            run.folder, whole, options.alpha, options.thres, decisive | {"skipped": skipped}, options.load
        )
        for message in dict.fromkeys(unread):  # an image may have been tried more than once
            run.log(f"not readable: {message}")
        if skipped:
            run.log(f"{len(skipped)} of {len(benchmark)} pairs skipped: {', '.join(skipped)}")
        run.log(describe(results["figures"]))
        run.log(f"{len(benchmark)} pairs in {seconds:.0f} s; results: {run.folder}")
        used = resources(seconds, len(benchmark), device)
        report_test(run.folder, words, benchmark, whole, results, vars(options), used)
    return results
