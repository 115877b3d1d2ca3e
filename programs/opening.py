"""What programs open as their options say: a benchmark, a model."""

from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dhpf import data
from dhpf.common.errors import UserError
from dhpf.common.run import Run, replace_run, versions
from dhpf.data.benchmark import Benchmark
from dhpf.model import BACKBONES, ablation
from dhpf.model.ablation import Ablation
from dhpf.model.dhpf import DHPF
from dhpf.programs.options import Layers, dated_folder, own_data_options, run_folder, to_save
from dhpf.weights import DEFAULT_BACKBONE, DEFAULT_DECODER, DEFAULT_VOTING
from dhpf.weights.checkpoint import build_model, load_model
from dhpf.weights.config import KEYS, ModelConfig
from dhpf.weights.released import resolve


def open_benchmark(options: Namespace, split: str | None = None, pair_list: Path | None = None) -> Benchmark:
    """The pairs that the options name; with a split, those to train on or to validate with. Raises: UserError."""
    return data.open_benchmark(
        options.benchmark,
        options.datapath,
        split or options.split,
        options.thres,
        options.img_side,
        not options.no_download,
        pair_list=pair_list or next(iter(options.list), None),
        categories=options.categories,
        evaluation=split is None,
        **own_data_options(options),
    )


def create_run(options: Namespace, *name: str, **metadata: Any) -> Run:
    """The run folder of --logpath, or one named after `name` and the time. Raises: UserError: it exists already."""
    folder = run_folder(options)
    if folder and options.overwrite:
        replace_run(folder)
    saved = to_save(options) | metadata | {"versions": versions()}
    return Run.create(folder or dated_folder(*name), saved, numbered=not folder, quiet=options.quiet)


@dataclass(frozen=True)
class OpenedModel:
    """A model, the file of its checkpoint if there is one, and sentences for the log about where it comes from."""

    model: DHPF
    checkpoint: Path | None
    notes: list[str]


def open_model(options: Namespace) -> OpenedModel:
    """The model of --load, or an untrained one, on the CPU. Raises: UserError."""
    checkpoint, note = resolve(options.load) if options.load else None, ""
    if checkpoint:
        model, note = load_model(
            checkpoint,
            options.backbone_weights,
            options.voting,
            options.decoder,
            backbone=options.backbone,
            blocks=options.backbone_layers,
            input_size=options.backbone_side,
        )
    else:
        model = build_model(requested_config(options), options.backbone_weights)
    model.bf16 = options.precision == "bf16"
    return OpenedModel(model, checkpoint, [text for text in (note, model.backbone.weights_note) if text])


def requested_config(options: Namespace) -> ModelConfig:
    """The model that the options ask for where no checkpoint says what it is."""
    return ModelConfig(
        options.backbone or DEFAULT_BACKBONE,
        options.backbone_layers,
        options.backbone_side,
        getattr(options, "width", None),
        options.voting or DEFAULT_VOTING,
        decoder=options.decoder or DEFAULT_DECODER,
    )


def ablate(options: Namespace, model: DHPF) -> None:
    """Replace the parts of a model that the options replace. Raises: UserError: as `requested_ablation`."""
    check_searched_layers(options.layers, ModelConfig.of_model(model))
    model.ablate(requested_ablation(options, len(model.backbone.channels), model.ablation.fixed_layers))


def layer_count(options: Namespace) -> int:
    """How many hyperpixel layers the options ask for."""
    return len(options.backbone_layers or BACKBONES[options.backbone or DEFAULT_BACKBONE].channels)


def requested_ablation(
    options: Namespace, layer_count: int, trained_layers: tuple[int, ...] | None = None
) -> Ablation:
    """`ablation.requested_ablation` of the options; without --load and --untrained raw features are matched.

    Args: trained_layers: those that a checkpoint was trained with instead of gates; it uses them unless told otherwise.
    """
    raw = options.raw or not (options.load or options.untrained)
    layers = trained_layers if options.layers is None else options.layers
    return ablation.requested_ablation(layer_count, bool(options.load), layers, raw, options.soft_gates)


def check_searched_layers(layers: tuple[int, ...] | None, config: ModelConfig) -> None:
    """Refuse layers that a search found on another backbone, or on other blocks of it."""
    if isinstance(layers, Layers) and layers.searched_on:
        metadata = replace(config, fixed_layers=None).to_metadata()
        own = {key: metadata.get(key, "") for key in (KEYS["backbone"], KEYS["blocks"])}
        if layers.searched_on != own:
            theirs, ours = (" ".join(filter(None, each.values())) for each in (layers.searched_on, own))
            raise UserError(f"--layers: the file's layers were found on {theirs}, the backbone is {ours}")


def searched_note(layers: tuple[int, ...] | None, benchmark: Benchmark) -> str:
    """A sentence where a search chose the layers on pairs of a benchmark's own list, else empty."""
    own = benchmark.name, benchmark.split, benchmark.list_path.name
    if not isinstance(layers, Layers) or layers.searched_list != own:
        return ""
    return f"the layers were chosen on this list of pairs, {benchmark.name} {benchmark.split}: measure them on others"
