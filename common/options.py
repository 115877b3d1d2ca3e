"""The mechanism of options: a frozen dataclass says what a program understands, its parser is made from it.

A program's dataclass inherits groups of options (`DataOptions`, ...); the parser shows each base as a group of its
name. A field is made by `option`; what it is called on the command line follows from its name.
"""

import argparse
import inspect
import json
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from dhpf.common import __version__
from dhpf.common.errors import UserError
from dhpf.common.files import MIB, PREDICTIONS, read_json
from dhpf.common.registry import Registry

ORIGIN = ("backbone", "backbone_layers")  # what layers of a search belong to
FORMATS = ("text", "markdown", "latex", "csv", "html")  # of tables, see report.formats


def option(default: Any = MISSING, help: str = "", **argument: Any) -> Any:
    """A field of an options class.

    Args:
        default: MISSING makes it required.
        argument: what `argparse.add_argument` takes; `choices` may be a `Registry`; `positional=True` for what has
            no name; `either=NAME` for options of which a call may have one; `shorthand={FLAG: VALUE}` for flags that
            stand for a value of the option; `before=VALUE` for what runs had before there was the option.
    """
    return field(default=default, metadata={"help": help, **argument}, kw_only=True)


@dataclass(frozen=True)
class OutputOptions:
    logpath: str = option(
        "", "run folder, logs/NAME; named after the run and the time if not given", metavar="NAME"
    )
    quiet: bool = option(False, "no progress and no log on the console, only what goes wrong")

    @property
    def run_folder(self) -> Path | None:
        """The folder that --logpath names, if it does. Raises: UserError: a relative path that leaves logs/."""
        if self.logpath and not Path(self.logpath).is_absolute() and ".." in Path(self.logpath).parts:
            raise UserError(f"--logpath {self.logpath}: it leaves logs/, give a name or an absolute path")
        return Path("logs") / self.logpath if self.logpath else None


