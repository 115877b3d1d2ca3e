"""Damaged files of one's own data and of AP-10K are read or refused in one sentence that names the file.

`MUTATIONS=20000 python -m pytest tests/test_own_mutations.py` tries as many of each kind; the same ones every time.
"""

import json
import os
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_own

from dhpf.common.errors import UserError
from dhpf.data import open_benchmark

COUNT = int(os.environ.get("MUTATIONS", "150"))
SECONDS = 10
HOSTILE: list[Any] = [
    None, True, 0, -1, 0.5, 2, 7, 1e6, 1e308, -1e308, 10**30, float("nan"), float("inf"), "", " ", "1", "nan", "1e999",
    "x" * 5000, "../../../etc/passwd", "/etc/passwd", "C:\\a.jpg", "images\\cat_0.jpg", "a\0b", "a\nb", "\ud800",
    "ä€😀",
    [], {}, [[]], [1, 2], [None] * 3, ["a"] * 30, [1e300] * 30, [[1, 2, 2]] * 10, {"id": 1}, [{}], [[[[1]]]],
]  # fmt: skip
BYTES = [
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\r\n",
    b"\n",
    b'"',
    b",",
    b";",
    b"[",
    b"{",
    b"}",
    b"\xe4",
    b"9" * 5000,
]
BYTES += [b"[" * 200_000, b'{"a":' * 50_000, b"NaN", b"-", b"\t", b"1e999", b"\\u0000", b"null"]
Random = np.random.Generator


def one_of(rng: Random, things: Any) -> Any:
    return things[int(rng.integers(len(things)))]


def mutated_bytes(rng: Random, content: bytes) -> bytes:
    """Content with bytes put in, cut out, overwritten or doubled, or written as another system writes it."""
    first, last = sorted(rng.integers(len(content) + 1, size=2).tolist())
    return one_of(
        rng,
        [
            content[:first],
            content[:first] + content[last:],
            content[:last] + content[first:],
            content[:first] + one_of(rng, BYTES) + content[first:],
            content[:first] + one_of(rng, BYTES) + content[first + 1 :],
            content.replace(b"\n", b"\r\n"),
            b"\xef\xbb\xbf" + content,
            content.decode().encode("utf-16"),
            content.replace(b",", b";"),
        ],
    )


def mutated_json(rng: Random, content: bytes) -> bytes:
    """Content of which some values are others, missing, or twice there."""
    tree = json.loads(content)
    for _ in range(int(rng.integers(1, 4))):
        place = tree
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = one_of(rng, keys)
            if isinstance(place[key], dict | list) and place[key] and rng.random() < 0.8:
                place = place[key]
                continue
            if (kind := rng.random()) < 0.2:
                del place[key]
            elif kind < 0.3 and isinstance(place, list):
                place.append(deepcopy(place[key]))
            else:
                place[key] = deepcopy(one_of(rng, HOSTILE))
            break
    return json.dumps(tree).encode()


def mutated_cells(rng: Random, content: bytes) -> bytes:
    """A table of which some cells are others."""
    rows = [line.split(",") for line in content.decode().splitlines()]
    for _ in range(int(rng.integers(1, 4))):
        row = one_of(rng, rows)
        if row:
            cell = str(one_of(rng, HOSTILE)).encode("utf-8", "replace").decode()
            row[int(rng.integers(len(row)))] = one_of(rng, [cell, f'"{cell}"', f'"{cell}', f"{cell},"])
    return "\n".join(map(",".join, rows)).encode()


def place(folder: Path, kind: str) -> tuple[Path, Callable[[], Any]]:
    """A file to damage, and what reads it."""
    if kind.startswith("ap10k"):
        tiny_own.make_ap10k(folder)
        inside = (
            "PairAnnotation/test/0-1:king cheetah"
            if kind == "ap10k pair"
            else "ImageAnnotation/Canidae/dog/000000000011"
        )
        return folder / f"ap-10k/{inside}.json", lambda: open_benchmark("ap10k", folder, "test", img_side=64)
    path = tiny_own.make_coco(folder) if kind == "coco" else tiny_own.make_table(folder)
    return path, lambda: open_benchmark(kind, path, None, img_side=64)


def refusal(reading: Callable[[], Any]) -> str:
    """The message with which a benchmark, or the annotation of one of its first pairs, is refused; else nothing."""
    try:
        benchmark = reading()
        for i in range(min(len(benchmark), 12)):
            benchmark.annotation(i)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", ["coco", "table", "ap10k pair", "ap10k image"])
def test_damaged_files_are_read_or_refused(tmp_path, kind):
    path, reading = place(tmp_path, kind)
    whole, outcomes = path.read_bytes(), {"read": 0, "refused": 0}
    for seed in range(COUNT):
        rng = np.random.default_rng(seed)
        structured = mutated_cells if kind == "table" else mutated_json
        path.write_bytes(one_of(rng, [mutated_bytes, structured, structured])(rng, whole))
        begin = time.monotonic()
        told = refusal(reading)
        outcomes["refused" if told else "read"] += 1
        assert "\n" not in told, seed
        assert not told or path.stem in told or "cat_" in told, (seed, told)
        assert len(told) < 20_000, seed
        assert time.monotonic() - begin < SECONDS, seed
    assert min(outcomes.values()) > COUNT / 20, outcomes
