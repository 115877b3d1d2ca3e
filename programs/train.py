"""Train DHPF; see `python train.py --help` and the README."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dhpf.common.errors import UserError
from dhpf.common.options import Parser
from dhpf.common.program import program
from dhpf.model import file_name
from dhpf.training.options import TrainOptions

# What may differ when a run is resumed: it does not change what the run computes.
FREE = {"resume", "logpath", "datapath", "device", "workers", "save_every", "no_download", "niter"}
FREE |= {"backbone_weights", "on_bad_pair", "images"}
EXAMPLES = (
    "python train.py --benchmark pfpascal --supervision strong --backbone resnet101 --logpath strong",
    "python train.py --resume logs/strong",
)


def read_options(arguments: Sequence[str] | None) -> TrainOptions:
    """The options given, or those of the run to resume; what an older run does not know has its default.

    Raises:
        UserError: there is no such run, or an option given changes what it computes.
    """
    parser = Parser(
        TrainOptions,
        "Train DHPF. An epoch is one pass over the training pairs and one over the validation pairs.",
        EXAMPLES,
    )
    options: TrainOptions = parser.parse(arguments)
    if options.resume is None:
        return options
    try:
        content = dict(json.loads((options.resume / "options.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"--resume {options.resume}: not the folder of a run, options.json cannot be read"
        ) from error
    saved = as_json({k: content.get(k, parser.get_default(k)) for k in asdict(options)})
    resumed: TrainOptions = parser.parse(arguments, saved)
    changed = [k for k, v in as_json(asdict(resumed)).items() if k not in FREE and v != saved[k]]
    if changed:
        names = ", ".join(f"--{k.replace('_', '-')} (it was {saved[k]})" for k in changed)
        raise UserError(f"--resume {options.resume}: it would be another run with a different {names}")
    return resumed


def as_json(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as a run's file has them."""
    return json.loads(json.dumps(options, default=str))


@program
def main(arguments: Sequence[str] | None = None) -> None:
    options = read_options(arguments)
    name = f"{options.benchmark}-{options.supervision}-{file_name(options.backbone)}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = options.resume or options.run_folder or Path("logs") / name
    from dhpf.report.runs import report_training  # torch: not needed to refuse an option
    from dhpf.training.trainer import Trainer

    trainer = Trainer(options)
    trainer.train(folder)
    if trainer.processes.is_main_process:
        report_training(folder)
