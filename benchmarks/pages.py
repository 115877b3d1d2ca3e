"""How long Chromium takes to open a report that lists as many pairs as SPair-71k's test split, and how large it is.

    python benchmarks/pages.py [--pairs 12234] [--pictures 63]

Time is Chromium's own, from the beginning of the navigation until the page is loaded and laid out, its table made.
"""

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import numpy as np
from PIL import Image

from dhpf.report.gallery import pair_picture
from dhpf.report.page import Section, write_report

NAMES = ("chromium", "chromium-browser", "google-chrome")
REPEATS = 5
STOPWATCH = """addEventListener("load", () => {
  document.title = String(Math.round(document.body.offsetHeight && performance.now()));
});"""


def seconds(page: Path) -> float:
    """Median time to open a page."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if not program:
        raise SystemExit(f"none of {', '.join(NAMES)} is installed")
    html = page.read_text(encoding="utf-8").replace('http-equiv="Content-Security-Policy"', "")
    page.write_text(html.replace("</body>", f"<script>{STOPWATCH}</script></body>"), encoding="utf-8")
    command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page.as_uri()]
    taken = []
    for _ in range(REPEATS):
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        taken.append(float(re.findall(r"<title>(\d+)", done.stdout)[0]) / 1000)
    return statistics.median(taken)


def report(path: Path, pairs: int, shown: int) -> None:
    """A report as a test writes it: `shown` pictures and a table of all pairs."""
    rng = np.random.default_rng(0)
    source, target = map(
        Image.fromarray, rng.integers(0, 256, (2, 30, 30, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    )
    points = rng.uniform(20, 220, (3, 2, 8))
    drawn = pair_picture(source, target, *points, rng.random(8) < 0.5, "a pair")
    rows = [
        [
            k,
            f"category {k % 18}",
            *(f"JPEGImages/category {k % 18}/2008_{n:06d}.jpg" for n in rng.integers(0, 1800, 2)),
            8,
            value,
        ]
        for k, value in enumerate(np.sort(rng.uniform(0, 100, pairs)).round(4).tolist())
    ]
    header = ["Pair", "Category", "Source", "Target", "Key-points", "PCK@0.1"]
    command = "python match.py --benchmark spair --load logs/spair-strong/best_model.pt --pair"
    sections = [
        Section("Pairs", pictures=[drawn] * shown),
        Section("All pairs", header, rows, paged=True, command=command),
    ]
    write_report(path, "A report", sections)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=12_234)
    parser.add_argument("--pictures", type=int, default=63)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        report(page, options.pairs, options.pictures)
        size, took = page.stat().st_size / 1e6, seconds(page)
    print(f"{options.pairs} pairs, {options.pictures} pictures: {size:.1f} MB, opens in {took:.2f} s")


if __name__ == "__main__":
    main()
