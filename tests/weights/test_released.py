"""The released models by name: fetched once, checked before they appear, refused in one sentence."""

from pathlib import Path

import pytest
import torch

from dhpf.common.errors import UserError
from dhpf.model import BACKBONES
from dhpf.weights import released
from tests.helpers.archive_server import Page, archive_server
from tests.helpers.models import draw_learner


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DHPF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def save_model(path: Path, backbone: str) -> bytes:
    torch.save(draw_learner(backbone), path)
    return path.read_bytes()


def test_a_released_model_is_fetched_once(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = save_model(tmp_path / "sent.pt", "resnet101")
    with archive_server() as server:
        monkeypatch.setattr(released, "DRIVE", f"{server.url}/")
        server.pages["/" + released.FILES["spair-strong-resnet101-mu0.5"]] = Page(content)
        paths = [released.resolve(f"dhpf:spair-strong-resnet101{end}") for end in ("", "", "-mu0.5")]
        assert len(server.requests) == 1
    assert set(paths) == {cache / "spair-strong-resnet101-mu0.5.pt"}
    assert paths[0].read_bytes() == content


@pytest.mark.parametrize("sent", ["resnet50", "nothing", None])
def test_what_cannot_be_had_is_refused_and_leaves_nothing(
    sent: str | None, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another model, no model, or an error of the server: the message says where to save it by hand."""
    place = cache / "spair-weak-resnet101-mu0.5.pt"
    with archive_server() as server:
        monkeypatch.setattr(released, "DRIVE", f"{server.url}/")
        if sent:
            content = save_model(tmp_path / "sent.pt", sent) if sent in BACKBONES else sent.encode()
            server.pages["/" + released.FILES["spair-weak-resnet101-mu0.5"]] = Page(content)
        with pytest.raises(UserError, match=str(place)):
            released.resolve("dhpf:spair-weak-resnet101")
    assert not place.exists()


def test_models_of_folders_are_saved_by_hand(cache: Path) -> None:
    path = cache / "pfpascal-strong-resnet50-mu0.7.pt"
    with pytest.raises(UserError, match=released.FOLDERS["pfpascal-strong-resnet50"]) as caught:
        released.resolve("dhpf:pfpascal-strong-resnet50-mu0.7")
    assert str(path) in str(caught.value)
    cache.mkdir()
    save_model(path, "resnet101")
    with pytest.raises(UserError, match="resnet101"):
        released.resolve("dhpf:pfpascal-strong-resnet50-mu0.7")
    assert path.exists()  # the user's own file
    save_model(path, "resnet50")
    assert released.resolve("dhpf:pfpascal-strong-resnet50-mu0.7") == path


@pytest.mark.parametrize("file", ["PASCAL_strong_res50_0.7.pt", "strong (res50)/pfpascal_mu0.7.pth"])
def test_models_saved_by_hand_are_known_by_the_words_of_their_names(cache: Path, file: str) -> None:
    path = cache / file
    path.parent.mkdir(parents=True)
    for other in ("PASCAL_strong_res50_0.8.pt", "PASCAL_weak_res50_0.7.pt", "PASCAL_strong_res101_0.7.pt"):
        (cache / other).touch()
    save_model(path, "resnet50")
    assert released.resolve("dhpf:pfpascal-strong-resnet50-mu0.7") == path
    save_model(cache / "strong_res101_spair.pt", "resnet101")  # there is but one
    assert released.resolve("dhpf:spair-strong-resnet101") == cache / "strong_res101_spair.pt"
