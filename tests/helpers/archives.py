"""Archives of a small data set, sound and otherwise, made in memory."""

import gzip
import io
import random
import tarfile
import zipfile
from pathlib import Path
from typing import Any

FOLDER = "PF-PASCAL"
FILES = {
    "test_pairs.csv": b"source_image,target_image,class\n",
    **{f"JPEGImages/{i}.jpg": random.Random(i).randbytes(7000) for i in range(12)},
}


def member(name: str, content: bytes = b"", **attributes: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, content


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


WHOLE = [member(f"{FOLDER}/{name}", content) for name, content in FILES.items()]
TAR = tar_of(*WHOLE)
ARCHIVE = gzip.compress(TAR, mtime=0)


def is_whole(home: Path) -> bool:
    files = {path for path in home.rglob("*") if not path.is_dir()}
    return {str(path.relative_to(home)): path.read_bytes() for path in files} == FILES


def zip_of(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in files.items():
            zipped.writestr(name, content)
    return stream.getvalue()
