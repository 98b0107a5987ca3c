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
from typing import TYPE_CHECKING, Literal

from device_profiles.errors import GeoshiftError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime.walking.net import Net

__all__ = ["GeoshiftError", "main", "open"]


def open(
    path: str | os.PathLike[str],
    profile: str | os.PathLike[str] | None = None,
    *,
    overrides: Sequence[str] = (),
    policy: str | None = None,
    state: str | os.PathLike[str] | None = None,
    resume: Literal["back", "forward"] | None = None,
    migrate: bool = False,
    pinned: Sequence[str | os.PathLike[str]] = (),
) -> Net:
    """Read a plan bundle and put it to work.

    Args:
        path: The bundle's directory.
        profile: Name of a built-in device profile or a YAML file; without it, the one the plan was made for.
        overrides: Texts PATH=VALUE that replace single values of the profile, ``writes.stall_budget_ms=2`` say.
        policy: Bank policy ``auto``, ``in-place``, ``shadow`` or ``persistent``, in place of the profile's.
        state: Directory for what must outlive a power cut. Opened with it again, the network stands where it stood.
        resume: Where a walk goes that a restart cut short: ``back`` or ``forward``; without it, to the nearer end.
        migrate: Take over a state directory of another bundle: begin in this one's dense mode, keep the counters.
        pinned: Files of public keys. With any, one of them must have signed the bundle, and its release may not be
            lower than the highest that the state directory remembers as committed.

    Returns:
        A network that answers (``infer``) and switches (``switch``); close it, or use it as a context.

    Raises:
        GeoshiftError: Bundle, profile or state directory is refused; the text says what was found, what was expected,
            and what to do.
    """
    from runtime.walking.net import open_bundle

    return open_bundle(
        path, profile, overrides=overrides, policy=policy, state=state, resume=resume, migrate=migrate, pinned=pinned
    )


def main() -> None:
    """Run the command line; exit status 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    import typer

    from planner.commands import add_commands as add_planner
    from runtime.cli.commands import add_commands as add_runtime

    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    add_planner(app)
    add_runtime(app)
    app()


if __name__ == "__main__":
    main()
