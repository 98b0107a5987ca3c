"""The devices of a network as a person reads them in a terminal: once, or as they come and go."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.live import Live
from rich.table import Table

from runtime.cli.terminal import plain
from runtime.discovery.discover import Found, Lost


def devices_table(found: Iterable[Found]) -> Table:
    """Devices, by name."""
    table = Table("name", "address", "profile", "mode", "state", "auth", box=None)
    for one in sorted(found, key=lambda device: device.name):
        address = f"[{one.addresses[0]}]" if ":" in one.addresses[0] else one.addresses[0]
        url = f"{'https' if one.tls else 'http'}://{address}:{one.port}"
        table.add_row(*map(plain, (one.name, url, one.prof, one.mode, one.st, one.auth)))
    return table


def show(news: Iterable[Found | Lost], console: Console) -> None:
    """Keep a table up to date for as long as there is news; the last one stays on the screen.

    Args:
        news: As ``runtime.discovery.discover.watch`` yields it.
        console: A terminal.
    """
    known: dict[str, Found] = {}
    with Live(devices_table(()), console=console, auto_refresh=False) as live:
        for one in news:
            if isinstance(one, Found):
                known[one.name] = one
            else:
                known.pop(one.name, None)
            live.update(devices_table(known.values()), refresh=True)
