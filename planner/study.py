"""A study: candidate paths walked on the selection split, job by job.

A study is everything that walking needs, and can be sent to another process; a job names one transition, one kind of
path, and what is varied about it. What a job returns depends on the study and the job alone, so that the same study
makes the same plan wherever its jobs run.
"""

from __future__ import annotations

import hashlib
import math
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from device_profiles import Profile
from planner.candidates import Candidate, drop_bound, fisher_length, functional_length
from planner.cost import CostMeter
from planner.endpoint import EndPoint
from planner.geodesic_path import JUDGED_PASSES, geodesic_paths, passes_of
from planner.network import Network
from planner.path_search import Record
from planner.provenance import code_digest
from planner.steady import Verdict, hold, stages_at, steadied
from planner.steady import price as price_of_blocks
from planner.threads import threads
from planner.variation import DEFAULT, ORDERED, SEARCHES, Variation
from runtime.plan import costs
from runtime.plan.costs import TradeOff
from runtime.plan.evaluation import Answers, Evaluator, random_tears, spread_positions
from runtime.plan.samples import Samples
from runtime.walking import strategies
from runtime.walking.chunks import ChunkList
from runtime.walking.rows import Floats, RowTable, State
from runtime.walking.session import Session
from runtime.walking.strategies import Compiled

POSITIONS = 7
"""Measured whole states of a candidate, its two ends among them, which all candidates share."""
TEARS = 3
"""Measured torn states in each direction."""

Ends = tuple[str, str]

ONE_PASS: Mapping[str, Callable[[RowTable, State, State], Compiled]] = {
    ORDERED: strategies.ordered,
    "zero-first": strategies.zero_first,
    "naive": strategies.naive,
}
IN_STEPS: Mapping[str, Callable[[RowTable, State, State, int], Compiled]] = {
    "ramp": strategies.ramp,
    "linear": strategies.linear,
}
GEODESICS = "geodesic"
SEATED = "seated"
"""Two ordered passes by way of a configuration in which the seats that units will take are free."""
BLOCKS = "in blocks"
"""The ordered passes reordered and divided, where nothing else that is as short is within the guard."""


@dataclass(frozen=True)
class Rival:
    """What a candidate has to beat.

    Attributes:
        worst: Accuracy of the rival's worst state.
        bytes_written: Bytes it writes.
        price: What it costs by the profile's trade-off; None for its bytes.
        floor: Highest lower bound of any path so far, where accuracy is what counts.
        divergence: Of its worst state, where accuracy is what counts.
        travelled: Length of its way, where accuracy is what counts.
    """

    worst: float
    bytes_written: int
    price: float | None = None
    floor: float = 0.0
    divergence: float = math.inf
    travelled: float = math.inf


@dataclass(frozen=True)
class Job:
    """One kind of path for one transition.

    Attributes:
        ends: Modes it leads between.
        kind: Strategy, and its steps where it takes any: ``ordered``, ``ramp 4``; ``geodesic`` for geodesics.
        race: Whether a path is given up at the first state that rules it out.
        rival: What it has to replace; None where nothing else is feasible yet.
        variation: How geodesics are searched, and how the rows of the one-pass write are ordered.
        searches: Which geodesics; those that the variation does not act on are another job's.
    """

    ends: Ends
    kind: str
    race: bool = True
    rival: Rival | None = None
    variation: Variation = DEFAULT
    searches: tuple[str, ...] = SEARCHES

    @property
    def name(self) -> str:
        """Kind and variation."""
        return f"{self.kind} {self.variation}".rstrip()

    def __str__(self) -> str:
        return f"{' → '.join(self.ends)}: {self.name}"


@dataclass(frozen=True)
class Outcome:
    """What a job found.

    Attributes:
        candidates: Paths with their measurements; none for geodesics between equal ends.
        forward_passes: What it cost, see ``CostMeter``.
    """

    candidates: tuple[Candidate, ...]
    forward_passes: int


class _Found(NamedTuple):
    """A path to be walked."""

    name: str
    path: Compiled
    record: Record | None = None
    variation: Variation | None = None


