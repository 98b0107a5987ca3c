"""Commands about who made a bundle: keygen, sign, verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from runtime.cli.terminal import guarded, out, plain, print_json
from runtime.plan.bundle import Bundle

BundlePath = Annotated[Path, typer.Argument(help="Directory of the plan bundle.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def add_commands(app: typer.Typer) -> None:
    """Add ``bundle`` and its commands to the command line."""
    group = typer.Typer(help="Signed bundles: make a key pair, sign, verify.", no_args_is_help=True)
    for command in (keygen, sign, verify):
        group.command()(guarded(command))
    app.add_typer(group, name="bundle")


def keygen(
    output: Annotated[Path, typer.Option("--output", "-o", help="Path of the pair, without .key and .pub.")] = Path(
        "geoshift"
    ),
    as_json: AsJson = False,
) -> None:
    """Make a key pair: NAME.key to sign with, which stays where it is, and NAME.pub to pin on devices."""
    from runtime.plan import signing

    private, public = output.with_name(f"{output.name}.key"), output.with_name(f"{output.name}.pub")
    key = signing.generate()
    signing.write_pair(private, public, key)
    if as_json:
        print_json({"id": key.public.id, "private": str(private), "public": str(public)})
        return
    out.print(f"Private key: {plain(private)} (keep it off devices; without it no newer release can be signed)")
    out.print(f"Public key:  {plain(public)}")
    out.print(f"Id:          {key.public.id}", soft_wrap=True)


def sign(
    bundle: BundlePath,
    key: Annotated[Path, typer.Option("--key", "-k", help="Private key, NAME.key.")],
    release: Annotated[
        int | None, typer.Option("--release", "-r", min=1, help="Release number to give it first; devices only go up.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a bundle and sign it; a signature that is there is replaced."""
    from runtime.plan import signing
    from runtime.plan.release import sign as run

    data = _summary(run(bundle, signing.load_private(key), release))
    if as_json:
        print_json(data)
        return
    out.print(f"Signed {bundle}: release {data['release']}, by {data['signed_by']}", soft_wrap=True, markup=False)


def verify(
    bundle: BundlePath,
    key: Annotated[list[Path], typer.Option("--key", "-k", help="Public key, NAME.pub; any of several may do.")],
    release: Annotated[int, typer.Option("--release", "-r", min=0, help="Lowest release to accept.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Check a bundle as a device does that pinned these keys; exit status 1 and the reason if it is refused."""
    from runtime.errors import BundleError
    from runtime.plan.bundle import read
    from runtime.plan.trust import pin

    trust = pin(key, release)
    try:
        data = _summary(read(bundle, trust))
    except BundleError as error:
        if as_json:
            print_json({"ok": False, "reason": str(error)})
            raise typer.Exit(1) from error
        raise
    if as_json:
        print_json({"ok": True, **data})
        return
    out.print(f"Release {data['release']}, signed by {data['signed_by']}", soft_wrap=True)


def _summary(bundle: Bundle) -> dict[str, Any]:
    """What other programs learn of a bundle whose signature was checked."""
    return {
        "path": str(bundle.path),
        "bundle": bundle.id,
        "release": bundle.manifest.release,
        "signed_by": bundle.signed_by,
    }
