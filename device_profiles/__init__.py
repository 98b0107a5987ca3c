"""Device profiles: what a device can do, allows and is asked to do."""

from device_profiles.energy import Energy
from device_profiles.errors import GeoshiftError, Problem, ProfileError
from device_profiles.figure import Figure, Origin
from device_profiles.hardware import Target, Verify, Weights
from device_profiles.loader import (
    as_builtins,
    builtin_names,
    from_builtins,
    json_schema,
    load,
    parse,
)
from device_profiles.os_commands import Command
from device_profiles.schema import Bank, Change, Guard, Memory, Mode, Profile, Selector, Writes
from device_profiles.triggers import Trigger

__all__ = [
    "Bank",
    "Change",
    "Command",
    "Energy",
    "Figure",
    "GeoshiftError",
    "Guard",
    "Memory",
    "Mode",
    "Origin",
    "Problem",
    "Profile",
    "ProfileError",
    "Selector",
    "Target",
    "Trigger",
    "Verify",
    "Weights",
    "Writes",
    "as_builtins",
    "builtin_names",
    "from_builtins",
    "json_schema",
    "load",
    "parse",
]
