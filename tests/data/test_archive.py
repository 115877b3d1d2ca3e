"""Archives that are damaged, hostile, or only littered: unpacked whole, or refused."""

import gzip
import tarfile

import pytest

from dhpf.common.errors import UserError
from dhpf.data import archive
from tests.helpers.archives import ARCHIVE, FILES, FOLDER, TAR, WHOLE, is_whole, member, tar_of

BAD = {
    "web page": b"<!DOCTYPE html><title>Quota exceeded</title>",
    "nothing": b"",
    "noise": bytes(range(1, 256)) * 9,
    "cut off": ARCHIVE[:-30_000],
    "checksum cut off": ARCHIVE[:-6],
    "flipped bit": ARCHIVE[:50_000] + bytes([ARCHIVE[50_000] ^ 4]) + ARCHIVE[50_001:],
    "gz, but no tar": gzip.compress(b"hello" * 999),
    "tar cut off": gzip.compress(TAR[:40_000]),
    "other data set": gzip.compress(tar_of(member("PF-WILLOW/test_pairs.csv"))),
    "no top folder": gzip.compress(tar_of(*WHOLE, member("readme.txt"))),
    "traversal": gzip.compress(tar_of(*WHOLE, member(f"{FOLDER}/../../evil.csv", b"evil"))),
    "traversal at once": gzip.compress(tar_of(*WHOLE, member("../evil.csv", b"evil"))),
    "absolute": gzip.compress(tar_of(*WHOLE, member("/tmp/evil.csv", b"evil"))),
    "link out": gzip.compress(tar_of(member(f"{FOLDER}/a", type=tarfile.SYMTYPE, linkname="../.."))),
    "hard link": gzip.compress(tar_of(member(f"{FOLDER}/a", type=tarfile.LNKTYPE, linkname="/etc/passwd"))),
    "pipe": gzip.compress(tar_of(member(f"{FOLDER}/pipe", type=tarfile.FIFOTYPE))),
    "device": gzip.compress(tar_of(member(f"{FOLDER}/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3))),
    "many bytes": gzip.compress(tar_of(*WHOLE, member(f"{FOLDER}/bomb", bytes(1 << 20)))),
    "many files": gzip.compress(tar_of(*WHOLE, *[member(f"{FOLDER}/{i}") for i in range(99)])),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_archive_is_refused_and_leaves_its_folder_never(tmp_path, monkeypatch, case):
    monkeypatch.setattr(archive, "MAX_BYTES", 512 << 10)
    monkeypatch.setattr(archive, "MAX_MEMBERS", 60)
    (tmp_path / "a.tar.gz").write_bytes(BAD[case])
    with pytest.raises(UserError):
        archive.unpack(tmp_path / "a.tar.gz", FOLDER, tmp_path / "unpacked")
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar.gz", "unpacked"}
    assert {path.name for path in (tmp_path / "unpacked").iterdir()} <= {FOLDER}


def test_what_macos_adds_is_left_out(tmp_path):
    litter = [member("._PF-PASCAL"), member(f"{FOLDER}/JPEGImages/._1.jpg", b"x"), member(".DS_Store")]
    litter.append(member(f"__MACOSX/{FOLDER}/._test_pairs.csv", b"x"))
    folders = [member("./", type=tarfile.DIRTYPE), member(f"./{FOLDER}/", type=tarfile.DIRTYPE, mode=0o000)]
    renamed = [member(f"./{FOLDER}/{name}", content) for name, content in FILES.items()]
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar_of(*litter, *folders, *renamed)))
    archive.unpack(tmp_path / "a.tar.gz", FOLDER, tmp_path / "unpacked")
    assert is_whole(tmp_path / "unpacked" / FOLDER)
