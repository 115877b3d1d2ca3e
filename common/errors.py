"""The one class of error that a user can mend."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake of the user's: one sentence that names the file or option and the way out.

    The programs print it without a traceback and exit with code 2.
    """


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Puts the place of the fault before the message of a UserError raised inside."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from error
