"""Where the files of a benchmark lie, however its folder was named, nested or unpacked."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from dhpf.common.files import is_file


def folder_of(
    datapath: Path, names: Sequence[str], inside: Sequence[str], of_others: Sequence[str] = ()
) -> Path | None:
    """A benchmark's folder: below datapath by one of its names, once more in that one, or datapath itself.

    Args:
        names: the first is preferred; upper and lower case, '-' and '_' do not matter.
        inside: patterns of folders of which it holds at least one.
        of_others: patterns of what only other data sets' folders hold, for datapath itself.
    """
    called = list(_called(datapath, names))
    nested = (deeper for folder in called for deeper in _called(folder, names))
    own_name = is_called(datapath, names)
    itself = [datapath] if own_name or not any(map(any, map(datapath.glob, of_others))) else []
    whole = (f for f in (*called, *nested, *itself) if any(map(any, map(f.glob, inside))))
    return next(whole, called[0] if called else None)


def lists_of(root: Path, names: Iterable[str], split: str) -> list[Path]:
    """The pair lists of a split, the most specific name first, in the folder, in `image_pairs/`, or one above."""
    spellings = ("trn", "train") if split == "trn" else (split,)
    places = [place / part for place in (root, root.parent) for part in ("", "image_pairs")]
    written = (name.format(split=spelling) for name in names for spelling in spellings)
    return [path for name in written for path in (place / name for place in places) if path.exists()]


def other_case(root: Path, keys: Iterable[str]) -> dict[str, str]:
    """Files that are only there by another upper and lower case of their names: key in the list, key on the disk."""
    files: dict[str, dict[str, str]] = {}
    found = {}
    for key in keys:
        folder, _, name = key.rpartition("/")
        if folder not in files:
            files[folder] = {}
            with suppress(OSError):
                files[folder] = {file.name.lower(): file.name for file in (root / folder).iterdir()}
        there = files[folder].get(name.lower(), name)
        if there != name and not is_file(root / key):
            found[key] = f"{folder}/{there}"
    return found


def folders(place: Path) -> list[Path]:
    """The folders in a folder, but hidden ones."""
    with suppress(OSError):
        return sorted(f for f in place.iterdir() if f.is_dir() and not f.name.startswith("."))
    return []


def _called(place: Path, names: Sequence[str]) -> Iterator[Path]:
    """Folders of a place by the names, those of the first name first."""
    known = [_plain(name) for name in names]
    there = [folder for folder in folders(place) if is_called(folder, names)]
    yield from sorted(there, key=lambda f: (f.name not in names, known.index(_plain(f.name))))


def is_called(folder: Path, names: Sequence[str]) -> bool:
    """Whether a folder has one of the names."""
    return _plain(folder.name or folder.absolute().name) in map(_plain, names)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
