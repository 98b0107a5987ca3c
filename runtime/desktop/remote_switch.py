"""Switches devices, several at once: one that is slow or away keeps no other from switching."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

import msgspec
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from device_profiles.errors import GeoshiftError
from runtime.cli.terminal import err, mark, plain

if TYPE_CHECKING:
    from runtime.client import Client
    from runtime.device.views import OperationView

AT_ONCE: Final = 16
"""Devices that are talked to at the same time."""
STEP_S: Final = 0.2
"""Between two looks at a walk: as smooth as a bar needs to be."""


class Switched(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one device's switch."""

    ok: bool
    """Whether the device did, or where nobody waits for it will do, as it was told."""
    text: str
    operation: str | None = None
    walk: str = ""
    outcome: str = ""
    """How it ended, or the phase that it is in; ``not begun`` where the device is away or refuses."""

    @property
    def line(self) -> str:
        """All of it in a line."""
        begin = ": ".join(part for part in (self.walk, self.outcome if self.operation else "") if part)
        return ": ".join(part for part in (begin, self.text) if part)


def switch_devices(
    names: Sequence[str], connect: Callable[[str], Client], mode: str, lease_s: float | None, wait: bool
) -> dict[str, Switched]:
    """Switch devices at the same time, and say of each what became of it, in the order given.

    Args:
        names: Names of the devices.
        connect: Makes a client for one of them.
        mode: Name of a mode, or ``auto``.
        lease_s: Seconds for which the wish stands; None for no end.
        wait: Whether to wait for the end of each walk.
    """
    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=28), TimeElapsedColumn(),
        TextColumn("{task.fields[phase]}"),
    )  # fmt: skip
    leaves = threading.Event()
    with Progress(*columns, console=err, transient=True) if wait else nullcontext() as bars:

        def switch(name: str) -> Switched:
            return _switch(name, connect, mode, lease_s, None if bars is None else _Bar(bars, name, leaves))

        pool = ThreadPoolExecutor(min(AT_ONCE, max(1, len(names))), thread_name_prefix="geoshift-ask")
        try:
            return dict(zip(names, pool.map(switch, names), strict=True))
        finally:
            # Ctrl-C: who follows a walk looks away at its next step, and nobody else is asked.
            leaves.set()
            pool.shutdown(cancel_futures=True)


def switched_table(ends: dict[str, Switched]) -> Table:
    """What became of each device."""
    table = Table("", "device", "walk", "outcome", "", box=None)
    for name, end in ends.items():
        table.add_row(mark(end.ok), *(plain(text) for text in (name, end.walk, end.outcome, end.text)))
    return table


class _Bar:
    """Follows walks of one device in a line of its own."""

    def __init__(self, bars: Progress, name: str, leaves: threading.Event) -> None:
        self._bars, self._name, self._leaves = bars, name, leaves

    def follow(self, client: Client, begun: OperationView) -> OperationView:
        """Wait for the end; a walk that is turned to another mode is followed there no further."""
        found = begun
        walk = f"{plain(self._name)}: {plain(begun.from_)} → {plain(begun.to)}"
        line: TaskID = self._bars.add_task(walk, total=1.0, phase=begun.phase)
        while found.outcome is None and not self._leaves.is_set():
            found = client.operation(found.id, wait_s=STEP_S)
            self._bars.update(line, completed=found.progress, phase=found.phase)
        return found


def _switch(
    name: str, connect: Callable[[str], Client], mode: str, lease_s: float | None, bar: _Bar | None
) -> Switched:
    """Switch one device, and say what became of it whatever that is."""
    try:
        with connect(name) as client:
            begun = client.switch(mode, lease_s=lease_s)
            if begun is None:
                return Switched(ok=True, text=f"in mode {client.status().mode}; nothing to do", outcome="none needed")
            end = begun if bar is None else bar.follow(client, begun)
    except (GeoshiftError, OSError) as error:
        return Switched(ok=False, text=str(error), outcome="not begun")
    ok = end.outcome == "committed" or (bar is None and end.outcome is None)
    notes = [end.reason] if end.reason else []
    if end.bytes_written is not None:
        notes.append(f"{end.bytes_written:,} bytes in {end.seconds:.2f} s")
    return Switched(
        ok=ok, text=", ".join(notes), operation=end.id, walk=f"{end.from_} → {end.to}",
        outcome=end.outcome or end.phase,
    )  # fmt: skip
