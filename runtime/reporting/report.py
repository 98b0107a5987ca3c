"""The report of a simulation: one HTML page that needs nothing beside itself, and its pictures as PNG files."""

from __future__ import annotations

import base64
import importlib
import os
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

from device_profiles.errors import GeoshiftError
from runtime.plan.bundle import Bundle
from runtime.plan.candidates import front, front_of_all, lengths
from runtime.plan.manifest import Manifest, ModeEntry, TransitionEntry
from runtime.reporting.findings import TELLING, Findings, decimals, percent, proved, ranked, reason
from runtime.reporting.inspection import ASSUMED, COLUMNS, TRADE_OFFS, cost_words, mode_words, notes, origins
from runtime.simulation.simulator import Simulation

if TYPE_CHECKING:
    from runtime.reporting.canvas import Look

TEMPLATE: Final = "report.html.j2"
PAGE: Final = "report.html"

STRATEGIES: Final[Mapping[str, str]] = {
    "planned": "The stored path of each transition, where a plan has others than the rows below.",
    "ordered": "Every changed row once, each when it harms least: restored units first, then the layers that read "
    "units, from the output backwards, removed units last, when nothing reads them any more.",
    "ramp": "Like ordered, but the reading layers move to their new weights in ten small steps.",
    "geodesic": "Over networks in between, searched so that the outputs change little from one to the next.",
    "linear": "All changed rows move on a straight line to their new weights, in ten steps.",
    "zero-first": "Units are switched off first; the layers that read them are adjusted afterwards.",
    "naive": "Every changed row once, in the order in which the weights are stored.",
    "plain": "Units are switched off in storage order and nothing makes up for them, neither on the way nor at rest.",
    "flip": "The tensors that change are copied, the copies are changed, and all callers move to them at once.",
    "reload": "The mode's smaller network is loaded beside the old one and replaces it at once.",
}


class ReportUnavailable(GeoshiftError):
    """No report can be written here. Install what the text names, or choose another directory."""


def check_available(output: Path | None = None) -> None:
    """Check that a report could be written; worth asking before a long simulation.

    Args:
        output: Directory it is to be written to; None to check the installation alone.

    Raises:
        ReportUnavailable: matplotlib or jinja2 is missing, or ``output`` is something other than a directory.
    """
    try:
        for module in ("jinja2", "runtime.reporting.plots"):
            importlib.import_module(module)
    except ImportError as error:
        raise ReportUnavailable(
            f"report: found no usable {error.name or 'matplotlib'}, expected matplotlib and jinja2; "
            "install them with: pip install 'geoshift[report]'"
        ) from error
    if output is not None and output.exists() and not output.is_dir():
        raise ReportUnavailable(f"{output}: found a file, expected a directory for the report; choose another name")


def write_report(output: Path, bundle: Bundle, simulation: Simulation) -> Path:
    """Write ``report.html`` and its pictures.

    Args:
        output: Directory; made if it is missing. Files of an earlier report are replaced, others left alone.
        bundle: The plan that was played.
        simulation: What came of it.

    Returns:
        The page.

    Raises:
        ReportUnavailable: See ``check_available``, or no strategy was played; nothing is written then.
    """
    check_available(output)
    if not simulation.strategies:
        reasons = "; ".join(f"{name}: {why}" for name, why in simulation.left_out.items())
        raise ReportUnavailable(f"report: found no strategy that was played ({reasons}), expected at least one")
    from runtime.reporting import path_plots, plots
    from runtime.reporting.canvas import Look

    manifest = bundle.manifest
    findings = Findings(simulation, manifest.transitions)
    stops, chosen = _stops(manifest), [findings.played_as(move) for move in manifest.transitions]
    drawings: dict[str, Callable[[Look], bytes]] = {
        "modes": lambda look: plots.modes(look, manifest.modes, manifest.planning.test_samples),
        "tour": lambda look: plots.tour(look, simulation, stops, chosen),
        "states": lambda look: plots.states(look, simulation, stops),
        "strategies": lambda look: plots.strategies(look, simulation),
    }
    if walked := [move for move in manifest.transitions if move.candidates]:
        drawings["candidates"] = lambda look: path_plots.candidates(look, walked, bundle.profile.trade_off)
    if drawn := [(move.entry, move.landscape) for move in bundle.transitions if move.landscape is not None]:
        drawings["landscapes"] = lambda look: path_plots.landscapes(look, drawn)
    looks = {
        f"{'narrow' if narrow else 'wide'}_{'dark' if dark else 'light'}": Look(narrow=narrow, dark=dark)
        for narrow in (False, True)
        for dark in (False, True)
    }
    pictures = {name: {key: draw(look) for key, look in looks.items()} for name, draw in drawings.items()}
    page = _render(bundle, simulation, pictures)
    output.mkdir(parents=True, exist_ok=True)
    for name, variants in pictures.items():
        write_whole(output / f"{name}.png", variants["wide_light"])
    write_whole(output / PAGE, page.encode())
    return output / PAGE


