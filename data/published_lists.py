"""Which published list some pairs are: nothing measured on another one is a figure of the paper."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

Names = tuple[str, str, str]  # category, source, target


class Published(NamedTuple):
    """A list without mirrored copies: its number of pairs, and the `digest` of them where the list was at hand."""

    pairs: int
    digest: str = ""


def digest(pairs: Iterable[Names]) -> str:
    """A hash of pairs in any order, of the names of their files without folders."""
    lines = (" ".join((c, *(key.rpartition("/")[2] for key in ends))).lower() for c, *ends in pairs)
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def compare(lists: Mapping[str, Published], split: str, pairs: Iterable[Names]) -> tuple[bool, str]:
    """Whether pairs, mirrored copies left out, are a split's published list, and that in words: none if there is none.

    Args: lists: the published list of each split.
    """
    if split not in lists:
        return False, ""
    pairs, known = list(pairs), lists[split]
    found = digest(pairs)
    kind = "pairs without mirrored copies" if split == "trn" else "pairs"
    none = "no figure on it is the paper's"
    if other := [name for name, each in lists.items() if each.digest == found and name != split]:
        return False, f"the published {other[0]} list, not the {split} list: {none}"
    if len(pairs) != known.pairs:
        return False, f"{len(pairs)} {kind} where the published {split} list has {known.pairs}: {none}"
    if not known.digest:
        return True, f"as many {kind} as the published {split} list, {known.pairs}; content not checked"
    if found != known.digest:
        return False, f"as many {kind} as the published {split} list, {known.pairs}, but other ones: {none}"
    return True, f"the published {split} list of {known.pairs} {kind}"
