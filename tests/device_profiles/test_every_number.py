"""Every number of a profile counts: change one, and something that a user sees is another.

The fields are found in the types, so that a new one without an effect fails here. What shows the effect is real: a
prediction as ``inspect --json`` tells it, units that the planner removes, a plan, a refusal, a trace that is played on
a virtual clock, a network at work, a command that is run. ``profiles show``, which echoes, does not count.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
import torch

from device_profiles import Figure, Profile, loader
from device_profiles.errors import GeoshiftError
from device_profiles.numbers import numbers
from planner.allocation import allocate, curves
from planner.modes import resolve
from planner.network import trace
from planner.options import Options
from planner.plan import make_plan
from runtime.plan import bundle as bundles
from runtime.plan import costs
from runtime.plan.bundle import CANARY, Bundle
from runtime.plan.fit import check_size, choose_policy, peak_bytes
from runtime.plan.samples import Samples, pack
from runtime.reporting.inspection import summary
from runtime.sensing.os_power import OsPower, Tools
from runtime.simulation import Stage, simulate_trace
from runtime.simulation.play import Played
from runtime.simulation.trace import Arrivals, Readings
from runtime.walking.net import Net
from tests.planner import small
from tests.planner.test_modes import Net as Layers
from tests.runtime.bundles import content
from tests.runtime.simulation.cases import LATENCY
from tests.runtime.simulation.cases import trace as played
from tests.runtime.sysfs_trees import program
from tests.runtime.test_os_power import NVPMODEL


def figure(value: float) -> dict[str, object]:
    return {"value": value, "provenance": "assumed", "source": "a test"}


BOARD: dict[str, Any] = {
    "schema": "geoshift.profile/1",
    "name": "board",
    "description": "serves; every number but those of codes and pauses is given",
    "threads": 1,
    "channel_block": 1,
    "target": {"macs_per_second": figure(1e6), "overhead_ms": figure(0.25)},
    "memory": {"weights_bytes": 1 << 20},
    "writes": {
        "bytes_per_increment": 150,
        "increments_per_second": 1e5,
        "stall_budget_ms": 1e4,
        "granularity_bytes": 1,
        "bytes_per_second": figure(1e9),
        "verify": {"mean_writes": figure(1.5), "most_writes": 3},
        "endurance_writes": figure(1e6),
    },
    "bank": {"snap": False},
    "guard": {"max_drop_points": 20, "canary_every_increments": 0},
    "queue_limit": 8,
    "modes": {
        "C1": {},
        "C2": {"from": "C1", "remove": [{"layer": {"role": "convolution", "position": 1}, "count": 2}]},
        "C3": {"from": "C2", "remove": [{"layer": {"name": "conv2"}, "fraction": 0.5}]},
        "back": {
            "from": "C3",
            "restore": [
                {"layer": {"role": "convolution", "position": 2}, "count": 1},
                {"layer": {"name": "conv2"}, "fraction": 0.5},
            ],
        },
        "half": {"from": "C1", "macs": 0.8},
        "cool": {"from": "C1", "watts": 2.5},
        "quick": {"from": "C1", "latency_ms": 0.75},
        "sparse": {"from": "C1", "sparsity": 0.5, "sparse_layers": [{"role": "classifier", "position": 1}]},
    },
    "transitions": [
        *(["C1", name] for name in ("C2", "half", "cool", "quick", "sparse")), ["C2", "C3"], ["C3", "C1"],
        ["C3", "back"],
    ],
    "energy": {
        "idle_w": figure(2.0),
        "joules_per_mac": figure(1e-3),
        "joules_per_byte_written": figure(1e-9),
        "inferences_per_second": 1.0,
    },
    "commands": {"slow": {"argv": ["/bin/sleep", "1"], "timeout_s": 120.0}, "jetson": {"nvpmodel": 2}},
    "triggers": [
        {"name": "low", "mode": "C2", "source": "battery", "enter_below": 50, "leave_above": 60, "dwell_s": 1.0},
        {"name": "warm", "mode": "C2", "source": "temperature", "enter_above": 50, "leave_below": 40, "dwell_s": 1.0},
    ],
    "safety": [
        {"name": "empty", "mode": "C3", "source": "battery", "enter_below": 20, "leave_above": 30, "dwell_s": 1.0},
        {"name": "hot", "mode": "C3", "source": "temperature", "enter_above": 80, "leave_below": 70, "dwell_s": 1.0},
    ],
    "poll_s": 0.5,
}  # fmt: skip
CHIP: dict[str, Any] = BOARD | {
    "name": "chip",
    "description": "plays; codes of few bits, written in pauses",
    "target": BOARD["target"] | {"runs": "simulate"},
    "weights": {"format": "int", "bits": 8},
    "memory": {"weights_bytes": 1000, "second_copy": False},
    "writes": BOARD["writes"] | {
        "bytes_per_increment": 500, "quiesce_required": True, "bytes_per_second": figure(1e5), "stall_budget_ms": 10.0,
    },
}  # fmt: skip


class Change(NamedTuple):
    """A number that is changed, and what shows it.

    Attributes:
        seen: Name of the observation.
        place: Where the number stands, if the pattern does not say.
        value: What is put there.
        base: The profile.
    """

    seen: str
    value: float
    place: str = ""
    base: dict[str, Any] = BOARD


CHANGES = {
    "threads": Change("threads that a network starts", 3),
    "channel_block": Change("a plan", 3),
    "target.macs_per_second": Change("milliseconds of a mode", 2e6),
    "target.overhead_ms": Change("milliseconds of a mode", 0.5),
    "weights.bits": Change("whether a network fits", 9, base=CHIP),
    "memory.weights_bytes": Change("the bank's policy", 0),  # replaced by what in-place takes
    "writes.bytes_per_increment": Change("costs", 600),
    "writes.increments_per_second": Change("costs", 10.0),
    "writes.stall_budget_ms": Change("costs", 6.0, base=CHIP),
    "writes.granularity_bytes": Change("costs", 64),
    "writes.bytes_per_second": Change("costs", 1e3),
    "writes.verify.mean_writes": Change("costs", 2.5),
    "writes.verify.most_writes": Change("costs", 5, base=CHIP),
    "writes.endurance_writes": Change("costs", 1e3),
    "guard.max_drop_points": Change("a plan", 1e-4),
    "guard.canary_every_increments": Change("how a walk ends whose evidence was too good", 1),
    "queue_limit": Change("a trace", 2),
    "modes.*.remove[].count": Change("units of modes", 3, "modes.C2.remove[0].count"),
    "modes.*.remove[].fraction": Change("units of modes", 0.7, "modes.C3.remove[0].fraction"),
    "modes.*.remove[].layer.position": Change("units of modes", 2, "modes.C2.remove[0].layer.position"),
    "modes.*.restore[].count": Change("units of modes", 2, "modes.back.restore[0].count"),
    "modes.*.restore[].fraction": Change("units of modes", 1.0, "modes.back.restore[1].fraction"),
    "modes.*.restore[].layer.position": Change("units of modes", 1, "modes.back.restore[0].layer.position"),
    "modes.*.macs": Change("units of modes", 0.6, "modes.half.macs"),
    "modes.*.watts": Change("units of modes", 2.3, "modes.cool.watts"),
    "modes.*.latency_ms": Change("units of modes", 0.6, "modes.quick.latency_ms"),
    "modes.*.sparsity": Change("units of modes", 0.6, "modes.sparse.sparsity"),
    "modes.*.sparse_layers[].position": Change("units of modes", -1, "modes.sparse.sparse_layers[0].position"),
    "energy.idle_w": Change("watts of a mode", 2.1),
    "energy.joules_per_mac": Change("watts of a mode", 2e-3),
    "energy.joules_per_byte_written": Change("costs", 2e-9),
    "energy.inferences_per_second": Change("watts of a mode", 2.0),
    "commands.*.timeout_s": Change("a command's end", 0.01, "commands.slow.timeout_s"),
    "commands.*.nvpmodel": Change("a Jetson's mode", 3, "commands.jetson.nvpmodel"),
    "triggers[].enter_below": Change("a trace", 40, "triggers[0].enter_below"),
    "triggers[].leave_above": Change("a trace", 90, "triggers[0].leave_above"),
    "triggers[].enter_above": Change("a trace", 60, "triggers[1].enter_above"),
    "triggers[].leave_below": Change("a trace", 10, "triggers[1].leave_below"),
    "triggers[].dwell_s": Change("a trace", 3.0, "triggers[0].dwell_s"),
    "safety[].enter_below": Change("a trace", 10, "safety[0].enter_below"),
    "safety[].leave_above": Change("a trace", 45, "safety[0].leave_above"),
    "safety[].enter_above": Change("a trace", 90, "safety[1].enter_above"),
    "safety[].leave_below": Change("a trace", 60, "safety[1].leave_below"),
    "safety[].dwell_s": Change("a trace", 3.0, "safety[0].dwell_s"),
    "poll_s": Change("a trace", 7.0),
}  # fmt: skip
"""Every number of a profile, by its path with ``*`` for a name and ``[]`` for a place, and what shows its effect."""


# The fields


def in_types(kind: msgspec.inspect.Type, path: str = "") -> Iterator[str]:
    """Paths of all numbers that a type has room for."""
    match kind:
        case msgspec.inspect.Metadata(type=inner):
            yield from in_types(inner, path)
        case msgspec.inspect.StructType(cls=cls) if cls is Figure:
            yield path
        case msgspec.inspect.StructType(fields=fields):
            for field in fields:
                yield from in_types(field.type, f"{path}.{field.encode_name}".removeprefix("."))
        case msgspec.inspect.UnionType(types=types):
            for one in types:
                yield from in_types(one, path)
        case msgspec.inspect.DictType(value_type=value):
            yield from in_types(value, f"{path}.*")
        case msgspec.inspect.VarTupleType(item_type=item):
            yield from in_types(item, f"{path}[]")
        case msgspec.inspect.TupleType(item_types=items):
            for item in items:
                yield from in_types(item, f"{path}[]")
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            yield path
        case msgspec.inspect.StrType() | msgspec.inspect.BoolType() | msgspec.inspect.LiteralType():
            pass
        case msgspec.inspect.NoneType():
            pass
        case _:
            raise AssertionError(f"{path}: {kind} is a kind of field that this test does not know")


PATTERNS = tuple(dict.fromkeys(in_types(msgspec.inspect.type_info(Profile))))


def pattern(path: tuple[str | int, ...]) -> str:
    """The path of a number, names and places left open."""
    steps = ["[]" if isinstance(step, int) else f".{step}" for step in path]
    if path[0] in ("modes", "commands"):
        steps[1] = ".*"
    return "".join(steps).removeprefix(".")


def test_the_table_has_every_number_that_a_profile_can_have() -> None:
    assert sorted(CHANGES) == sorted(PATTERNS)


def test_the_two_profiles_set_all_of_them() -> None:
    found = [{pattern(one.path) for one in numbers(loader.from_builtins(base, "test"))} for base in (BOARD, CHIP)]
    assert found[0] | found[1] == set(PATTERNS)
    assert set(PATTERNS) - found[0] == {"weights.bits"}


# What users see


class Seen:
    """Shows what a profile leads to, each profile once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: dict[tuple[str, bytes], object] = {}
        manifest, files = content(loader.from_builtins(BOARD, "test"))
        path = bundles.write(folder / "plan", manifest, files, replace=False)
        self.bundle: Bundle = bundles.read(path)
        self.stage = Stage.of(self.bundle)
        self.layers = trace(Layers().eval(), torch.zeros(2, 1, 1, 1))
        self.curves = curves(self.layers, torch.randn(64, 1, 1, 1, generator=torch.Generator().manual_seed(0)))
        self.shows: dict[str, Callable[[Profile], object]] = {
            "costs": self.costs,
            "watts of a mode": lambda profile: costs.power_w(100, profile),
            "milliseconds of a mode": lambda profile: costs.latency_ms(100, profile),
            "units of modes": self.units,
            "a plan": self.planned,
            "whether a network fits": lambda profile: refusal(partial(check_size, 1000, profile, "plan")),
            "the bank's policy": lambda profile: choose_policy(self.bundle, profile),
            "threads that a network starts": self.threads,
            "how a walk ends whose evidence was too good": self.walked,
            "a trace": self.trace,
            "a command's end": self.commanded,
            "a Jetson's mode": self.jetson,
        }

    def of(self, name: str, data: dict[str, Any]) -> object:
        key = (name, msgspec.json.encode(data))
        if key not in self.known:
            self.known[key] = self.shows[name](loader.from_builtins(data, "test"))
        return self.known[key]

    def costs(self, profile: Profile) -> object:
        return [costs.predict(self.bundle.table, move.chunks, profile) for move in self.bundle.transitions]

    def units(self, profile: Profile) -> object:
        share_out = partial(allocate, self.layers, self.curves, block=profile.channel_block)
        return resolve(profile, self.layers, share_out)

    def planned(self, profile: Profile) -> object:
        """A small network's plan, or why there is none; one mode by its target, so that the others need not fit."""
        data = loader.as_builtins(profile)
        data |= {"modes": {"C1": {}, "C2": {"from": "C1", "macs": 0.9}}, "transitions": [["C1", "C2"]]}
        data |= {"triggers": [], "safety": []}
        few = Options(selection=100, fit=200, certified=0, landscape=0, waypoints=2, torn=2, probes=4)
        out = self.folder / f"plan-{len(self.known)}"

        def plan() -> None:
            make_plan(small.network(), "small", small.data(), loader.from_builtins(data, "test"), out, options=few)

        if why := refusal(plan):
            return why
        told = summary(bundles.read(out))
        return told["modes"], told["transitions"]

    def threads(self, profile: Profile) -> int:
        before = set(os.listdir("/proc/self/task"))
        with Net(self.bundle, profile) as net:
            net.infer(self.bundle.evaluation.inputs[:1])
            return len(set(os.listdir("/proc/self/task")) - before)

    def walked(self, profile: Profile) -> object:
        """A walk over states that answer some samples wrong, with a plan that says they answer all of them right."""
        plan = self.bundle
        labels, inputs = plan.evaluation.labels, plan.evaluation.inputs
        held = np.ones(len(labels), bool)
        for mode in plan.states:
            with Net(plan, profile, "in-place") as net:
                assert mode == net.mode or net.switch(mode).wait(60).mode == mode
                held &= net.infer(inputs).argmax(1) == labels
        manifest, files = content(plan.profile)
        files[CANARY] = pack(Samples(inputs[held], labels[held]))
        boasting = [msgspec.structs.replace(one, min_accuracy=1.0) for one in manifest.transitions]
        manifest = msgspec.structs.replace(manifest, transitions=tuple(boasting))
        path = bundles.write(self.folder / f"boasting-{len(self.known)}", manifest, files, replace=False)
        with Net(bundles.read(path), profile, "in-place") as net:
            return net.switch("C2").wait(60).outcome

    def trace(self, profile: Profile) -> object:
        """A battery that runs empty and is charged, then heat; twenty requests at once every ten seconds."""
        one = played(
            seconds=80.0,
            manual=(),
            requests=(Arrivals(kind="bursts", every_s=10.0, count=20, within_s=0.0),),
            readings=Readings(battery=ramps(100, 0, 100, 100, 100), temperature=ramps(20, 20, 20, 100, 20)),
        )
        kept: dict[str, Played] = {}
        result = simulate_trace(
            self.bundle, profile, one, ("planned",), latency_s=LATENCY, stage=self.stage, keep=kept.__setitem__
        )
        return kept["planned"].stands, result.strategies["planned"].refused

    def commanded(self, profile: Profile) -> str:
        return refusal(lambda: OsPower(profile.commands, lambda *told: None).apply("before", ("slow",)))

    def jetson(self, profile: Profile) -> str:
        """What NVIDIA's program was told; a program of the same words stands for it."""
        state = self.folder / "nvpmodel-state"
        state.write_text("0")
        tools = Tools(nvpmodel=program(self.folder, "nvpmodel", NVPMODEL))
        OsPower(profile.commands, lambda *told: None, tools).apply("before", ("jetson",))
        return state.read_text()


