"""geoshift: move a live neural network between power configurations without serving a bad answer.

On a device::

    import geoshift

    with geoshift.open("plan/", profile="raspberry-pi-5") as net:
        y = net.infer(x)          # numpy in, numpy out, from any thread
        op = net.switch("C3")     # returns at once
        result = op.wait()

The command line is ``geoshift --help``. Neither side is loaded before it is used.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from device_profiles.errors import GeoshiftError

if TYPE_CHECKING:
    from runtime.net import Net

__all__ = ["GeoshiftError", "main", "open"]


def open(
    path: str | os.PathLike[str], profile: str | os.PathLike[str] | None = None, *, policy: str | None = None
) -> Net:
    """Read a plan bundle and put it to work.

    Args:
        path: The bundle's directory.
        profile: Name of a built-in device profile or a YAML file; without it, the one the plan was made for.
        policy: Bank policy ``auto``, ``in-place`` or ``shadow``, in place of the profile's.

    Returns:
        A network that answers (``infer``) and switches (``switch``); close it, or use it as a context.

    Raises:
        GeoshiftError: The bundle or the profile is refused; the text says what was found, expected, and what to do.
    """
    from runtime.net import open_bundle

    return open_bundle(path, profile, policy=policy)


def main() -> None:
    """Run the command line; exit status 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    import typer

    from planner.commands import add_commands as add_planner
    from runtime.commands import add_commands as add_runtime

    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    add_planner(app)
    add_runtime(app)
    app()


if __name__ == "__main__":
    main()
