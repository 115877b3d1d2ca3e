"""The options of all programs. Neither torch nor pandas is imported: help and refusals come at once."""

import argparse
import json
import math
import re
import sys
import time
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from dhpf.common import __version__
from dhpf.common.errors import UserError
from dhpf.common.files import MIB, read_json
from dhpf.common.registry import Registry
from dhpf.common.run import BEST_MODEL, OPTIONS, PREDICTIONS, STATES
from dhpf.data import BENCHMARKS, DATAPATH, MAX_PIXELS
from dhpf.evaluation import MEASURES, METRICS
from dhpf.evaluation.prediction_frames import checked_frame
from dhpf.model import BACKBONES, DECODERS, EIGHTH, VOTINGS
from dhpf.training import SUPERVISIONS
from dhpf.weights import DEFAULT_BACKBONE, DEFAULT_DECODER, DEFAULT_VOTING, RANDOM
from dhpf.weights.released import released

TABLE_FORMATS = ("text", "markdown", "latex", "csv", "html")
# Learning rate and batch size of the paper, by supervision.
PAPER_DEFAULTS = {"strong": (0.03, 8), "weak": (0.1, 4)}
# What runs had before there was the option, where that is not its default.
EARLIER_DEFAULTS = {"width": EIGHTH}
# Options that do not change what a run computes: they may differ when it is resumed.
FREE = {
    "resume", "logpath", "overwrite", "quiet", "device", "workers", "datapath", "images", "no_download",
    "backbone_weights", "no_report", "explore_pairs",
}  # fmt: skip
FREE_IN = {
    "train": FREE | {"on_bad_pair", "save_every", "niter"},
    "test": FREE | {"on_bad_pair", "bsz", "alpha"},
    "search": FREE | {"bsz", "cache_gb", "max_layers"},
}
EXAMPLES = {
    "train": (
        "--benchmark pfpascal --supervision strong --backbone resnet101 --logpath strong",
        "--resume logs/strong",
    ),
    "test": (
        "--benchmark pfpascal --load logs/strong/best_model.pt",
        "--benchmark spair --from-predictions others.csv --alpha 0.05 0.1 0.15",
    ),
    "match": (
        "a.jpg b.jpg --points 120,80 64.5,200 --explore a-b.html",
        "--benchmark spair --pair 17 --load logs/strong/best_model.pt",
    ),
    "search": ("--benchmark pfpascal --backbone resnet101 --logpath layers", "--resume logs/layers"),
    "compare": (
        "logs/before logs/after",
        "logs/ours theirs.csv --benchmark spair --format html --out compared.html",
    ),
    "reproduce": (
        "--table 1 --weights weights",
        "--table mu --weights weights --backbones resnet101 --datapath ../Datasets_DHPF",
    ),
}
# What is typed behind a program's name.
USAGE = {
    "match": "SRC TRG [TRG ...] [options]",
    "compare": "RUN RUN [RUN ...] [options]",
    "reproduce": "--table TABLE --weights DIR [options]",
}


def parse(program: str, arguments: Sequence[str] | None = None) -> Namespace:
    """The options of a program: those of `arguments`, or of the process.

    Raises:
        UserError: options that contradict each other.
        SystemExit: 2 for a wrong option, after one sentence; 0 after help and version.
    """
    parser = Parser(program)
    if program == "reproduce":
        options, rest = parser.parse_known_args(arguments)
        options.test_arguments = rest
    else:
        options = parser.parse_args(arguments)
    if getattr(options, "resume", None):
        options = resumed(parser, arguments, options.resume, FREE_IN[program])
    options.program = program
    if getattr(options, "overwrite", False) and not options.logpath:
        raise UserError("--overwrite: name the run folder with --logpath")
    if getattr(options, "features_frame", "squash") == "pad":
        if not str(options.backbone).startswith("files"):
            raise UserError("--features-frame pad: it is for features from files, --backbone files:DIR")
        options.backbone = options.backbone.replace("files:", "files-pad:", 1)
    if check := CHECKS.get(program):
        check(options)
    return options


