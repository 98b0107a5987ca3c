"""The whole way on bundled data: train, plan, verify, walk live, compare, report."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.table import Table

import planner.checkpoint as checkpoints
from device_profiles import loader
from planner import models
from planner.datasets import load, split
from planner.options import SELECTION, Options
from planner.plan import make_plan
from planner.progress import Progress
from planner.recipes import recipe_for
from planner.training import train
from runtime.errors import BundleError
from runtime.plan.bundle import Bundle, read
from runtime.plan.costs import TradeOff
from runtime.plan.verification import verify
from runtime.reporting.inspection import summary
from runtime.reporting.report import write_report
from runtime.simulation.simulator import STRATEGIES, Simulation, simulate
from runtime.walking.net import Net
from runtime.walking.operation import Outcome

MODEL, DATA, PROFILE = "digits-cnn", "digits", "raspberry-pi-5"
TRADE_OFF: TradeOff = "accuracy"
"""A board's memory does not wear, and the network is small: there the steadiest way costs nothing to speak of."""
BYTES_PER_INCREMENT = 4096
"""The demo's network is a hundred times smaller than those a board runs; the write budget is reduced with it, or each
switch would be over in one or two increments and nothing could be seen."""


@dataclass(frozen=True)
class LiveWalk:
    """What callers saw while the network walked its tour."""

    tour: tuple[str, ...]
    answers: int
    right: int
    seconds: float
    increments_bytes: int


@dataclass(frozen=True)
class DemoResult:
    """All that the demo found out."""

    output: Path
    report: Path
    bundle: Bundle
    checks: int
    live: LiveWalk
    simulation: Simulation

    def as_json(self) -> dict[str, Any]:
        """The result as plain data."""
        return {
            "plan": str(self.output / "plan"),
            "report": str(self.report),
            "checks": self.checks,
            "inspect": summary(self.bundle),
            "live": {"tour": list(self.live.tour), "answers": self.live.answers, "right": self.live.right},
            "simulation": msgspec.to_builtins(self.simulation),
        }

    def modes_table(self) -> Table:
        """Modes side by side."""
        table = Table("mode", "what it is", "accuracy", "MACs", "weights", title="Power modes", title_justify="left",
                      box=None)  # fmt: skip
        dense = self.bundle.manifest.modes[0]
        for mode in self.bundle.manifest.modes:
            table.add_row(
                mode.name, mode.description, f"{mode.accuracy:.2%}", f"{mode.macs / dense.macs:.0%}",
                f"{mode.weight_bytes / 1e3:,.0f} kB",
            )  # fmt: skip
        return table

    def story(self) -> str:
        """What happened, in a few sentences, and where the report is."""
        worst = min(move.entry.min_accuracy for move in self.bundle.transitions)
        return (
            f"{self.checks} checks of the plan passed. While the network walked {' → '.join(self.live.tour)} it gave "
            f"{self.live.answers:,} answers, {self.live.right / self.live.answers:.2%} of them right; the worst state "
            f"that the plan has evidence of is right on {worst:.2%} of the held-out digits, the dense network on "
            f"{self.bundle.manifest.modes[0].accuracy:.2%}.\n"
            f"Plan:   {self.output / 'plan'}\nReport: {self.report}"
        )


def run(output: Path, seed: int, progress: Progress) -> DemoResult:
    """Do everything; what an earlier demo left in ``output`` is replaced.

    Raises:
        GeoshiftError: A step failed; what was finished before it stays.
    """
    output.mkdir(parents=True, exist_ok=True)
    dataset = load(DATA)
    recipe = recipe_for(MODEL, DATA)
    module = models.build(MODEL, seed=seed)
    fit, selection = split(dataset, seed, SELECTION)
    # The demo is quick enough to start over; what an interrupted one left would be refused.
    (output / "model.safetensors.partial").unlink(missing_ok=True)
    progress.stage("Training", recipe.epochs)
    train(
        module, dataset, definition=MODEL, epochs=recipe.epochs, seed=seed, batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate, out=output / "model.safetensors", fit_indices=fit,
        selection_indices=selection, weight_decay=recipe.weight_decay, shift=recipe.shift,
        progress=lambda epoch: progress.step(f"selection {epoch.selection_accuracy:.2%}"),
    )  # fmt: skip
    checkpoints.load(output / "model.safetensors", module)
    # Every candidate, so that the report can compare them; little else, so that it takes under a minute.
    options = Options(seed=seed, every_candidate=True, probes=16, certified=100)
    profile = msgspec.structs.replace(loader.load(PROFILE), trade_off=TRADE_OFF)
    make_plan(module, MODEL, dataset, profile, output / "plan", options=options, progress=progress, replace=True)
    bundle = read(output / "plan")
    progress.stage("Verifying", len(bundle.states) + len(bundle.transitions))
    checks = verify(bundle, bundle.profile, progress.step)
    if failed := [check for check in checks if not check.ok]:
        raise BundleError(f"{output / 'plan'}: {failed[0].name}: {failed[0].detail}; see `geoshift verify`")
    live = walk_live(bundle, progress)
    progress.stage("Comparing strategies", len(STRATEGIES))
    simulation = simulate(
        bundle, bundle.profile, bytes_per_increment=BYTES_PER_INCREMENT, seed=seed, step=progress.step
    )
    return DemoResult(output, write_report(output, bundle, simulation), bundle, len(checks), live, simulation)


def walk_live(bundle: Bundle, progress: Progress) -> LiveWalk:
    """Switch through the plan's tour while another thread keeps asking about the stored samples."""
    tour = tuple(move.ends[1] for move in bundle.transitions)
    writes = msgspec.structs.replace(bundle.profile.writes, bytes_per_increment=BYTES_PER_INCREMENT)
    profile = msgspec.structs.replace(bundle.profile, writes=writes)
    samples = bundle.evaluation
    done = threading.Event()
    right: list[bool] = []
    seconds = 0.0
    written = 0
    with Net(bundle, profile, "in-place") as net:

        def ask() -> None:
            while not done.is_set():
                at = len(right) % len(samples)
                answer = int(np.argmax(net.infer(samples.inputs[at : at + 1])))
                right.append(answer == int(samples.labels[at]))

        caller = threading.Thread(target=ask, name="geoshift-demo", daemon=True)
        caller.start()
        progress.stage("Walking live", len(tour))
        for mode in tour:
            progress.step(f"→ {mode}")
            result = net.switch(mode).wait()
            if result.outcome is not Outcome.COMMITTED:
                done.set()
                raise BundleError(f"switch to {mode}: {result.outcome.value}: {result.reason}")
            seconds += result.seconds
            written += result.bytes_written
        done.set()
        caller.join()
    first = bundle.transitions[0].ends[0]
    return LiveWalk((first, *tour), len(right), sum(right), seconds, written)
