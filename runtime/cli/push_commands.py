"""The command ``push``: a plan from this desktop to a device."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from runtime.cli.terminal import err, out, plain, print_json

if TYPE_CHECKING:
    from runtime.device.views import PushView


def push(
    bundle: Annotated[Path, typer.Argument(help="Directory of the plan bundle.")],
    device: Annotated[str, typer.Argument(help="Name given at login, the device's id or address, or unix:/path.")],
    key: Annotated[
        list[Path] | None,
        typer.Option("--key", "-k", help="Public key; one of those given must have signed. The device checks its own."),
    ] = None,
    allow_gap: Annotated[
        bool, typer.Option("--allow-gap", help="Let the device stop answering for a while if its memory demands it.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; a gap is allowed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Replace the plan of a device while it answers; needs scope admin. Exit status 1 unless the new one is at work."""
    import msgspec

    from runtime.cli.remote_commands import connect
    from runtime.plan.trust import pin

    def allowed(seconds: float) -> bool:
        if allow_gap or yes:
            return True
        question = f"{device}: no room for two plans; it will not answer for about {seconds:.1f} s. Go on?"
        return sys.stdin.isatty() and typer.confirm(question, err=True)

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        TimeElapsedColumn(),
        TextColumn("{task.fields[state]}"),
    )
    with connect(device) as client, Progress(*columns, console=err, transient=True, disable=as_json) as progress:
        task = progress.add_task(plain(device), total=None, state="checking the bundle")

        def told(view: PushView) -> None:
            received, total = view.received_bytes, view.total_bytes
            sent = f"{decimal(received)} of {decimal(total)}" if view.phase == "receiving" else view.phase
            progress.update(task, total=max(1, total), completed=received, state=sent)

        def asked(seconds: float) -> bool:
            progress.stop()  # or it would write over the question
            answer = allowed(seconds)
            progress.start()
            return answer

        end = client.push(bundle, allow_gap=asked, trust=pin(key or ()), told=told)
    if as_json:
        print_json(msgspec.to_builtins(end))
    else:
        mark = "[green]✓[/]" if end.outcome == "committed" else "[red]✗[/]"
        out.print(f"{mark} {plain(device)}: {plain(words(end))}", soft_wrap=True)
    if end.outcome != "committed":
        raise typer.Exit(1)


def words(end: PushView) -> str:
    """How a push ended, in a sentence."""
    name = f"bundle {end.id[:16]}, release {end.release}"
    if end.outcome != "committed":
        stays = "no plan is at work" if end.outcome == "failed" else f"bundle {end.replaces[:16]} is at work as before"
        return f"{name}: {end.outcome}: {end.reason}; {stays}"
    if end.reason:
        return f"{name}: {end.reason}"
    gap = "" if end.gap_was_s is None else f", did not answer for {end.gap_was_s:.1f} s"
    return f"{name}: committed in mode {end.mode} after {end.seconds:.1f} s{gap}"
