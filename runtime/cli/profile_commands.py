"""Commands of device profiles: list, show, check, measure; and the options that other commands take for them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from device_profiles import Profile, ProfileError, loader
from device_profiles.numbers import Number, numbers
from runtime.cli.terminal import err, guarded, mark, out, plain, print_json, stages

if TYPE_CHECKING:
    from runtime.sensing.measuring import Measured

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="A single value in place of the profile's; may be repeated."),
]
_AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
_UNSAID = ("schema", "name", "description", "modes", "transitions", "origins", "commands", "triggers", "safety")
"""Sections that are shown in a way of their own, or as JSON only."""


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    profiles = typer.Typer(help="Device profiles: list, show, check, measure.", no_args_is_help=True)
    profiles.command("list")(guarded(profiles_list))
    profiles.command("show")(guarded(profiles_show))
    profiles.command("check")(guarded(profiles_check))
    profiles.command("measure")(guarded(profiles_measure))
    app.add_typer(profiles, name="profiles")


def chosen(name: str | os.PathLike[str] | None, own: Profile, overrides: Sequence[str] | None = None) -> Profile:
    """The profile that a command is to use.

    Args:
        name: Built-in profile or YAML file; None for the plan's own.
        own: The plan's.
        overrides: Texts PATH=VALUE.

    Raises:
        ProfileError: It cannot be read or breaks a rule of the format, the overrides included.
    """
    if name is not None:
        return loader.load(name, overrides or ())
    if not overrides:
        return own
    return loader.from_builtins(loader.as_builtins(own), f"{own.name} of the plan", overrides)


def profiles_list(as_json: _AsJson = False) -> None:
    """List the built-in device profiles."""
    found = [loader.load(name) for name in loader.builtin_names()]
    if as_json:
        print_json([{"name": one.name, "description": one.description, "runs": one.target.runs} for one in found])
        return
    table = Table("profile", "plans are", "description", box=None)
    for one in found:
        runs = "served" if one.target.runs == "live" else "simulated"
        table.add_row(plain(one.name), runs, plain(one.description))
    out.print(table)


def profiles_show(
    profile: Annotated[str, typer.Argument(help="Name or YAML file.")],
    overrides: Overrides = None,
    as_json: _AsJson = False,
) -> None:
    """Show a device profile, and where each of its numbers comes from."""
    found = loader.load(profile, overrides or ())
    if as_json:
        print_json(loader.as_builtins(found))
        return
    out.print(f"[bold]{plain(found.name)}[/]  {plain(found.description)}")
    out.print(_values_table(found))
    out.print(_modes_table(found))
    ways = ", ".join(f"{begin} – {end}" for begin, end in found.transitions)
    out.print(f"walked, each both ways: {plain(ways)}", soft_wrap=True)
    for name in ("commands", "triggers", "safety"):
        if listed := getattr(found, name):
            out.print(f"{name}: {len(listed)}; see --json")
    assumed = sum(one.origin is not None and one.origin.provenance == "assumed" for one in numbers(found))
    out.print(f"≈ {assumed} numbers are assumed: choices, arithmetic, or guesses until somebody measures them")


def profiles_check(
    files: Annotated[list[str], typer.Argument(help="YAML files to check.", metavar="FILE...")],
    as_json: _AsJson = False,
) -> None:
    """Check device profiles; exit status 1 and every reason, with file and line, if one is not valid."""
    said = []
    for file in files:
        try:
            found = loader.load(file)
        except ProfileError as error:
            said.append({"file": file, "ok": False, "problems": _problems(error)})
            if not as_json:
                err.print(plain(error), highlight=False, soft_wrap=True)
            continue
        said.append({"file": file, "ok": True, "name": found.name, "modes": list(found.modes)})
        if not as_json:
            out.print(f"{mark(True)} {plain(found.name)}: modes {plain(', '.join(found.modes))}", soft_wrap=True)
    if as_json:
        print_json({"ok": all(one["ok"] for one in said), "profiles": said})
    if not all(one["ok"] for one in said):
        raise typer.Exit(1)


def profiles_measure(
    bundle: Annotated[Path, typer.Argument(help="Directory of a plan bundle, whose networks are run.")],
    profile: Annotated[
        str | None, typer.Option("--profile", "-p", help="Profile that the result extends; default: the plan's own.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--out", "-o", help="YAML file to write, which extends the profile.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=3, max=10000, help="Runs of every mode, one mode after the other.")] = 50,
    watch_s: Annotated[
        float, typer.Option("--watch", min=1, max=3600, help="Seconds at rest, and at work, for which power is read.")
    ] = 20.0,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that stands there.")] = False,
    as_json: _AsJson = False,
) -> None:
    """Measure this board: latency of every mode, bandwidth of writing in place, and power where there is a meter."""
    from runtime.plan.bundle import read
    from runtime.plan.fit import check_live, check_weights
    from runtime.sensing.measuring import measure, overlay
    from runtime.sensing.power import find_meter

    if output is not None and output.exists() and not force:
        raise typer.BadParameter(f"found {output}, expected no such file; give another, or --force", param_hint="--out")
    plan = read(bundle)
    base = plan.profile.name if profile is None else profile
    if profile is None and base not in loader.builtin_names():
        raise typer.BadParameter(
            f"found none, and the plan's profile {base!r} is not built in: give the file it came from",
            param_hint="--profile",
        )
    device = loader.load(base)
    check_live(device, f"{bundle} on {device.name}")
    check_weights(plan.profile.weights, device, f"{bundle} on {device.name}")
    meter = find_meter()
    with stages() as bar:
        found = measure(plan, device, rounds=rounds, watch_s=watch_s, meter=meter, progress=bar)
    extended = base if base in loader.builtin_names() or output is None else os.path.relpath(base, output.parent)
    text = overlay(found, extended)
    if output is not None:
        _write(output, text)
    if as_json:
        print_json(found.as_json())
        return
    out.print(_latencies_table(found))
    out.print(_figures_table(found))
    if meter is None:
        out.print("power: this machine tells none; the figures of the profile stay")
    if output is None:
        out.print("write it to a file with --out FILE, and use it as a profile")
    else:
        out.print(f"{plain(output)}: written; use it as a profile", soft_wrap=True)


def _write(output: Path, text: str) -> None:
    """Write a profile whole or not at all, once it is known to be valid where it lies."""
    draft = output.with_name(f".{output.name}.new")
    try:
        draft.write_text(text, encoding="utf-8")
        loader.load(draft)
        draft.replace(output)
    finally:
        draft.unlink(missing_ok=True)


def _problems(error: ProfileError) -> list[dict[str, Any]]:
    return [
        {
            "file": one.origin or error.origin, "line": one.line, "key": one.key, "found": one.found,
            "expected": one.expected, "remedy": one.remedy,
        }
        for one in error.problems
    ]  # fmt: skip


def _values_table(profile: Profile) -> Table:
    """Every value outside modes, and where numbers come from."""
    said = {one.path: one for one in numbers(profile)}
    data = loader.as_builtins(profile)
    table = Table("value", "", "", "source", box=None)
    table.columns[3].overflow = "fold"
    shown = set()
    for path, value in _leaves({name: part for name, part in data.items() if name not in _UNSAID}, ()):
        number = said.get(path) or said.get(path[:-1])
        shown.add(number.path if number else path)
        if number is not None and path[-1] in ("provenance", "source"):
            continue
        _add(table, number.key if number else ".".join(map(str, path)), value, number)
    # What a section leaves out has its default.
    for number in said.values():
        if number.path not in shown and number.path[0] not in _UNSAID:
            _add(table, number.key, number.value, number)
    return table


def _add(table: Table, name: str, value: object, number: Number | None) -> None:
    text = f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
    if number is None or number.origin is None:
        table.add_row(plain(name), plain(text), "", "")
        return
    word = number.origin.provenance
    table.add_row(
        plain(name), plain(text), f"[yellow]≈ {word}[/]" if word == "assumed" else word, plain(number.origin.source)
    )


def _leaves(data: object, path: tuple[str | int, ...]) -> list[tuple[tuple[str | int, ...], object]]:
    if isinstance(data, dict):
        return [leaf for name, value in data.items() for leaf in _leaves(value, (*path, name))]
    if isinstance(data, list):
        return [leaf for place, value in enumerate(data) for leaf in _leaves(value, (*path, place))]
    return [] if data is None else [(path, data)]


def _modes_table(profile: Profile) -> Table:
    table = Table("mode", "from", "changes", "description", title="Modes", title_justify="left", box=None)
    for name, mode in profile.modes.items():
        changes = [
            f"{sign}{change.count if change.count is not None else f'{change.fraction:.0%}'} of "
            + (change.layer.name or f"{change.layer.role} {change.layer.position or ''}".strip())
            for sign, listed in (("-", mode.remove), ("+", mode.restore))
            for change in listed
        ]
        changes += [
            f"{field} {value}"
            for field in ("macs", "watts", "latency_ms", "sparsity", "weights")
            if (value := getattr(mode, field)) is not None
        ]
        table.add_row(plain(name), plain(mode.from_ or ""), plain(", ".join(changes)), plain(mode.description))
    return table


def _latencies_table(found: Measured) -> Table:
    table = Table(
        "mode",
        "MACs",
        "latency",
        "range of the middle half",
        title=plain(found.machine),
        title_justify="left",
        box=None,
    )
    for mode in found.modes:
        table.add_row(
            plain(mode.name),
            f"{mode.macs:,}",
            f"{mode.median_ms:.3f} ms",
            f"{mode.quartiles_ms[0]:.3f} to {mode.quartiles_ms[1]:.3f} ms",
        )
    return table


def _figures_table(found: Measured) -> Table:
    table = Table("figure", "value", "", "source", box=None)
    for name, figure in found.figures.items():
        table.add_row(plain(name), f"{figure.value:.4g}", figure.provenance, plain(figure.source))
    return table
