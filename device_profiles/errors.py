"""Errors that a user may see share one base class."""


class GeoshiftError(Exception):
    """Base of every error geoshift raises on purpose.

    The message names the thing, what was found, what was expected and what to do; the command line prints it
    without a traceback.
    """
