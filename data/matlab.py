"""Arrays of numbers in MATLAB files, read without trust: SciPy's reader crashes the process at some damaged ones."""

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

# Of version 5 of the format, which the benchmarks' files have: types of elements, classes of arrays, a flag.
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
ARRAY, COMPRESSED = 14, 15
NUMERIC = range(6, 16)
COMPLEX = 0x800
MOST = 2**24  # bytes unpacked: a small file can hold gigabytes


def read_arrays(content: bytes) -> dict[str, NDArray[np.float64]]:
    """The real numeric arrays of a file by name; what else it holds is left out.

    Raises:
        ValueError: the file is damaged, or of another format.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None:
        raise ValueError("no MATLAB file of version 5")
    arrays = {}
    try:
        for kind, data in _elements(content[128:], order):
            if kind == COMPRESSED:
                unpacked = zlib.decompressobj().decompress(data, MOST)
                kind, data = next(_elements(unpacked, order))
            if kind != ARRAY:
                continue
            (_, flags), (_, dims), (_, name), *parts = _elements(data, order)
            (meaning,) = struct.unpack_from(f"{order}I", flags)
            if meaning & 0xFF in NUMERIC and not meaning & COMPLEX:
                kind, values = parts[0]
                shape = np.frombuffer(dims, f"{order}i4").clip(min=0)
                array = np.frombuffer(values, order + NUMBERS[kind]).astype(np.float64)
                arrays[name.decode("ascii")] = array.reshape(shape, order="F")
    except (struct.error, zlib.error, LookupError, StopIteration) as error:
        raise ValueError(f"damaged ({error!r})") from error
    return arrays


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """The elements of a file or of an array: type and content."""
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        start, end = at + 8, at + 8 + (size if kind == COMPRESSED else -(-size // 8) * 8)
        if kind >> 16:  # up to four bytes within the eight
            kind, size, start, end = kind & 0xFFFF, kind >> 16, at + 4, at + 8
        if start + size > min(end, len(data)):
            raise ValueError("cut off")
        yield kind, data[start : start + size]
        at = end
