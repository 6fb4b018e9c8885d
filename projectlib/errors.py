"""The one exception that is a user's to read."""


class UserError(Exception):
    """A mistake in the input: names the value, what was expected and what to do.

    Entry scripts print its one line and exit with code 1, without a traceback.
    """
