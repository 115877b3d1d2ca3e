"""Measures beside PCK equal what a reading of their definitions, line by line, computes from annotations and a file."""

import json
from itertools import permutations
from math import dist
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from dhpf.data import open_benchmark
from dhpf.evaluation import MEASURES
from dhpf.evaluation.external_predictions import external_rows, read_external
from dhpf.evaluation.figures import score
from dhpf.evaluation.predictions import read_predictions, table_of, write_predictions
from dhpf.matching.keypoint_precision import keypoint_scores
from dhpf.model.dhpf import Matches
from dhpf.model.voting import DenseRows, Scores
from tests.helpers import tiny
from tests.helpers.commands import TINY, succeed

# Of cats: 2 and 3 are the ears' tips, 9 to 12 the paws, 0 and 1, 4 and 5 change places in a mirror.
IMAGES = {  # azimuth and visible points; sizes are unequal
    "one": (
        (120, 80),
        0,
        {"0": (20, 30), "1": (40, 28), "2": (18, 10), "3": (25, 9), "8": (60, 40), "9": (30, 70)},
    ),
    "two": (
        (100, 100),
        3,
        {"0": (70, 30), "2": (66, 12), "3": (74, 12), "9": (20, 80), "10": (34, 84), "13": (5, 60)},
    ),
    "three": (
        (90, 120),
        6,
        {"1": (40, 40), "3": (60, 20), "8": (50, 55), "9": (20, 99), "4": (33, 30), "5": (45, 30)},
    ),
}
PAIRS = list(permutations(IMAGES, 2))
BOX = [4, 6, 84, 76]
ALPHA = 0.1


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SPair-71k's layout with `ImageAnnotation`, of three cats."""
    folder = tmp_path_factory.mktemp("cats") / "SPair-71k"
    (folder / "ImageAnnotation" / "cat").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, (size, azimuth, points) in IMAGES.items():
        noise = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize(size)
        tiny.save(noise, folder / "JPEGImages" / "cat" / f"{name}.jpg")
        content = {"azimuth_id": azimuth, "kps": {str(k): points.get(str(k)) for k in range(30)}}
        (folder / "ImageAnnotation" / "cat" / f"{name}.json").write_text(json.dumps(content))
    lines = [f"{n:06d}-{a}-{b}:cat" for n, (a, b) in enumerate(PAIRS)]
    for line, ends in zip(lines, PAIRS, strict=True):
        both = [IMAGES[end][2] for end in ends]
        common = [name for name in both[0] if name in both[1]]
        content = {"kps_ids": common, "src_bndbox": BOX, "trg_bndbox": BOX}
        content |= {
            f"{end}_kps": [of[name] for name in common] for end, of in zip(("src", "trg"), both, strict=True)
        }
        path = folder / "PairAnnotation" / "test" / f"{line}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    (folder / "Layout" / "large").mkdir(parents=True)
    (folder / "Layout" / "large" / "test.txt").write_text("\n".join(lines))
    return folder.parent


@pytest.fixture(scope="module")
def predictions() -> list[tuple[int, str, float, float]]:
    """(pair, name of the key-point, x, y): right, on the mirrored or another point, near or far."""
    rng, rows = np.random.default_rng(5), []
    for n, (a, b) in enumerate(PAIRS):
        source, target = IMAGES[a][2], IMAGES[b][2]
        for name in [name for name in source if name in target]:
            place = target[name if rng.random() < 0.5 else str(rng.choice(list(target)))]
            x, y = rng.normal(place, 4)
            rows.append((n, name, float(x), float(y)))
    rows[1] = (0, "2", 71, 12)  # within the threshold, but nearer to 3
    return rows