@dataclass(frozen=True)
class Study:
    """What walking candidates needs.

    Attributes:
        network: The dense network.
        points: Mode name to configuration.
        table: Row versions of the modes.
        states: Mode name to state.
        ways: Transition to a state that it may pass, where units of one end sit where the other's are read.
        live: Live ONNX graph.
        constants: Tensors that never move.
        threads: Threads of ONNX Runtime in each worker; they do not change an answer.
        torch_threads: Threads of PyTorch in each worker; they may change the last bits of a geodesic.
        samples: Selection samples that paths are walked on.
        pool: Inputs that the pullback metric's probes are drawn from.
        probes: How many it sees; those of seed 0 are the first.
        max_drop: Accepted drop against the dense network, as a fraction.
        seed: Seed of the torn states.
        profile: Device that costs are predicted for; None to know bytes only.
    """

    network: Network
    points: Mapping[str, EndPoint]
    table: RowTable
    states: Mapping[str, State]
    ways: Mapping[Ends, State]
    live: bytes
    constants: Mapping[str, Floats]
    threads: int
    torch_threads: int
    samples: Samples
    pool: Tensor
    probes: int
    max_drop: float
    seed: int
    profile: Profile | None = None

    @property
    def trade_off(self) -> TradeOff:
        """What is minimised among feasible paths."""
        return "bytes" if self.profile is None else self.profile.trade_off

    def __reduce__(self) -> tuple[Any, ...]:
        # As plain bytes: on the way to another process PyTorch would move every tensor into shared memory, away from
        # under the arrays that share theirs with it. What was computed is not sent; a process has its own session.
        fields = {name: self.__dict__[name] for name in self.__dataclass_fields__}
        return _rebuilt, (pickle.dumps(fields),)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything that an outcome depends on."""
        said = (
            self.network.module, self.states.keys(), self.probes, self.max_drop, self.seed, self.torch_threads,
            code_digest(), self.profile,
        )  # fmt: skip
        found = hashlib.sha256(repr(said).encode())
        tensors: list[NDArray[Any]] = [self.pool.numpy(), self.samples.inputs, self.samples.labels]
        for mode, end in self.points.items():
            tensors += [tensor.numpy() for tensor in end.tensors.values()]
            tensors += [self.states[mode][name] for name in self.table.names]
        for stop in self.ways.values():
            tensors += [stop[name] for name in self.table.names]
        for tensor in tensors:
            found.update(f"{tensor.dtype} {tensor.shape}".encode())
            found.update(np.ascontiguousarray(tensor).data)
        found.update(self.live)
        return found.hexdigest()

    @cached_property
    def session(self) -> Session:
        """The live network in this process."""
        return Session(self.live, self.constants, threads=self.threads)

    @cached_property
    def modes(self) -> dict[str, Answers]:
        """Answers of every mode on the selection samples."""
        evaluator = Evaluator(self.session, self.samples)
        return {name: evaluator.at(self.table, state) for name, state in self.states.items()}

    @cached_property
    def dense(self) -> Answers:
        """Answers of the dense network."""
        return Evaluator(self.session, self.samples).at(self.table, self.table.dense())

    def price(self, job: Job) -> int:
        """Forward passes that a job is expected to take at most."""
        walk = (POSITIONS - 2 + 2 * TEARS) * len(self.samples)
        if job.kind == BLOCKS:
            rows = sum(layer.units for layer in self.table.layers)
            passes = 1 + bool(self.ways)  # those by way of free seats write readers twice, and are another path
            return passes * (walk + price_of_blocks(passes * rows, self._probe_count(DEFAULT), len(self.samples)))
        if job.kind == GEODESICS:
            outputs = self.dense.outputs.shape[1]
            passes = self._probe_count(job.variation) * passes_of(job.searches, job.variation, outputs)
            return len(job.searches) * walk + passes + JUDGED_PASSES
        if job.variation.order == "steady":
            begin, end = (self.states[mode] for mode in job.ends)
            rows = sum(int((begin[name] != end[name]).sum()) for name in self.table.names)
            stages = 3 * len(self.table.names)  # restored units, readers and removed ones of each layer
            return walk + 2 * self._probe_count(DEFAULT) * (rows + stages)
        return walk

    def do(self, job: Job) -> Outcome:
        """Find the paths of a job and walk them."""
        cost = CostMeter()
        with threads(self.torch_threads):
            compiled = self._compile(job, cost)
        found = tuple(self._walk(job, *one, cost) for one in compiled)
        return Outcome(found, cost.forward_passes)

    def measure(self, ends: Ends, name: str, path: Compiled, record: Record | None, cost: CostMeter) -> Candidate:
        """Walk a path to its end, whatever its states are like."""
        return self._walk(Job(ends, name, race=False), name, path, record, None, cost)

    def _compile(self, job: Job, cost: CostMeter) -> list[_Found]:
        start, end = self.states[job.ends[0]], self.states[job.ends[1]]
        if job.kind == ORDERED and job.variation.order == "steady":
            return self._steady(job, cost)
        if job.kind in ONE_PASS:
            return [_Found(job.kind, ONE_PASS[job.kind](self.table, start, end))]
        if job.kind == SEATED:
            return [_Found(SEATED, self._seated(job.ends))]
        if job.kind == BLOCKS:
            whole = {ORDERED: strategies.ordered(self.table, start, end)}
            if job.ends in self.ways:
                whole[SEATED] = self._seated(job.ends)
            return [_Found(f"{name} {BLOCKS}", self._held(job.ends, path, cost)) for name, path in whole.items()]
        strategy, _, steps = job.kind.partition(" ")
        if strategy in IN_STEPS:
            return [_Found(job.kind, IN_STEPS[strategy](self.table, start, end, int(steps)))]
        return self._geodesics(job, cost)

    def _geodesics(self, job: Job, cost: CostMeter) -> list[_Found]:
        """All geodesics of a job that there are."""
        geodesics = geodesic_paths(
            self.network, self.table.layers, self.points[job.ends[0]], self.points[job.ends[1]],
            self._drawn_probes(job.variation), cost, job.variation, job.searches, self.samples, self.max_drop,
        )  # fmt: skip
        start, end = self.states[job.ends[0]], self.states[job.ends[1]]
        return [
            _Found(
                job.variation.named(f"{GEODESICS} {search}", search),
                strategies.waypoints(self.table, start, end, found.points),
                found.record,
                job.variation.acting_on([search]),
            )
            for search, found in geodesics.items()
        ]

    def _steady(self, job: Job, cost: CostMeter) -> list[_Found]:
        """The one-pass write in an order in which the outputs move steadily."""
        start = self.states[job.ends[0]]
        chunks = strategies.ordered(self.table, start, self.states[job.ends[1]]).chunks
        probes = self._drawn_probes(DEFAULT)
        for begin, end in stages_at(chunks):
            chunks = steadied(self.network, self.table, start, chunks, begin, end, probes, cost)
        return [_Found(job.name, Compiled(chunks, {}), None, job.variation)]

    def _probe_count(self, variation: Variation) -> int:
        return min(variation.probes or self.probes, len(self.pool))

    def _drawn_probes(self, variation: Variation) -> Tensor:
        """Inputs that the metric of a variation sees."""
        count = self._probe_count(variation)
        if variation.seed == 0:
            return self.pool[:count]
        drawn = np.random.default_rng([self.seed, variation.seed]).permutation(len(self.pool))[:count]
        return self.pool[torch.from_numpy(drawn)]

    def _seated(self, ends: Ends) -> Compiled:
        start, stop, end = self.states[ends[0]], self.ways[ends], self.states[ends[1]]
        chunks = [strategies.ordered(self.table, *leg).chunks for leg in ((start, stop), (stop, end))]
        return Compiled(ChunkList.join(chunks), {})

    def _held(self, ends: Ends, path: Compiled, cost: CostMeter) -> Compiled:
        """A path whose stages are reordered and halved until what is looked at in each block is within the guard."""
        evaluator = Evaluator(self.session, self.samples, cost.forward)
        start, end = (self.states[name] for name in ends)

        def look(chunks: ChunkList, begin: int, stop: int) -> Verdict:
            middle = (begin + stop) // 2
            if self._breaks(evaluator.at(self.table, chunks.state_at(start, middle))):
                return Verdict.MIDDLE
            quarters = sorted({(begin + middle) // 2, (middle + stop) // 2} - {begin, middle})
            found = list(evaluator.along(self.table, start, chunks, quarters))
            generator = np.random.default_rng([self.seed, begin, stop])
            place = int(generator.integers(begin, stop))
            numbers = int(generator.integers(0, self.table.layer(chunks.layers[chunks.layer[place]]).width))
            for way, first, at in ((chunks, start, place), (chunks.reversed(), end, len(chunks) - 1 - place)):
                found += evaluator.torn(self.table, first, way, [(at, numbers)])
            return Verdict.BREAKS if any(map(self._breaks, found)) else Verdict.HOLDS

        probes = self._drawn_probes(DEFAULT)
        held = hold(self.network, self.table, start, path.chunks, probes, look, cost=cost)
        return Compiled(held.chunks, path.rows, held.stops)

    def _breaks(self, answers: Answers) -> bool:
        """Whether a state with these answers is not within the guard."""
        return drop_bound(self.dense, answers) > self.max_drop + 1e-9

    def _walk(
        self, job: Job, name: str, path: Compiled, record: Record | None, variation: Variation | None, cost: CostMeter
    ) -> Candidate:
        """Measure a path's states in a fixed order, until one rules it out."""
        table = path.table(self.table)
        written = path.chunks.total_bytes(table)
        walking = None if self.profile is None else costs.predict(table, path.chunks, self.profile)
        priced = written if walking is None else costs.price(walking, self.trade_off)
        evaluator = Evaluator(self.session, self.samples, cost.forward)
        whole, torn, complete = [self.modes[job.ends[0]]], [self.modes[job.ends[1]]], True
        for kind, answers in self._states(evaluator, table, job.ends, path):
            (whole if kind == "whole" else torn).append(answers)
            if job.race and self._ruled_out(answers, priced, job.rival):
                complete = False
                break
        else:
            whole.append(torn.pop(0))  # the end, which the last of the inner states has led to
        measured = [*whole, *torn]
        return Candidate(
            name=name,
            strategy=name.split()[0],
            path=path,
            bytes_written=written,
            length=functional_length(whole),
            fisher_length=fisher_length(whole),
            worst=min(answers.accuracy for answers in measured),
            bound=self.dense.accuracy - max(drop_bound(self.dense, answers) for answers in measured),
            divergence=max(answers.distance(self.dense) for answers in measured),
            complete=complete,
            record=record,
            variation=variation,
            cost=walking,
        )

    def _states(
        self, evaluator: Evaluator, table: RowTable, ends: Ends, path: Compiled
    ) -> Iterator[tuple[str, Answers]]:
        """Answers in the states that every path is measured in, beside its ends: inner ones, then torn ones.

        Among the inner ones are those between blocks.
        """
        chunks = path.chunks
        inner = sorted({*spread_positions(chunks, table, POSITIONS)[1:-1], *path.stops})
        for answers in evaluator.along(table, self.states[ends[0]], chunks, inner):
            yield "whole", answers
        for way, begin, salt in ((chunks, ends[0], 0), (chunks.reversed(), ends[1], 1)):
            tears = random_tears(table, way, TEARS, self.seed + salt)
            for answers in evaluator.torn(table, self.states[begin], way, tears):
                yield "torn", answers

    def _ruled_out(self, answers: Answers, priced: float, rival: Rival | None) -> bool:
        """Whether a path that passes through a state with these answers cannot be chosen, by the rule of ``choose``."""
        if self._breaks(answers):
            return True
        if rival is None:
            return False
        if self.trade_off == "accuracy":
            return answers.accuracy < rival.floor
        limit = rival.bytes_written if rival.price is None else rival.price
        if priced <= limit:
            return answers.accuracy < rival.worst
        return self.dense.accuracy - drop_bound(self.dense, answers) <= rival.worst


def _rebuilt(fields: bytes) -> Study:
    """A study that another process of this planner sent."""
    return Study(**pickle.loads(fields))  # noqa: S301 - from our own processes only, never from a file
