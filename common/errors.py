"""The one class of error that a user can mend, and how messages count."""

from collections.abc import Iterator
from contextlib import contextmanager

MAX_MESSAGE_CHARS = 600


def count_text(number: int, noun: str) -> str:
    """A number of things: 1 pair, 2 pairs."""
    return f"{number} {noun}{'s' * (number != 1)}"


class UserError(Exception):
    """A mistake of the user's: one sentence that names the file or option and the way out.

    The programs print it without a traceback and exit with code 2.
    """


@contextmanager
def error_context(place: str, way_out: str = "") -> Iterator[None]:
    """Put the place of the fault before the message of a UserError that is raised within, and the way out behind it.

    What the message quotes is cut where it is long, and escaped where it cannot be printed.
    """
    try:
        yield
    except UserError as error:
        message = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(error))
        if len(message) > MAX_MESSAGE_CHARS:
            message = f"{message[: MAX_MESSAGE_CHARS - 100]} … {message[-80:]}"
        raise UserError(": ".join(filter(None, (place, message, way_out)))) from error
