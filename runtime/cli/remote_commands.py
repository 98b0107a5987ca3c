"""Commands on the desktop: what one asks of devices over the network."""

from __future__ import annotations

import contextlib
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer
from rich.table import Table

from runtime.cli.push_commands import push
from runtime.cli.terminal import err, guarded, mark, out, plain, print_json

if TYPE_CHECKING:
    from runtime.client import Client

DeviceName = Annotated[str, typer.Argument(help="Name given at login, the device's id or address, or unix:/path.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
LOOK_S = 3.0
"""In which every device of a network has answered."""


def add_commands(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for command in (login, logout, devices, status, switch, watch, hold, release, logs, doctor, discover):
        app.command()(guarded(command))
    app.command()(guarded(push))
    app.command("open")(guarded(open_page))


def login(
    url: Annotated[str, typer.Argument(help="https://ADDRESS:PORT of the device.")],
    name: Annotated[str | None, typer.Option(help="What to call it here; default: its host.")] = None,
) -> None:
    """Pair with a device: asks for the code that `geoshift pair` shows there, pins its certificate, keeps a token."""
    from runtime.client import pair, whole
    from runtime.desktop.known_devices import KnownDevices

    url = whole(url)
    called = name or urlsplit(url).hostname or url
    # Asked for and not an argument: arguments of a process are for everybody to see.
    code = typer.prompt("Code", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline(64)
    device = pair(url, code, socket.gethostname()[:64], called)
    KnownDevices().keep(device)
    err.print(f"[green]✓[/] {plain(called)}: paired with device {plain(device.device)}; certificate pinned")


def logout(device: DeviceName) -> None:
    """Forget a device here; to make its token worthless too, run `geoshift tokens revoke` on the device."""
    from runtime.desktop.known_devices import KnownDevices

    KnownDevices().forget(device)
    err.print(f"forgot {plain(device)}")


def devices(as_json: AsJson = False) -> None:
    """List the devices that this desktop has paired with."""
    from runtime.desktop.known_devices import KnownDevices

    found = [{"name": one.name, "url": one.url, "device": one.device} for one in KnownDevices().all()]
    if as_json:
        print_json(found)
        return
    table = Table("name", "address", "device", box=None)
    for one in found:
        table.add_row(*(plain(value) for value in one.values()))
    out.print(table)


def status(device: DeviceName, as_json: AsJson = False) -> None:
    """Show what a device is doing, who decided so, and what its modes cost."""
    import msgspec

    from runtime.desktop.remote_tables import modes_table, status_lines

    with connect(device) as client:
        found, modes = client.status(), client.modes()
    if as_json:
        print_json(msgspec.to_builtins({"status": found, "modes": modes}))
        return
    for line in status_lines(found):
        out.print(line, soft_wrap=True)
    out.print(modes_table(found, modes))


def switch(
    words: Annotated[
        list[str], typer.Argument(help="DEVICE MODE; with --all only MODE. MODE `auto` gives control back.")
    ],
    all_devices: Annotated[bool, typer.Option("--all", help="All devices that this desktop has paired with.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the end, and fail unless the mode is reached.")
    ] = False,
    lease_s: Annotated[float | None, typer.Option("--lease", help="Seconds after which control goes back.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change the mode of a device, or of all at once; exit status 1 if one refuses or, with --wait, does not arrive."""
    from runtime.desktop.known_devices import KnownDevices, UnknownDevice
    from runtime.desktop.remote_switch import switch_devices, switched_table

    expected = 1 if all_devices else 2
    if len(words) != expected:
        raise typer.BadParameter("expected MODE after --all" if all_devices else "expected DEVICE MODE")
    names = [one.name for one in KnownDevices().all()] if all_devices else [words[0]]
    if not names:
        raise UnknownDevice("switch --all: found no device, expected some; run `geoshift login` first")
    ends = switch_devices(names, connect, words[-1], lease_s, wait)
    if as_json:
        print_json({name: {"ok": end.ok, "text": end.line, "operation": end.operation} for name, end in ends.items()})
    elif all_devices:
        out.print(switched_table(ends))
    else:
        for name, end in ends.items():
            out.print(f"{mark(end.ok)} {plain(name)}: {plain(end.line)}", soft_wrap=True)
    if failed := [name for name, end in ends.items() if not end.ok]:
        if all_devices:
            err.print(f"{len(failed)} of {len(ends)} devices did not switch", soft_wrap=True)
        raise typer.Exit(1)


def watch(
    device: DeviceName,
    after: Annotated[int | None, typer.Option(help="Id of the last event that is known.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many events.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print what happens on a device, as it happens."""
    import msgspec

    with connect(device) as client, contextlib.closing(client.events(after)) as events:
        for number, event in enumerate(events, 1):
            if as_json:
                typer.echo(msgspec.json.encode(event).decode())
            else:
                fields = " ".join(f"{key}={value}" for key, value in event.data.items() if value not in (None, ""))
                out.print(f"{event.id:>6} {event.at_s:>10.2f} s  {event.kind:<9} {plain(fields)}", soft_wrap=True)
            if number == count:
                return


def hold(
    device: DeviceName,
    mode: Annotated[str, typer.Argument(help="Mode to ask for; of several holds the one of lowest power decides.")],
    reason: Annotated[str, typer.Option(help="Why; shown to whoever wonders.")] = "",
    ttl_s: Annotated[float | None, typer.Option("--for", help="Seconds after which it ends by itself.")] = None,
) -> None:
    """Place a hold on a device and print its id."""
    with connect(device) as client:
        typer.echo(client.hold(mode, reason, ttl_s).id)


def release(
    device: DeviceName, hold_id: Annotated[str, typer.Argument(help="Id that `geoshift hold` printed.")]
) -> None:
    """End a hold."""
    with connect(device) as client:
        client.release(hold_id)


def logs(device: DeviceName, as_json: AsJson = False) -> None:
    """Print the last lines of a device's log; needs scope admin."""
    import msgspec

    with connect(device) as client:
        lines = client.logs()
    for line in lines:
        if as_json:
            typer.echo(msgspec.json.encode(line).decode())
            continue
        fields = " ".join(f"{key}={value}" for key, value in line.fields.items())
        out.print(f"{line.at_s:>10.3f} {plain(line.level):<7} {plain(line.event)} {plain(fields)}", soft_wrap=True)


def doctor(device: DeviceName, as_json: AsJson = False) -> None:
    """Look a device over: reachable, trusted, well, fast; exit status 1 if something is wrong."""
    from runtime.desktop.examination import examine

    findings = examine(lambda: connect(device))
    if as_json:
        print_json([{"name": one.name, "ok": one.ok, "detail": one.detail} for one in findings])
    else:
        for one in findings:
            out.print(f"{mark(one.ok)} {plain(one.name)}: {plain(one.detail)}", soft_wrap=True)
    if not all(one.ok for one in findings):
        raise typer.Exit(1)


def discover(
    timeout_s: Annotated[
        float | None, typer.Option("--timeout", min=0.1, help="Seconds to look, then print what is there.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the devices of the local network, live until Ctrl-C. What they say is not to be trusted before a login."""
    import msgspec

    from runtime.discovery import discover as network
    from runtime.discovery.discovery_table import devices_table, show

    if timeout_s is None and not as_json and out.is_terminal:
        with contextlib.suppress(KeyboardInterrupt):
            show(network.watch(lambda: False), out)
        return
    found = {one.name: one for one in network.discover(LOOK_S if timeout_s is None else timeout_s)}
    if as_json:
        print_json(msgspec.to_builtins(list(found.values())))
    else:
        out.print(devices_table(found.values()))


def open_page(
    device: DeviceName,
    browser: Annotated[bool, typer.Option(help="Open a browser, or only say which file leads in.")] = True,
) -> None:
    """Show a device's page in the browser, over a proxy on this machine that holds pin and token; Ctrl-C ends it."""
    import tempfile
    import webbrowser

    from runtime.desktop.page_proxy import Proxy

    with connect(device) as client, tempfile.TemporaryDirectory(prefix="geoshift-") as folder:
        client.identity()
        proxy = Proxy(client.channel)
        place = proxy.way_in(Path(folder) / "open.html")
        out.print(f"The page of {plain(device)}: open {plain(place)} in a browser; Ctrl-C ends it", soft_wrap=True)
        if browser:
            webbrowser.open(place.as_uri())
        proxy.serve()


def connect(name: str) -> Client:
    """A client for a device by the name a person gave."""
    from runtime.client import Client
    from runtime.desktop.known_devices import KnownDevices, UnknownDevice

    known = KnownDevices()
    try:
        return Client.of(name, known)
    except UnknownDevice:
        # The socket's rights are the door, where the device asks for no token.
        if name.startswith("unix:") and Path(name.removeprefix("unix:")).is_socket():
            return Client(name)
        if urlsplit(name).scheme == "http":
            return Client(name)
        raise
