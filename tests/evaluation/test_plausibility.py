"""A file of predictions that mean something else is told from bad predictions; nothing is changed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dhpf import evaluate
from dhpf.data import open_benchmark
from dhpf.evaluation.plausibility import plausibility_warning
from dhpf.evaluation.prediction_frames import from_image
from dhpf.evaluation.predictions import table_of
from dhpf.matching.predict import LoadingConfig, predict
from tests.helpers import tiny
from tests.helpers.commands import succeed
from tests.helpers.models import build
from tests.helpers.places import SHARED

Points = np.ndarray
SIDE = 64
WRONG: dict[str, tuple[str, Callable[[Points, Points, Points, Points], Points]]] = {
    # what the warning names; target and source, their sizes -> what a wrong file has
    "on the source": ("source image", lambda _, source, size, sizes: source),
    "on the source, scaled": ("source image", lambda _, source, size, sizes: source / sizes * size),
    "swapped": ("x first", lambda target, *_: target[::-1]),
    "768": ("--predictions-frame 768", lambda target, _, size, __: from_image(target, "768", size)),
    "odd": ("--predictions-frame 333", lambda target, _, size, __: from_image(target, "333", size)),
    "padded": ("--predictions-frame pad840", lambda target, _, size, __: from_image(target, "pad840", size)),
    "0..1": ("--predictions-frame 0..1", lambda target, _, size, __: target / size),
    "-1..1": ("--predictions-frame -1..1", lambda target, _, size, __: 2 * target / size - 1),
    "twice the size": ("2.0", lambda target, *_: 2 * target),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, pd.DataFrame]:
    """A benchmark, and its points with the sizes of their images."""
    benchmark = open_benchmark(
        "pfwillow", tiny.make_pfwillow(tmp_path_factory.mktemp("willow")), img_side=SIDE
    )
    found = evaluate(lambda *_: np.full((10, 2), 1.0), benchmark).table
    return benchmark, found.assign(source_size=[benchmark.size(key) for key in found.source])


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("error", [0.0, 0.06])
def test_what_predictions_mean_is_named(places: tuple[object, pd.DataFrame], what: str, error: float) -> None:
    """Also of predictions that are some way off; a side that nobody uses is found from exact ones alone."""
    benchmark, table = places
    named, wrong = WRONG[what]
    rng, rows = np.random.default_rng(0), []
    for row in table.itertuples():
        size, sizes = np.array([row.target_width, row.target_height]), np.array(row.source_size)
        target, source = (
            np.array([row.target_x, row.target_y]) / SIDE,
            np.array([row.source_x, row.source_y]) / SIDE,
        )
        off = rng.normal(0, error * size / 2) * ("source" not in what and what != "odd")
        rows.append(wrong(target * size + off, source * sizes, size, sizes) / size * SIDE)
    table = table.assign(
        **dict(zip(("predicted_x", "predicted_y"), np.array(rows).T.astype(np.float32), strict=True))
    )
    assert named in plausibility_warning(table, benchmark, "image")


@pytest.mark.parametrize("seed", range(3))
def test_bad_predictions_are_not_doubted(places: tuple[object, pd.DataFrame], seed: int) -> None:
    benchmark, table = places
    rng = np.random.default_rng(seed)
    shuffled = table.groupby("pair")[["target_x", "target_y"]].transform(
        lambda c: rng.permutation(c.to_numpy())
    )
    for points in (rng.uniform(0, SIDE, (len(table), 2)), rng.normal(SIDE / 2, 9, (len(table), 2)), shuffled):
        predicted = dict(zip(("predicted_x", "predicted_y"), np.asarray(points, np.float32).T, strict=True))
        assert plausibility_warning(table.assign(**predicted), benchmark, "image") == ""


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="no benchmark data beside the repository")
@pytest.mark.parametrize("name", ["pfpascal", "pfwillow", "spair", "synthetic"])
@pytest.mark.parametrize("weights", [None, "random"])
def test_a_network_that_finds_nothing_is_not_doubted(name: str, weights: str | None) -> None:
    benchmark = open_benchmark(name, SHARED / "data")
    some = range(0, len(benchmark), max(1, len(benchmark) // 8))
    rows, *_ = predict(build("efficientnet_lite0", weights), benchmark, some, LoadingConfig(), lambda _: None)
    assert plausibility_warning(table_of(rows, list(benchmark.labels)), benchmark, "image") == ""


@pytest.mark.skipif(not SHARED.is_dir(), reason="no benchmark data beside the repository")
def test_the_log_warns_of_a_wrong_file_and_its_frame_mends_it(tmp_path: Path) -> None:
    cases = SHARED / "cases" / "predictions"
    on = f"test.py --benchmark pfwillow --datapath {SHARED / 'data'} --list {cases / 'first30_pairs.csv'} --workers 0"
    named = succeed(tmp_path, f"{on} --from-predictions {cases / 'pad840_centre.csv'} --logpath wrong").out
    assert "--predictions-frame pad840" in named
    mended = (
        f"{on} --from-predictions {cases / 'pad840_centre.csv'} --predictions-frame pad840 --logpath right"
    )
    out = succeed(tmp_path, mended).out
    assert "warning" not in out
    assert "PCK@0.1 100.00 %" in out
