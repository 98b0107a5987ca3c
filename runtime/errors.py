"""Errors of the runtime, grouped by who has to act on them."""

from device_profiles.errors import GeoshiftError


class BundleError(GeoshiftError):
    """A bundle is refused: damaged, hostile, of another schema, or not fit for this device. Get another one."""


class UnknownMode(GeoshiftError):
    """A mode was asked for that the plan does not have. Ask for one of those it names."""


class Busy(GeoshiftError):
    """A switch is under way and this request may not replace it. Wait for it or cancel it."""


class QueueFull(GeoshiftError):
    """More callers wait for an answer than the profile allows. Call again later."""


class NoThread(GeoshiftError):
    """The system has no thread to spare for a walk. Nothing was changed: call again later."""


class Closed(GeoshiftError):
    """The network was closed. Open it again."""


class IllegalEvent(GeoshiftError):
    """The transition table does not list this event in this state. Nothing was changed."""
