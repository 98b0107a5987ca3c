"""Dotted references to a user's own code: `package.module:function`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from device_profiles.errors import GeoshiftError


def is_reference(text: str) -> bool:
    """Whether a name points at the user's code rather than at something built in."""
    return ":" in text


def call(reference: str, error: type[GeoshiftError]) -> object:
    """Import `package.module:function` and call it without arguments.

    The working directory is importable for the time of the call, as under `python -m`, so that a file beside the
    user is found without being installed. The search path is put back afterwards: a folder of the user's that is
    called like one of geoshift's own packages must not stand in for it later.

    Args:
        reference: Module path, a colon, and the function or class in it (dots reach into a class).
        error: Raised when the module or its attribute is missing, cannot be called, or raises; the asker's own class.

    Returns:
        Whatever the function returned.
    """
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute or not all(part.isidentifier() for part in module_name.split(".")):
        raise error(
            f"{reference!r} is not a reference to a function: expected package.module:function, "
            f"for example my_models:build"
        )
    with _working_directory_importable():
        function = _find(reference, module_name, attribute, error)
        if not callable(function):
            raise error(
                f"{reference}: found {attribute!r} of type {type(function).__name__}, expected a function or class "
                f"that is called without arguments"
            )
        try:
            return function()
        except Exception as cause:
            raise error(
                f"{reference} raised {type(cause).__name__}: {cause}; expected it to return when called without "
                f"arguments"
            ) from cause


def _find(reference: str, module_name: str, attribute: str, error: type[GeoshiftError]) -> object:
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as cause:
        if cause.name is None or not f"{module_name}.".startswith(f"{cause.name}."):
            raise error(f"{reference}: importing {module_name} needs {cause.name!r}, which is not installed") from cause
        raise error(
            f"{reference}: module {cause.name!r} was not found in {os.getcwd()} or among the installed packages; "
            f"run from the directory that holds it or install it"
        ) from cause
    except Exception as cause:
        raise error(f"{reference}: importing {module_name} raised {type(cause).__name__}: {cause}") from cause
    for part in attribute.split("."):
        if not hasattr(found, part):
            offered = ", ".join(name for name in dir(found) if not name.startswith("_")) or "nothing public"
            raise error(f"{reference}: {module_name} has no {attribute!r}; it offers {offered}")
        found = getattr(found, part)
    return found


@contextmanager
def _working_directory_importable() -> Iterator[None]:
    here = os.getcwd()
    sys.path.insert(0, here)
    importlib.invalidate_caches()  # a file written a moment ago must be seen
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)
