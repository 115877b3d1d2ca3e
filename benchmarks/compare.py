"""How fast this checkout is beside another one: python benchmarks/compare.py ../other --backbone resnet101

Each runs its own benchmarks/speed.py, in processes of its own that take turns: other, this, this, other, other, this,
..., so that what drifts meets both. Two neighbours are a round. "this/other" is the median of the rounds' quotients,
with their quartiles: once of the ratios to the bare backbone, once of the times. The bare backbone is the same in both:
as much as its times differ is chance.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from dhpf.common.errors import UserError

THIS = Path(__file__).parents[1]
T = TypeVar("T")
Report = dict[str, Any]  # what speed.py prints; of each mode the ratio and the milliseconds alone
BARE = "bare backbone"
SHAPE = {"backbone": "resnet101", "device": "cpu", "img-side": "240", "precision": "fp32"}


def speed(checkout: Path, arguments: Sequence[str], read: Callable[[str], T]) -> T:
    """What the checkout's speed.py prints, as a function reads it.

    Raises:
        UserError: there is no speed.py, it fails, or it prints something else.
    """
    script = checkout / "benchmarks" / "speed.py"
    if not script.is_file():
        raise UserError(f"{script}: no such file, name the folder of a checkout of DHPF")
    command = [sys.executable, str(script.resolve()), *arguments]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().rpartition("\n")[2] or "it did not say why"
        raise UserError(f"{script} failed with code {done.returncode}: {said}")
    try:
        return read(done.stdout)
    except (ValueError, LookupError, TypeError, AttributeError):
        raise UserError(f"{script} printed something else than a measurement: {done.stdout[:60]!r}") from None


def report(printed: str) -> Report:
    """What `--json` prints."""
    found = json.loads(printed)
    modes = found["modes"].items()
    return found | {"modes": {name: (float(row["ratio"]), float(row["ms per pair"])) for name, row in modes}}


def peak(printed: str) -> float:
    """Gigabytes, of the seconds and gigabytes that `--only` prints."""
    return float(printed.split()[1])


def measure(pair: Sequence[Path], arguments: Sequence[str], rounds: int) -> Iterator[list[Report]]:
    """Reports of both checkouts, round by round."""
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        turn = -1 if number % 2 else 1
        yield [speed(checkout, arguments, report) for checkout in pair[::turn]][::turn]


def shared(reports: Sequence[Report], wanted: Sequence[str]) -> list[str]:
    """The bare backbone, and the wanted modes or all that both report. Raises: UserError: one is not reported."""
    both = [name for name in reports[0]["modes"] if name in reports[1]["modes"]]
    if unknown := [name for name in wanted if name not in both]:
        raise UserError(f"--modes: not both measure {unknown[0]!r}, but {', '.join(map(repr, both))}")
    return [name for name in both if not wanted or name in (BARE, *wanted)]


def row(name: str, rounds: Sequence[Sequence[Report]]) -> str:
    """A mode's row of the table."""
    # Axes: rounds, checkouts, and ratio and time.
    figures = np.array([[found["modes"][name] for found in reports] for reports in rounds])
    medians = np.median(figures, axis=0).T
    quotients = np.quantile(figures[:, 1] / figures[:, 0], (0.5, 0.25, 0.75), axis=0).T
    cells = [
        f"{value:8.{digits}f}" for values, digits in zip(medians, (2, 1), strict=True) for value in values
    ]
    cells += [f"{middle:7.3f} ({low:.2f} to {high:.2f})".rjust(22) for middle, low, high in quotients]
    return f"{name:26}" + "".join(cells)


def compare(options: argparse.Namespace) -> None:
    """Print how the checkouts compare. Raises: UserError."""
    pair = (options.other, THIS)
    shape = [f"--{name}={vars(options)[name.replace('-', '_')]}" for name in SHAPE]
    arguments = [*shape, f"--repeats={options.repeats}", "--no-memory", "--json"]
    # A mode finds caches and memory as the one before left them, so both measure the same modes, or both all.
    if options.modes and speed(options.other, ["--help"], lambda text: "--modes" in text):
        arguments += ["--modes", *options.modes]
    rounds: list[list[Report]] = []
    for reports in measure(pair, arguments, options.rounds):
        names = shared(reports, options.modes)
        rounds.append(reports)

    rows = [
        f"{'':26}{'to bare backbone':>16}{'ms a pair':>16}{'this/other, ratios':>22}{'this/other, times':>22}",
        f"{'':26}" + f"{'other':>8}{'this':>8}" * 2 + f"{'median (quartiles)':>22}" * 2,
        *(row(name, rounds) for name in names),
    ]
    if options.memory:
        peaks = [[speed(checkout, [*shape, "--only", name], peak) for checkout in pair] for name in names]
        cells = [f"{'peak GB':>16}", f"{'other':>8}{'this':>8}", *(f"{a:8.2f}{b:8.2f}" for a, b in peaks)]
        rows = [start + end for start, end in zip(rows, cells, strict=True)]
    about = [
        f"{name} {reports[1][name]}" for name in ("backbone", "device", "img_side", "precision", "torch")
    ]
    print(f"{', '.join(about)}; {options.rounds} rounds of {options.repeats}", *rows, sep="\n")


def positive(text: str) -> int:
    """Argument type."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("other", type=Path, help="folder of the other checkout")
    for name, default in SHAPE.items():
        add(f"--{name}", default=default, help=f"speed.py's, {default} if not given")
    add("--rounds", type=positive, default=5, help="how often both run, 5 if not given")
    add("--repeats", type=positive, default=2, help="how often a run measures each mode, 2 if not given")
    add("--modes", nargs="+", default=[], metavar="MODE", help="these alone, where both can choose")
    add("--memory", action="store_true", help="also the peak memory of a process that runs one mode alone")
    options = parser.parse_args(arguments)
    try:
        compare(options)
    except UserError as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")


if __name__ == "__main__":
    main()
