"""Errors of the runtime, grouped by who has to act on them."""

from device_profiles.errors import GeoshiftError


class BundleError(GeoshiftError):
    """A bundle is refused: damaged, hostile, of another schema, or not fit for this device. Get another one."""


class Untrusted(BundleError):
    """A pinned key does not vouch for a bundle, or the device has a newer release. Get one signed for this device."""


class KeyFileError(GeoshiftError):
    """A key file is refused, or stands where a new one was to be written. Give another file."""


class NoMulticast(GeoshiftError):
    """The network does not let this machine announce or look for devices. Everything else works; it is tried again."""


class NameTaken(GeoshiftError):
    """Another device on the network has this name. Take another one."""


class UnknownMode(GeoshiftError):
    """A mode was asked for that the plan does not have. Ask for one of those it names."""


class Busy(GeoshiftError):
    """A switch is under way and this request may not replace it. Wait for it or cancel it."""


class QueueFull(GeoshiftError):
    """More callers wait for an answer than the profile allows. Call again later."""


class BrokenRow(GeoshiftError):
    """A row of the weight memory reads back wrong after every write. The walk goes back: see to the memory."""


class NoThread(GeoshiftError):
    """The system has no thread to spare for a walk. Nothing was changed: call again later."""


class Closed(GeoshiftError):
    """The network was closed. Open it again."""


class IllegalEvent(GeoshiftError):
    """The transition table does not list this event in this state. Nothing was changed."""


class Conflict(GeoshiftError):
    """Somebody of equal or higher rank decides now. Nothing was changed: wait, or have that one give way."""


class UnknownOperation(GeoshiftError):
    """No operation of the last hundred has this id. Ask for one of those that the device lists."""


class UnknownHold(GeoshiftError):
    """No hold has this id; it may have ended. Nothing was changed."""


class SourceError(GeoshiftError):
    """Something that is watched cannot be read now. It is read again later; look at its path or command."""


class CommandFailed(GeoshiftError):
    """A command of the operating system failed. What ran before it was undone; look at what it said."""


class BadDuration(GeoshiftError):
    """A lease or a hold has a length that is no positive number of seconds. Nothing was changed: give another one."""


class StateError(GeoshiftError):
    """A state directory is refused: damaged, in use, or another bundle's. Do as the text says; nothing was changed."""


class JournalError(GeoshiftError):
    """Journal or weight memory cannot be written. What was recorded before holds: make room, or replace the disk."""


class PushRefused(GeoshiftError):
    """A pushed bundle is not for this device, or not what it should be. The plan at work stays; push another one."""


class NoRoom(GeoshiftError):
    """The disk has no room for a pushed bundle. Nothing was changed: make room."""


class StagingError(GeoshiftError):
    """What is pushed cannot be written to the disk. The plan at work stays: look after the disk, then push again."""


class GapNeeded(GeoshiftError):
    """The device's memory has no room for two plans. Nothing was changed: allow a gap in which it does not answer."""


class UnknownPush(GeoshiftError):
    """No push of this bundle is known, or the bundle has no such file. Begin a push."""


class Replacing(GeoshiftError):
    """The device has no network for a moment, while one plan takes another's place. Call again when it has."""


class OtherRelease(GeoshiftError):
    """An answer was asked of a release that is not at work any more. Ask which one is."""
