"""Commands on the device: serve, pair, tokens."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.table import Table

from runtime.cli import remote_commands
from runtime.cli.profile_commands import Overrides
from runtime.cli.terminal import err, guarded, out, plain, print_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.device.device import Device
    from runtime.service.config import Config
    from runtime.service.tokens import Tokens

State = Annotated[
    Path | None,
    typer.Option("--state", help="Directory for what the device must remember; default: systemd's, or the user's."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


class Way(Enum):
    """Where a walk goes that a power cut stopped."""

    BACK = "back"
    FORWARD = "forward"


def add_commands(app: typer.Typer) -> None:
    """Add the commands of the service, and of those who talk to it, to the command line."""
    app.command()(guarded(serve))
    app.command()(guarded(pair))
    tokens = typer.Typer(help="Tokens of this device: list, add, revoke, rotate.", no_args_is_help=True)
    tokens.command("list")(guarded(tokens_list))
    tokens.command("add")(guarded(tokens_add))
    tokens.command("revoke")(guarded(tokens_revoke))
    tokens.command("rotate")(guarded(tokens_rotate))
    app.add_typer(tokens, name="tokens")
    remote_commands.add_commands(app)


def serve(
    bundle: Annotated[Path, typer.Argument(help="Directory of the plan bundle.")],
    profile: Annotated[
        str | None, typer.Option("--profile", "-p", help="Built-in device profile or YAML file; default: the plan's.")
    ] = None,
    overrides: Overrides = None,
    policy: Annotated[str | None, typer.Option(help="auto, in-place or shadow, in place of the profile's.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen at; any but loopback means TLS.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 lets the system choose.")] = None,
    unix: Annotated[Path | None, typer.Option(help="Unix socket to listen at instead.")] = None,
    state: State = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of settings; options go before it.")] = None,
    key: Annotated[
        list[Path] | None,
        typer.Option("--key", "-k", help="Public key; one of those given must have signed."),
    ] = None,
    resume: Annotated[
        Way | None,
        typer.Option(help="Where a walk goes that a power cut stopped: back or forward."),
    ] = None,
    auth: Annotated[
        bool | None, typer.Option("--auth/--no-auth", help="--no-auth: no tokens, on loopback or a Unix socket only.")
    ] = None,
    migrate: Annotated[
        bool, typer.Option("--migrate", help="Take a state directory over from another plan: begin in the dense mode.")
    ] = False,
    announce: Annotated[
        bool | None, typer.Option("--announce/--no-announce", help="Whether the local network is told of the device.")
    ] = None,
) -> None:
    """Serve a plan: inference, and switching under way, over HTTP. Stop it with Ctrl-C or SIGTERM."""
    from runtime.service.config import Config, load, override

    settings = override(
        Config() if config is None else load(config),
        host=host, port=port, unix_socket=None if unix is None else str(unix), auth=auth,
        pinned_keys=[str(one) for one in key] if key else None,
    )  # fmt: skip
    if announce is not None:
        settings = override(settings, announce={**msgspec.to_builtins(settings.announce), "enabled": announce})
    home = state_folder(state)

    def opened() -> Device:
        from runtime.device.opening import open_device

        return open_device(
            bundle, profile, overrides=overrides or (), policy=policy, state=home, migrate=migrate,
            pinned=settings.pinned_keys,
            resume=None if resume is None else resume.value,
        )  # fmt: skip

    _serve(opened, home, settings)


def _serve(opened: Callable[[], Device], state: Path, settings: Config) -> None:
    from runtime.service.announcing import Announcing
    from runtime.service.certificate import ensure
    from runtime.service.listening import bind
    from runtime.service.logs import ServiceLog
    from runtime.service.server import Server
    from runtime.service.service import assemble

    log = ServiceLog(settings.log)
    folder = state / "service"
    certificate = ensure(folder)
    # Before the device is opened: a port that is taken is known at once, and clients that come early wait in line.
    place = bind(settings)
    try:
        with opened() as device:
            announcing = Announcing(device, place, certificate, settings, log)

            def ready() -> None:
                status = device.status()
                if device.why:
                    log.write("warning", "another bundle than the one given is at work", why=device.hidden(device.why))
                log.write(
                    "info", "serving", url=place.url, device=device.id, mode=status.mode, bundle=status.bundle,
                    release=status.release,
                    certificate_sha256=certificate.sha256 if place.tls else None, auth=settings.auth,
                )  # fmt: skip
                announcing.start()

            server = Server(assemble(device, settings, folder, certificate, log), place, ready)
            try:
                server.run_until_stopped()
            finally:
                announcing.close()
        log.write("info", "stopped")
    finally:
        place.close()
        log.close()


def pair(
    state: State = None,
    scope: Annotated[str, typer.Option(help="What the client may do: read, switch or admin.")] = "switch",
    as_json: AsJson = False,
) -> None:
    """Let one client in: makes the device's certificate if there is none, and shows a one-time code."""
    from runtime.service.certificate import ensure
    from runtime.service.pairing import LIFETIME_S, Pairing
    from runtime.service.service import PAIRING
    from runtime.service.tokens import Scope

    wanted = Scope.named(scope)
    folder = state_folder(state) / "service"
    certificate = ensure(folder)
    code = Pairing(folder / PAIRING).open(certificate.sha256, wanted)
    if as_json:
        print_json({"code": code, "certificate_sha256": certificate.sha256, "scope": scope, "seconds": LIFETIME_S})
        return
    out.print(f"Code:         [bold]{code}[/]   (once, for {LIFETIME_S / 60:.0f} minutes, scope {scope})")
    out.print(f"Certificate:  {certificate.sha256}", soft_wrap=True)
    out.print("On the other machine: geoshift login https://ADDRESS:PORT")


def tokens_list(state: State = None, as_json: AsJson = False) -> None:
    """List the tokens; their secrets are kept nowhere."""
    from runtime.service.tokens import Scope

    found = [{"id": one.id, "name": one.name, "scope": Scope(one.scope).word} for one in _tokens(state).listed()]
    if as_json:
        print_json(found)
        return
    table = Table("id", "name", "scope", box=None)
    for one in found:
        table.add_row(plain(one["id"]), plain(one["name"]), one["scope"])
    out.print(table)


def tokens_add(
    name: Annotated[str, typer.Argument(help="Whose it is.")],
    scope: Annotated[str, typer.Option(help="read, switch or admin.")] = "read",
    state: State = None,
) -> None:
    """Make a token and print it, this once."""
    from runtime.service.tokens import Scope

    typer.echo(_tokens(state).add(name, Scope.named(scope)))


def tokens_revoke(token_id: Annotated[str, typer.Argument(help="Id, as listed.")], state: State = None) -> None:
    """Make a token worthless at once."""
    _tokens(state).revoke(token_id)
    err.print(f"revoked {plain(token_id)}")


def tokens_rotate(token_id: Annotated[str, typer.Argument(help="Id, as listed.")], state: State = None) -> None:
    """Give a token a new secret and print it, this once."""
    typer.echo(_tokens(state).rotate(token_id))


def state_folder(given: Path | None) -> Path:
    """Where the device keeps what it must remember: as given, systemd's directory, or the user's."""
    if given is not None:
        return given
    if systemd := os.environ.get("STATE_DIRECTORY", "").partition(":")[0]:
        return Path(systemd)
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "geoshift"


def _tokens(state: Path | None) -> Tokens:
    from runtime import private_files
    from runtime.service.service import TOKENS
    from runtime.service.tokens import Tokens

    return Tokens(private_files.folder(state_folder(state) / "service") / TOKENS)
