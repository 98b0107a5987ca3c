"""Commands of the device side: inspect, verify, and those of other modules."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.table import Table

from device_profiles import Profile
from runtime.cli import bundle_commands, profile_commands, service_commands
from runtime.cli.profile_commands import Overrides, chosen
from runtime.cli.terminal import guarded, out, plain, print_json, stages
from runtime.simulation import commands as simulation_commands

if TYPE_CHECKING:
    from runtime.plan.bundle import Bundle

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
    profile_commands.add_commands(app)
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
    from runtime.plan.bundle import read
    from runtime.reporting.inspection import ASSUMED, ASSUMED_WORDS, TRADE_OFFS, notes, origins, summary

    plan = read(bundle)
    data = summary(plan)
    if as_json:
        print_json(data)
        return
    out.print(_modes_table(data, plan.profile))
    for note in notes(plan.manifest):
        out.print(plain(note), soft_wrap=True)
    out.print(_transitions_table(data))
    if any(move.entry.cost is not None for move in plan.transitions):
        out.print(_costs_table(plan))
    told = origins(plan.profile)
    for line in told:
        out.print(plain(line), soft_wrap=True)
    if any(ASSUMED in line for line in told):
        out.print(f"{ASSUMED} {ASSUMED_WORDS}")
    for table in _candidates_tables(data, plan):
        out.print(table)
    trade_off = plan.profile.trade_off
    out.print(
        f"▸ chosen, for {TRADE_OFFS[trade_off]} (trade_off: {trade_off}), ◆ Pareto front of "
        f"{'bytes' if trade_off == 'accuracy' else trade_off} and worst state, ◇ of all costs that the profile knows "
        "and worst state, ✗ not feasible; three lengths, on selection samples",
        soft_wrap=True,
    )
    out.print(
        f"{data['size_bytes'] / 1e3:,.0f} kB on disk (dense weights {data['dense_bytes'] / 1e3:,.0f} kB), planned in "
        f"{data['seconds']:.1f} s and {data['epoch_equivalents']:.2f} epoch-equivalents; release {data['release']}, "
        f"{'signed, not checked: `geoshift bundle verify`' if data['signed'] else 'not signed'}"
    )


def verify(
    bundle: BundlePath, profile: ProfileName = None, overrides: Overrides = None, as_json: AsJson = False
) -> None:
    """Repeat a plan's evidence on this machine; exit status 1 if anything differs."""
    from runtime.plan.bundle import read
    from runtime.plan.fit import check_bundle
    from runtime.plan.verification import verify as run

    plan = read(bundle)
    device = chosen(profile, plan.profile, overrides)
    check_bundle(plan, device)
    with stages() as bar:
        bar.stage("Verifying", len(plan.manifest.modes) + len(plan.transitions))
        checks = run(plan, device, bar.step)
    failed = [check for check in checks if not check.ok]
    if as_json:
        print_json({"ok": not failed, "checks": msgspec.to_builtins(checks)})
    else:
        for check in failed:
            out.print(f"[red]✗[/] {plain(check.name)}: {plain(check.detail)}")
        out.print(f"{'[red]✗' if failed else '[green]✓'}[/] {len(checks) - len(failed)} of {len(checks)} checks passed")
    if failed:
        raise typer.Exit(1)


