"""Tiny benchmarks in the published layouts."""

import shutil
from pathlib import Path

import pytest

from tests.helpers import tiny


@pytest.fixture(scope="module")
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all of them, with as many pairs a split as the module's PAIRS says; read, not changed."""
    root = tmp_path_factory.mktemp("datasets")
    for make in tiny.MAKERS.values():
        make(root, pairs=request.module.PAIRS)
    return root


@pytest.fixture
def datapath(whole: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(whole, tmp_path / "datasets"))
