"""The explorer: its page predicts what match.py predicts, for any point, in both directions, and holds nothing else."""

import io
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from dhpf.data import open_benchmark
from dhpf.data.synthetic import PHOTOGRAPHS
from dhpf.matching.matcher import Matcher
from dhpf.report import explorer as explorers
from dhpf.report.explorer import cell_type, pack
from tests.helpers import tiny
from tests.helpers.commands import refused, succeed

TINY = "--img-side 64 --device cpu"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
OPTIONS = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --virtual-time-budget=60000"


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.open(PHOTOGRAPHS / "astronaut.png").convert("RGB")


@pytest.fixture(scope="module")
def matcher() -> Matcher:
    return Matcher.load(img_side=64, device="cpu")


@pytest.fixture
def home(tmp_path: Path, photo: Image.Image) -> Path:
    photo.crop((60, 0, 460, 267)).resize((300, 200)).save(tmp_path / "a.png")
    (tmp_path / "others").mkdir()
    photo.crop((80, 10, 420, 300)).resize((170, 145)).save(tmp_path / "others" / "b, c.png")
    return tmp_path


def shown(html: str) -> pd.DataFrame:
    """The table of points that a page, or what Chromium dumped of it, holds."""
    text = re.search(r'<textarea id="table"[^>]*>(.*?)</textarea>', html, re.S)
    return pd.read_csv(io.StringIO(text[1] if text else ""))


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium, see CONTRIBUTING.md")
def test_any_point_is_predicted_as_by_the_program_in_both_directions(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand points each way, also on borders."""
    monkeypatch.setattr("dhpf.matching.drawing.render", lambda *_: b"")
    monkeypatch.setattr("dhpf.matching.drawing.matches", lambda *_, **__: None)
    rng = np.random.default_rng(0)
    asked, expected = [], []
    ends = {"a.png": (300, 200), "others/b, c.png": (170, 145)}
    for source, target, mark in ((*ends, ""), (*list(ends)[::-1], "r")):
        points = rng.uniform(0, ends[source], (1000, 2)).round(3)
        # Corners, and where the boxes of cells end.
        points[:4] = [(0, 0), ends[source], (ends[source][0], 0), np.array(ends[source]) / 2]
        asked += [f"{mark}{x:g},{y:g}" for x, y in points]
        (home / "points.csv").write_text("\n".join(f"{x:g},{y:g}" for x, y in points))
        where = f"'{source}' '{target}' --points-file points.csv --explore page{mark}.html --output out --img-side 120"
        out = succeed(home, f"match.py {where} --device cpu").out
        assert re.search(r"written: page\S*, 0\.\d MB", out)
        expected.append(pd.read_csv(home / "out" / f"{Path(source).stem}-{Path(target).stem}.csv").to_numpy())
    page = home / "page.html"
    html = page.read_text()
    images, directions = (
        sum(map(len, re.findall(of, html))) for of in ('data:image/jpeg[^"]+', r'"directions": [^]]+')
    )
    assert 60_000 < directions < 63_000
    assert len(html) - images + 3 * directions < 300_000  # at side 240, which has four times the cells

    command = [CHROMIUM, *OPTIONS.split(), "--dump-dom", page.as_uri() + "#" + ";".join(asked)]
    table = shown(subprocess.run(command, capture_output=True, timeout=120, check=True, text=True).stdout)
    assert set(table.source) == {"a.png"}
    assert set(table.target) == {"others/b, c.png"}  # quoted where it has a comma
    found = table.iloc[:, 2:].to_numpy()
    np.testing.assert_allclose(found[:1000], expected[0], atol=0.001)
    np.testing.assert_allclose(found[1000:, [2, 3, 0, 1, 4]], expected[1], atol=0.001)


def test_the_best_cells_come_first_and_shares_add_up(
    matcher: Matcher, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = matcher.encode(photo), matcher.encode(photo.crop((50, 20, 400, 400)))
    matches = matcher.model.compare(a.features, b.features)
    rows = np.frombuffer(pack(matches), cell_type(16)).reshape(256, 13)
    cells, shares = rows[:, :6].astype(int), rows[:, 6:12].astype(int)
    best, confidence = matches.confident(torch.arange(256)[None])
    np.testing.assert_array_equal(cells[:, 0], best[0])
    np.testing.assert_allclose(rows[:, 12] / explorers.UNIT, confidence[0], atol=1e-5)
    assert (np.diff(shares) <= 0).all()
    assert (shares.sum(1) <= explorers.UNIT + 6).all()
    assert all(len(set(row)) == 6 for row in cells.tolist())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("a.png others/. a.png --explore x.html", "--explore x.html"),
        ("a.png a.png --explore a.png/x.html", "a.png/x.html"),
        ("a.png", "TRG"),
        ("a.png a.png --benchmark synthetic", "--pair"),
        ("a.png a.png --benchmark synthetic --pair 1", "--pair"),
        ("--benchmark synthetic --pair 48", "--pair 48"),
        ("--benchmark spair --pair 1 --no-download --datapath .", "SPair-71k"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(home: Path, arguments: str, named: str) -> None:
    refused(home, f"match.py {arguments} {TINY}", named)


def test_a_pair_of_a_benchmark_is_drawn_as_it_is_tested(
    tmp_path: Path, matcher: Matcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its key-points, annotated and predicted, in pixels of the stored images."""
    tiny.make_spair(tmp_path)
    drawn = {}
    monkeypatch.setattr("dhpf.matching.drawing.render", lambda *_: b"")
    monkeypatch.setattr(
        "dhpf.matching.drawing.matches", lambda *images, **more: drawn.update(more, images=images)
    )
    succeed(
        tmp_path,
        f"match.py --benchmark spair --pair 5 --datapath . --no-download --output out --explore e.html {TINY}",
    )
    benchmark = open_benchmark("spair", tmp_path, "test", img_side=64)
    sample, pair = benchmark.annotation(5), benchmark.complete(benchmark.pairs[5])
    source, target = (benchmark.pil_image(sample[f"{end}_key"]) for end in ("src", "trg"))
    table = pd.read_csv(tmp_path / "out" / "spair-test-5.csv")
    np.testing.assert_allclose(table.iloc[:, :2].to_numpy().T, pair.src_kps, atol=1e-3)
    found = matcher.match(source, target, np.asarray(pair.src_kps).T)
    np.testing.assert_allclose(table.iloc[:, 2:4], found.points, atol=1e-3)
    np.testing.assert_allclose(drawn["trg_kps"], pair.trg_kps, atol=1e-3)
    assert drawn["title"] == f"spair test, pair 5, dog: PCK@0.1 {100 * np.mean(drawn['correct']):.1f} %"


def test_other_points_and_outlines_of_a_pair(tmp_path: Path, undrawn: None) -> None:
    tiny.make_caltech(tmp_path)
    where = f"match.py --benchmark caltech --datapath . --no-download {TINY}"
    succeed(tmp_path, f"{where} --pair 1 --output outline")
    assert len(pd.read_csv(tmp_path / "outline" / "caltech-test-1.csv")) > 3
    succeed(tmp_path, f"{where} --pair 1 --points 10,20 --output own")
    assert pd.read_csv(tmp_path / "own" / "caltech-test-1.csv").iloc[:, :2].to_numpy().tolist() == [[10, 20]]
