"""Every benchmark's folder from small archives in its makers' layout: over a server, by hand, from a mirror."""

import gzip
import json
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from dhpf.common.download import MIRROR, Limits
from dhpf.common.errors import UserError
from dhpf.data import BENCHMARKS, download, open_benchmark, sources, verify
from dhpf.data.ap10k import AP10K, POINTS
from dhpf.data.download import ensure
from dhpf.data.image_annotation import parse_points
from dhpf.data.published_lists import Published, digest
from dhpf.data.spairu import SPairU
from tests.helpers import tiny, tiny_own
from tests.helpers.archive_server import ArchiveServer, Page, archive_server
from tests.helpers.archives import member, tar_of, zip_of

PATIENT = Limits(pause=0.01)
LITTER = {"__MACOSX/._x": b"x", "__MACOSX/top/JPEGImages/._1.jpg": b"x", ".DS_Store": b"x"}


def files_of(folder: Path, top: str, pattern: str = "**/*") -> dict[str, bytes]:
    """Files of a folder under the top folder of an archive."""
    paths = [path for path in folder.glob(pattern) if path.is_file()]
    return {f"{top}{path.relative_to(folder).as_posix()}": path.read_bytes() for path in paths}


def tar_gz(files: dict[str, bytes]) -> bytes:
    return gzip.compress(tar_of(*(member(name, content) for name, content in files.items())))


def raw_ap10k(folder: Path) -> dict[str, bytes]:
    """AP-10K as its makers have it, five images of each species."""
    kinds, images, annotations = [], [], []
    files = {}
    for c, (name, family) in enumerate(
        {"dog": "Canidae", "king cheetah": "Felidae", "lion": "Felidae"}.items()
    ):
        kinds.append({"id": c + 1, "name": name, "supercategory": family})
        for k, view in enumerate(tiny.views(name)):
            number = 1000 + 10 * c + k
            tiny.save(view.image, folder / "image.jpg")
            files[f"ap-10k/data/{number:012d}.jpg"] = (folder / "image.jpg").read_bytes()
            width, height = view.image.size
            images.append({"id": number, "file_name": f"{number:012d}.jpg", "width": width, "height": height})
            kps = [v for x, y in view.points.tolist() for v in (x, y, 2)] + [0] * 21
            annotation = {"id": 7 + number, "image_id": number, "category_id": c + 1, "keypoints": kps}
            annotation |= {"bbox": tiny_own.corner_and_size(view), "num_keypoints": 10}
            annotations += [annotation, annotation | {"num_keypoints": 0, "id": 9000 + number}]
    for n, subset in enumerate(("train", "test", "val")):
        some = {image["id"] for image in images[n::3]}
        content = {"categories": kinds, "images": images[n::3]}
        content |= {"annotations": [a for a in annotations if a["image_id"] in some]}
        files[f"ap-10k/annotations/ap10k-{subset}-split1.json"] = json.dumps(content).encode()
    return files


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """By file name, what the addresses in `sources` give."""
    root = tmp_path_factory.mktemp("made")
    for make in tiny.MAKERS.values():
        make(root, pairs=4)
    tiny_own.make_spairu(root)
    pascal, willow, caltech, spair = (root / BENCHMARKS[name].folder for name in tiny.MAKERS)
    images = files_of(caltech, "", "101_ObjectCategories/**/*")
    lists = {path.name: path.read_bytes() for path in pascal.glob("*.csv")}
    return {
        "PF-dataset-PASCAL.zip": zip_of(LITTER | files_of(pascal, "PF-dataset-PASCAL/", "[AJ]*/**/*")),
        "pf-pascal_image_pairs.zip": zip_of({f"pf-pascal_image_pairs/{n}": c for n, c in lists.items()}),
        "test_pairs_pf_pascal.csv": lists["test_pairs.csv"],
        "val_pairs_pf_pascal.csv": lists["val_pairs.csv"],
        "train_pairs_pf_pascal.csv": lists["trn_pairs.csv"],
        "PF-PASCAL.tar.gz": tar_gz(files_of(pascal, "PF-PASCAL/")),
        "PF-dataset.zip": zip_of(LITTER | files_of(willow, "PF-dataset/", "*/*")),
        "test_pairs_pf.csv": (willow / "test_pairs.csv").read_bytes(),
        "PF-WILLOW.tar.gz": tar_gz(files_of(willow, "PF-WILLOW/")),
        "Caltech-101.tar.gz": tar_gz(files_of(caltech, "Caltech-101/")),
        "caltech-101.zip": zip_of(
            {
                "caltech-101/101_ObjectCategories.tar.gz": tar_gz(images),
                "caltech-101/Annotations.tar": gzip.decompress(tar_gz({"Annotations/a.mat": b"x"})),
                "__MACOSX/caltech-101/._101_ObjectCategories.tar.gz": b"x",
            }
        ),
        "test_pairs_caltech_with_category.csv": next(caltech.glob("*.csv")).read_bytes(),
        "SPair-71k.tar.gz": tar_gz(files_of(spair, "SPair-71k/")),
        "SPair-U.zip": zip_of(
            LITTER | files_of(root / "SPair-U", "datasets/SPair-U/", "PairAnnotation/**/*")
        ),
        "ap-10k.zip": zip_of(raw_ap10k(root)),
        "ap-10k_is_crowd.txt": b"000000001000\n",
    }


