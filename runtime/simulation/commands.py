"""The commands that play what may happen: simulate, sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.table import Table

from device_profiles import Profile
from runtime.cli.profile_commands import Overrides, chosen
from runtime.cli.terminal import err, guarded, out, plain, print_json, stages
from runtime.simulation.result import RESTS_ON

Bundle = Annotated[Path | None, typer.Argument(help="Directory of the plan bundle.")]
ProfileName = Annotated[
    str | None, typer.Option("--profile", "-p", help="Built-in device profile or YAML file; default: the plan's own.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Latency = Annotated[
    str,
    typer.Option(
        help="Time of one answer: profile (its figures, else measured), measured (on this machine), or a JSON file of "
        "milliseconds by mode."
    ),
]
Policy = Annotated[
    str | None,
    typer.Option(help="auto, in-place or shadow, in place of the profile's. With --trace.", metavar="POLICY"),
]
MOST_LATENCY_BYTES = 64 * 1024


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    app.command()(guarded(simulate))
    app.command()(guarded(sweep))


def simulate(
    bundle: Bundle = None,
    profile: ProfileName = None,
    overrides: Overrides = None,
    trace: Annotated[
        str | None, typer.Option("--trace", "-t", help="Play this trace on a virtual clock: a name, YAML or CSV file.")
    ] = None,
    list_traces: Annotated[
        bool, typer.Option("--list-traces", help="List the traces that come with geoshift.")
    ] = False,
    strategies: Annotated[str, typer.Option(help="Comma-separated strategies; default: all, with --trace six.")] = "",
    bytes_per_increment: Annotated[
        int | None, typer.Option(min=1, help="Write budget in place of the profile's.")
    ] = None,
    increments_per_second: Annotated[
        float | None, typer.Option(min=1e-6, help="With --trace: pace in place of the profile's.")
    ] = None,
    second_copy: Annotated[
        bool | None,
        typer.Option("--second-copy/--no-second-copy", help="With --trace: in place of the profile's word."),
    ] = None,
    policy: Policy = None,
    latency: Latency = "profile",
    rate: Annotated[
        float, typer.Option(min=1e-3, max=1e3, help="With --trace: factor on how often requests come.")
    ] = 1,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory for the page, PNGs and data.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Play every switching strategy and compare them: state by state, or a trace of requests and power events."""
    if list_traces:
        _list(as_json)
        return
    if bundle is None:
        raise typer.BadParameter("found no bundle, expected the directory of one")
    from runtime.plan.bundle import read
    from runtime.plan.fit import check_bundle
    from runtime.reporting.report import check_available
    from runtime.simulation.simulator import PLANNED, STRATEGIES

    names = tuple(name.strip() for name in strategies.split(",")) if strategies else None
    known = (PLANNED, *STRATEGIES)
    if names is not None and (unknown := sorted({*names} - {*known})):
        raise typer.BadParameter(f"found {', '.join(unknown)}; expected some of {', '.join(known)}")
    if output is not None:
        check_available(output)
    if trace is None:
        given = increments_per_second, second_copy, policy
        if given != (None, None, None) or latency != "profile" or rate != 1:
            raise typer.BadParameter(
                "--increments-per-second, --second-copy, --policy, --latency and --rate need a --trace"
            )
        plan = read(bundle)
        device = chosen(profile, plan.profile, overrides)
        check_bundle(plan, device)
        _states(plan, device, names, bytes_per_increment, output, seed, as_json)
        return
    from runtime.simulation.simulate import DEFAULT, STEPS, simulate_trace
    from runtime.simulation.trace import load_trace

    played = load_trace(trace)
    plan = read(bundle)
    device = chosen(profile, plan.profile, overrides)
    check_bundle(plan, device)
    names = DEFAULT if names is None else names
    with stages() as bar:
        bar.stage(f"Playing {played.name}", STEPS * len(names))
        result = simulate_trace(
            plan, device, played, names, seed=seed, latency_s=_latency(plan, device, latency), rate=rate,
            latency_source="measured on this machine" if latency == "measured" else f"given, {latency}",
            bytes_per_increment=bytes_per_increment, increments_per_second=increments_per_second,
            second_copy=second_copy, policy=policy, step=bar.step,
        )  # fmt: skip
    if as_json:
        print_json(msgspec.to_builtins(result))
    else:
        out.print(trace_table(msgspec.to_builtins(result)))
        for name, reason in result.left_out.items():
            out.print(f"{plain(name)} left out: {plain(reason)}", soft_wrap=True)
        if result.choice is not None:
            out.print(f"Use [bold]{plain(result.choice.strategy)}[/]: {plain(result.choice.why)}", soft_wrap=True)
    if output is not None:
        from runtime.simulation.page import write_page

        page = write_page(output, plan, played, result, guard=device.guard.canary_every_increments)
        err.print(f"Page: {plain(page)}", soft_wrap=True)


