"""The paths of all transitions, chosen in rounds: cheap candidates first, and dear ones only where they can still win.

By the rule of ``planner.candidates.choose`` a dearer path replaces a cheaper one only when the lower bound of its worst
state lies above what the cheaper one reached in its own. Both ends of a transition are states of every path, so no
bound can lie above those of the ends. Where the one-pass write is that good already, nothing else has to be walked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Executor, Future, as_completed
from typing import Any

from planner.candidates import (
    AS_NEAR,
    AS_SHORT,
    Candidate,
    Choice,
    choose,
    drop_bound,
    fisher_length,
    is_feasible,
    price,
    travelled,
)
from planner.cost import CostMeter
from planner.executors import Share
from planner.progress import Progress
from planner.store import Store
from planner.study import BLOCKS, GEODESICS, SEATED, Ends, Job, Outcome, Rival, Study
from planner.variation import ORDERED, SMALL, Variation, distinct, orders

STEPS = (4, 10)
"""Points of the ramps and lines considered. On a network of 300 hidden units a ramp of 21 points was no better than
one ordered pass, so few points suffice to find out whether a network is different."""
ROUNDS: tuple[tuple[str, ...], ...] = (
    ("ordered",),
    ("zero-first", "naive"),
    (SEATED,),
    (BLOCKS,),
    (*(f"{strategy} {steps}" for steps in STEPS for strategy in ("ramp", "linear")), GEODESICS),
)
"""Kinds of paths by what they write: one pass in the order that should harm least, one pass in other orders, two
passes by way of free seats, the same reordered and divided where none of these is within the guard, longer ones, which
alone write rows that are in neither end. Jobs of one round do not depend on each other. Orders of rows that a grid of
variations has join the second, its geodesics the last."""
ORDERS = 1


def choose_paths(
    study: Study,
    transitions: Sequence[Ends],
    executor: Executor,
    share: Share,
    *,
    grid: Sequence[Variation] = SMALL,
    store: Store | None = None,
    every_candidate: bool,
    write_once: bool = False,
    budget: int | None = None,
    cost: CostMeter,
    progress: Progress,
) -> dict[Ends, Choice]:
    """Find the path of every transition.

    Args:
        study: What is walked, and on what.
        transitions: Modes each path leads between.
        executor: Runs the jobs.
        share: Makes the study available to the executor's workers.
        grid: How geodesics are searched, and in which orders rows are written.
        store: Keeps finished jobs, and has those of an earlier run.
        every_candidate: Whether to walk those that cannot be chosen any more, to compare them.
        write_once: Whether each row may be written only once, as it is in one of the ends: a device whose weights lie
            on a grid cannot hold what is between them.
        budget: Forward passes up to which ``cost`` may rise: a job that would take more than what is left then is not
            begun. The first round always is, since no plan can do without it. None for no limit.
        cost: Counts what is spent, wherever it is.
        progress: Shows where the work is.

    Raises:
        NoSafePath: A transition has no feasible path.
    """
    shared = share(study)
    store = store or Store(None, "")
    found: dict[Ends, list[Candidate]] = {ends: [] for ends in transitions}
    skipped: dict[Ends, tuple[str, ...]] = dict.fromkeys(transitions, ())
    too_dear: dict[Ends, tuple[str, ...]] = dict.fromkeys(transitions, ())
    last = len(ROUNDS) - write_once
    for round_ in range(last):
        rivals = {ends: _best(study, found[ends]) for ends in transitions}
        wanted: list[Job] = []
        for ends in transitions:
            own = _jobs(study, ends, round_, grid, not every_candidate, rivals[ends])
            if not every_candidate and _unbeatable(study, ends, rivals[ends]):
                skipped[ends] += tuple(job.name for job in own)
            else:
                wanted += own
        left = math.inf if budget is None or round_ == 0 else budget - cost.forward_passes
        jobs = _affordable(study, wanted, left)
        for job in wanted:
            if job not in jobs:
                too_dear[job.ends] += (job.name,)
        if jobs:
            progress.stage(f"Paths, round {round_ + 1} of at most {last}", len(jobs))
        for job, outcome in zip(jobs, _run(executor, shared, jobs, store, progress), strict=True):
            found[job.ends] += outcome.candidates
            cost.add(outcome.forward_passes)
    return {
        ends: choose(
            found[ends], study.dense, study.max_drop, " → ".join(ends), skipped[ends], too_dear[ends], study.trade_off
        )
        for ends in transitions
    }


def _affordable(study: Study, wanted: Sequence[Job], left: float) -> list[Job]:
    """Jobs that fit into what is left: cheap ones of all transitions before a dear one of any."""
    taken = set()
    for job in sorted(wanted, key=study.price):
        if (price := study.price(job)) <= left:
            left -= price
            taken.add(job)
    return [job for job in wanted if job in taken]


def _jobs(
    study: Study, ends: Ends, round_: int, grid: Sequence[Variation], race: bool, rival: Rival | None
) -> list[Job]:
    """All jobs of a round for one transition."""
    found = [
        Job(ends, kind, race, rival)
        for kind in ROUNDS[round_]
        if kind != GEODESICS and _applies(study, ends, kind, rival)
    ]
    if round_ == ORDERS:
        found += [Job(ends, ORDERED, race, rival, variation, ()) for variation in orders(grid)]
    if GEODESICS in ROUNDS[round_]:
        found += [Job(ends, GEODESICS, race, rival, *searched) for searched in distinct(grid)]
    return found


def _run(executor: Executor, shared: Any, jobs: Sequence[Job], store: Store, progress: Progress) -> list[Outcome]:
    """Outcomes in the order of the jobs, whatever the order they finish in."""
    outcomes = {job: found for job in jobs if (found := store.load(job)) is not None}

    def take(job: Job, future: Future[Outcome]) -> None:
        outcomes[job] = future.result()
        store.save(job, outcomes[job])
        progress.step(str(job))

    pending: dict[Future[Outcome], Job] = {}
    try:
        for job in jobs:
            if job in outcomes:
                progress.step(str(job))
                continue
            future = executor.submit(_do, shared, job)
            if future.done():  # in this process: it is kept before the next one begins
                take(job, future)
            else:
                pending[future] = job
        for future in as_completed(pending):
            take(pending[future], future)
    except BaseException:
        for future in pending:
            future.cancel()
        raise
    return [outcomes[job] for job in jobs]


def _do(study: Study, job: Job) -> Outcome:
    return study.do(job)


def _applies(study: Study, ends: Ends, kind: str, rival: Rival | None) -> bool:
    """Whether a kind of path exists for a transition, and is of use with what is feasible so far."""
    if kind == SEATED:
        return ends in study.ways
    return kind != BLOCKS or rival is None


def _best(study: Study, candidates: Sequence[Candidate]) -> Rival | None:
    """The path that would be chosen so far."""
    if not any(is_feasible(one, study.dense, study.max_drop) for one in candidates):
        return None
    choice = choose(candidates, study.dense, study.max_drop, "", trade_off=study.trade_off)
    chosen, priced = choice.chosen, None
    if chosen.cost is not None:
        priced = price(chosen, study.trade_off)
    if study.trade_off != "accuracy":
        return Rival(chosen.worst, chosen.bytes_written, priced)
    floor = max(one.bound for one in choice.feasible)
    return Rival(chosen.worst, chosen.bytes_written, priced, floor, chosen.divergence, travelled(chosen))


def _unbeatable(study: Study, ends: Ends, rival: Rival | None) -> bool:
    """Whether no path between these ends can have a bound above the rival's worst state.

    Where accuracy is what counts, none may stray less or be shorter either: all paths stray as far as their ends, and
    none is shorter than the straight way between their ends' answers.
    """
    if rival is None:
        return False
    begin, end = (study.modes[name] for name in ends)
    ceiling = study.dense.accuracy - max(drop_bound(study.dense, one) for one in (begin, end))
    if rival.worst < ceiling:
        return False
    if study.trade_off != "accuracy":
        return True
    nearest = max(one.distance(study.dense) for one in (begin, end))
    return rival.divergence <= AS_NEAR * nearest and rival.travelled <= AS_SHORT * fisher_length([begin, end])
