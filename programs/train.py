"""Train DHPF; see `python train.py --help` and the README."""

from argparse import Namespace
from collections.abc import Sequence

from dhpf.programs import run_program
from dhpf.programs.options import dated_folder, own_data_options, run_folder
from dhpf.report.runs import report_training
from dhpf.training.trainer import Trainer


def main(arguments: Sequence[str] | None = None) -> None:
    run_program("train", arguments)


def run(options: Namespace) -> None:
    named = options.resume or run_folder(options)
    folder = named or dated_folder(options.benchmark, options.supervision, options.backbone)
    options.own_data = own_data_options(options)
    trainer = Trainer(options)
    trainer.train(folder)
    if trainer.run:
        report_training(trainer.run.folder)