def sweep(
    bundles: Annotated[list[Path], typer.Argument(help="Directories of plan bundles.")],
    profile: Annotated[
        list[str] | None,
        typer.Option("--profile", "-p", help="Device profile, may be given again; default: the plan's."),
    ] = None,
    trace: Annotated[
        list[str] | None, typer.Option("--trace", "-t", help="Trace; may be given again. Default: all bundled ones.")
    ] = None,
    overrides: Overrides = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(metavar="BYTES@RATE", help="Bytes an increment at so many a second; may be given again."),
    ] = None,
    second_copy: Annotated[
        bool | None, typer.Option("--second-copy/--no-second-copy", help="In place of the profile's word.")
    ] = None,
    strategies: Annotated[str, typer.Option(help="Comma-separated strategies.")] = "planned,naive,flip,reload",
    devices: Annotated[int, typer.Option(min=1, max=1_000_000, help="Devices of each case.")] = 100,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes.")] = 1,
    policy: Policy = None,
    latency: Latency = "profile",
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Play many devices that differ by chance: bundles × profiles × traces × budgets."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    from runtime.plan.bundle import read
    from runtime.plan.fit import check_bundle
    from runtime.reporting.inspection import ASSUMED, ASSUMED_WORDS
    from runtime.simulation.latency import latency_of_profile, measure_latency
    from runtime.simulation.simulator import PLANNED, STRATEGIES
    from runtime.simulation.sweep import BATCH, Case
    from runtime.simulation.sweep import sweep as run
    from runtime.simulation.trace import load_trace, trace_names

    names = tuple(name.strip() for name in strategies.split(","))
    known = (PLANNED, *STRATEGIES)
    if unknown := sorted({*names} - {*known}):
        raise typer.BadParameter(f"found {', '.join(unknown)}; expected some of {', '.join(known)}")
    traces = [load_trace(one) for one in (trace or trace_names())]
    budgets = [_budget(one) for one in budget] if budget else [(None, None)]
    cases = []
    for path in bundles:
        plan = read(path)
        for device in [chosen(one, plan.profile, overrides) for one in profile or (None,)]:
            check_bundle(plan, device)
            given = _latency(plan, device, latency)
            own = None if given is not None else latency_of_profile(plan, device)
            times = given or own or measure_latency(plan, device.threads)
            cases += [
                Case(
                    bundle=str(path), profile=device, trace=one, latency_s=times, bytes_per_increment=size,
                    increments_per_second=pace, second_copy=second_copy, policy=policy, own_speed=own is not None,
                )
                for one in traces
                for size, pace in budgets
            ]  # fmt: skip
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool, stages() as bar:
        bar.stage("Playing devices", len(cases) * -(-devices // BATCH))
        result = run(cases, devices, pool, strategies=names, seed=seed, step=bar.step)
    if as_json:
        print_json(msgspec.to_builtins(result))
        return
    for case in result.cases:
        harm, time = (ASSUMED if name in case.assumed else "" for name in ("harmed", "walking_s"))
        harmed = (f"{one}{harm}" for one in ("chosen", "harmed of 1,000", "median", "90 %", "worst"))
        table = Table(
            "strategy", *harmed, "written", f"switching{time}",
            caption=f"{ASSUMED} {ASSUMED_WORDS}" if case.assumed else None, caption_justify="left",
            title=f"{plain(case.trace)} on {plain(case.profile)}, {case.bytes_per_increment} B × "
            f"{case.increments_per_second:g}/s, {case.devices} devices",
            title_justify="left", box=None,
        )  # fmt: skip
        for name, one in case.strategies.items():
            table.add_row(
                plain(name),
                f"{one.chosen / one.devices:.0%}",
                f"{1000 * one.harmed / one.requests:.3g}",
                f"{one.harmed_per_1000.median:.3g}",
                f"{one.harmed_per_1000.q90:.3g}",
                f"{one.harmed_per_1000.most:.3g}",
                f"{one.bytes_written / one.devices / 1e3:,.0f} kB",
                f"{one.walking_s / one.devices:.1f} s",
            )
        out.print(table)
        for name, reason in case.left_out.items():
            out.print(f"{plain(name)} left out: {plain(reason)}", soft_wrap=True)


def _budget(text: str) -> tuple[int, float]:
    """Bytes an increment and increments a second."""
    size, _, pace = text.partition("@")
    try:
        found = int(size), float(pace)
    except ValueError:
        found = 0, 0.0
    if found[0] < 1 or not 0 < found[1] < float("inf"):
        raise typer.BadParameter(f"--budget: found {text!r}, expected such as 4096@10, bytes at increments a second")
    return found


def _states(
    plan: Any, device: Profile, names: tuple[str, ...] | None, bytes_per_increment: int | None,
    output: Path | None, seed: int, as_json: bool,
) -> None:  # fmt: skip
    """Every state of the tour, strategy by strategy."""
    from runtime.cli.commands import strategies_table
    from runtime.reporting.report import write_report
    from runtime.simulation.simulator import simulate as run
    from runtime.simulation.simulator import strategies_of

    names = strategies_of(plan) if names is None else names
    with stages() as bar:
        bar.stage("Simulating", len(names))
        result = run(
            plan,
            device,
            names=names,
            seed=seed,
            bytes_per_increment=bytes_per_increment,
            step=bar.step,
        )
    if as_json:
        print_json(msgspec.to_builtins(result))
    else:
        out.print(strategies_table(msgspec.to_builtins(result)))
        for name, reason in result.left_out.items():
            out.print(f"{plain(name)} left out: {plain(reason)}")
    if output is not None:
        err.print(f"Report: {plain(write_report(output, plan, result))}", soft_wrap=True)


def _list(as_json: bool) -> None:
    from runtime.simulation.trace import load_trace, trace_names

    found = [load_trace(name) for name in trace_names()]
    if as_json:
        print_json([{"name": one.name, "seconds": one.seconds, "description": one.description} for one in found])
        return
    table = Table("trace", "length", "description", box=None)
    for one in found:
        table.add_row(plain(one.name), f"{one.seconds:g} s", plain(one.description))
    out.print(table)


def _latency(plan: Any, profile: Profile, wanted: str) -> dict[str, float] | None:
    """Seconds by mode; None for what the profile says."""
    from runtime.simulation.latency import measure_latency
    from runtime.simulation.trace import TraceError

    if wanted == "profile":
        return None
    if wanted == "measured":
        return measure_latency(plan, profile.threads)
    path = Path(wanted)
    if not path.is_file():
        raise TraceError(f"--latency {wanted}: found no such file, expected profile, measured, or a JSON file")
    with path.open("rb") as file:
        raw = file.read(MOST_LATENCY_BYTES + 1)
    if len(raw) > MOST_LATENCY_BYTES:
        raise TraceError(f"{wanted}: found more than {MOST_LATENCY_BYTES} bytes, expected milliseconds by mode")
    try:
        found = msgspec.json.decode(raw, type=dict[str, float])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TraceError(f"{wanted}: {error}; expected a JSON object of milliseconds by mode") from error
    return {name: milliseconds / 1e3 for name, milliseconds in found.items()}


def trace_table(data: dict[str, Any]) -> Table:
    """Strategies side by side, in the order they were played."""
    from runtime.reporting.inspection import ASSUMED, ASSUMED_WORDS

    star = {name: ASSUMED if name in data["assumed"] else "" for name in RESTS_ON}
    sent_back = any(one["rolled_back"] for one in data["strategies"].values())
    table = Table(
        "strategy", f"harmed{star['harmed']}", f"wrong{star['wrong_by_transition']}", f"missed{star['late']}",
        *(["back"] if sent_back else []),
        "lost", f"p99{star['p99_ms']}", "written", "weights", f"switching{star['walking_s']}",
        title=f"{plain(data['trace'])} on {plain(data['profile'])}: {data['seconds']:g} s, seed {data['seed']}; C1 "
        f"answers {data['dense_accuracy']:.2%} right",
        caption="harmed: wrong because of the transition, or missed (late or refused); "
        + ("back: switches that the canary or the guard sent back; " if sent_back else "")
        + "lost: points against C1"
        + (f"; {ASSUMED} {ASSUMED_WORDS}" if data["assumed"] else ""),
        title_justify="left", caption_justify="left", box=None, pad_edge=False, collapse_padding=True,
    )  # fmt: skip
    for name, one in data["strategies"].items():
        missed = one["refused"] + one["late"]
        table.add_row(
            plain(name),
            f"{missed + one['wrong_by_transition']:,}",
            f"{one['wrong_by_transition']:,}",
            f"{missed:,}",
            *([f"{one['rolled_back']:,}"] if sent_back else []),
            f"{one['paired_loss_points']:.2f}",
            f"{one['p99_ms']:.3g} ms",
            f"{one['bytes_written'] / 1e3:,.0f} kB",
            f"{one['peak_weight_bytes'] / 1e3:,.0f} kB",
            f"{one['walking_s']:.1f} s",
        )
    return table


__all__ = ["add_commands", "trace_table"]
