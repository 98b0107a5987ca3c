"""Device profiles: what a device can do, allows and is asked to do."""

from device_profiles.errors import GeoshiftError, Problem, ProfileError
from device_profiles.loader import (
    as_builtins,
    builtin_names,
    from_builtins,
    json_schema,
    load,
    parse,
)
from device_profiles.schema import Bank, Change, Guard, Memory, Mode, Profile, Selector, Writes

__all__ = [
    "Bank",
    "Change",
    "GeoshiftError",
    "Guard",
    "Memory",
    "Mode",
    "Problem",
    "Profile",
    "ProfileError",
    "Selector",
    "Writes",
    "as_builtins",
    "builtin_names",
    "from_builtins",
    "json_schema",
    "load",
    "parse",
]
