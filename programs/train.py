"""Train DHPF; see `python train.py --help` and the README."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from dhpf.common.errors import UserError
from dhpf.common.options import Parser
from dhpf.common.program import program
from dhpf.model import file_name
from dhpf.training.options import TrainOptions

if TYPE_CHECKING:
    from dhpf.training.trainer import Trainer

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
    train(read_options(arguments))


def train(options: TrainOptions) -> "Trainer":
    """Train as the options say. Raises: UserError: data or model cannot be used; as `Trainer.train`."""
    import torch  # not needed to refuse an option

    from dhpf.common.processes import start
    from dhpf.common.run import Run, versions
    from dhpf.data import open_benchmark
    from dhpf.model.ablation import Ablation
    from dhpf.report.runs import report_training
    from dhpf.training.trainer import Trainer
    from dhpf.weights.checkpoint import build_model

    if len(options.list) not in (0, 2):
        raise UserError("--list: give two lists, of training and of validation pairs")
    processes, device = start(options.device)
    sets = {
        split: open_benchmark(
            options.benchmark,
            options.datapath,
            split,
            options.thres,
            options.img_side,
            not options.no_download,
            own=options.own,
            pair_list=pair_list,
            only=options.categories,
        )
        for split, pair_list in zip(("trn", "val"), options.list or (None, None), strict=True)
    }
    torch.manual_seed(options.seed)
    form = {"layers": options.backbone_layers, "side": options.backbone_side, "width": options.width}
    model = build_model(options.backbone, options.backbone_weights, options.voting, **form)
    model.ablate(Ablation(layers=options.layers))
    model.bf16 = options.precision == "bf16"
    for pairs in sets.values():
        pairs.picture_side = model.picture_side(options.img_side)
    trainer = Trainer(options, processes, device, sets, model)
    run = None
    if processes.is_main_process and options.resume:
        run = Run(options.resume, options.quiet)
    elif processes.is_main_process:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        name = f"{options.benchmark}-{options.supervision}-{file_name(options.backbone)}-{stamp}"
        content = vars(options) | {"about": trainer.metadata, "versions": versions()}
        folder = options.run_folder or Path("logs") / name
        run = Run.create(folder, content, numbered=not options.logpath, quiet=options.quiet)
    with run or nullcontext():
        trainer.train(run)
    if run:
        report_training(run.folder)
    return trainer