@pytest.fixture(scope="module")
def table(root: Path, predictions: Any, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    path = tmp_path_factory.mktemp("file") / "theirs.csv"
    lines = pd.DataFrame(predictions, columns=["pair", "name", "x", "y"])
    lines.assign(point=lines.groupby("pair").cumcount()).to_csv(path, index=False)
    benchmark = open_benchmark("spair", root, evaluation=True)
    rows, _ = external_rows(read_external(path, benchmark), benchmark)
    return table_of(rows, list(benchmark.labels))


def figures(table: pd.DataFrame, *names: str) -> dict[tuple[str, str], float]:
    """Values in original pixels by the figure's name and average."""
    totals = score(table, (ALPHA,), "bbox", names)["totals"]
    return {(f["name"], f["average"]): f["value"] for f in totals if f["frame"] == "original pixels"}


def share(correct: list[bool]) -> float:
    return pytest.approx(100 * sum(correct) / len(correct))


def test_pck_dagger(table: pd.DataFrame, predictions: Any) -> None:
    correct = []
    for n, name, x, y in predictions:
        source, target = (IMAGES[end][2] for end in PAIRS[n])
        distances = {k: dist((x, y), target[k]) for k in source if k in target}
        correct.append(distances[name] <= ALPHA * 80 and min(distances, key=lambda k: distances[k]) == name)
    found = figures(table, "pck-dagger")
    assert found["PCK†@0.1", "key-points"] == share(correct)
    by_pair = [
        [c for c, row in zip(correct, predictions, strict=True) if row[0] == n] for n in range(len(PAIRS))
    ]
    shares = [sum(of) / len(of) for of in by_pair if of]
    assert found["PCK†@0.1", "pairs"] == pytest.approx(100 * sum(shares) / len(shares))
    assert found["PCK†@0.1", "key-points"] < found["PCK@0.1", "key-points"]


def test_the_geometry_aware_subset(table: pd.DataFrame, predictions: Any) -> None:
    """GeoAware-SC's rule: of each group, if the target shows two or more, all that both images show."""
    groups = [["2", "3"], ["9", "10", "11", "12"]]
    correct = []
    for n, name, x, y in predictions:
        target = IMAGES[PAIRS[n][1]][2]
        for group in groups:
            if name in group and len([k for k in group if k in target]) >= 2:
                correct.append(dist((x, y), target[name]) <= ALPHA * 80)
    assert 3 < len(correct) < len(predictions)
    assert figures(table, "geometry-aware")["geometry-aware PCK@0.1", "key-points"] == share(correct)


def test_left_and_right(table: pd.DataFrame, predictions: Any) -> None:
    mirrored = {
        "0": "1",
        "1": "0",
        "2": "3",
        "3": "2",
        "4": "5",
        "5": "4",
        "9": "10",
        "10": "9",
        "11": "12",
        "12": "11",
    }
    kinds: list[tuple[bool, bool]] = []
    for n, name, x, y in predictions:
        target = IMAGES[PAIRS[n][1]][2]
        if mirrored.get(name) in target:
            kinds.append(tuple(dist((x, y), target[k]) <= ALPHA * 80 for k in (name, mirrored[name])))
    found = figures(table, "left-right")
    assert found["left-right correct@0.1", "key-points"] == share([own for own, _ in kinds])
    assert found["left-right confused@0.1", "key-points"] == share(
        [other and not own for own, other in kinds]
    )
    assert found["left-right ambiguous@0.1", "key-points"] == share([own and other for own, other in kinds])


def test_by_azimuth(table: pd.DataFrame, predictions: Any) -> None:
    found = figures(table, "azimuth")
    for degrees, ends in (
        (90, {"one", "three"}),
        (135, {"one", "two"}),
    ):  # 0 and 6, 0 and 3 eighths of a turn
        rows = [
            row
            for row in predictions
            if {*PAIRS[row[0]]} == ends or (degrees == 135 and "one" not in PAIRS[row[0]])
        ]
        correct = [dist((x, y), IMAGES[PAIRS[n][1]][2][name]) <= ALPHA * 80 for n, name, x, y in rows]
        assert found[f"PCK of {degrees}° azimuth difference@0.1", "key-points"] == share(correct)


def test_what_is_not_known_is_not_measured(table: pd.DataFrame, tmp_path: Path) -> None:
    """Without ImageAnnotation, or in a table of before; the columns survive a file."""
    write_predictions(tmp_path / "table.csv", table)
    pd.testing.assert_frame_equal(read_predictions(tmp_path / "table.csv"), table)
    before = table.drop(columns=["target_points", "azimuth_difference"])
    found = score(before, (ALPHA,), "bbox", ("pck-dagger", "geometry-aware", "left-right", "azimuth", "kap"))
    assert {f["measure"] for f in found["totals"] if "measure" in f} == {"pck-dagger"}
    assert [line.partition(":")[0] for line in found["about"][-4:]] == [
        "geometry-aware",
        "left-right",
        "azimuth",
        "kap",
    ]
    one = table.assign(target_points=table.target_points.where(table.pair != 0, ""))
    name = "left-right correct@0.1", "key-points"
    assert figures(one, "left-right")[name] == figures(one[one.pair != 0], "left-right")[name]


def test_scores_of_key_points_and_their_average_precision(table: pd.DataFrame) -> None:
    """SphericalMaps' evaluation, written out over cells, with equal scores."""
    rng, side, stored, listed = np.random.default_rng(3), 16, {}, []
    for n, ends in enumerate(PAIRS):
        source, target = (
            {
                k: (x * 64 / IMAGES[end][0][0], y * 64 / IMAGES[end][0][1])
                for k, (x, y) in IMAGES[end][2].items()
            }
            for end in ends
        )
        matrix = rng.integers(1, 9, (side**2, side**2)) / 8.0
        scores = Scores(DenseRows(torch.from_numpy(matrix)[None]), torch.ones(1, side**2))
        matches = Matches(torch.ones(1, 1), torch.ones(1, 1), scores)
        rows = {
            k: matrix[min(round(y / 4), 15) * side + min(round(x / 4), 15)] for k, (x, y) in source.items()
        }
        low, high = min(row.min() for row in rows.values()), max(row.max() for row in rows.values())
        expected = []
        for name, row in rows.items():
            row = (row - low) / (high - low)
            if name in target:
                distance = [dist((4 * (c % side), 4 * (c // side)), target[name]) for c in range(side**2)]
                near = {c for c in range(side**2) if distance[c] < ALPHA * 50} | {int(np.argmin(distance))}
                expected += [
                    (1, max(row[c] for c in near)),
                    (0, max(row[c] for c in range(side**2) if c not in near)),
                ]
            else:
                expected += [(0, row.max())]
        found = keypoint_scores(matches, source, target, 50.0, [ALPHA])
        assert [kind for kind, _ in found[ALPHA]] == [kind for kind, _ in expected]
        assert [s for _, s in found[ALPHA]] == pytest.approx([s for _, s in expected])
        stored[n] = json.dumps({f"bbox@{ALPHA}": found[ALPHA]})
        listed += expected
    positives, average = sum(kind for kind, _ in listed), 0.0
    for threshold in {s for _, s in listed}:
        at = [kind for kind, s in listed if s == threshold]
        above = [kind for kind, s in listed if s >= threshold]
        average += sum(at) / positives * sum(above) / len(above)
    totals = score(table.assign(kap=table.pair.map(stored)), (ALPHA, 0.05), "bbox", ("kap",))["totals"]
    assert [f["value"] for f in totals if f.get("measure") == "kap"] == [pytest.approx(100 * average)]


def test_the_program_measures_what_is_asked_for(root: Path, tmp_path: Path, undrawn: None) -> None:
    on = f"test.py --benchmark spair --datapath {root} {TINY} --explore-pairs 0"
    asked = succeed(tmp_path, f"{on} --measures all --logpath asked", reports=True).out
    folder = tmp_path / "logs" / "asked"
    figures = json.loads((folder / "results.json").read_text())["figures"]["totals"]
    assert {f.get("measure") for f in figures} == {None, *MEASURES}
    assert all(f["interval"] and f["definition"] for f in figures if f["n_pairs"] > 1)
    for name in ("PCK†@0.1", "geometry-aware PCK@0.1", "left-right confused@0.1", "KAP@0.1"):
        assert name in asked
        assert name in (folder / "report.html").read_text()
    assert "†" not in succeed(tmp_path, f"{on} --logpath usual").out
    compared = succeed(tmp_path, "compare.py logs/asked logs/usual --measures pck-dagger,kap").out
    assert "PCK†@0.1" in compared
    assert "KAP" not in compared  # the second run lacks what it needs