def ramps(*levels: float) -> tuple[tuple[float, float], ...]:
    """A reading a second, even from one level to the next in twenty."""
    seconds = np.arange(20.0 * (len(levels) - 1) + 1)
    return tuple(zip(seconds.tolist(), np.interp(seconds / 20, range(len(levels)), levels).tolist(), strict=True))


def refusal(action: Callable[[], object]) -> str:
    """Why something is refused; empty if it is not."""
    try:
        action()
    except GeoshiftError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return Seen(tmp_path_factory.mktemp("every-number"))


def changed(base: dict[str, Any], place: str, value: float) -> dict[str, Any]:
    """A profile with another number somewhere."""
    data = json.loads(json.dumps(base))
    path = next(one.path for one in numbers(loader.from_builtins(data, "test")) if one.key == place)
    inner = data
    for step in path[:-1]:
        inner = inner[step]
    if isinstance(inner[path[-1]], dict):
        inner[path[-1]]["value"] = value
    else:
        inner[path[-1]] = value
    return data


@pytest.mark.parametrize("name", CHANGES)
def test_another_number_shows(name: str, seen: Seen) -> None:
    change = CHANGES[name]
    value = change.value or peak_bytes(seen.bundle, 1, snap=False)
    other = changed(change.base, change.place or name, value)
    assert other != change.base
    assert seen.of(change.seen, other) != seen.of(change.seen, change.base)


def test_the_observations_are_of_what_was_played(seen: Seen) -> None:
    """The unchanged profiles fit, walk and plan: no refusal hides what a change does."""
    assert seen.of("whether a network fits", CHIP) == ""
    assert seen.of("a command's end", BOARD) == ""
    assert not isinstance(seen.of("a plan", BOARD), str)
    stands = seen.of("a trace", BOARD)[0]  # type: ignore[index]
    assert {place for _, place in stands} >= {0.0, 1.0, 2.0}