@pytest.fixture
def server(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ArchiveServer]:
    """Serves `pages` by file name: all sources are its addresses, and the published lists the tiny ones."""
    root = tmp_path_factory.mktemp("published")
    with archive_server() as running:
        for name in tiny.MAKERS:
            kind, lists = BENCHMARKS[name], {}
            tiny.MAKERS[name](root, pairs=4)
            for split in kind.splits if name != "spair" else ():
                data = kind(root, split, evaluation=True)
                names = [(data.categories[p.category_id], p.src_key, p.trg_key) for p in data.pairs]
                lists[split] = Published(len(names), digest(names))
            monkeypatch.setattr(kind, "published", MappingProxyType(lists))

        def local(part: sources.Part) -> sources.Part:
            here = [sources.Source(f"{running.url}/{s.file_name}", s.file_name) for s in part.sources]
            return replace(part, sources=tuple(here))

        for name, parts in sources.PARTS.items():
            monkeypatch.setitem(sources.PARTS, name, tuple(map(local, parts)))
        monkeypatch.setattr(download, "AP10K_CROWDS", local(sources.AP10K_CROWDS))
        monkeypatch.setenv("NO_PROXY", "*")
        yield running


def serve(server: ArchiveServer, archives: dict[str, bytes], *without: str) -> None:
    """All files but some."""
    server.pages = {f"/{name}": Page(body) for name, body in archives.items() if name not in without}


def opens(name: str, datapath: Path, split: str | None = None, **options: bool) -> None:
    """A pair can be loaded."""
    data = open_benchmark(name, datapath, split, img_side=64, **options)
    sample = data[len(data) - 1]
    assert sample["src_img"].shape == (3, 64, 64)
    assert sample["n_pts"] > 0