def _render(bundle: Bundle, simulation: Simulation, pictures: Mapping[str, Mapping[str, bytes]]) -> str:
    """The page; everything that comes from the plan is escaped."""
    import jinja2

    manifest = bundle.manifest
    findings, order = Findings(simulation, manifest.transitions), ranked(simulation)
    states = [state for _, result in order for state in result.states]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "kb": lambda count: _quantity(count / 1e3, "kB", 1 if count < 1e5 else 0),
        "time": lambda seconds: _quantity(seconds, "s", 2) if seconds >= 0.1 else _quantity(1e3 * seconds, "ms", 1),
        "ms": lambda value: _quantity(value, "ms", 2),
        "share": lambda fraction: percent(fraction, simulation.samples),
        "tested": lambda fraction: percent(fraction, manifest.planning.test_samples),
        "selected": lambda fraction: percent(fraction, manifest.planning.selection_samples),
        "points": lambda fraction: f"{100 * fraction:.{decimals(simulation.samples)}f}",
    }
    return environment.get_template(TEMPLATE).render(
        manifest=manifest,
        model=manifest.model,
        planning=manifest.planning,
        bundle_profile=bundle.profile,
        simulation=simulation,
        ranked=order,
        findings=findings,
        sentences=STRATEGIES,
        used={findings.played_as(move) for move in manifest.transitions},
        stops=_stops(manifest),
        removed=_removed,
        notes=notes(manifest),
        reason=partial(reason, trade_off=bundle.profile.trade_off),
        proved=proved,
        telling=TELLING,
        cheapest=min(manifest.modes, key=lambda mode: mode.macs),
        bound=_bound,
        front=partial(front, trade_off=bundle.profile.trade_off),
        front_of_all=front_of_all,
        trade_off=bundle.profile.trade_off,
        trade_off_words=TRADE_OFFS[bundle.profile.trade_off],
        front_words="bytes" if bundle.profile.trade_off == "accuracy" else bundle.profile.trade_off,
        cost_columns=COLUMNS,
        cost_words=cost_words,
        assumed=ASSUMED,
        origins=origins(bundle.profile),
        mode_words={mode.name: mode_words(mode.macs, bundle.profile) for mode in manifest.modes},
        lengths=lengths,
        landscapes=[(move.entry, move.landscape) for move in bundle.transitions if move.landscape is not None],
        worst_words=", ".join(f"{name} {percent(one.min_accuracy, simulation.samples)}" for name, one in order),
        state_count=len(states),
        torn_count=sum(state.torn for state in states),
        pictures={
            name: {key: "data:image/png;base64," + base64.b64encode(raw).decode() for key, raw in variants.items()}
            for name, variants in pictures.items()
        },
    )


def _quantity(value: float, unit: str, digits: int) -> str:
    return f"{value:,.{digits}f}\N{NO-BREAK SPACE}{unit}"


def _stops(manifest: Manifest) -> list[str]:
    """Mode names along the tour; both where a transition does not begin in the mode that the last one ended in."""
    moves = manifest.transitions
    between = [one.to if one.to == other.from_ else f"{one.to} | {other.from_}" for one, other in pairwise(moves)]
    return [moves[0].from_, *between, moves[-1].to]


def _removed(manifest: Manifest, mode: ModeEntry) -> list[str]:
    """Units that a mode lacks, by layer."""
    units = {layer.name: layer.shape[0] for layer in manifest.layers}
    return [f"{units[name] - len(kept)} of {units[name]} in {name}" for name, kept in mode.kept.items()] or ["none"]


def _bound(manifest: Manifest, move: TransitionEntry) -> str:
    """What the evidence on the test set says of the chosen path."""
    samples = manifest.planning.test_samples
    return (
        f"on {samples:,} test samples, its worst state is {percent(move.min_accuracy, samples)} right, "
        f"{move.worst_drop_points:.{decimals(samples)}f} points below the dense network"
    )


def write_whole(target: Path, raw: bytes) -> None:
    """Write a file whole or not at all."""
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as handle:
        partial = Path(handle.name)
        try:
            handle.write(raw)
            handle.flush()
            os.fsync(handle.fileno())
            # A temporary file is private; a report is for others to read.
            partial.chmod(0o644)
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