class Parser(argparse.ArgumentParser):
    """The parser of a dataclass of options; answers a wrong option with one sentence and exit code 2."""

    def __init__(self, options: type, description: str, examples: Sequence[str]) -> None:
        super().__init__(
            description=description,
            epilog="\n  ".join(["examples:", *examples]),
            formatter_class=Formatter,
            allow_abbrev=False,
        )
        self.add_argument("--version", action="version", version=f"DHPF {__version__}")
        self.options = options
        groups: dict[str, Any] = {}
        for spec in fields(options):
            argument, title = dict(spec.metadata), group_of(options, spec.name)
            if title not in groups:
                groups[title] = self.add_argument_group(title)
            place = groups[title]
            argument.pop("before", None)
            if either := argument.pop("either", None):
                if either not in groups:
                    groups[either] = place.add_mutually_exclusive_group()
                place = groups[either]
            add_option(place, spec, argument)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")

    def parse(self, arguments: Sequence[str] | None, saved: Mapping[str, Any] | None = None) -> Any:
        """The options that arguments (those of the process by default) give; `saved` stands for what they do not."""
        self.set_defaults(**(saved or {}))
        return self.options(**listless(vars(self.parse_args(arguments))))

    def parse_resumable(self, arguments: Sequence[str] | None, free: Collection[str]) -> Any:
        """The options given, or those of the run that --resume names, as far as it knew them.

        Args: free: the options that may differ when a run is resumed, since they do not change what it computes.
        Raises:
            UserError: there is no such run, or an option given changes what it computes.
        """
        options = self.parse(arguments)
        if options.resume is None:
            return options
        try:
            content = dict(json.loads((options.resume / "options.json").read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"--resume {options.resume}: not the folder of a run, options.json cannot be read"
            ) from error
        before = {
            spec.name: spec.metadata.get("before", self.get_default(spec.name))
            for spec in fields(self.options)
        }
        saved = as_json({k: content.get(k, before[k]) for k in asdict(options)})
        resumed = self.parse(arguments, saved)
        changed = [k for k, v in as_json(asdict(resumed)).items() if k not in free and v != saved[k]]
        if changed:
            names = ", ".join(f"--{k.replace('_', '-')} (it was {saved[k]})" for k in changed)
            raise UserError(f"--resume {options.resume}: it would be another run with a different {names}")
        return resumed

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, which takes a value with a minus sign in front, such as '-5,101', for an option."""
        joined: list[str] = []
        for argument in sys.argv[1:] if args is None else args:
            if re.match(r"-\.?\d", argument) and joined and re.fullmatch(r"--[a-z-]+", joined[-1]):
                joined[-1] += f"={argument}"
            else:
                joined.append(argument)
        return super().parse_known_args(joined, namespace)

    def parse_known(self, arguments: Sequence[str] | None) -> tuple[Any, list[str]]:
        """The options, and the arguments that are none of them."""
        found, rest = self.parse_known_args(arguments)
        return self.options(**listless(vars(found))), rest


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Shows the defaults that say something."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        if (
            default is None
            or default is False
            or default in ("", (), argparse.SUPPRESS)
            or not action.option_strings
        ):
            return action.help
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        return f"{action.help} (default: {shown})"


def group_of(options: type, name: str) -> str:
    """The group of a field: the name of the class that says it, without 'Options'."""
    owners = (base for base in reversed(options.__mro__) if name in inspect.get_annotations(base))
    return next(owners).__name__.removesuffix("Options").lower()


def add_option(group: Any, spec: "Field[Any]", argument: dict[str, Any]) -> None:
    """Adds a field to a parser's group."""
    choices = argument.get("choices")
    if isinstance(choices, Registry):
        argument |= {"type": name_in(choices), "choices": None, "metavar": f"{{{','.join(choices)}}}"}
    flag = f"--{spec.name.replace('_', '-')}"
    shorthands = argument.pop("shorthand", {})
    if argument.pop("positional", False):
        group.add_argument(spec.name, **argument)
    elif spec.type is bool:
        group.add_argument(flag, action="store_true", **argument)
    elif spec.default is MISSING:
        group.add_argument(flag, required=True, **argument)
    else:
        group.add_argument(flag, default=spec.default, **argument)
    for short, value in shorthands.items():
        look: dict[str, Any] = {"dest": spec.name, "default": argparse.SUPPRESS, "help": f"{flag} {value}"}
        group.add_argument(short, action="store_const", const=value, **look)


def as_json(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as a run's file has them."""
    return json.loads(json.dumps(options, default=str))


def listless(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of options, lists as tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


# Types of arguments: functions of the text, whose errors argparse tells with the option's name.


def name_in(registry: Registry) -> Callable[[str], str]:
    def parse(text: str) -> str:
        try:
            return registry.checked(text)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def number(
    kind: type, low: float, high: float = float("inf"), *, above: bool = False
) -> Callable[[str], float]:
    """A finite number of `kind` from `low` (excluded if `above`) to `high`."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text}' is not a number of type {kind.__name__}") from None
        if not (low < value if above else low <= value) or not value <= high or value == float("inf"):
            bounds = f"{'above' if above else 'at least'} {low:g}" + (
                f" and at most {high:g}" if high < 1e30 else ""
            )
            raise argparse.ArgumentTypeError(f"{text} is not {bounds}")
        return value

    return parse


def existing(text: str) -> Path:
    """A file that is there."""
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"{text}: there is no such file")
    return Path(text)


def predictions(text: str) -> Path:
    """A file of predictions, or that of a run folder."""
    return existing(str(Path(text) / PREDICTIONS)) if Path(text).is_dir() else existing(text)


def names(text: str) -> tuple[str, ...]:
    """Names, 'cat,dog'."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def image_side(text: str) -> int:
    """A side that the correlation grid divides."""
    side = int(number(int, 64)(text))
    if side % 4:
        raise argparse.ArgumentTypeError(f"{side} is not a multiple of 4")
    return side


class Layers(tuple[int, ...]):
    """Numbers of hyperpixel layers; what `ORIGIN` says of their backbone where a file of `search.py` gave them."""

    origin: Mapping[str, str] = MappingProxyType({})


def layer_set(text: str) -> Layers:
    """Distinct numbers of hyperpixel layers, '2,17,21', or those of a file that `search.py` wrote, '@layers.json'."""
    if text.startswith("@"):
        try:
            content = read_json(existing(text[1:]), MIB)
            found = layer_set(",".join(str(layer) for layer in content["layers"]))
            found.origin = {name: str(content.get(name, "")) for name in ORIGIN}
        except (UserError, LookupError, TypeError, argparse.ArgumentTypeError) as error:
            told = isinstance(error, UserError | argparse.ArgumentTypeError)
            reason = str(error) if told else "it does not say layers and their backbone"
            raise argparse.ArgumentTypeError(f"{text}: not a file of search.py ({reason})") from None
        return found
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of layer numbers such as 2,17,21")
    return Layers(sorted({int(part) for part in parts}))
