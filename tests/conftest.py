"""What all tests share: tiny data, and one thread.

Over tensors this small, threads that wait for one another cost far more than they save.
"""

import io
from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image

torch.set_num_threads(1)


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
    monkeypatch.setattr("dhpf.report.pictures.render", lambda *_: pixel.getvalue())
