"""Damages annotation files at random, each of which must be read, or refused in one sentence: python benchmarks/fuzz.py

A refusal names the file, the line or record, and the way out. Anything else (another exception, more than a few
seconds, much memory) is a failure and is told with the number that makes the same damage again: --first N --count 1.
"""

import argparse
import json
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.io import loadmat, savemat

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(1, str(Path(__file__).parents[1] / "tests"))
from dhpf.common.errors import UserError
from dhpf.data import BENCHMARKS
from dhpf.data.loading import skip_or_raise
from tests.helpers import tiny, tiny_own

SECONDS = 10  # for one file
MIB = 300  # more memory than before, for all files
WAYS_OUT = (
    "--list",
    "choose another",
    "--on-bad-pair",
    "save it as UTF-8",
    "correct it",
    "correct or remove it",
)
WAYS_OUT += ("export it", "replace it", "rename one", "--val-share", "--images")
RECORD = (
    r", line \d+|no pair|not JSON|no list '|two categories"
    r"|(annotations|images|categories)\[\d+\]|\d-\d+:[\w ]+\.json"
)
TOKENS = (
    *("", "nan", "NaN", "inf", "-Infinity", "-1", "0", "1e308", "1e999", "9" * 400, "0x10", "1_0", "½", "٣", "null"),
    *("true", "[]", "{}", '"', "'", ",", ";", ":", "-", "_", "\t", "\n", "\r", "\0", "\u2028", "\ufeff", "é"),
    *("..", "../" * 9, "/etc/passwd", "C:\\x", "a" * 100_000, "[" * 20_000, '"' + "1," * 70_000, "%s", "\ud800"),
)  # fmt: skip
VALUES = (
    *(
        None,
        True,
        -1,
        0,
        1e308,
        -1e308,
        10**400,
        float("nan"),
        float("inf"),
        "",
        "x",
        "1",
        [],
        {},
        [None],
        [[]],
    ),
    *([1], [1, 2, 3, 4, 5], {"x": 1}, [[1, 2]] * 500, "y" * 100_000),
)
ARRAYS = (
    *(np.ones((0, 2)), np.ones((16, 3)), np.ones((2, 2, 2)), np.full((16, 2), np.inf), np.full((4,), np.nan)),
    *(np.ones((16, 2), complex), np.array("x"), np.array([["a", 1]], object), np.zeros((200_000, 2)), np.array(7)),
    *(np.array({"a": 1}, object), np.ones((16, 2), np.uint8), np.full((16, 2), -1e300), np.ones((1, 4)), np.eye(4)),
)  # fmt: skip

Damage = Callable[[bytes, random.Random], bytes]


# Damages, from the bytes of a file to others.


def cut(content: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(content) + 1)
    return (
        content[:start]
        if draw.random() < 0.5
        else content[:start] + content[start + draw.randrange(1, 200) :]
    )