def _modes_table(data: dict[str, Any], profile: Profile) -> Table:
    from runtime.reporting.inspection import mode_words

    table = Table("mode", "accuracy", "MACs", "of dense", "weights", title="Modes", title_justify="left", box=None)
    predicted = [mode_words(mode["macs"], profile) for mode in data["modes"]]
    shown = [number for number in range(2) if any(words[number] != "-" for words in predicted)]
    for number in shown:
        table.add_column(("power", "latency")[number])
    dense = data["modes"][0]["macs"]
    for mode, words in zip(data["modes"], predicted, strict=True):
        table.add_row(
            plain(mode["name"]),
            f"{mode['accuracy']:.2%}",
            f"{mode['macs']:,}",
            f"{mode['macs'] / dense:.0%}",
            f"{mode['weight_bytes'] / 1e3:,.0f} kB",
            *(words[number] for number in shown),
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


def _costs_table(plan: Bundle) -> Table:
    """What each walk is predicted to cost on the plan's device."""
    from runtime.reporting.inspection import COLUMNS, cost_words

    table = Table(title=f"Predicted on {plain(plan.profile.name)}, one walk", title_justify="left", box=None)
    for name in ("walk", *COLUMNS):
        table.add_column(name)
    for entry in (move.entry for move in plan.transitions):
        for begin, end, cost in ((entry.from_, entry.to, entry.cost), (entry.to, entry.from_, entry.cost_back)):
            if cost is not None:
                table.add_row(plain(f"{begin} → {end}"), *cost_words(cost))
    return table


def _candidates_tables(data: dict[str, Any], plan: Bundle) -> Iterator[Table]:
    """What each transition's path was chosen from."""
    from runtime.reporting.inspection import COLUMNS, cost_words

    for move, kept in zip(data["transitions"], plan.transitions, strict=True):
        if not move["candidates"]:
            continue
        title = f"{plain(move['from'])} → {plain(move['to'])}: candidates"
        table = Table(title=title, title_justify="left", box=None)
        table.add_column("path", overflow="fold")
        column = {"seconds": 2, "energy": 3, "wear": 5}.get(plan.profile.trade_off)
        costs = () if column is None else (COLUMNS[column],)
        for name in ("", "worst state", "bound", "written", *costs, "length", "Fisher", "relaxed"):
            table.add_column(name, no_wrap=True)
        for one, entry in zip(move["candidates"], kept.entry.candidates, strict=True):
            marks = (("▸", one["chosen"]), ("◆", one["front"]), ("◇", one["front_of_all"]), ("✗", not one["feasible"]))
            lengths = (one[key] for key in ("functional_length", "fisher_length", "relaxed_fisher_length"))
            table.add_row(
                plain(one["name"]),
                "".join(mark for mark, shown in marks if shown),
                f"{one['worst_accuracy']:.2%}",
                f"{one['worst_accuracy_bound']:.2%}",
                f"{one['bytes_written'] / 1e3:,.1f} kB",
                *(() if column is None else ("-" if entry.cost is None else cost_words(entry.cost)[column],)),
                *("-" if length is None else f"{length:.3f}" for length in lengths),
            )
        yield table


def _proved(certificate: dict[str, Any] | None) -> str:
    """Share of samples that are proved right, and what that says of all inputs; if none is, what a search leaves."""
    if certificate is None:
        return "-"
    from runtime.reporting.findings import at_least, percent

    if not certificate["proved_torn"] and certificate["survived_torn"] is not None:
        share = percent(certificate["survived_torn"] / certificate["samples"], certificate["samples"])
        return f"nothing; not certified: {share}"
    if certificate["why_not"]:
        return "-"
    proved = at_least(certificate["proved_torn"] / certificate["samples"], 2)
    return f"{proved} (≥ {at_least(certificate['bound_torn'], 2)})"


def strategies_table(data: dict[str, Any]) -> Table:
    """Strategies side by side, the best worst state first."""
    from runtime.reporting.inspection import ASSUMED

    size, rate = (
        ASSUMED if name in data["assumed"] else "" for name in ("bytes_per_increment", "increments_per_second")
    )
    table = Table(
        "strategy", "worst state", "mean", "written", "time", "peak weights", "p99", "longest stall",
        title=f"{plain(' → '.join(data['tour']))} on {data['samples']} held-out samples; C1 answers "
        f"{data['dense_accuracy']:.2%} right",
        caption=f"time: at {data['bytes_per_increment']:,}{size} bytes × "
        f"{data['increments_per_second']:g}{rate} a second"
        + (f" ({ASSUMED} the profile says it is assumed)" if size or rate else ""),
        title_justify="left", caption_justify="left", box=None,
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
