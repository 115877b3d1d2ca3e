"""The ImageNet weights of the ResNets: from torch's cache by new and old names, or fetched with limits of time."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from huggingface_hub import constants

from dhpf.common.download import Limits, fetch
from dhpf.common.errors import UserError
from dhpf.weights import imagenet
from tests.helpers.archive_server import ArchiveServer, Page, archive_server

QUICK = Limits(connect=2, silence=1, chunk=2, pause=0.01)
NEW, OLD = imagenet.FILES["resnet50"]


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return torchvision.models.resnet50(weights=None).state_dict()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ArchiveServer]:
    monkeypatch.setenv("NO_PROXY", "*")
    with archive_server() as running:
        monkeypatch.setattr(imagenet, "URL", f"{running.url}/")
        monkeypatch.setattr(imagenet, "fetch", lambda *a, **named: fetch(*a, **named, limits=QUICK))
        yield running


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_of_the_old_name_and_format_is_read(cache, state, legacy):
    old = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, cache / OLD, _use_new_zipfile_serialization=not legacy)
    found = imagenet.pretrained("resnet50")
    assert all(torch.equal(found[name], tensor) for name, tensor in old.items())


def test_a_file_that_does_not_hold_them_is_named_unless_another_does(cache, state):
    torch.save({"fc": torch.zeros(3)}, cache / NEW)
    with pytest.raises(UserError, match=str(cache / NEW)):
        imagenet.pretrained("resnet50")
    torch.save(state, cache / OLD)
    assert imagenet.pretrained("resnet50").keys() == state.keys()


def test_they_are_fetched_checked_and_kept(cache, state, server, tmp_path, monkeypatch):
    torch.save(state, tmp_path / "w")
    body = (tmp_path / "w").read_bytes()
    name = f"resnet50-{hashlib.sha256(body).hexdigest()[:8]}.pth"
    monkeypatch.setitem(imagenet.FILES, "resnet50", (name, OLD))
    server.pages[f"/{name}"] = Page(body[:-1])
    with pytest.raises(UserError, match=f"{server.url}/{name}.*another file.*--backbone-weights"):
        imagenet.pretrained("resnet50")
    server.pages[f"/{name}"] = Page(body)
    for _ in range(2):
        assert imagenet.pretrained("resnet50").keys() == state.keys()
    assert len(server.requests) == 2
    assert [path.name for path in cache.iterdir()] == [name]


def test_timms_weights_without_a_network_take_one_sentence_and_no_retries(monkeypatch, capfd, tmp_path):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    begin = time.monotonic()
    with pytest.raises(UserError, match=r"timm:resnet18.*127\.0\.0\.1:9.*--backbone-weights"):
        imagenet.pretrained("timm:resnet18")
    assert time.monotonic() - begin < 10
    assert capfd.readouterr() == ("", "")
    assert not constants.HF_HUB_OFFLINE