def overwritten(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def doubled(content: bytes, draw: random.Random) -> bytes:
    start, end = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    return content[:end] + content[start:end] * draw.choice((1, 2, 50)) + content[end:]


def encoded(content: bytes, draw: random.Random) -> bytes:
    """Another encoding or line ending: most of these are to be read."""
    text = content.decode()
    ways: tuple[Callable[[], bytes], ...] = (
        lambda: b"\xef\xbb\xbf" + content,
        lambda: text.encode("utf-16"),
        lambda: text.replace("\n", "\r\n").encode(),
        lambda: text.replace("\n", "\r").encode(),
        lambda: text.replace("a", "é", draw.randrange(1, 5)).encode("cp1252"),
        lambda: content.replace(b"0", b"\0", draw.randrange(1, 5)),
        lambda: content + b"\0" * 100,
        lambda: text.replace(",", ";").encode(),
    )
    return draw.choice(ways)()


def retold(content: bytes, draw: random.Random) -> bytes:
    """Tokens replaced by others."""
    text = content.decode()
    for _ in range(draw.choice((1, 1, 2, 5))):
        places = list(re.finditer(r"[-\w.]+|[^\w\s]", text)) or [re.match("", text)]
        place = draw.choice(places)
        text = text[: place.start()] + draw.choice(TOKENS) + text[place.end() :]
    return text.encode(errors="surrogatepass")


def restructured(content: bytes, draw: random.Random) -> bytes:
    """Values of a JSON file replaced, left out, or put deep inside lists."""
    whole = [json.loads(content)]
    for _ in range(draw.choice((1, 1, 2, 5))):
        inner: Any = whole
        key: Any = 0
        while isinstance(inner[key], list | dict) and inner[key] and draw.random() < 0.8:
            inner = inner[key]
            key = draw.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
        if draw.random() < 0.2 and inner is not whole:
            del inner[key]
            continue
        inner[key] = deepcopy(draw.choice((*VALUES, [inner[key]], str(inner[key]))))
    text = json.dumps(whole[0])
    deep = draw.choice((0, 0, 0, 0, 0, 500, 100_000))
    return ("[" * deep + text + "]" * deep).encode()


def rearrayed(content: bytes, draw: random.Random) -> bytes:
    """Arrays of a MATLAB file replaced or left out."""
    arrays = {name: loadmat(BytesIO(content))[name] for name in ("kps", "bbox")}
    name = draw.choice(list(arrays))
    arrays[name] = draw.choice(ARRAYS)
    if draw.random() < 0.2:
        del arrays[name]
    file = BytesIO()
    savemat(file, arrays, do_compression=draw.random() < 0.5)
    return file.getvalue()


BYTES: tuple[Damage, ...] = (cut, overwritten, doubled)
TEXT: tuple[Damage, ...] = (*BYTES, encoded, retold, retold)


class Kind(NamedTuple):
    """A kind of file: what makes a folder with some, which of them is damaged, how, and what reads the folder."""

    make: Callable[[Path], Any]
    file: str
    damages: tuple[Damage, ...]
    read: Callable[[Path], Any]


def pairs_of(benchmark: str, split: str = "test") -> Callable[[Path], None]:
    """Reads all pairs of a benchmark as the programs do."""

    def read(folder: Path) -> None:
        data = BENCHMARKS[benchmark](folder, split)
        for i in range(len(data)):
            try:
                data.annotation(i)
            except UserError as error:
                skip_or_raise([str(error)], "stop")

    return read


def listed(folder: Path) -> None:
    """A tiny PF-PASCAL without annotations, whose list has key-points."""
    tiny.make_pfpascal(folder, pairs=2)
    shutil.rmtree(folder / "PF-PASCAL/Annotations")
    path = folder / "PF-PASCAL/test_pairs.csv"
    header, *rows = path.read_text().split()
    points = ",1.5;20;33.25,4;5;6;,7;8;9,10;11;12"
    path.write_text("\n".join([header + ",XA,YA,XB,YB", *(row + points for row in rows)]))


def kind(benchmark: str, file: str, *damages: Damage, split: str = "test") -> Kind:
    """A file of a tiny benchmark."""
    folder = BENCHMARKS[benchmark].folder
    return Kind(
        lambda place: tiny.MAKERS[benchmark](place, pairs=2),
        f"{folder}/{file}",
        damages,
        pairs_of(benchmark, split),
    )


def own(benchmark: str, file: str, make: Callable[[Path], Path], *damages: Damage) -> Kind:
    """A file of one's own data."""
    return Kind(make, file, damages, lambda place: pairs_of(benchmark, "whole")(place / file))


def ap10k(file: str) -> Kind:
    """A file of a tiny AP-10K."""
    return Kind(
        lambda place: tiny_own.make_ap10k(place, pairs=2),
        f"ap-10k/{file}",
        (*TEXT, restructured, restructured),
        pairs_of("ap10k"),
    )


KINDS = {
    "pfpascal list": kind("pfpascal", "test_pairs.csv", *TEXT),
    "pfpascal training list": kind("pfpascal", "trn_pairs.csv", *TEXT, split="trn"),
    "pfpascal list with points": Kind(listed, "PF-PASCAL/test_pairs.csv", TEXT, pairs_of("pfpascal")),
    "pfpascal .mat": kind("pfpascal", "Annotations/*/*.mat", rearrayed),  # other damage can crash SciPy
    "pfwillow list": kind("pfwillow", "test_pairs.csv", *TEXT),
    "caltech list": kind("caltech", "test_pairs_caltech_with_category.csv", *TEXT),
    "spair list": kind("spair", "Layout/large/test.txt", *TEXT),
    "spair .json": kind("spair", "PairAnnotation/test/*.json", *TEXT, restructured, restructured),
    "coco": own("coco", "own.json", tiny_own.make_coco, *TEXT, restructured, restructured),
    "table": own("table", "pairs.csv", tiny_own.make_table, *TEXT),
    "ap10k pair": ap10k("PairAnnotation/test/*.json"),
    "ap10k image": ap10k("ImageAnnotation/*/*/*.json"),
}


class TooLongError(BaseException):
    """More than SECONDS for one file; no `except Exception` of a reader hides it."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def verdict(read: Callable[[Path], Any], folder: Path, path: Path, content: bytes) -> str:
    """'read' or 'refused'; else what is wrong with how the content of a file was treated."""
    path.write_bytes(content)
    try:
        with limited(SECONDS):
            read(folder)
    except UserError as error:
        message = str(error)
        if not any(name in message for name in (path.name, path.with_suffix(".jpg").name)):
            return f"the file is not named: {message[:500]}"
        if not re.search(RECORD, message):
            return f"no line or record is named: {message[:500]}"
        if not any(way in message for way in WAYS_OUT):
            return f"no way out is named: {message[:500]}"
        return "refused" if len(message) < 1200 and "\n" not in message else f"no sentence: {message[:2000]}"
    except TooLongError:
        return f"takes more than {SECONDS} s"
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:500]
    return "read"


def fuzz(folder: Path, numbers: range) -> Iterator[tuple[int, str, str]]:
    """Damage by its number, kinds in turn: the number, the kind and the verdict."""
    for n in numbers:
        name = list(KINDS)[n % len(KINDS)]
        files, place = KINDS[name], folder / str(n % len(KINDS))
        if not place.exists():
            files.make(place)
        draw = random.Random(n)
        path = draw.choice(sorted(place.glob(files.file)))
        content = path.read_bytes()
        damaged = draw.choice(files.damages)(content, draw)
        try:
            yield n, name, verdict(files.read, place, path, damaged)
        finally:
            path.write_bytes(content)


def peak() -> float:
    """The most memory that this process had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> int:
    parser = argparse.ArgumentParser(description="Damage annotation files at random.")
    parser.add_argument("--count", type=int, default=20_000, metavar="N", help="files (default %(default)s)")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first")
    options = parser.parse_args()
    counts: Counter[tuple[str, str]] = Counter()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        list(fuzz(Path(folder), range(len(KINDS))))  # what is imported and cached is not the damage's
        memory, begin = peak(), time.monotonic()
        for n, name, result in fuzz(Path(folder), range(options.first, options.first + options.count)):
            failed += result not in ("read", "refused")
            if result not in ("read", "refused"):
                print(f"{n} ({name}): {result}", flush=True)
                result = "failed"
            counts[name, result] += 1
        seconds, memory = time.monotonic() - begin, peak() - memory
    for name in KINDS:
        print(f"{name}: " + ", ".join(f"{counts[name, r]} {r}" for r in ("read", "refused", "failed")))
    print(
        f"{sum(counts.values())} files in {seconds:.0f} s, {failed} failed, {memory:.0f} MiB more than before"
    )
    return 1 if failed or memory > MIB else 0


if __name__ == "__main__":
    sys.exit(main())
