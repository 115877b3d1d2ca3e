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


def compare_with_published(
    lists: Mapping[str, Published], split: str, pairs: Iterable[Names]
) -> tuple[bool, str]:
    """Whether pairs without mirrored copies are a split's published list, and a sentence about it ('': there is none).

    Args: lists: the published list of each split.
    """
    if split not in lists:
        return False, ""
    pairs, published = list(pairs), lists[split]
    found = digest(pairs)
    kind = "pairs without mirrored copies" if split == "trn" else "pairs"
    none = "not comparable with the paper"
    if other := [name for name, each in lists.items() if each.digest == found and name != split]:
        return False, f"the published {other[0]} list, not the {split} list: {none}"
    if len(pairs) != published.pairs:
        return False, f"{len(pairs)} {kind}, the published {split} list has {published.pairs}: {none}"
    if published.digest and found != published.digest:
        return False, f"not the {published.pairs} {kind} of the published {split} list: {none}"
    if not published.digest:
        return True, f"as many {kind} as the published {split} list, {published.pairs}; content not checked"
    return True, f"the published {split} list of {published.pairs} {kind}"
