"""The released models by name: fetched once, checked before they appear, refused in one sentence."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from dhpf.common.errors import UserError
from dhpf.model import BACKBONES
from dhpf.weights import files as weights
from dhpf.weights import released
from tests.helpers.archive_server import Page, archive_server


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DHPF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def resnet_learner(name: str) -> dict[str, torch.Tensor]:
    """As much of a learner as tells its backbone."""
    cls = BACKBONES[name]
    sizes = enumerate(zip(cls.reduced_channels, cls.channels, strict=True))
    return {f"reduction_ffns.{k}.0.weight": torch.zeros(1).expand(w, c, 1, 1) for k, (w, c) in sizes}


def test_a_released_model_is_fetched_once(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {name: tensor.clone() for name, tensor in resnet_learner("resnet101").items()}
    weights.write(tmp_path / "sent.pt", state)
    drive_id = released.FILES["spair-strong-resnet101-mu0.5"]
    with archive_server() as server:
        monkeypatch.setattr(released, "DRIVE", f"{server.url}/")
        server.pages[f"/{drive_id}"] = Page((tmp_path / "sent.pt").read_bytes())
        paths = [released.resolve(f"dhpf:spair-strong-resnet101{end}") for end in ("", "", "-mu0.5")]
        assert len(server.requests) == 1
    assert set(paths) == {cache / "spair-strong-resnet101-mu0.5.pt"}
    assert paths[0].read_bytes() == (tmp_path / "sent.pt").read_bytes()


@pytest.mark.parametrize(
    ("sent", "reason"), [("resnet50", "a checkpoint of resnet50"), ("nothing", "no file of weights")]
)
def test_what_is_no_such_model_is_refused_in_every_rank_and_not_kept(
    sent: str, reason: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"nothing"
    if sent == "resnet50":
        weights.write(tmp_path / "sent.pt", {k: v.clone() for k, v in resnet_learner(sent).items()})
        content = (tmp_path / "sent.pt").read_bytes()

    def resolve(_: int) -> str:
        with pytest.raises(UserError) as caught:
            released.resolve("dhpf:spair-weak-resnet101")
        return str(caught.value)

    with archive_server() as server, ThreadPoolExecutor(4) as ranks:
        monkeypatch.setattr(released, "DRIVE", f"{server.url}/")
        server.pages["/" + released.FILES["spair-weak-resnet101-mu0.5"]] = Page(content)
        [message] = set(ranks.map(resolve, range(4)))
    assert reason in message
    assert f"save it as {cache / 'spair-weak-resnet101-mu0.5.pt'}" in message
    assert [path.name for path in cache.iterdir()] == [".spair-weak-resnet101-mu0.5.pt.lock"]


def test_without_network_the_message_says_where_to_save_it(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with archive_server() as server:  # answers 404
        monkeypatch.setattr(released, "DRIVE", f"{server.url}/")
        with pytest.raises(UserError) as caught:
            released.resolve("dhpf:spair-weak-resnet101")
    assert f"save it as {cache / 'spair-weak-resnet101-mu0.5.pt'}" in str(caught.value)


def test_models_of_folders_are_saved_by_hand(cache: Path) -> None:
    path = cache / "pfpascal-strong-resnet50-mu0.7.pt"
    with pytest.raises(UserError) as caught:
        released.resolve("dhpf:pfpascal-strong-resnet50-mu0.7")
    assert released.FOLDERS["pfpascal-strong-resnet50"] in str(caught.value)
    assert f"save it as {path}" in str(caught.value)
    cache.mkdir()
    weights.write(path, {k: v.clone() for k, v in resnet_learner("resnet101").items()})
    with pytest.raises(UserError, match="a checkpoint of resnet101"):
        released.resolve("dhpf:pfpascal-strong-resnet50-mu0.7")
    assert path.exists()  # the user's own file
    weights.write(path, {k: v.clone() for k, v in resnet_learner("resnet50").items()})
    assert released.resolve("dhpf:pfpascal-strong-resnet50-mu0.7") == path


@pytest.mark.parametrize("name", ["spair-weak-resnet50", "pfpascal-weak-resnet50-mu0.2", "", "../x"])
def test_unknown_names_list_the_known(name: str, cache: Path) -> None:
    with pytest.raises(UserError, match=r"no such released model.*pfpascal-strong-resnet101.*spair-weak"):
        released.resolve(f"dhpf:{name}")


def test_a_path_is_a_path() -> None:
    assert released.resolve("logs/run/best_model.pt") == Path("logs/run/best_model.pt")
