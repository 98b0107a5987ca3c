"""Opens a device: a bundle, a profile, and a name that stays."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from runtime import private_files
from runtime.device.device import Device
from runtime.errors import StateError
from runtime.memory.recovery import Resume
from runtime.plan.trust import pin
from runtime.sensing.os_power import Tools
from runtime.walking.net import open_bundle

ID: Final = "device-id"
"""File of the state directory that holds the device's name."""


def open_device(
    path: str | os.PathLike[str],
    profile: str | os.PathLike[str] | None = None,
    *,
    overrides: Sequence[str] = (),
    policy: str | None = None,
    state: str | os.PathLike[str] | None = None,
    resume: Resume | None = None,
    migrate: bool = False,
    pinned: Sequence[str | os.PathLike[str]] = (),
    clock: Callable[[], float] | None = None,
    tools: Tools | None = None,
    watches: bool = True,
) -> Device:
    """Read a bundle and make a device of it.

    Args:
        path: The bundle's directory.
        profile: Name of a built-in device profile or a YAML file. Without it, the one the plan was made for, whose
            commands are not run and whose files are not read: it may come from anywhere.
        overrides: Texts PATH=VALUE that replace single values of the profile, ``writes.stall_budget_ms=2`` say.
        policy: ``auto``, ``in-place``, ``shadow`` or ``persistent``, in place of the profile's.
        state: Directory for what must outlive a power cut, the device's name and what was asked for by hand among it;
            without it, it is another device with every start.
        resume: Where a walk goes that a restart cut short: ``back`` or ``forward``; without it, to the nearer end.
        migrate: Take over a state directory of another bundle: begin in this one's dense mode, keep the counters.
        pinned: Files of public keys. With any, one of them must have signed the bundle, and its release may not be
            lower than the highest that the state directory remembers as committed.
        clock: Seconds on a clock that never jumps; None for the machine's.
        tools: Where programs and sysfs are.
        watches: Whether a thread reads what is watched; without it, ``Device.poll`` is to be called.

    Raises:
        BundleError: The bundle is refused or does not fit the device.
        ProfileError: There is no such profile, or it is not valid.
        StateError: The state directory is damaged, in use, or another bundle's.
        JournalError: The state directory cannot be written.
    """
    net = open_bundle(
        path, profile, overrides=overrides, policy=policy, state=state, resume=resume, migrate=migrate, pinned=pinned
    )
    try:
        folder = None if state is None else Path(state)
        return Device(
            net,
            id=secrets.token_hex(8) if folder is None else device_id(folder),
            state=folder,
            outside=profile is not None,
            clock=clock,
            tools=tools,
            watches=watches,
            trust=pin(pinned),
        )
    except BaseException:
        net.close()
        raise


def device_id(state: Path) -> str:
    """The device's name: the one in its state directory, or a new one that is kept there.

    Raises:
        StateError: The file holds something else.
    """
    place = private_files.folder(state) / ID
    raw = private_files.read(place, 64)
    if raw is None:
        name = secrets.token_hex(8)
        private_files.write(place, f"{name}\n".encode("ascii"))
        return name
    name = raw.decode("ascii", "replace").strip()
    if not re.fullmatch(r"[0-9a-f]{16}", name):
        raise StateError(
            f"{place}: found {name[:40]!r}, expected 16 hexadecimal digits; remove the file for a new name"
        )
    return name
