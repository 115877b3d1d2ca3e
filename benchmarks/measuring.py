"""How long it takes to measure predictions for SPair-71k's whole test list and to compare two runs on it, and how much
memory: python benchmarks/measuring.py

Each case runs in a process of its own, forked after the imports; memory is what its peak adds to what it had then. The
12,234 pairs repeat those of ../shared/data, or of a tiny benchmark where that is not there, with 88,000 key-points, as
the real ones have. Pictures are left out.
"""

import contextlib
import io
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.reading import measured, spair
from dhpf.data.benchmark import Pair
from dhpf.data.spair import SPair
from dhpf.matching import drawing
from dhpf.programs import compare, test

SECONDS, MIB, COMPARISON = 20, 500, 30


def with_fewer_points(whole: Pair) -> Pair:
    """The pair with seven points or eight, as SPair-71k's pairs have on average."""
    n = 7 + (whole.line % 5 == 0)
    ends = {end: getattr(whole, end)[:, :n] for end in ("src_kps", "trg_kps")}
    return replace(whole, **ends, points=whole.points[:n])


def write_predictions(folder: Path) -> int:
    """Two files of predictions, near the target's points; returns the number of their lines."""
    benchmark, rng = SPair(folder, "test"), np.random.default_rng(0)
    lines: list[list[str]] = [["pair,point,x,y"], ["pair,point,x,y"]]
    for i, pair in enumerate(map(benchmark.complete, benchmark.pairs)):
        for rows in lines:
            noise = rng.normal(0, 40, pair.trg_kps.shape)
            rows += [f"{i},{k},{x:.2f},{y:.2f}" for k, (x, y) in enumerate((pair.trg_kps + noise).T)]
    for name, rows in zip(("a", "b"), lines, strict=True):
        (folder / f"{name}.csv").write_text("\n".join(rows))
    return len(lines[0]) - 1


def quietly(main: object, arguments: str) -> int:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        main(arguments.split())  # type: ignore[operator]
    return len(out.getvalue())


def run() -> int:
    pixel = io.BytesIO()
    Image.new("RGB", (1, 1)).save(pixel, "png")
    drawing.render = lambda *_: pixel.getvalue()  # type: ignore[assignment]
    complete, slow = SPair.complete, 0
    SPair.complete = lambda self, pair: with_fewer_points(complete(self, pair))  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as place:
        folder = spair(Path(place), "test", layout=True)
        points = write_predictions(folder)
        on = f"--benchmark spair --datapath {folder} --workers 0"
        cases = {
            f"measuring {points} predictions": (
                test.main,
                f"{on} --from-predictions {folder}/a.csv",
                SECONDS,
                MIB,
            ),
            "comparing two runs": (compare.main, f"{folder}/a {folder}/b", COMPARISON, None),
        }
        for name, (main, arguments, seconds, memory) in cases.items():
            if name.startswith("measuring"):
                other = f"{on} --from-predictions {folder}/b.csv --logpath {folder}/b"
                # Not here: where OpenMP's threads have run, a fork waits for them for ever.
                measured(lambda m=main, a=other: quietly(m, a))  # type: ignore[misc]
                arguments += f" --logpath {folder}/a"
            _, took, added = measured(lambda m=main, a=arguments: quietly(m, a))  # type: ignore[misc]
            over = took > seconds or (memory is not None and added > memory)
            slow += over
            print(f"{name:32} {took:6.1f} s  {added:6.0f} MiB{'  over the limit' * over}", flush=True)
    return slow


if __name__ == "__main__":
    sys.exit(run())
