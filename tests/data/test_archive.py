"""Archives that are damaged, hostile, or only littered: unpacked whole, or refused before anything is written."""

import contextlib
import gzip
import io
import shutil
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dhpf.common.errors import UserError
from dhpf.data import archive
from tests.helpers.archives import ARCHIVE, FILES, FOLDER, TAR, WHOLE, is_whole, member, tar_of


def damaged_header() -> bytes:
    """A sound .gz around a tar whose third header is damaged: tarfile takes it for the end of the archive."""
    third = WHOLE[2][0]
    with tarfile.open(fileobj=io.BytesIO(TAR)) as tar:
        at = tar.getmember(third.name).offset
    return gzip.compress(TAR[:at] + b"X" + TAR[at + 1 :])


def with_size(size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A .tar.gz with a member that claims `size` bytes, before 1 MiB of zeros."""
    info, _ = member(f"{FOLDER}/claims", type=kind)
    info.size = size
    return gzip.compress(TAR[: 2 * tarfile.BLOCKSIZE] + info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20))


BAD = {
    "web page": (b"<!DOCTYPE html><title>Quota exceeded</title>", "web page"),
    "nothing": (b"", "damaged"),
    "noise": (bytes(range(1, 256)) * 9, "no .tar.gz"),
    "cut off": (ARCHIVE[:-30_000], "cut off"),
    "checksum cut off": (ARCHIVE[:-6], "cut off"),
    "flipped bit": (ARCHIVE[:50_000] + bytes([ARCHIVE[50_000] ^ 4]) + ARCHIVE[50_001:], "damaged"),
    "gz, but no tar": (gzip.compress(b"hello" * 999), "damaged"),
    "damaged header": (damaged_header(), "damaged header"),
    "tar cut off": (gzip.compress(TAR[:40_000]), "damaged or cut off"),
    "other data set": (gzip.compress(tar_of(member("PF-WILLOW/test_pairs.csv"))), "'PF-WILLOW'"),
    "no top folder": (gzip.compress(tar_of(*WHOLE, member("readme.txt"))), "'readme.txt'"),
    "impossible time": (gzip.compress(tar_of(member(f"{FOLDER}/late", mtime=2**80))), "damaged"),
    "file as folder": (gzip.compress(tar_of(member(f"{FOLDER}/a"), member(f"{FOLDER}/a/b"))), "both as"),
}
SPARSE = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 40)}
HOSTILE = {
    "traversal": ([member(f"{FOLDER}/../../evil.csv", b"evil")], "leaves its folder"),
    "traversal at once": ([member("../evil.csv", b"evil")], "leaves its folder"),
    "absolute": ([member(f"/{FOLDER}/evil.csv", b"evil")], "leaves its folder"),
    "nul": ([member(f"{FOLDER}/é\0b", b"evil")], "leaves its folder"),
    "link out": (
        [member(f"{FOLDER}/a", type=tarfile.SYMTYPE, linkname="../.."), member(f"{FOLDER}/a/b")],
        "a link",
    ),
    "link inside": ([member(f"{FOLDER}/in", type=tarfile.SYMTYPE, linkname="test_pairs.csv")], "a link"),
    "hard link": ([member(f"{FOLDER}/hard", type=tarfile.LNKTYPE, linkname="/etc/passwd")], "a link"),
    "pipe": ([member(f"{FOLDER}/pipe", type=tarfile.FIFOTYPE)], "a device"),
    "device": ([member(f"{FOLDER}/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3)], "a device"),
    "many bytes": ([member(f"{FOLDER}/bomb", bytes(1 << 20))], "more files or bytes"),
    "many sparse bytes": ([member(f"{FOLDER}/bomb", pax_headers=SPARSE)], "more files or bytes"),
    "many files": ([member(f"{FOLDER}/{i}") for i in range(99)], "more files or bytes"),
    "negative size": (with_size(-1), "more files or bytes"),
    "endless loop": (with_size(-1024), "more files or bytes"),
    "huge header": (with_size((1 << 20) + 1, tarfile.XHDTYPE), "more data"),
    "negative header": (with_size(-1024, tarfile.GNUTYPE_LONGNAME), "more data"),
    "much behind the end": (gzip.compress(TAR + bytes(1 << 20)), "more data"),
}


def refused(folder: Path, content: bytes) -> str:
    """The message of an archive that is not unpacked."""
    (folder / "a.tar.gz").write_bytes(content)
    with pytest.raises(UserError) as caught:
        archive.unpack(folder / "a.tar.gz", FOLDER, folder / "unpacked")
    return str(caught.value)


@pytest.mark.parametrize("case", BAD)
def test_a_bad_archive_is_named(tmp_path, case):
    content, reason = BAD[case]
    assert reason in refused(tmp_path, content)
    assert not list(tmp_path.rglob("*.jpg"))


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_writes_nothing(tmp_path, monkeypatch, case):
    monkeypatch.setattr(archive, "MAX_BYTES", 512 << 10)
    monkeypatch.setattr(archive, "MAX_MEMBERS", 60)
    content, reason = HOSTILE[case]
    body = content if isinstance(content, bytes) else gzip.compress(tar_of(*WHOLE, *content))
    assert reason in refused(tmp_path, body)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, len(TAR) // 8), st.integers(0, 255)), min_size=1, max_size=30))
def test_no_damage_to_a_tar_writes_outside_or_gets_past_as_another_error(tmp_path_factory, changes):
    damaged = bytearray(TAR)
    for at, value in changes:
        damaged[at] = value
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "a.tar.gz").write_bytes(gzip.compress(bytes(damaged), 1))
    with contextlib.suppress(UserError):
        archive.unpack(folder / "a.tar.gz", FOLDER, folder / "unpacked")
    assert {path.name for path in folder.iterdir()} <= {"a.tar.gz", "unpacked"}
    if (folder / "unpacked").exists():
        assert {path.name for path in (folder / "unpacked").iterdir()} <= {FOLDER}
        assert not any(path.is_symlink() for path in folder.rglob("*"))
    shutil.rmtree(folder)


def test_what_macos_adds_is_left_out(tmp_path):
    litter = [member("._PF-PASCAL"), member(f"{FOLDER}/JPEGImages/._1.jpg", b"x"), member(".DS_Store")]
    folders = [member("./", type=tarfile.DIRTYPE), member(f"./{FOLDER}/", type=tarfile.DIRTYPE, mode=0o000)]
    renamed = [member(f"./{FOLDER}/{name}", content) for name, content in FILES.items()]
    litter.append(member(f"__MACOSX/{FOLDER}/._test_pairs.csv", b"x"))
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar_of(*litter, *folders, *renamed)))
    archive.unpack(tmp_path / "a.tar.gz", FOLDER, tmp_path / "unpacked")
    assert is_whole(tmp_path / "unpacked" / FOLDER)