# Without Google Drive's archives
MAKERS = {
    "pfpascal": ["PF-dataset-PASCAL.zip", "pf-pascal_image_pairs.zip"],
    "pfwillow": ["PF-dataset.zip", "test_pairs_pf.csv"],
    "caltech": ["caltech-101.zip", "test_pairs_caltech_with_category.csv"],
    "spair": ["SPair-71k.tar.gz"],
    "spairu": ["SPair-U.zip", "SPair-71k.tar.gz"],
    "ap10k": ["ap-10k.zip", "ap-10k_is_crowd.txt"],
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_benchmark_comes_from_its_makers_archives_once_and_passes_verify(server, archives, tmp_path, name):
    serve(server, archives)
    home = ensure(BENCHMARKS[name], tmp_path, limits=PATIENT)
    assert [request.path[1:] for request in server.requests] == MAKERS[name]
    folders = {BENCHMARKS[name].folder, *(["SPair-71k"] if name == "spairu" else [])}
    assert {path.name for path in tmp_path.iterdir()} == folders
    assert not [path for path in home.rglob("*") if path.name.startswith((".", "__"))]
    for split in BENCHMARKS[name].splits if name in ("pfpascal", "pfwillow") else ["test"]:
        opens(name, tmp_path, split)
    ensure(BENCHMARKS[name], tmp_path, limits=PATIENT)
    assert len(server.requests) == len(MAKERS[name])
    if name != "ap10k":  # so few images are all for tests: its other lists are missing
        assert verify.main(["--benchmark", name, "--datapath", str(tmp_path)]) == 0


@pytest.mark.parametrize("name", ["pfpascal", "pfwillow", "caltech", "spair"])
@pytest.mark.parametrize("made", [True, False])
def test_by_hand_archives_of_any_names_need_no_network(server, archives, tmp_path, name, made):
    """Those of the makers, or one that holds all."""
    files = MAKERS[name] if made else [sources.PARTS[name][0].sources[-1].file_name]
    for number, file in enumerate(files):
        (tmp_path / f"download ({number}){'.csv' * file.endswith('csv')}").write_bytes(archives[file])
    opens(name, tmp_path, download=False)
    assert not server.requests
    assert len([path for path in tmp_path.iterdir() if path.is_file()]) == len(files)


def test_a_list_with_other_pairs_than_the_published_ones_is_refused_for_the_next(server, archives, tmp_path):
    """A list that is named like the test list, with the validation pairs, as one repository has it."""
    serve(server, archives, "pf-pascal_image_pairs.zip", "PF-PASCAL.tar.gz")
    server.pages["/test_pairs_pf_pascal.csv"] = Page(archives["val_pairs_pf_pascal.csv"])
    with pytest.raises(UserError) as caught:
        ensure(BENCHMARKS["pfpascal"], tmp_path, split="test", limits=PATIENT)
    for said in ("image_pairs.zip: answered HTTP 404", "test_pairs_pf_pascal.csv: ", "val list", "--list"):
        assert said in str(caught.value)
    assert not (tmp_path / "PF-PASCAL").exists()
    server.pages["/PF-PASCAL.tar.gz"] = Page(archives["PF-PASCAL.tar.gz"])
    ensure(BENCHMARKS["pfpascal"], tmp_path, split="test", limits=PATIENT)
    data = open_benchmark("pfpascal", tmp_path, "test", img_side=64)
    assert data.is_published
    fetched = [request.path for request in server.requests]
    assert fetched.count("/PF-dataset-PASCAL.zip") == 1  # kept from the first run


def test_a_list_of_another_split_may_be_missing_and_is_fetched_when_it_is_needed(
    server, archives, tmp_path, capsys
):
    serve(server, archives, "pf-pascal_image_pairs.zip", "PF-PASCAL.tar.gz", "train_pairs_pf_pascal.csv")
    opens("pfpascal", tmp_path, "test", download=True)
    assert "warning: " in capsys.readouterr().err
    before = len(server.requests)
    opens("pfpascal", tmp_path, "val", download=True)
    assert len(server.requests) == before
    with pytest.raises(UserError, match=r"train_pairs_pf_pascal\.csv"):
        open_benchmark("pfpascal", tmp_path, "trn", download=True)
    serve(server, archives, "pf-pascal_image_pairs.zip")
    opens("pfpascal", tmp_path, "trn", download=True)


BROKEN = {
    "captive portal": Page(b"<!DOCTYPE html><title>Sign in</title>"),
    "not found": Page(b"", status=404),
    "cut off": Page(zip_of({"PF-dataset/1.png": bytes(9)})[:-20]),
    "another file": Page(zip_of({"other/readme.txt": b"x"})),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_source_that_fails_is_followed_by_the_next_and_named(server, archives, tmp_path, capsys, broken):
    server.pages = {"/PF-dataset.zip": BROKEN[broken]}
    with pytest.raises(UserError) as caught:
        ensure(BENCHMARKS["pfwillow"], tmp_path, limits=PATIENT)
    tried = [f"{server.url}/{name}: " for name in ("PF-dataset.zip", "PF-WILLOW.tar.gz")]
    assert all(address in str(caught.value) for address in tried)
    assert not (tmp_path / "PF-WILLOW").exists()
    serve(server, archives)
    server.pages["/PF-dataset.zip"] = BROKEN[broken]
    opens("pfwillow", ensure(BENCHMARKS["pfwillow"], tmp_path, limits=PATIENT))
    assert tried[0] in capsys.readouterr().err


def test_a_wrong_hash_or_size_is_refused_and_a_redirect_followed(server, archives, tmp_path, monkeypatch):
    body = archives["SPair-71k.tar.gz"]
    server.pages = {
        "/a": Page(body),
        "/b": Page(b"", status=302, headers={"Location": "/c"}),
        "/c": Page(body),
    }
    hashed = [
        sources.Source(f"{server.url}/a", sha256="0" * 64),
        sources.Source(f"{server.url}/a", size=7),
        sources.Source(f"{server.url}/b", size=len(body)),
    ]
    [part] = sources.PARTS["spair"]
    monkeypatch.setitem(sources.PARTS, "spair", (replace(part, sources=tuple(hashed)),))
    opens("spair", ensure(BENCHMARKS["spair"], tmp_path, limits=PATIENT))
    assert [request.path for request in server.requests] == ["/a", "/b", "/c"]


@pytest.mark.parametrize("how", ["--from folder", MIRROR])
def test_a_mirror_is_asked_first(server, archives, tmp_path, monkeypatch, how, capsys):
    (tmp_path / "mirror").mkdir()
    arguments = ["--benchmark", "caltech", "--datapath", str(tmp_path / "data")]
    if "folder" in how:
        for number, name in enumerate(MAKERS["caltech"]):
            (tmp_path / "mirror" / f"{number}-{name}").write_bytes(archives[name])
        arguments += ["--from", str(tmp_path / "mirror")]
    else:
        server.pages = {f"/mirror/{name}": Page(archives[name]) for name in MAKERS["caltech"]}
        monkeypatch.setenv(MIRROR, f"{server.url}/mirror/")
    assert download.main([*arguments, "--dry-run"]) == 0
    assert (
        str(tmp_path / "mirror") if "folder" in how else f"{server.url}/mirror/"
    ) in capsys.readouterr().out
    assert not server.requests
    assert download.main(arguments) == 0
    opens("caltech", tmp_path / "data")
    assert all(request.path.startswith("/mirror/") for request in server.requests)
    assert download.main([*arguments, "--dry-run"]) == 0
    assert capsys.readouterr().out.count(" there ") == 2


# ---- SPair-U ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("place", ["SPair-U", "datasets/SPair-U", "spair-u/SPair-U"])
def test_spairu_unpacked_beside_spair_works(tmp_path, monkeypatch, links, place):
    tiny_own.make_spairu(tmp_path)
    expected = open_benchmark("spairu", tmp_path, "test", img_side=64).pairs
    shutil.copytree(tmp_path / "SPair-U" / "PairAnnotation", tmp_path / "kept" / "PairAnnotation")
    shutil.rmtree(tmp_path / "SPair-U")
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / "kept").rename(tmp_path / place)
    if not links:
        monkeypatch.setattr(Path, "symlink_to", lambda *_: (_ for _ in ()).throw(OSError("no links")))
    data = open_benchmark("spairu", tmp_path, "test", img_side=64)
    assert {pair.file for pair in data.pairs} == {pair.file for pair in expected}
    assert data[0]["src_img"].shape == (3, 64, 64)
    assert (tmp_path / place / "JPEGImages").is_dir() == links


# ---- a folder is one benchmark's only by what tells it from the others -------------------------------------


@pytest.mark.parametrize("own", tiny.MAKERS)
def test_a_folder_is_never_taken_for_another_benchmarks(tmp_path, own):
    tiny.MAKERS[own](tmp_path)
    [folder] = tmp_path.iterdir()
    for name in {*tiny.MAKERS, "spairu", "ap10k"} - {own}:
        for datapath in (tmp_path, folder):
            assert BENCHMARKS[name].find_folder(datapath) is None, name
            assert BENCHMARKS[name].find_datapath_below(datapath) is None, name
            with pytest.raises(UserError) as caught:
                open_benchmark(name, datapath)
            assert f"{datapath / BENCHMARKS[name].folder}: " in str(caught.value) or name == "spairu"
    renamed = folder.rename(tmp_path / "of any name")
    assert BENCHMARKS[own].find_folder(renamed) == renamed


def test_spair_and_spairu_are_told_by_their_names(tmp_path):
    tiny_own.make_spairu(tmp_path)
    assert BENCHMARKS["spair"].find_folder(tmp_path) == tmp_path / "SPair-71k"
    assert SPairU.find_folder(tmp_path) == SPairU.find_folder(tmp_path / "SPair-U") == tmp_path / "SPair-U"
    assert BENCHMARKS["spair"].find_folder(tmp_path / "SPair-U") is None
    assert SPairU.find_folder(tmp_path / "SPair-71k") is None


# ---- AP-10K ----------------------------------------------------------------------------------------------


def test_ap10k_is_prepared_by_the_fields_rules(server, archives, tmp_path):
    serve(server, archives)
    home = ensure(AP10K, tmp_path, limits=PATIENT)
    pairs = {
        folder.name: sorted(path.name for path in folder.iterdir())
        for folder in home.glob("PairAnnotation/*")
    }
    # 4 images a species, one of the dog's left out as a crowd; all for tests, as a species has fewer than 30
    assert {split: len(found) for split, found in pairs.items() if found} == {
        "test": 3 + 6 + 6,
        "test_cross_species": 16,
        "test_cross_family": 24,
    }
    assert set(pairs) == set(AP10K.splits)
    assert {name.partition(":")[2] for name in pairs["test_cross_species"]} == {"Felidae.json"}
    assert not any("000000001000" in name for found in pairs.values() for name in found)
    for split, categories in {"test": ("dog", "king cheetah", "lion"), "test_cross_family": ("all",)}.items():
        assert open_benchmark("ap10k", tmp_path, split).categories == categories
    data = open_benchmark("ap10k", tmp_path, "test", img_side=64)
    sample, view = data[-1], tiny.views("lion")[3]
    assert (len(data), data.thres, data.paper, sample["n_pts"]) == (15, "bbox", {}, 10)
    assert sample["src_key"] == "JPEGImages/Felidae/lion/000000001023.jpg"
    np.testing.assert_allclose(sample["src_kps"][:, :10].T, view.points * 64 / view.image.size, rtol=1e-5)
    visible = parse_points(sample["src_visible"])
    assert list(visible) == sample["points"].split("\t") == POINTS.split()[:10]
    np.testing.assert_allclose(list(visible.values()), sample["src_kps"][:, :10].T, rtol=1e-5)
    groups = data.point_groups("lion")
    assert groups.mirrored["left_eye"] == "right_eye"
    assert groups.alike["left_elbow"] == {"left_elbow", "right_elbow", "left_knee", "right_knee"}


def test_ap10k_unpacked_but_not_prepared_is_prepared_and_kept(server, archives, tmp_path):
    (tmp_path / "raw.zip").write_bytes(archives["ap-10k.zip"])
    with zipfile.ZipFile(tmp_path / "raw.zip") as zipped:
        zipped.extractall(tmp_path)
    (tmp_path / "raw.zip").unlink()
    (tmp_path / "ap-10k_is_crowd.txt").write_bytes(archives["ap-10k_is_crowd.txt"])
    opens("ap10k", tmp_path, download=False)
    assert len(list((tmp_path / "ap-10k" / "data").iterdir())) == 12
    assert not server.requests


def test_pairs_of_many_animals_are_drawn_as_the_notebook_draws_them():
    """Numbers and hashes of lists that the notebook's own steps gave for these animals, its folders sorted."""
    from dhpf.data.prepare_ap10k import draw_pairs, name_of

    rng = np.random.default_rng(0)
    species = {
        "cow": ("Bovidae", 61),
        "dog": ("Canidae", 40),
        "cat": ("Felidae", 80),
        "lion": ("Felidae", 55),
    }
    animals = [
        {"id": 1000 * c + k, "name": name, "supercategory": family, "keypoints": points}
        for c, (name, (family, count)) in enumerate(species.items())
        for k in range(count)
        for points in [[int(v) for v in rng.choice([0, 1, 2], 51, p=[0.6, 0.05, 0.35])]]
    ]
    drawn = draw_pairs(animals)
    found = {
        split: (len(pairs), digest((kind, name_of(a), name_of(b)) for a, b, kind in pairs))
        for split, pairs in drawn.items()
    }
    assert found == {
        "trn": (175, "00b4f7571444bb56"),
        "val": (225, "bf98defbfd68aa21"),
        "test": (648, "186a0aec1d576a42"),
        "val_cross_species": (147, "89259597497425ef"),
        "test_cross_species": (357, "6897dd51c2431c56"),
        "val_cross_family": (60, "24eedd0ee7213dbb"),
        "test_cross_family": (90, "c9ea561094403cf7"),
    }
