"""Train DHPF; see `python train.py --help` and the README."""

from argparse import Namespace
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import repeat

import torch

from dhpf.common.processes import start_processes
from dhpf.common.run import Run
from dhpf.model.ablation import check_layer_numbers
from dhpf.programs import run_program
from dhpf.programs.opening import check_searched_layers, create_run, layer_count, open_benchmark
from dhpf.programs.options import Parser
from dhpf.report.training_report import report_training
from dhpf.training.trainer import Trainer
from dhpf.weights.checkpoint import build_model
from dhpf.weights.config import ModelConfig


def main(arguments: Sequence[str] | None = None) -> None:
    run_program("train", arguments)


def run(options: Namespace) -> Trainer:
    """Train as the options say; returns what has trained.

    Raises: UserError: data or model cannot be used; as `Trainer.train`.
    """
    check_layer_numbers(options.layers, layer_count(options))
    processes, device = start_processes(options.device)
    lists = options.list or repeat(None)
    splits = {
        split: open_benchmark(options, split, path)
        for split, path in zip(("trn", "val"), lists, strict=False)
    }
    torch.manual_seed(options.seed)
    config = ModelConfig(
        options.backbone,
        options.backbone_layers,
        options.backbone_side,
        options.width,
        options.voting,
        options.layers,
        decoder=options.decoder,
    )
    check_searched_layers(options.layers, config)
    model = build_model(config, options.backbone_weights)
    model.bf16 = options.precision == "bf16"
    for benchmark in splits.values():
        benchmark.prepare_for(model.backbone)
    trainer = Trainer(options, processes, device, splits, model)
    run = None
    if processes.is_main_process and options.resume:
        run = Run(options.resume, options.quiet)
    elif processes.is_main_process:
        name = (options.benchmark, options.supervision, options.backbone)
        run = create_run(options, *name, about=trainer.metadata)
    with run or nullcontext():
        trainer.train(run)
    if run:
        report_training(run.folder, vars(Parser("train").parse_args([])))
    return trainer
