"""Train DHPF; see `python train.py --help` and the README."""

import json
import time
from argparse import Namespace
from pathlib import Path

from dhpf.common.errors import UserError
from dhpf.common.run import OPTIONS
from dhpf.programs.options import training_parser
from dhpf.report.runs import report_training
from dhpf.training.trainer import FREE, Trainer


def read_options() -> Namespace:
    """The options given, or those of the run to resume.

    Raises:
        UserError: there is no such run, or an option given changes what it computes.
    """
    parser = training_parser()
    options = parser.parse_args()
    if options.resume is None:
        return options
    try:
        saved = dict(json.loads((options.resume / OPTIONS).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"--resume {options.resume}: not the folder of a run, {OPTIONS} cannot be read"
        ) from error
    parser.set_defaults(**{k: v for k, v in saved.items() if k in vars(options)})
    resumed = parser.parse_args()
    changed = [k for k, v in vars(resumed).items() if k not in FREE and str(v) != str(saved.get(k))]
    if changed:
        names = ", ".join(f"--{k.replace('_', '-')} (it was {saved.get(k)})" for k in changed)
        raise UserError(f"--resume {options.resume}: it would be another run with a different {names}")
    return resumed


def main() -> None:
    options = read_options()
    name = f"{options.benchmark}-{options.supervision}-{options.backbone}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = options.resume or Path("logs") / (options.logpath or name)
    trainer = Trainer(options)
    trainer.train(folder)
    if trainer.processes.is_main_process:
        report_training(folder)
