"""The one class of error that a user can mend, and what a machine refuses."""

from collections.abc import Iterator
from contextlib import contextmanager

MOST = 600  # characters of a message
# What systems and libraries say when they are refused something, and the way out.
REFUSALS = {
    "there is not enough memory: give fewer --workers, a lower --bsz or --img-side, or raise the limit (ulimit -v)": (
        "allocate memory",
        "out of memory",
        "failed to map segment",
    ),
    "too many open files: give fewer --workers, or raise the limit (ulimit -n)": (
        "Too many open files",
        "ancdata",
    ),
    "the processes that load images failed: give fewer --workers, or 0, or raise what the system allows them "
    "(memory; the size of /dev/shm)": ("DataLoader worker", "shared memory", "shm"),
}


class UserError(Exception):
    """A mistake of the user's: one sentence that names the file or option and the way out.

    The programs print it without a traceback and exit with code 2.
    """


@contextmanager
def error_context(place: str, way_out: str = "") -> Iterator[None]:
    """Puts the place of the fault before the message of a UserError raised inside, and the way out behind it.

    What the message quotes is cut where it is long, and escaped where it cannot be printed.
    """
    try:
        yield
    except UserError as error:
        message = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(error))
        if len(message) > MOST:
            message = f"{message[: MOST - 100]} … {message[-80:]}"
        raise UserError(": ".join(filter(None, (place, message, way_out)))) from error


def refusal(error: BaseException) -> str:
    """What a machine refused, in a sentence; nothing if the error is none of that."""
    text = str(error)
    if isinstance(error, MemoryError):
        return next(iter(REFUSALS))
    if "in DataLoader worker process" in text:  # behind torch's heading and the worker's traceback
        text = text.rstrip().rpartition("\n")[2]
    if isinstance(error, OSError | RuntimeError | ImportError):
        for sentence, signs in REFUSALS.items():
            if sign := next((sign for sign in signs if sign in text), None):
                place = text.index(sign)
                quoted = " ".join(text[max(0, place - 60) : place + 120].split())
                return f"{sentence}; {quoted}"
    if isinstance(error, OSError) and error.strerror:
        return (
            f"{f'{error.filename}: ' if error.filename else ''}{error.strerror}: mend that and run it again"
        )
    return ""