def resumed(
    parser: "Parser", arguments: Sequence[str] | None, folder: Path, free: Collection[str]
) -> Namespace:
    """The options of the run to resume, and those of `arguments` that may differ.

    Raises: UserError: there is no such run; an option of `arguments` would change what it computes.
    """
    try:
        saved = dict(json.loads((folder / OPTIONS).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"--resume {folder}: not the folder of a run, {OPTIONS} cannot be read") from error
    defaults = vars(parser.parse_args([]))
    defaults |= {name: value for name, value in EARLIER_DEFAULTS.items() if name in defaults}
    before = as_json({name: saved.get(name, default) for name, default in defaults.items()})
    parser.set_defaults(**before)
    options = parser.parse_args(arguments)
    changed = [k for k, v in as_json(vars(options)).items() if k not in free and v != before[k]]
    if changed:
        names = ", ".join(f"{flag(name)} (it was {before[name]})" for name in changed)
        raise UserError(f"--resume {folder}: it would be another run with a different {names}")
    return options


def as_json(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as the file of a run has them."""
    return dict(json.loads(json.dumps(dict(options), default=str)))


def typed_command(program: str) -> list[str]:
    """What is typed to run a program: as in a clone, or `dhpf-train` where that is what was run."""
    installed = Path(sys.argv[0]).name.startswith("dhpf-")
    return [f"dhpf-{program}"] if installed else ["python", f"{program}.py"]


def to_save(options: Namespace) -> dict[str, Any]:
    """The options as a run folder keeps them."""
    return {
        name: value
        for name, value in vars(options).items()
        if name not in ("program", "test_arguments", "own_data", "own_points")
    }


def flag(name: str) -> str:
    """An option as it is typed."""
    return f"--{name.replace('_', '-')}"


def run_folder(options: Namespace) -> Path | None:
    """The folder that --logpath names, if it does. Raises: UserError: a relative path that leaves logs/."""
    if options.logpath and not Path(options.logpath).is_absolute() and ".." in Path(options.logpath).parts:
        raise UserError(f"--logpath {options.logpath}: it leaves logs/, give a name or an absolute path")
    return Path("logs") / options.logpath if options.logpath else None


def dated_folder(*parts: str) -> Path:
    """A folder in logs/ for a run that --logpath does not name."""
    name = "-".join((*parts, time.strftime("%Y%m%d-%H%M%S")))
    return Path("logs") / re.sub(r"[:/\\]+", "-", name)


def own_data_options(options: Namespace) -> dict[str, Any]:
    """The options that only benchmarks of one's own data understand, those that were given."""
    pairs = getattr(options, "pairs_per_category", options.pairs)  # --pairs of search.py means another thing
    given = {"images": options.images, "pairs": pairs, "val_share": options.val_share}
    return {name: value for name, value in given.items() if value is not None}


class Parser(argparse.ArgumentParser):
    """A parser that answers a wrong option with one sentence and exit code 2, and shows defaults that say something."""

    def __init__(self, program: str) -> None:
        description, groups = PROGRAMS[program]
        self.command = " ".join(typed_command(program))
        super().__init__(
            prog=self.command.removeprefix("python "),
            usage=f"%(prog)s {USAGE.get(program, '[options]')}",
            description=description,
            epilog="\n  ".join(
                ["examples:", *(f"{self.command} {example}" for example in EXAMPLES[program])]
            ),
            formatter_class=HelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument("--version", action="version", version=f"DHPF {__version__}")
        named = {flags[0]: (flags, argument) for options in groups.values() for flags, argument in options}
        first = MOST_USED.get(program, "").split()
        for title, options in {"most used": [named[flag] for flag in first], **groups}.items():
            group = self.add_argument_group(title)
            exclusive = group.add_mutually_exclusive_group()
            for flags, argument in (x for x in options if title == "most used" or x[0][0] not in first):
                (exclusive if flags[0] in EXCLUSIVE else group).add_argument(*flags, **argument)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.command} --help)\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, but a value may begin with a minus, --points takes several values, and lists are tuples."""
        joined: list[str] = []
        for argument in sys.argv[1:] if args is None else args:
            last = joined[-1] if joined else ""
            if re.fullmatch(r"--[a-z-]+", last) and (re.match(r"-\.?\d", argument) or last == "--points"):
                joined[-1] += f"={argument}"
            elif last.startswith("--points=") and re.fullmatch(r"[-+.\d]+,[-+.\d]+", argument):
                joined[-1] += f" {argument}"
            else:
                joined.append(argument)
        options, rest = super().parse_known_args(joined, namespace)
        for name, value in vars(options).items():
            if isinstance(value, list):
                setattr(options, name, tuple(value))
        return options, rest


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows the defaults that say something."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is False or action.default in (None, "", (), argparse.SUPPRESS)
        if silent or not action.option_strings or "default" in (action.help or ""):
            return action.help
        shown = " ".join(map(str, action.default)) if isinstance(action.default, tuple) else action.default
        return f"{action.help} (default: {shown})"


# Types of arguments: functions of the text; argparse tells their errors with the name of the option.


def name_in(registry: Registry[Any]) -> Callable[[str], str]:
    """A name of the registry."""

    def parse_name(text: str) -> str:
        try:
            return registry.checked(text)
        except UserError as error:
            raise ArgumentTypeError(str(error)) from None

    return parse_name


def choice(registry: Registry[Any], rest: str = "NAME") -> dict[str, Any]:
    """Arguments of `add_argument` for a name of the registry; `rest`: what stands behind the prefix of a family."""
    names = [*registry, *(f"{prefix}:{rest}" for prefix in registry.families if prefix not in registry)]
    names += ["NAME:" + rest] * any(prefix in registry for prefix in registry.families)
    return {"type": name_in(registry), "metavar": f"{{{','.join(names)}}}"}


def number(kind: type, low: float, high: float = math.inf, *, above: bool = False) -> Callable[[str], Any]:
    """A finite number of `kind` from `low` (excluded if `above`) to `high`."""

    def parse_number(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise ArgumentTypeError(f"'{text}' is not a number of type {kind.__name__}") from None
        if not (low < value if above else low <= value) or not value <= high or value == math.inf:
            bounds = f"{'above' if above else 'at least'} {low:g}"
            bounds += f" and at most {high:g}" if high < math.inf else ""
            raise ArgumentTypeError(f"{text} is not {bounds}")
        return value

    return parse_number


ALPHA = number(float, 0, 1, above=True)


def existing_file(text: str) -> Path:
    if not Path(text).is_file():
        raise ArgumentTypeError(f"{text}: there is no such file")
    return Path(text)


def predictions_file(text: str) -> Path:
    """A file of predictions, or that of a run folder."""
    return existing_file(str(Path(text) / PREDICTIONS)) if Path(text).is_dir() else existing_file(text)


def measure_names(text: str) -> tuple[str, ...]:
    """Names of measures, 'pck-dagger,kap', or 'all'."""
    return tuple(MEASURES) if text == "all" else tuple(name_in(METRICS)(name) for name in names(text))


def prediction_frame(text: str) -> str:
    """A frame that predictions are in."""
    try:
        return checked_frame(text)
    except UserError as error:
        raise ArgumentTypeError(str(error)) from None


def names(text: str) -> tuple[str, ...]:
    """Names, 'cat,dog'."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def frame_side(text: str) -> int:
    """A side of the frame, which the correlation grid must divide."""
    side = int(number(int, 64)(text))
    if side % 4:
        raise ArgumentTypeError(f"{side} is not a multiple of 4")
    return side


class Layers(tuple[int, ...]):
    """Ascending numbers of hyperpixel layers; of a search on which backbone and which list of pairs it found them."""

    searched_on: Mapping[str, str] = MappingProxyType({})
    searched_list: tuple[str, ...] = ()  # benchmark, split and file of its pairs


def layer_numbers(text: str) -> Layers:
    """Distinct numbers of hyperpixel layers, '2,17,21', or those of a file that `search.py` wrote, '@layers.json'."""
    if text.startswith("@"):
        try:
            content = read_json(existing_file(text[1:]), MIB)
            layers = layer_numbers(",".join(str(layer) for layer in content["layers"]))
            layers.searched_on = {k: str(content.get(k, "")) for k in ("backbone", "backbone_layers")}
            layers.searched_list = tuple(str(content.get(k, "")) for k in ("benchmark", "split", "list"))
            return layers
        except (UserError, ArgumentTypeError) as error:
            raise ArgumentTypeError(f"{text}: not a file of search.py ({error})") from None
        except (LookupError, TypeError):
            raise ArgumentTypeError(f"{text}: not a file of search.py, it has no list 'layers'") from None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise ArgumentTypeError(f"'{text}' is not a list of layer numbers such as 2,17,21")
    return Layers(sorted({int(part) for part in parts}))


def checkpoint(text: str) -> str:
    """A file, a run folder (its best model), or the name of a released model."""
    path = Path(text)
    if path.name in STATES:
        raise ArgumentTypeError(
            f"{text}: the state of a run, to resume it; its best model is {path.with_name(BEST_MODEL)}"
        )
    try:
        return (
            text if released(text) else str(existing_file(str(path / BEST_MODEL if path.is_dir() else path)))
        )
    except UserError as error:
        raise ArgumentTypeError(str(error)) from None


def device(text: str) -> str:
    """What may be a device; whether this machine has it is known later."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise ArgumentTypeError(f"{text}: no such device, use auto, cpu, cuda, cuda:N or mps")
    return text


def weights_file(text: str) -> Path | str:
    """A file, or that weights are to be drawn."""
    return RANDOM if text == RANDOM else existing_file(text)


def reduced_channels(text: str) -> int | str:
    """One eighth, or a number of channels."""
    return text if text == EIGHTH else int(number(int, 1)(text))


def pair_count(text: str) -> int | str:
    """A number of pairs, or 'all'."""
    return text if text == "all" else int(number(int, 1)(text))


# The options: the help text, the names, and what else `add_argument` takes.

Option = tuple[tuple[str, ...], dict[str, Any]]


def option(help: str, *names: str, **argument: Any) -> Option:
    return names, {"help": help, **argument}


# fmt: off
SEED = number(int, 0, 2**32 - 1)
SUPERVISION = option(
    "strong: key-points; weak: image labels", "--supervision", default="strong", **choice(SUPERVISIONS))
LOAD = option(
    "trained model: a file, a run folder, or a released one such as dhpf:spair-strong-resnet101",
    "--load", type=checkpoint, metavar="CKPT")
ALPHAS = option("alpha of PCK, one or several", "--alpha", type=ALPHA, nargs="+", default=(0.1,), metavar="A")
MEASURE = option(
    "more measures to report, or all of them (docs/measures.md)",
    "--measures", type=measure_names, default=(), metavar=f"{{{','.join(MEASURES)},all}}")
ONE_ALPHA = option("alpha of PCK", "--alpha", type=ALPHA, default=0.1, metavar="A")
PREDICTIONS_FRAME = option(
    "frame of other methods' predictions: pixels of the stored image or of an N×N square, or shares of it",
    "--predictions-frame", type=prediction_frame, metavar="{image,N,padN,0..1,-1..1}", default="image")
WIDTH = option(
    f"most channels that a layer has after the transformation; {EIGHTH}: an eighth of the layer's own, as in the paper "
    f"(default: {EIGHTH} for ResNets, else 64)", "--width", type=reduced_channels, metavar="N")
LAYERS_OPTION = option(
    "use these hyperpixel layers for all pairs instead of gates: numbers from 0, or @layers.json of a search",
    "--layers", type=layer_numbers, metavar="L,L,...")
REPLACED_PARTS = (
    option("without --load: random gates and transformation instead of raw features",
           "--untrained", action="store_true"),
    LAYERS_OPTION,
    option("match the backbone's own features, without transformation", "--raw", action="store_true"),
    option("weight layers by their selection probability instead of 0 or 1", "--soft-gates", action="store_true"),
    option("on a CUDA GPU: compile CUDA graphs first, which takes minutes (not yet tried on a GPU)",
           "--compile", action="store_true"),
)
OUTPUT = (
    option("run folder, logs/NAME (default: named after the run and the time)",
           "--logpath", default="", metavar="NAME"),
    option("replace the run folder that --logpath names", "--overwrite", action="store_true"),
    option("print only errors, no progress and no log", "--quiet", action="store_true"),
)
LOADING = (
    option("processes that load images; 0: load in the main process",
           "--workers", type=number(int, 0, 64), default=2, metavar="N"),
    option("what to do with a pair that cannot be read", "--on-bad-pair", choices=("stop", "skip"), default="stop"),
)


def benchmark_options(*, required: bool = True, pairs: bool = True) -> tuple[Option, ...]:
    """Which pairs of which benchmark. `pairs`: whether --pairs is free for the pairs drawn of a COCO category."""
    name = ("synthetic needs no files", "synthetic") if required else ("match a pair of it, named by --pair", None)
    return (
        option(name[0], "--benchmark", default=name[1], **choice(BENCHMARKS)),
        option("folder that holds the benchmarks; of coco and table the file, or three files TRN,VAL,TEST",
               "--datapath", type=Path, default=Path(DATAPATH), metavar="DIR"),
        option("threshold of PCK; auto: the benchmark's own (docs/measures.md)",
               "--thres", choices=("auto", "img", "bbox", "bbox-kp"), default="auto"),
        option("only these categories", "--categories", type=names, default=(), metavar="NAME,NAME"),
        option("pair list to read instead of the benchmark's; train.py takes two, for training and validation",
               "--list", type=Path, nargs="+", default=(), metavar="FILE"),
        option("do not download a missing benchmark", "--no-download", action="store_true"),
        option("coco: folder of the images (default: the folder of the file)", "--images", type=Path, metavar="DIR"),
        option("coco: pairs to sample for each category, a number or all (default: 100)",
               "--pairs" if pairs else "--pairs-per-category", type=pair_count, metavar="N"),
        option("coco, table: share of the images to use for validation (default: 0.1)",
               "--val-share", type=number(float, 0, 1, above=True), metavar="SHARE"),
    )


def model_options(*, train: bool = False) -> tuple[Option, ...]:
    defaults = DEFAULT_BACKBONE, DEFAULT_VOTING, DEFAULT_DECODER
    backbone, voting, decoder = defaults if train else (None, None, None)
    saved = " (default: that of the checkpoint, else {})"
    return (
        option("frozen feature extractor" + saved.format(DEFAULT_BACKBONE) * (not train),
               "--backbone", default=backbone, **choice(BACKBONES)),
        option("what the features of --backbone files:DIR cover: the image stretched to a square, or padded to one",
               "--features-frame", choices=("squash", "pad"), default="squash"),
        option(f"weights of the backbone instead of the pretrained ones; {RANDOM}: random weights, to try it out",
               "--backbone-weights", type=weights_file, metavar="FILE"),
        option("blocks of the backbone that are hyperpixel layers, numbers from 0 (default: all)",
               "--backbone-layers", type=layer_numbers, metavar="L,L,..."),
        option("size of the backbone's input (default: that of --img-side)",
               "--backbone-side", type=number(int, 64, 4096), metavar="PIXELS"),
        option("how appearance similarity is re-weighted" + saved.format(DEFAULT_VOTING) * (not train),
               "--voting", default=voting, **choice(VOTINGS)),
        option("the same as --voting none",
               "--no-hough", dest="voting", action="store_const", const="none", default=argparse.SUPPRESS),
        option("how to compute points from scores (docs/measures.md)" + saved.format(DEFAULT_DECODER) * (not train),
               "--decoder", default=decoder, **choice(DECODERS, "PARAMETERS")),
        option("size that images are resized to", "--img-side", type=frame_side, default=240, metavar="PIXELS"),
        option("device to compute on: auto, cpu, cuda, cuda:N or mps", "--device", type=device, default="auto"),
        option("number format of the backbone and the transformation",
               "--precision", choices=("fp32", "bf16"), default="fp32"),
    )


def resume_option(what: str) -> Option:
    return option(f"continue the {what} of this folder", "--resume", type=Path, metavar="RUN_FOLDER")


# By program: what it does, and its groups of options.
PROGRAMS: dict[str, tuple[str, dict[str, tuple[Option, ...]]]] = {
    "train": ("Train DHPF. An epoch is one pass over the training pairs and one over the validation pairs.", {
        "training": (
            SUPERVISION,
            option("learning rate (default: the paper's, 0.03; with weak supervision 0.1)",
                   "--lr", "--learning-rate", type=number(float, 0), metavar="RATE"),
            option("pairs in a batch over all processes (default: the paper's, 8; with weak supervision 4)",
                   "--bsz", "--batch-size", type=number(int, 2), metavar="N"),
            option("number of epochs", "--niter", "--epochs", type=number(int, 1), default=5, metavar="N"),
            option("target selection rate of a layer, mu in the paper",
                   "--selection", type=number(float, 0, 1), default=0.5, metavar="MU"),
            option("alpha of PCK, and of the strong loss", "--alpha", type=ALPHA, default=0.1, metavar="A"),
            option("random seed", "--seed", type=SEED, default=0, metavar="N"),
            option("also save the state every so many steps; 0: only after each epoch",
                   "--save-every", type=number(int, 0), default=0, metavar="STEPS"),
            resume_option("run"),
            *OUTPUT,
        ),
        "data": benchmark_options() + LOADING,
        "model": (*model_options(train=True), WIDTH, LAYERS_OPTION),
    }),
    "test": ("Measure DHPF on a benchmark. Without --load it measures raw features: nothing is trained.", {
        "testing": (
            LOAD,
            ALPHAS,
            MEASURE,
            option("split to measure on: trn, val, ... (default: test; of own data all pairs)",
                   "--split", metavar="SPLIT"),
            option("evaluate the predictions of an earlier test or of another method (CSV, JSON lines); no model",
                   "--from-predictions", type=predictions_file, metavar="FILE"),
            PREDICTIONS_FRAME,
            resume_option("test"),
            option("pairs compared at once on a GPU",
                   "--bsz", "--batch-size", type=number(int, 1), default=8, metavar="N"),
            option("memory for features of images that occur in several pairs",
                   "--cache-gb", type=number(float, 0), default=0.5, metavar="GB"),
            option("random seed of the model of --untrained", "--seed", type=SEED, default=0, metavar="N"),
        ),
        "data": benchmark_options() + LOADING,
        "model": (*model_options(), WIDTH, *REPLACED_PARTS),
        "output": (
            *OUTPUT,
            option("write no report.html and no pictures", "--no-report", action="store_true"),
            option("pairs of the report that get a page to explore them",
                   "--explore-pairs", type=number(int, 0), default=12, metavar="N"),
        ),
    }),
    "match": ("Match points of your own image with other images. Without --load it matches raw features of all layers: "
              "nothing is trained.", {
        "images": (
            option("image that has the points", "source", type=Path, nargs="?", metavar="SRC"),
            option("images, or folders of images, to match it with",
                   "targets", type=Path, nargs="*", default=(), metavar="TRG"),
            option("points in pixels of SRC; or a file as for --points-file; or - for standard input",
                   "--points", metavar="X,Y ..."),
            option("file with a line x,y for each point, or JSON of labelme, COCO or VGG Image Annotator",
                   "--points-file", type=Path, metavar="FILE"),
            option("N×N points spread over SRC (default without points: 6)",
                   "--grid", type=number(int, 1, 100), metavar="N"),
            LOAD,
            option("leave out points of lower confidence",
                   "--min-confidence", type=number(float, 0, 1), default=0.0, metavar="C"),
            option("leave out points that do not come back: matched from TRG to SRC, more than a cell away",
                   "--mutual", action="store_true"),
            option("folder for the results", "--output", type=Path, default=Path("matches"), metavar="DIR"),
            option("write no warped picture", "--no-warp", action="store_true"),
            option("print the matches as JSON, a line for each target", "--json", action="store_true"),
            option("write a page that shows the prediction for any point of either image",
                   "--explore", type=Path, metavar="FILE.html"),
            option("add the matches to this table of pairs, for --benchmark table",
                   "--table-out", type=Path, metavar="FILE.csv"),
            option("refuse images with more pixels",
                   "--max-pixels", type=number(int, 1), default=MAX_PIXELS, metavar="N"),
            option("pair of --benchmark, counted from 0", "--pair", type=number(int, 0), metavar="N"),
            option("split of --pair: trn, val, ... (default: as for test.py)", "--split", metavar="SPLIT"),
        ),
        "data": benchmark_options(required=False),
        "model": (*model_options(), *REPLACED_PARTS),
    }),
    "search": ("Search for the fixed set of hyperpixel layers that matches best, by beam search: one layer is added "
               "at a time. It searches raw features, or with --load the learned ones. The result, layers.json, is for "
               "--layers @layers.json of test.py, match.py and train.py.", {
        "searching": (
            LOAD,
            option("best subsets of each size to which a layer is added",
                   "--beam", type=number(int, 1), default=4, metavar="N"),
            option("size of the largest subsets", "--max-layers", type=number(int, 1), default=8, metavar="N"),
            option("split to measure on: trn, val, ...", "--split", default="val", metavar="SPLIT"),
            option("number of pairs to measure on, a random sample",
                   "--pairs", type=number(int, 1), default=200, metavar="N"),
            ONE_ALPHA,
            option("pairs compared at once on a GPU",
                   "--bsz", "--batch-size", type=number(int, 1), default=4, metavar="N"),
            option("memory for the features of images", "--cache-gb", type=number(float, 0), default=4.0, metavar="GB"),
            option("random seed of the sample of pairs", "--seed", type=SEED, default=0, metavar="N"),
            resume_option("search"),
            *OUTPUT,
        ),
        "data": benchmark_options(pairs=False) + LOADING,
        "model": model_options(),
    }),
    "compare": ("Compare runs, or predictions of other methods, on the pairs that all of them have. The data options "
                "are needed for predictions of other methods, and --datapath for pictures.", {
        "runs": (
            option("run folders or files of predictions, at least two; the others are compared with the first",
                   "runs", type=predictions_file, nargs="+", metavar="RUN"),
            ALPHAS,
            MEASURE,
            option("format of the tables; html also has pictures", "--format", choices=TABLE_FORMATS, default="text"),
            option("write to this file instead of printing", "--out", type=Path, metavar="FILE"),
            option("split of other methods' predictions: trn, val, ...", "--split", metavar="SPLIT"),
            option("size of the frame that other methods' predictions are measured in",
                   "--img-side", type=frame_side, default=240, metavar="N"),
            PREDICTIONS_FRAME,
        ),
        "data": benchmark_options() + LOADING,
    }),
    "reproduce": ("Measure a table of the paper, and print it beside the published values. All options of test.py "
                  "can be given, too, such as --datapath, --workers or --device.", {
        "tables": (
            option("table of the paper; mu: selection rates",
                   "--table", choices=("1", "2", "3", "mu"), required=True),
            option("folder of the checkpoints, named as in docs/tables.md",
                   "--weights", type=Path, required=True, metavar="DIR"),
            option("folder for the evaluations and tables",
                   "--out", type=Path, default=Path("logs/tables"), metavar="DIR"),
            option("format to print; all formats are written", "--format", choices=TABLE_FORMATS, default="markdown"),
            option("backbones to measure", "--backbones", type=name_in(BACKBONES), nargs="+",
                   default=("resnet101", "resnet50"), metavar="NAME"),
        ),
    }),
}
# fmt: on
# Options that --help shows first, by program.
MOST_USED = {
    "train": "--benchmark --datapath --supervision --backbone --lr --bsz --niter --logpath --resume",
    "test": "--benchmark --datapath --load --alpha --split --from-predictions --logpath --overwrite",
    "match": "source targets --points --points-file --grid --load --explore --output --benchmark --pair",
    "search": "--benchmark --datapath --backbone --load --beam --max-layers --pairs --split --logpath",
}
# Of these one may be given.
EXCLUSIVE = ("--points", "--points-file", "--grid")


def check_train(options: Namespace) -> None:
    """The paper's learning rate and batch size where none are given; lists for both splits or none."""
    lr, bsz = PAPER_DEFAULTS.get(options.supervision, PAPER_DEFAULTS["strong"])
    options.lr = lr if options.lr is None else options.lr
    options.bsz = bsz if options.bsz is None else options.bsz
    if len(options.list) not in (0, 2):
        raise UserError("--list: give two lists, of training and of validation pairs")


def check_one_list(options: Namespace) -> None:
    if len(options.list) > 1:
        raise UserError("--list: give one list, of the pairs to measure on")


def check_test(options: Namespace) -> None:
    check_one_list(options)
    if options.from_predictions and options.load:
        raise UserError("--load: predictions need no model, give it or --from-predictions")
    if options.load and options.width is not None:
        raise UserError("--width: the checkpoint's own shapes decide it")


def check_match(options: Namespace) -> None:
    check_one_list(options)
    options.own_points = any(x is not None for x in (options.points, options.points_file, options.grid))
    if (options.pair is None) != (options.benchmark is None):
        raise UserError("a pair of a benchmark needs both --benchmark and --pair")
    if options.pair is not None and (options.source or options.table_out):
        raise UserError("--pair: a pair of a benchmark has its images, give no others and no --table-out")
    for name in ("min_confidence", "mutual"):
        if options.pair is not None and getattr(options, name) and not options.own_points:
            raise UserError(f"{flag(name)}: a pair shows all its key-points, give it with --points or --grid")
    if options.pair is None and not (options.source and options.targets):
        raise UserError("give SRC and TRG, or a pair of a benchmark with --benchmark and --pair")
    for path in filter(None, (options.source, *options.targets, options.points_file)):
        if not path.exists():
            raise UserError(f"{path}: there is no such file")


def check_compare(options: Namespace) -> None:
    check_one_list(options)
    if len(options.runs) < 2:
        raise UserError("give two runs or more to compare")


CHECKS: dict[str, Callable[[Namespace], None]] = {
    "train": check_train,
    "test": check_test,
    "match": check_match,
    "search": check_one_list,
    "compare": check_compare,
}
