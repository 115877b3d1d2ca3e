"""The one class of error that a user can mend."""


class UserError(Exception):
    """A mistake of the user's: one sentence that names the file or option and the way out.

    The programs print it without a traceback and exit with code 2.
    """
