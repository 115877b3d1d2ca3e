"""How the programs begin and end."""

import ctypes
import functools
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from dhpf.common.errors import UserError
from dhpf.common.processors import share_processors

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def program(main: Callable[[Sequence[str] | None], None]) -> Callable[..., None]:
    """A program of options (the process's if not given); a user's mistake ends it with one sentence and exit code 2,
    Ctrl-C with 130."""

    @functools.wraps(main)
    def run(arguments: Sequence[str] | None = None) -> None:
        keep_freed_memory()
        share_processors()
        name = Path(sys.argv[0]).name
        try:
            main(arguments)
        except UserError as error:
            print(f"{name}: error: {error}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:  # training answers for itself: it saves its state
            print(f"{name}: stopped", file=sys.stderr)
            sys.exit(130)

    return run


def keep_freed_memory() -> None:
    """Have glibc reuse what this process frees, in blocks up to 32 MiB, instead of returning it to the system.

    New pages took a seventh of an evaluation's time.
    """
    with suppress(AttributeError, OSError, TypeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_TRIM_THRESHOLD, 2**30)
        libc.mallopt(M_MMAP_THRESHOLD, 2**25)  # the largest block that it may say this of
