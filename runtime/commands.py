"""Commands of the device side: inspect, verify, profiles, and those of other modules."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.table import Table

from device_profiles import Profile, loader
from runtime import bundle_commands, service_commands
from runtime.simulation import commands as simulation_commands
from runtime.terminal import guarded, out, plain, print_json, stages

BundlePath = Annotated[Path, typer.Argument(help="Directory of the plan bundle.")]
ProfileName = Annotated[
    str | None, typer.Option("--profile", "-p", help="Built-in device profile or YAML file; default: the plan's own.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    app.callback(invoke_without_command=True)(about)
    for command in (inspect, verify):
        app.command()(guarded(command))
    profiles = typer.Typer(help="Device profiles: list, show, check.", no_args_is_help=True)
    profiles.command("list")(guarded(profiles_list))
    profiles.command("show")(guarded(profiles_show))
    profiles.command("check")(guarded(profiles_check))
    app.add_typer(profiles, name="profiles")
    simulation_commands.add_commands(app)
    bundle_commands.add_commands(app)
    service_commands.add_commands(app)


def about(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Move a live neural network between power configurations without serving a bad answer."""
    if version:
        out.print(metadata.version("geoshift"))
        raise typer.Exit


def inspect(bundle: BundlePath, as_json: AsJson = False) -> None:
    """Show what a plan holds: modes, transitions, evidence, cost."""
    from runtime.bundle import read
    from runtime.inspection import notes, summary

    plan = read(bundle)
    data = summary(plan)
    if as_json:
        print_json(data)
        return
    out.print(_modes_table(data))
    for note in notes(plan.manifest):
        out.print(plain(note), soft_wrap=True)
    out.print(_transitions_table(data))
    for table in _candidates_tables(data):
        out.print(table)
    out.print("▸ chosen, ◆ Pareto front of bytes and worst state, ✗ not feasible; three lengths, on selection samples")
    out.print(
        f"{data['size_bytes'] / 1e3:,.0f} kB on disk (dense weights {data['dense_bytes'] / 1e3:,.0f} kB), planned in "
        f"{data['seconds']:.1f} s and {data['epoch_equivalents']:.2f} epoch-equivalents; release {data['release']}, "
        f"{'signed, not checked: `geoshift bundle verify`' if data['signed'] else 'not signed'}"
    )


def verify(bundle: BundlePath, profile: ProfileName = None, as_json: AsJson = False) -> None:
    """Repeat a plan's evidence on this machine; exit status 1 if anything differs."""
    from runtime.bundle import read
    from runtime.verification import verify as run

    plan = read(bundle)
    with stages() as bar:
        bar.stage("Verifying", len(plan.manifest.modes) + len(plan.transitions))
        checks = run(plan, _profile(profile, plan.profile), bar.step)
    failed = [check for check in checks if not check.ok]
    if as_json:
        print_json({"ok": not failed, "checks": msgspec.to_builtins(checks)})
    else:
        for check in failed:
            out.print(f"[red]✗[/] {plain(check.name)}: {plain(check.detail)}")
        out.print(f"{'[red]✗' if failed else '[green]✓'}[/] {len(checks) - len(failed)} of {len(checks)} checks passed")
    if failed:
        raise typer.Exit(1)


def profiles_list(as_json: AsJson = False) -> None:
    """List the built-in device profiles."""
    found = [loader.load(name) for name in loader.builtin_names()]
    if as_json:
        print_json([{"name": profile.name, "description": profile.description} for profile in found])
        return
    table = Table("profile", "description", box=None)
    for profile in found:
        table.add_row(plain(profile.name), plain(profile.description))
    out.print(table)


def profiles_show(profile: Annotated[str, typer.Argument(help="Name or YAML file.")], as_json: AsJson = False) -> None:
    """Show a device profile with every default filled in."""
    data = loader.as_builtins(loader.load(profile))
    if as_json:
        print_json(data)
        return
    out.print_json(data=data)


