"""Where the files of a benchmark lie, however its folder was named, nested or unpacked."""

import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from dhpf.common.errors import UserError
from dhpf.common.files import is_file
from dhpf.data.names import common_suffix_length, folded, path_parts

MAX_FILES = 1_000_000  # looked through for images


def find_folder(
    datapath: Path, names: Sequence[str], subfolders: Sequence[str], never: Sequence[str] = ()
) -> Path | None:
    """A benchmark's folder: below datapath by one of its names, once more in that one, or datapath itself.

    Args:
        names: the first is preferred; upper and lower case, '-' and '_' do not matter.
        subfolders: patterns of folders of which it holds at least one.
        never: patterns of what other data sets' folders hold: datapath itself does not, unless it has one of the names.
    """
    found = _folders_named(datapath, names)
    nested = (inner for folder in found for inner in _folders_named(folder, names))
    other = not is_named(datapath, names) and any(map(any, map(datapath.glob, never)))
    folders = (*found, *nested, *([] if other else [datapath]))
    complete = (folder for folder in folders if any(map(any, map(folder.glob, subfolders))))
    return next(complete, found[0] if found else None)


def is_named(folder: Path, names: Sequence[str]) -> bool:
    """Whether a folder has one of the names."""
    return _letters(folder.name or folder.absolute().name) in map(_letters, names)


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _folders_named(parent: Path, names: Sequence[str]) -> list[Path]:
    """Folders in a folder by their names, those of the first name first."""
    letters = list(map(_letters, names))
    found = [(_letters(folder.name), folder) for folder in subfolders(parent)]
    chosen = [(f.name not in names, letters.index(name), f) for name, f in found if name in letters]
    return [folder for *_, folder in sorted(chosen)]


def subfolders(parent: Path) -> list[Path]:
    """The folders in a folder, but hidden ones."""
    with suppress(OSError):
        return sorted(f for f in parent.iterdir() if f.is_dir() and not f.name.startswith("."))
    return []


def find_lists(root: Path, names: Iterable[str], split: str) -> list[Path]:
    """The pair lists of a split, the most specific name first, in the folder, in `image_pairs/`, or one above."""
    spellings = ("trn", "train") if split == "trn" else (split,)
    folders = [folder / inner for folder in (root, root.parent) for inner in ("", "image_pairs")]
    files = (name.format(split=spelling) for name in names for spelling in spellings)
    return [path for file in files for path in (folder / file for folder in folders) if path.exists()]


def names_on_disk(root: Path, keys: Iterable[str]) -> dict[str, str]:
    """Images whose names on the disk differ in upper and lower case or Unicode form: key in the list -> on the disk."""
    files: dict[str, dict[str, str]] = {}
    found = {}
    for key in keys:
        folder, _, name = key.rpartition("/")
        if folder not in files:
            files[folder] = {}
            with suppress(OSError):
                files[folder] = {folded(file.name): file.name for file in (root / folder).iterdir()}
        on_disk = files[folder].get(folded(name), name)
        if on_disk != name and not is_file(root / key):
            found[key] = key.removesuffix(name) + on_disk
    return found


def find_images(root: Path, names: Iterable[str]) -> dict[str, str]:
    """Where images are inside a folder, by name: at the name's place, else anywhere below, where most of the last
    parts of its path agree (upper and lower case do not matter). What is not found keeps its name.

    Raises: UserError: several files fit a name alike; too many files to look through.
    """
    found = {name: name for name in names}
    missing = {name: path_parts(folded(name)) for name in found if not is_file(root / name)}
    candidates: dict[str, list[str]] = {parts[-1]: [] for parts in missing.values()}
    if not missing:
        return found
    count = 0
    with tqdm(desc=f"looking for images in {root}", unit="file", delay=2, disable=None) as bar:
        for folder, _, files in os.walk(root):
            bar.update(len(files))
            count += len(files)
            if count > MAX_FILES:
                raise UserError(
                    f"{root}: too many files to look for images, say with --images where they are"
                )
            for file in files:
                if (name := folded(file)) in candidates:
                    candidates[name].append(Path(folder, file).relative_to(root).as_posix())
    for name, parts in missing.items():
        agreeing = {p: common_suffix_length(parts, path_parts(folded(p))) for p in candidates[parts[-1]]}
        best = [path for path, number in agreeing.items() if number == max(agreeing.values())]
        if len(best) > 1:
            raise UserError(f"{root}: the image '{name}' could be {best[0]} or {best[1]}, use --images")
        found[name] = best[0] if best else name
    return found
