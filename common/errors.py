"""The one class of error that a user can mend."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake of the user's: one sentence that names the file or option and the way out.

    The programs print it without a traceback and exit with code 2.
    """


@contextmanager
def naming(place: str, way_out: str = "") -> Iterator[None]:
    """Puts the place of the fault before the message of a UserError raised inside, and the way out behind it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}{way_out and f': {way_out}'}") from error
