"""Archives that are damaged, hostile, or only littered: unpacked whole, or refused, and never a file outside."""

import gzip
import lzma
import tarfile

import pytest

from dhpf.common.errors import UserError
from dhpf.data import archive
from tests.helpers.archives import ARCHIVE, FILES, FOLDER, TAR, WHOLE, is_whole, member, tar_of, zip_of

ZIP = zip_of({f"{FOLDER}/{name}": content for name, content in FILES.items()})
SPARSE = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 40)}
BAD = {
    "noise": bytes(range(1, 256)) * 9,
    "cut off": ARCHIVE[:-30_000],
    "checksum cut off": ARCHIVE[:-6],
    "flipped bit": ARCHIVE[:50_000] + bytes([ARCHIVE[50_000] ^ 4]) + ARCHIVE[50_001:],
    "tar cut off": gzip.compress(TAR[:40_000]),
    "zip cut off": ZIP[:-30_000],
    "flipped bit in a zip": ZIP[:50_000] + bytes([ZIP[50_000] ^ 4]) + ZIP[50_001:],
    "traversal": tar_of(member(f"{FOLDER}/../../evil.csv", b"evil")),
    "link out": tar_of(member(f"{FOLDER}/a", type=tarfile.SYMTYPE, linkname="../..")),
    "hard link": tar_of(member(f"{FOLDER}/hard", type=tarfile.LNKTYPE, linkname="../../passwd")),
    "device": tar_of(member(f"{FOLDER}/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3)),
    "many bytes": gzip.compress(tar_of(*WHOLE, member(f"{FOLDER}/bomb", bytes(1 << 20)))),
    "many bytes in a zip": zip_of({f"{FOLDER}/bomb": bytes(1 << 20)}),
    "many sparse bytes": tar_of(member(f"{FOLDER}/bomb", pax_headers=SPARSE)),
    "many files": tar_of(*(member(f"{FOLDER}/{i}") for i in range(99))),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_archive_is_refused_and_writes_nothing_outside(tmp_path, monkeypatch, case):
    monkeypatch.setattr(archive, "MAX_BYTES", 512 << 10)
    monkeypatch.setattr(archive, "MAX_MEMBERS", 60)
    (tmp_path / "a.tar.gz").write_bytes(BAD[case])
    with pytest.raises(UserError):
        archive.unpack(tmp_path / "a.tar.gz", tmp_path / "unpacked")
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar.gz", "unpacked"}


@pytest.mark.parametrize("name", ["../evil", "/evil", f"{FOLDER}/../../evil"])
def test_paths_of_a_zip_stay_inside(tmp_path, name):
    (tmp_path / "a").write_bytes(zip_of({name: b"evil"}))
    archive.unpack(tmp_path / "a", tmp_path / "unpacked")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "unpacked"}


LITTER = {"._PF-PASCAL": b"x", f"{FOLDER}/JPEGImages/._1.jpg": b"x", ".DS_Store": b"x"}
LITTER |= {f"__MACOSX/{FOLDER}/._test_pairs.csv": b"x"}
NAMED = {f"./{FOLDER}/{name}": content for name, content in FILES.items()}
LITTERED = tar_of(*(member(name, content) for name, content in {**LITTER, **NAMED}.items()))
KINDS = {
    "tar": LITTERED,
    "tar.gz": gzip.compress(LITTERED),
    "tar.xz": lzma.compress(TAR),
    "zip": zip_of(LITTER | {f"{FOLDER}/{name}": content for name, content in FILES.items()}),
    "tar.gz in a zip": zip_of({"outer/inner.tar.gz": ARCHIVE, "outer/readme.gz": b"no archive"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_archives_of_all_kinds_are_known_by_their_content_and_unpacked_without_litter(tmp_path, kind):
    path = tmp_path / "of any name"
    path.write_bytes(KINDS[kind])
    assert archive.is_archive(path)
    archive.unpack(path, tmp_path / "unpacked")
    assert is_whole(next(tmp_path.glob(f"unpacked/**/{FOLDER}")))
    assert not any(path.name.startswith((".", "__")) for path in tmp_path.rglob("*"))
    inner = "outer/inner.tar.gz" if "in a" in kind else f"{FOLDER}/test_pairs.csv"
    assert inner in {name.removeprefix("./") for name in archive.member_names(path)}
