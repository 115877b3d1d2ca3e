"""What all tests share: tiny data, one thread, the order of files."""

import io
import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from PIL import Image

from tests.helpers import tiny

torch.set_num_threads(
    1
)  # over tensors this small, threads that wait for one another cost more than they save

settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

# The files that take longest begin first, so that the processes of pytest-xdist end together.
LONGEST = (
    "test_long_runs",
    "test_golden",
    "test_train_and_test",
    "test_readme",
    "test_timm",
    "test_packages",
    "test_reproduce",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: k for k, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny PF-PASCAL and SPair-71k."""
    root = tmp_path_factory.mktemp("data")
    tiny.make_pfpascal(root)
    return tiny.make_spair(root)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every picture of a report is one pixel: drawing takes longer than all the rest."""
    pixel = io.BytesIO()
    Image.new("RGB", (1, 1)).save(pixel, "png")
    monkeypatch.setattr("dhpf.matching.drawing.render", lambda *_: pixel.getvalue())


@pytest.fixture
def broken(data: Path, tmp_path: Path) -> Path:
    """A copy of the data with a damaged image, which pairs of every split show."""
    shutil.copytree(data, tmp_path / "broken")
    image = tmp_path / "broken" / "PF-PASCAL" / "JPEGImages" / "2008_000001_cat.jpg"
    image.write_bytes(b"\xff\xd8 cut off")
    return tmp_path / "broken"
