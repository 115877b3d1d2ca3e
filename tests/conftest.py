"""What all tests share: tiny data, and one thread.

Over tensors this small, threads that wait for one another cost far more than they save.
"""

from pathlib import Path

import pytest
import tiny
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny PF-PASCAL and SPair-71k."""
    root = tmp_path_factory.mktemp("data")
    tiny.make_pfpascal(root)
    return tiny.make_spair(root)