def profiles_check(file: Annotated[str, typer.Argument(help="YAML file to check.")], as_json: AsJson = False) -> None:
    """Check a device profile; exit status 1 and the reason if it is not valid."""
    profile = loader.load(file)
    if as_json:
        print_json({"ok": True, "name": profile.name, "modes": list(profile.modes)})
        return
    out.print(f"[green]✓[/] {plain(profile.name)}: modes {plain(', '.join(profile.modes))}")


def _profile(name: str | None, default: Profile) -> Profile:
    return default if name is None else loader.load(name)


def _modes_table(data: dict[str, Any]) -> Table:
    table = Table("mode", "accuracy", "MACs", "of dense", "weights", title="Modes", title_justify="left", box=None)
    dense = data["modes"][0]["macs"]
    for mode in data["modes"]:
        table.add_row(
            plain(mode["name"]),
            f"{mode['accuracy']:.2%}",
            f"{mode['macs']:,}",
            f"{mode['macs'] / dense:.0%}",
            f"{mode['weight_bytes'] / 1e3:,.0f} kB",
        )
    return table


def _transitions_table(data: dict[str, Any]) -> Table:
    table = Table(
        "transition", "strategy", "worst state", "proved in every state", "written", "functional length",
        title="Transitions (each walkable both ways)", title_justify="left", box=None,
    )  # fmt: skip
    for move in data["transitions"]:
        table.add_row(
            plain(f"{move['from']} → {move['to']}"),
            plain(move["strategy"]),
            f"{move['min_accuracy']:.2%}",
            _proved(move["certificate"]),
            f"{move['bytes_written'] / 1e3:,.1f} kB",
            f"{move['functional_length']:.3f}",
        )
    return table


def _candidates_tables(data: dict[str, Any]) -> Iterator[Table]:
    """What each transition's path was chosen from."""
    for move in (move for move in data["transitions"] if move["candidates"]):
        title = f"{plain(move['from'])} → {plain(move['to'])}: candidates"
        table = Table(title=title, title_justify="left", box=None)
        table.add_column("path", overflow="fold")
        for name in ("", "worst state", "bound", "written", "length", "Fisher", "relaxed"):
            table.add_column(name, no_wrap=True)
        for one in move["candidates"]:
            marks = ("▸" if one["chosen"] else "") + ("◆" if one["front"] else "") + ("" if one["feasible"] else "✗")
            lengths = (one[key] for key in ("functional_length", "fisher_length", "relaxed_fisher_length"))
            table.add_row(
                plain(one["name"]),
                marks,
                f"{one['worst_accuracy']:.2%}",
                f"{one['worst_accuracy_bound']:.2%}",
                f"{one['bytes_written'] / 1e3:,.1f} kB",
                *("-" if length is None else f"{length:.3f}" for length in lengths),
            )
        yield table


def _proved(certificate: dict[str, Any] | None) -> str:
    """Share of samples that are proved right, and what that says of all inputs."""
    if certificate is None or certificate["why_not"]:
        return "-"
    from runtime.findings import at_least

    proved = at_least(certificate["proved_torn"] / certificate["samples"], 2)
    return f"{proved} (≥ {at_least(certificate['bound_torn'], 2)})"


def strategies_table(data: dict[str, Any]) -> Table:
    """Strategies side by side, the best worst state first."""
    table = Table(
        "strategy", "worst state", "mean", "written", "time", "peak weights", "p99", "longest stall",
        title=f"{plain(' → '.join(data['tour']))} on {data['samples']} held-out samples; C1 answers "
        f"{data['dense_accuracy']:.2%} right",
        title_justify="left", box=None,
    )  # fmt: skip
    ranked = sorted(data["strategies"].items(), key=lambda item: (-item[1]["min_accuracy"], item[1]["bytes_written"]))
    for name, result in ranked:
        table.add_row(
            plain(name),
            f"{result['min_accuracy']:.2%}",
            f"{result['mean_accuracy']:.2%}",
            f"{result['bytes_written'] / 1e3:,.0f} kB",
            f"{result['seconds']:.2f} s",
            f"{result['peak_weight_bytes'] / 1e3:,.0f} kB",
            f"{result['p99_ms']:.2f} ms",
            f"{result['longest_stall_ms']:.2f} ms",
        )
    return table
