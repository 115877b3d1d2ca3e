"""Train DHPF; see `python train.py --help` and the README."""

import time
from collections.abc import Sequence
from pathlib import Path

from dhpf.common.options import Parser
from dhpf.common.program import program
from dhpf.model import file_name
from dhpf.training.options import TrainOptions

# What may differ when a run is resumed: it does not change what the run computes.
FREE = {"resume", "logpath", "datapath", "device", "workers", "save_every", "no_download", "niter"}
FREE |= {"backbone_weights", "on_bad_pair", "images", "quiet"}
EXAMPLES = (
    "python train.py --benchmark pfpascal --supervision strong --backbone resnet101 --logpath strong",
    "python train.py --resume logs/strong",
)


def read_options(arguments: Sequence[str] | None) -> TrainOptions:
    """The options given, or those of the run to resume. Raises: UserError: see `Parser.parse_resumable`."""
    parser = Parser(
        TrainOptions,
        "Train DHPF. An epoch is one pass over the training pairs and one over the validation pairs.",
        EXAMPLES,
    )
    options: TrainOptions = parser.parse_resumable(arguments, FREE)
    return options


@program(processes=True)
def main(arguments: Sequence[str] | None = None) -> None:
    options = read_options(arguments)
    name = f"{options.benchmark}-{options.supervision}-{file_name(options.backbone)}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = options.resume or options.run_folder or Path("logs") / name
    from dhpf.report.training_report import report_training  # torch: not needed to refuse an option
    from dhpf.training.trainer import Trainer

    trainer = Trainer(options)
    trainer.train(folder)
    if trainer.run:
        report_training(trainer.run.folder)
